//! Time, memory and copies of one training step on the CPU.
//!
//! `cargo bench -p dkt-agent --bench step [-- NETWORK…]`. With `DKT_BENCH_PYTHON` set to a Python that has
//! PyTorch, the same networks are trained there in the same run, block by block in turn, and ratios are printed:
//! absolute times on a shared machine mean little. Every network and side has a process of its own, so that peak
//! memory is its own.

use std::error::Error;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Instant;

use dkt_agent::train::device::Device;
use dkt_agent::train::runtime::{self, Scalars, TrainSession};
use dkt_models::DualHead;
use dkt_models::step::{StepOptions, TrainingStep};
use dkt_models::zoo::{self, BuildOptions};

/// Blocks of steps, every side in turn; the median over blocks is reported.
const BLOCKS: usize = 7;
/// (network, batch, steps of a block); `step_pytorch.py` has the same networks.
const NETWORKS: [(&str, usize, usize); 5] = [
    ("digits-cnn", 32, 100),
    ("slim-resnet18", 32, 5),
    ("slim-resnet18", 128, 2),
    ("mobilenet-v2", 32, 2),
    ("vit-lite", 32, 2),
];
/// Layouts of images in PyTorch; the faster one counts.
const LAYOUTS: [&str; 2] = ["contiguous", "channels_last"];
/// First argument of a process that measures one network.
const MEASURE: &str = "--measure";

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [mode, network, batch, threads] = arguments.as_slice()
        && mode == MEASURE
    {
        return measure(network, batch.parse()?, threads.parse()?);
    }
    // Cargo adds `--bench`.
    let chosen: Vec<&String> = arguments.iter().filter(|a| !a.starts_with('-')).collect();
    let threads = std::thread::available_parallelism()?.get();
    let python = std::env::var("DKT_BENCH_PYTHON").ok();
    println!("{threads} threads, Adam, clipping; median of {BLOCKS} blocks of steps");
    for (network, batch, steps) in NETWORKS {
        if chosen.is_empty() || chosen.iter().any(|c| *c == network) {
            compare(network, batch, steps, threads, python.as_deref())?;
        }
    }
    Ok(())
}

/// Measures one network on all sides and prints a line for each.
fn compare(network: &str, batch: usize, steps: usize, threads: usize, python: Option<&str>) -> Result<()> {
    let of_step = [network.to_owned(), batch.to_string(), threads.to_string()];
    let this = std::env::current_exe()?;
    let mut sides = vec![Side::start("onnx", Command::new(this).arg(MEASURE).args(&of_step))?];
    for layout in python.iter().flat_map(|_| LAYOUTS) {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/step_pytorch.py");
        let python = python.unwrap_or_default();
        sides.push(Side::start(layout, Command::new(python).arg(script).args(&of_step).arg(layout))?);
    }
    for _ in 0..BLOCKS {
        for side in &mut sides {
            side.block(steps)?;
        }
    }
    let reports = sides.into_iter().map(Side::finish).collect::<Result<Vec<Report>>>()?;
    println!("{network}, batch {batch}");
    for report in &reports {
        println!("  {report}");
    }
    let (ours, theirs) = (&reports[0], reports[1..].iter().min_by(|a, b| a.wall.total_cmp(&b.wall)));
    if let Some(theirs) = theirs {
        println!(
            "  {:.2}x of the speed of PyTorch {}, {:.2}x of its CPU time, {:.2}x of its peak memory ({:.2}x of its growth)",
            theirs.wall / ours.wall,
            theirs.name,
            ours.cpu / theirs.cpu,
            ours.peak / theirs.peak,
            ours.growth / theirs.growth,
        );
    }
    Ok(())
}

/// One network on one side, as its process tells.
struct Report {
    name: &'static str,
    /// Milliseconds of one step.
    wall: f64,
    /// Milliseconds that all threads together spent on one step.
    cpu: f64,
    /// Highest resident size of the process, in MiB.
    peak: f64,
    /// What of it came after the library was loaded.
    growth: f64,
    /// Bytes that one step moves between host and runtime.
    copies: Option<String>,
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Report { name, wall, cpu, peak, growth, .. } = self;
        write!(
            f,
            "{name}: {wall:.2} ms/step, {cpu:.2} ms of CPU time, peak {peak:.0} MiB (grew {growth:.0})"
        )?;
        self.copies.iter().try_for_each(|copies| write!(f, ", {copies}"))
    }
}

/// A process that trains one network: a block of steps for each number it is sent, answered by the milliseconds of
/// a step; at the end its CPU time of a step, resident sizes at the start and at most in KiB, and what it copies.
struct Side {
    name: &'static str,
    child: Child,
    requests: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    walls: Vec<f64>,
}

