//! What it costs to move soft targets: a teacher and a student, each a process of its own, over mosquitto on loopback.
//!
//! `cargo bench --workspace --bench exchange_cost`. With `DKT_BENCH_PYTHON` set to a Python that has paho-mqtt and
//! numpy, a plain pair of Python programs moves the same rows over the same broker in the same run, in turn:
//! absolute figures on a shared machine mean little. The student asks for all rows, the teacher has their logits
//! ready and labels nothing: encoding, publishing, receiving, decoding and storing are what is measured.

use std::error::Error;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use dkt_agent::exchange::engine::Event;
use dkt_agent::ids::{Round, SampleId};
use dkt_tests::broker::Mosquitto;
use dkt_tests::repository;
use dkt_tests::synthetic::{Agent, Synthetic, Usage};

const ROWS: u32 = 50_000;
const CLASSES: usize = 100;
/// Every side in turn; medians are reported.
const REPETITIONS: usize = 7;
/// Rows that a teacher labels at once.
const BATCH: usize = 256;
/// First argument of a process that is one side.
const SIDE: &str = "--side";
/// After this long without the last row something is wrong.
const TIMEOUT: Duration = Duration::from_secs(120);

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [mode, side, port] = arguments.as_slice()
        && mode == SIDE
    {
        return if side == "teacher" { teach(port.parse()?) } else { learn(port.parse()?) };
    }
    let broker = Mosquitto::dev();
    let port = broker.port.to_string();
    let this = std::env::current_exe()?;
    let ours = |side: &str| {
        let mut command = Command::new(&this);
        command.args([SIDE, side, &port]);
        command
    };
    let python = std::env::var("DKT_BENCH_PYTHON").ok();
    let script = repository("tests/benches/exchange_cost.py");
    let theirs = |python: &str, side: &str| {
        let mut command = Command::new(python);
        command.arg(&script).args([side, &port, &ROWS.to_string(), &CLASSES.to_string()]);
        command
    };
    println!("{ROWS} rows of {CLASSES} logits; median of {REPETITIONS} runs");
    let (mut dkt, mut plain) = (Vec::new(), Vec::new());
    for _ in 0..REPETITIONS {
        dkt.push(measure(ours("student"), ours("teacher"))?);
        if let Some(python) = &python {
            plain.push(measure(theirs(python, "student"), theirs(python, "teacher"))?);
        }
    }
    let (dkt, plain) = (Figures::median(&dkt), (!plain.is_empty()).then(|| Figures::median(&plain)));
    println!("{:10} {}", "dkt", dkt.row());
    if let Some(plain) = plain {
        println!("{:10} {}", "python", plain.row());
        let cpu = |f: &Figures| f.sides.iter().map(|s| s.cpu_s).sum::<f64>();
        let peak = |f: &Figures, side: usize| f.sides[side].peak_mib;
        println!(
            "dkt / python: {:.2}x rows/s, {:.2}x CPU, memory of the teacher {:.2}x, of the student {:.2}x",
            plain.seconds / dkt.seconds,
            cpu(&dkt) / cpu(&plain),
            peak(&dkt, 1) / peak(&plain, 1),
            peak(&dkt, 0) / peak(&plain, 0),
        );
    }
    Ok(())
}

/// What one process used: said at its end.
#[derive(Clone, Copy)]
struct Used {
    cpu_s: f64,
    peak_mib: f64,
    messages: f64,
    bytes: f64,
}

struct Figures {
    seconds: f64,
    /// Student, teacher.
    sides: [Used; 2],
}

impl Figures {
    fn median(all: &[Figures]) -> Figures {
        let median = |value: &dyn Fn(&Figures) -> f64| {
            let mut values: Vec<f64> = all.iter().map(value).collect();
            values.sort_by(f64::total_cmp);
            values[values.len() / 2]
        };
        let sides = [0, 1].map(|side| Used {
            cpu_s: median(&|f| f.sides[side].cpu_s),
            peak_mib: median(&|f| f.sides[side].peak_mib),
            messages: median(&|f| f.sides[side].messages),
            bytes: median(&|f| f.sides[side].bytes),
        });
        Figures { seconds: median(&|f| f.seconds), sides }
    }

