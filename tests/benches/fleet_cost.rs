//! What an agent costs as its fleet grows: CPU, memory, messages and bytes of each.
//!
//! `cargo bench -p dkt-tests --bench fleet_cost [-- OUT.csv]`. Every fleet is a process of its own with a thread for each
//! agent, on a mosquitto of its own. Two shapes: each agent learns from two others, which is the same demand in a
//! fleet of any size; and each learns from all, where what it demands grows with the fleet.

use std::error::Error;
use std::fmt::Write;
use std::process::Command;
use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use dkt_agent::exchange::engine::Event;
use dkt_agent::ids::{AgentId, Round, SampleId};
use dkt_tests::broker::Mosquitto;
use dkt_tests::synthetic::{Agent, Synthetic, Usage};

/// Of the common training set.
const N_SAMPLES: u32 = 50_000;
/// That each agent demands, in one view.
const DEMANDED: u32 = 1000;
const CLASSES: usize = 10;
const ROUNDS: u64 = 3;
const LABEL_BATCH: usize = 128;
const TIMEOUT: Duration = Duration::from_secs(300);
/// First argument of a process that is one fleet.
const FLEET: &str = "--fleet";
/// Name, teachers of each agent (0 for all), sizes. The second is quadratic in all: it ends earlier.
const SHAPES: [(&str, usize, &[usize]); 2] =
    [("two teachers", 2, &[3, 5, 10, 20, 50, 100, 200]), ("all teach all", 0, &[2, 5, 10, 20, 50])];
const COLUMNS: &str =
    "shape,agents,teachers,cpu_ms,memory_kib,messages_in,bytes_in,messages_out,bytes_out,seconds";

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [mode, port, n_agents, n_teachers] = arguments.as_slice()
        && mode == FLEET
    {
        return fleet(port.parse()?, n_agents.parse()?, n_teachers.parse()?);
    }
    let mut table = format!("{COLUMNS}\n");
    println!(
        "per agent, over {ROUNDS} rounds, each demanding {DEMANDED} rows of {CLASSES} logits of each teacher"
    );
    for (shape, n_teachers, sizes) in SHAPES {
        for n_agents in sizes {
            let broker = Mosquitto::dev();
            let mut command = Command::new(std::env::current_exe()?);
            command.args([FLEET, &broker.port.to_string(), &n_agents.to_string(), &n_teachers.to_string()]);
            let output = command.output()?;
            if !output.status.success() {
                return Err(format!(
                    "{shape}, {n_agents} agents: {}",
                    String::from_utf8_lossy(&output.stderr)
                )
                .into());
            }
            let teachers = if n_teachers == 0 { n_agents - 1 } else { n_teachers };
            let row = format!("{shape},{n_agents},{teachers},{}", String::from_utf8(output.stdout)?.trim());
            println!("{row}");
            writeln!(table, "{row}")?;
        }
    }
    if let Some(path) = arguments.iter().find(|a| !a.starts_with('-')) {
        std::fs::write(path, table)?;
    }
    Ok(())
}

/// Runs a fleet and prints what each agent cost, in the order of [`COLUMNS`].
fn fleet(port: u16, n_agents: usize, n_teachers: usize) -> Result<()> {
    let name = |i: usize| format!("agent-{}", i % n_agents);
    let before = Usage::of_this_process().map_err(|e| e.to_string())?;
    let began = Instant::now();
    let n_done = AtomicUsize::new(0);
    let all_here = Barrier::new(n_agents);
    let traffic = thread::scope(|scope| {
        let agents: Vec<_> = (0..n_agents)
            .map(|i| {
                let teachers: Vec<AgentId> =
                    (1..=n_teachers).filter_map(|k| name(i + k).parse().ok()).collect();
                let synthetic =
                    Synthetic { name: name(i), n_samples: N_SAMPLES, n_classes: CLASSES, teachers };
                let n_teachers = if n_teachers == 0 { n_agents - 1 } else { n_teachers };
                let (n_done, all_here) = (&n_done, &all_here);
                scope.spawn(move || agent(port, i, synthetic, n_teachers, (n_done, n_agents), all_here))
            })
            .collect();
        let mut sums = [0.0; 4];
        for agent in agents {
            let of_one = agent.join().map_err(|_| "an agent panicked")?.map_err(|e| e.to_string())?;
            sums.iter_mut().zip(of_one).for_each(|(sum, value)| *sum += value);
        }
        Ok::<_, Box<dyn Error + Send + Sync>>(sums)
    })?;
    let after = Usage::of_this_process().map_err(|e| e.to_string())?;
    let n = n_agents as f64;
    let [messages_in, bytes_in, messages_out, bytes_out] = traffic.map(|sum| sum / n);
    println!(
        "{:.1},{:.0},{messages_in:.1},{bytes_in:.0},{messages_out:.1},{bytes_out:.0},{:.1}",
        (after.cpu_s - before.cpu_s) * 1000.0 / n,
        (after.peak_mib - before.peak_mib) * 1024.0 / n,
        began.elapsed().as_secs_f64(),
    );
    Ok(())
}

/// One agent: labels what it is asked for until all agents have everything. Messages and bytes, in and out.
fn agent(
    port: u16,
    i: usize,
    synthetic: Synthetic,
    n_teachers: usize,
    (n_done, n_agents): (&AtomicUsize, usize),
    all_here: &Barrier,
) -> std::result::Result<[f64; 4], String> {
    let words = |e: Box<dyn Error>| e.to_string();
    let agent = Agent::start(port, synthetic).map_err(words);
    // Whoever did not come about must not keep the others waiting.
    all_here.wait();
    let mut agent = agent?;
    let first = i as u32 * DEMANDED % N_SAMPLES;
    agent.step(Event::Demand { samples: (first..first + DEMANDED).map(SampleId).collect(), n_views: 1 });
    for round in 1..=ROUNDS {
        agent.step(Event::RoundStarted(Round(round)));
        let wanted = round * u64::from(DEMANDED) * n_teachers as u64;
        let mut counted = false;
        let began = Instant::now();
        while n_done.load(Ordering::Relaxed) < round as usize * n_agents {
            if began.elapsed() > TIMEOUT {
                return Err(format!("{} of {wanted} rows came", agent.engine.stats().rows_applied));
            }
            agent.pump(Duration::from_millis(5));
            agent.label(LABEL_BATCH);
            if !counted && agent.engine.stats().rows_applied >= wanted {
                counted = true;
                n_done.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
    let mut sums = [0.0; 4];
    for kind in ["status", "demand", "repair", "targets"] {
        let of = agent.traffic(kind).map_err(words)?;
        let values = [of.messages_in, of.bytes_in, of.messages_out, of.bytes_out];
        sums.iter_mut().zip(values).for_each(|(sum, value)| *sum += value as f64);
    }
    agent.stop();
    Ok(sums)
}
