//! Messages that an agent refuses in a second, by the kind of forgery, beside those that it takes in: on one thread, by
//! sizes of messages.
//!
//! `cargo bench -p dkt-agent --bench exchange_refusal [-- MESSAGES]`; the same hostile messages as in the tests of the
//! exchange.

#[path = "../tests/exchange/forgery.rs"]
#[allow(clippy::unwrap_used)]
mod forgery;

use std::error::Error;
use std::time::Instant;

use forgery::{KINDS, Pool, Random};

/// A status or a small demand, and a chunk of soft targets.
const MESSAGE_BYTES: [usize; 2] = [200, 64 * 1024];
/// Messages of each kind and size, of which the longer ones are tried with fewer.
const MESSAGES: usize = 20_000;
/// Blocks of messages; the median over blocks is reported.
const BLOCKS: usize = 7;

fn main() -> Result<(), Box<dyn Error>> {
    // Cargo adds `--bench`.
    let n = std::env::args().skip(1).find(|a| !a.starts_with('-')).map_or(Ok(MESSAGES), |n| n.parse())?;
    println!("messages in a second, one thread, median of {BLOCKS} blocks");
    println!("{:<24}{}", "", MESSAGE_BYTES.map(|n| format!("{:>16}", format!("{n} bytes"))).concat());
    let pools = MESSAGE_BYTES.map(Pool::new);
    let per_block =
        MESSAGE_BYTES.map(|size| (n * MESSAGE_BYTES[0] / size / BLOCKS).max(n / BLOCKS / 50).max(1));
    for (kind, name) in KINDS.iter().enumerate() {
        let rates = [0, 1].map(|size| refused(&pools[size], kind, per_block[size]));
        println!("{name:<24}{:>16.0}{:>16.0}", rates[0], rates[1]);
    }
    let rates = pools.each_ref().map(taken);
    println!("{:<24}{:>16.0}{:>16.0}", "taken in", rates[0], rates[1]);
    Ok(())
}

/// Messages of a kind that are refused in a second.
fn refused(pool: &Pool, kind: usize, n: usize) -> f64 {
    let (mut victim, mut random) = (pool.victim(), Random(1));
    let rates = (0..BLOCKS).map(|_| {
        let messages: Vec<_> = (0..n)
            .map(|_| {
                let mut bytes = Vec::new();
                (pool.hostile(kind, &mut random, &mut bytes), bytes)
            })
            .collect();
        let started = Instant::now();
        let n_taken = messages.iter().filter(|(topic, bytes)| victim.open(topic, bytes).is_ok()).count();
        assert_eq!(n_taken, 0, "a hostile message was taken in");
        n as f64 / started.elapsed().as_secs_f64()
    });
    median(rates.collect())
}

/// Valid messages that are taken in in a second.
fn taken(pool: &Pool) -> f64 {
    let rates = (0..BLOCKS).map(|_| {
        let mut victim = pool.victim();
        let started = Instant::now();
        let n_taken = pool.fresh().filter(|m| victim.open(&m.topic, &m.bytes).is_ok()).count();
        let seconds = started.elapsed().as_secs_f64();
        assert_eq!(n_taken, pool.fresh().count(), "a valid message was refused");
        n_taken as f64 / seconds
    });
    median(rates.collect())
}

fn median(mut rates: Vec<f64>) -> f64 {
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}
