//! No hostile message is taken in.

use std::collections::BTreeMap;
use std::thread;

use dkt_agent::exchange::refusal::REASONS;

use crate::forgery::{KINDS, Pool, Random};

/// Hostile messages in all, unless the environment says how many.
const FORGERIES: usize = 1_000_000;
const THREADS: usize = 2;

/// Reasons for which the messages of each kind may be refused.
fn expected(kind: &str) -> &'static [&'static str] {
    match kind {
        "forged" | "wrong key" | "spliced" => &["signature"],
        "bit flipped" => &["signature", "envelope", "other_signer", "old", "unsigned"],
        "other topic" => &["signature", "other_signer"],
        "replayed" => &["old", "duplicate"],
        "reordered" => &["old"],
        "truncated" => &["envelope", "unsigned"],
        "other sender's key id" => &["other_signer"],
        "unknown sender" => &["unknown_signer"],
        "unsigned" => &["unsigned"],
        _ => unreachable!("the kinds are listed"),
    }
}

#[test]
fn no_hostile_message_is_taken_in() {
    let n: usize = std::env::var("DKT_FORGERIES").map_or(FORGERIES, |n| n.parse().unwrap());
    let pool = Pool::new(120);
    let attack = |part: usize| {
        let mut victim = pool.victim();
        let before = victim.marks.clone();
        let (mut random, mut bytes) = (Random(part as u64), Vec::new());
        let mut counts = [[0_usize; REASONS.len()]; KINDS.len()];
        for i in (part..n).step_by(THREADS) {
            let kind = i / THREADS % KINDS.len();
            let topic = pool.hostile(kind, &mut random, &mut bytes);
            match victim.open(topic, &bytes) {
                Ok(_) => panic!("{} message {i} was taken in under {topic}: {bytes:02x?}", KINDS[kind]),
                Err(refusal) => counts[kind][refusal.reason()] += 1,
            }
        }
        assert!(victim.marks == before, "a message that is refused leaves no trace");
        // It does not refuse everything.
        for message in pool.fresh() {
            victim.open(&message.topic, &message.bytes).unwrap();
        }
        counts
    };
    let counts = thread::scope(|scope| {
        let parts: Vec<_> = (0..THREADS).map(|part| scope.spawn(move || attack(part))).collect();
        parts.into_iter().map(|part| part.join().unwrap()).collect::<Vec<_>>()
    });
    for (i, kind) in KINDS.iter().enumerate() {
        let found: BTreeMap<&str, usize> = REASONS
            .iter()
            .enumerate()
            .map(|(reason, name)| (*name, counts.iter().map(|of_part| of_part[i][reason]).sum()))
            .filter(|(_, n)| *n > 0)
            .collect();
        println!("{kind}: {found:?}");
        assert!(found.keys().all(|reason| expected(kind).contains(reason)), "{kind}: {found:?}");
        assert!(n < 1000 || found.len() == expected(kind).len(), "{kind}: {found:?}");
    }
}
