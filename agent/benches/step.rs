//! Time of one training step, and bytes it moves between host and runtime.
//!
//! `cargo bench -p dkt-agent --bench step`. With `DKT_BENCH_PYTHON` set to a Python that has PyTorch, the same
//! networks are trained there in the same run, block by block in turn, and the ratio is printed: absolute
//! times on a shared machine mean little.

use std::error::Error;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use dkt_agent::train::device::Device;
use dkt_agent::train::runtime::{self, Scalars, TrainSession};
use dkt_models::DualHead;
use dkt_models::step::{StepOptions, TrainingStep};
use dkt_models::zoo::{self, BuildOptions};

const BATCH: usize = 32;
/// Blocks of steps, ours and PyTorch's in turn; the median over blocks is reported.
const BLOCKS: usize = 7;
const NETWORKS: [(&str, usize); 2] = [("digits-cnn", 100), ("slim-resnet18", 5)];

fn main() -> Result<(), Box<dyn Error>> {
    runtime::load()?;
    let n_threads = std::thread::available_parallelism()?.get();
    println!("batch {BATCH}, {n_threads} threads, Adam, clipping, median of {BLOCKS} blocks");
    for (network, steps) in NETWORKS {
        let entry = zoo::find(network)?;
        let options = BuildOptions { seed: 0, classes: entry.classes, input: entry.input };
        let model = DualHead::from_graph(zoo::build(network, &options)?)?;
        let step = TrainingStep::derive(&model, &StepOptions::default())?;
        let mut session = TrainSession::new(&step, Device::Cpu, n_threads)?;
        let mut peer = Peer::start(network, n_threads)?;
        block(&mut session, steps)?;
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..BLOCKS {
            ours.push(block(&mut session, steps)?);
            if let Some(peer) = &mut peer {
                theirs.push(peer.block(steps)?);
            }
        }
        let ours = median(ours);
        print!(
            "{network}: {ours:.2} ms/step, {} bytes/step between host and runtime",
            session.step_bytes(BATCH)
        );
        if theirs.is_empty() {
            println!();
        } else {
            let theirs = median(theirs);
            println!("; PyTorch {theirs:.2} ms/step; {:.2}x of its speed", theirs / ours);
        }
    }
    Ok(())
}

/// Milliseconds of one step, mean over a block.
fn block(session: &mut TrainSession, steps: usize) -> Result<f64, Box<dyn Error>> {
    let began = Instant::now();
    for _ in 0..steps {
        let batch = session.batch_mut(BATCH)?;
        for (i, value) in batch.input.iter_mut().enumerate() {
            *value = (i % 17) as f32 / 8.0 - 1.0;
        }
        let n_classes = batch.labels.len() / BATCH;
        batch.labels.fill(0.0);
        for row in 0..BATCH {
            batch.labels[row * n_classes + row % n_classes] = 1.0;
        }
        batch.teacher_logits.fill(0.5);
        batch.teacher_weight.fill(1.0);
        session.step(&Scalars { learning_rate: 1e-3, distill_weight: 0.5, temperature: 2.0 })?;
    }
    Ok(began.elapsed().as_secs_f64() * 1e3 / steps as f64)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// The same training step in PyTorch, one block for each line it is sent.
struct Peer {
    child: Child,
    answers: BufReader<std::process::ChildStdout>,
}

impl Peer {
    fn start(network: &str, n_threads: usize) -> Result<Option<Self>, Box<dyn Error>> {
        let Some(python) = std::env::var_os("DKT_BENCH_PYTHON") else { return Ok(None) };
        let mut child = Command::new(python)
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/benches/step_pytorch.py"))
            .args([network, &BATCH.to_string(), &n_threads.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let answers = BufReader::new(child.stdout.take().ok_or("no output from the PyTorch peer")?);
        let mut peer = Peer { child, answers };
        peer.block(2)?;
        Ok(Some(peer))
    }

    fn block(&mut self, steps: usize) -> Result<f64, Box<dyn Error>> {
        let input = self.child.stdin.as_mut().ok_or("the PyTorch peer takes no input")?;
        writeln!(input, "{steps}")?;
        input.flush()?;
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        Ok(line.trim().parse()?)
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