    fn row(&self) -> String {
        let [student, teacher] = &self.sides;
        format!(
            "{:.3} s: {:.0} rows/s, {:.0} messages/s, {:.0} MB/s; CPU {:.2} s teacher, {:.2} s student; peak memory {:.0} MiB teacher, {:.0} MiB student",
            self.seconds,
            f64::from(ROWS) / self.seconds,
            teacher.messages / self.seconds,
            teacher.bytes / 1e6 / self.seconds,
            teacher.cpu_s,
            student.cpu_s,
            teacher.peak_mib,
            student.peak_mib,
        )
    }
}

/// A student and a teacher: both get ready, the teacher is told to go, the student says when it has every row.
fn measure(student: Command, teacher: Command) -> Result<Figures> {
    let mut student = Side::start(student)?;
    let mut teacher = Side::start(teacher)?;
    let began = Instant::now();
    teacher.say("go")?;
    student.hear("done")?;
    let seconds = began.elapsed().as_secs_f64();
    Ok(Figures { seconds, sides: [student.end()?, teacher.end()?] })
}

struct Side {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Side {
    fn start(mut command: Command) -> Result<Self> {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let input = child.stdin.take().ok_or("standard input is piped")?;
        let output = BufReader::new(child.stdout.take().ok_or("standard output is piped")?);
        let mut side = Side { child, input, output };
        side.hear("ready")?;
        Ok(side)
    }

    fn say(&mut self, word: &str) -> Result<()> {
        Ok(writeln!(self.input, "{word}").and_then(|()| self.input.flush())?)
    }

    fn hear(&mut self, word: &str) -> Result<()> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        if line.trim() == word { Ok(()) } else { Err(format!("expected `{word}`, found `{line}`").into()) }
    }

    fn end(mut self) -> Result<Used> {
        self.say("end")?;
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        self.child.wait()?;
        let values = line.split_whitespace().map(str::parse).collect::<std::result::Result<Vec<f64>, _>>()?;
        let [cpu_s, peak_mib, messages, bytes] = values[..] else {
            return Err(format!("expected four numbers, found `{line}`").into());
        };
        Ok(Used { cpu_s, peak_mib, messages, bytes })
    }
}

/// Says what was used.
fn end(agent: Agent, messages: u64, bytes: u64) -> Result<()> {
    let Usage { cpu_s, peak_mib } = Usage::of_this_process()?;
    println!("{cpu_s} {peak_mib} {messages} {bytes}");
    agent.stop();
    Ok(())
}

fn learn(port: u16) -> Result<()> {
    let mut student = Agent::start(port, config("student"))?;
    student.pump(Duration::from_millis(100));
    student.step(Event::Demand { samples: (0..ROWS).map(SampleId).collect(), n_views: 1 });
    say("ready");
    student.pump_until(TIMEOUT, |engine| engine.stats().rows_applied >= u64::from(ROWS))?;
    say("done");
    wait_for_a_word()?;
    let targets = student.traffic("targets")?;
    end(student, targets.messages_in, targets.bytes_in)
}

fn teach(port: u16) -> Result<()> {
    let mut teacher = Agent::start(port, config("teacher"))?;
    teacher.pump_until(TIMEOUT, |engine| !engine.peers().is_empty())?;
    say("ready");
    wait_for_a_word()?;
    teacher.step(Event::RoundStarted(Round(1)));
    // Until the student has everything: what gets lost on the way is asked for again.
    let (said, word) = channel();
    std::thread::spawn(move || said.send(wait_for_a_word().is_ok()));
    while word.try_recv().is_err() {
        if teacher.label(BATCH) == 0 {
            teacher.pump(Duration::from_millis(1));
        }
    }
    let targets = teacher.traffic("targets")?;
    end(teacher, targets.messages_out, targets.bytes_out)
}

fn config(name: &str) -> Synthetic {
    Synthetic { name: name.to_owned(), n_samples: ROWS, n_classes: CLASSES, teachers: Vec::new() }
}

fn say(word: &str) {
    println!("{word}");
}

fn wait_for_a_word() -> Result<()> {
    std::io::stdin().read_line(&mut String::new())?;
    Ok(())
}