impl Side {
    fn start(name: &'static str, command: &mut Command) -> Result<Self> {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let requests = child.stdin.take();
        let answers = BufReader::new(child.stdout.take().ok_or("expected a child with an output")?);
        let mut side = Side { name, child, requests, answers, walls: Vec::new() };
        if side.line()? != "ready" {
            return Err(format!("{name}: expected `ready`").into());
        }
        Ok(side)
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        Ok(line.trim().to_owned())
    }

    fn block(&mut self, steps: usize) -> Result<()> {
        let requests = self.requests.as_mut().ok_or("expected a child with an input")?;
        writeln!(requests, "{steps}")?;
        let wall = self.line()?.parse()?;
        self.walls.push(wall);
        Ok(())
    }

    fn finish(mut self) -> Result<Report> {
        drop(self.requests.take());
        let line = self.line()?;
        let mut fields = line.splitn(4, ' ');
        let mut number = || -> Result<f64> { Ok(fields.next().ok_or("expected a number")?.parse()?) };
        let (cpu, start, peak) = (number()?, number()?, number()?);
        let copies = fields.next().map(str::to_owned);
        let mut walls = std::mem::take(&mut self.walls);
        walls.sort_by(f64::total_cmp);
        let wall = walls[walls.len() / 2];
        let mib = 1024.0;
        Ok(Report { name: self.name, wall, cpu, peak: peak / mib, growth: (peak - start) / mib, copies })
    }
}

impl Drop for Side {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The other end of [`Side`], for ONNX Runtime.
fn measure(network: &str, batch: usize, threads: usize) -> Result<()> {
    runtime::load()?;
    let start = peak_kib()?;
    let entry = zoo::find(network)?;
    let options = BuildOptions { seed: 0, classes: entry.classes, input: entry.input };
    let model = DualHead::from_graph(zoo::build(network, &options)?)?;
    let step = TrainingStep::derive(&model, &StepOptions::default())?;
    let mut session = TrainSession::new(&step, Device::Cpu, threads)?;
    train(&mut session, batch, 2)?;
    println!("ready");
    let (began, mut n_steps) = (cpu_seconds()?, 0);
    for line in std::io::stdin().lines() {
        let steps = line?.trim().parse()?;
        let clock = Instant::now();
        train(&mut session, batch, steps)?;
        println!("{}", clock.elapsed().as_secs_f64() * 1e3 / steps as f64);
        n_steps += steps;
    }
    let cpu = (cpu_seconds()? - began) * 1e3 / n_steps.max(1) as f64;
    let buffers = session.batch_mut(batch)?;
    let values = [buffers.input.len(), buffers.labels.len(), buffers.teacher_logits.len()];
    let of_batch = 4 * (values.iter().sum::<usize>() + buffers.teacher_weight.len());
    let of_scalars = session.step_bytes(batch) - of_batch;
    println!("{cpu} {start} {} copies {of_batch} bytes of the batch, {of_scalars} of scalars", peak_kib()?);
    Ok(())
}

fn train(session: &mut TrainSession, batch: usize, steps: usize) -> Result<()> {
    for _ in 0..steps {
        let buffers = session.batch_mut(batch)?;
        for (i, value) in buffers.input.iter_mut().enumerate() {
            *value = (i % 17) as f32 / 8.0 - 1.0;
        }
        let n_classes = buffers.labels.len() / batch;
        buffers.labels.fill(0.0);
        for row in 0..batch {
            buffers.labels[row * n_classes + row % n_classes] = 1.0;
        }
        buffers.teacher_logits.fill(0.5);
        buffers.teacher_weight.fill(1.0);
        session.step(&Scalars { distill_weight: 0.5, temperature: 2.0, ..Scalars::PLAIN })?;
    }
    Ok(())
}

/// The highest resident size of this process so far.
fn peak_kib() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).ok_or("expected VmHWM")?;
    Ok(line.trim().trim_end_matches("kB").trim().parse()?)
}

/// User and system time of all threads of this process; Linux counts it in hundredths of a second.
fn cpu_seconds() -> Result<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    // The name, in parentheses, may contain anything; utime and stime are the 12th and 13th fields behind it.
    let fields = stat.rsplit_once(')').ok_or("expected a name in parentheses")?.1;
    let ticks: Vec<&str> = fields.split_whitespace().skip(11).take(2).collect();
    let ticks: f64 = ticks.iter().map(|t| t.parse::<f64>()).sum::<std::result::Result<f64, _>>()?;
    Ok(ticks / 100.0)
}
