//! Ctrl-C: an agent or a lab saves and says how to go on; at the second, it ends at once.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use dkt_agent::config::AgentConfig;
use dkt_agent::telemetry::event::{Event, Record, Started};
use dkt_tests::config;
use dkt_tests::deadline::Deadline;
use dkt_tests::process::{Process, run};

use crate::{dkt, start};

/// An agent that trains for longer than any test does.
fn endless(root: &Path) -> AgentConfig {
    let mut config = config::alone(root, "alice");
    config.train.epochs = 100_000;
    config
}

fn an_epoch(event: &Event) -> Option<()> {
    matches!(event, Event::Epoch(_)).then_some(())
}

fn stopped(event: &Event) -> Option<String> {
    match event {
        Event::Stopped { goes_on_with } => Some(goes_on_with.clone()),
        _ => None,
    }
}

#[test]
fn an_agent_tells_programs_how_it_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let config = endless(folder.path());
    let mut agent = start(&config);
    agent.wait_for("an epoch", an_epoch);
    agent.interrupt();
    let command = agent.wait_for("the word of its stop", stopped);
    let ended = agent.end();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert!(stopped(ended.events.last().unwrap()).is_some(), "it is the last event");
    let saved = ended.events.iter().rev().find_map(|event| match event {
        Event::Checkpointed { step, .. } => Some(*step),
        _ => None,
    });
    // That command does go on.
    let mut words = command.split(' ');
    assert_eq!(words.next(), Some("dkt"));
    let mut agent = dkt_tests::process::Agent::start("alice", dkt(words));
    assert_eq!(Some(agent.started().resumed_at_step), saved);
    agent.terminate();
    assert_eq!(agent.end().code, Some(0));
}

#[test]
fn an_agent_tells_people_how_it_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = endless(folder.path());
    config.checkpoint.every_steps = 1;
    let file = config::write(folder.path(), &config);
    let log = folder.path().join("dkt.log").display().to_string();
    let options =
        ["--progress", "plain", "--tensorboard", "--log-format", "json", "--log-file", log.as_str()];
    let mut agent = Process::start(dkt(["run", file.to_str().unwrap()].iter().chain(&options)));
    // Only its first line comes soon.
    let line = agent.stderr.next(Deadline::default()).unwrap().expect("it starts");
    assert!(line.contains(" s  alice: digits-cnn "), "{line}");
    agent.interrupt();
    assert_eq!(agent.wait().code(), Some(0), "{}", agent.stderr.text());
    let says = format!(
        "\nStopped and saved; `dkt run {} {}` goes on from here.\n",
        file.display(),
        options.join(" ")
    );
    assert!(agent.stdout.text().contains(&says), "{}", agent.stdout.text());
}

#[test]
fn the_second_ctrl_c_ends_an_agent_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let mut agent = start(&endless(folder.path()));
    agent.wait_for("an epoch", an_epoch);
    // Nobody ever reads it: the agent, having saved, waits for ever where it writes its report.
    let fifo = folder.path().join("alice/.metrics.csv.tmp");
    assert!(Command::new("mkfifo").arg(fifo).status().unwrap().success());
    agent.interrupt();
    agent.wait_for("the word of its stop", stopped);
    agent.interrupt();
    let ended = agent.end();
    assert_eq!(ended.code, Some(130), "{}", ended.stderr);
    assert!(!folder.path().join("alice/metrics.csv").exists());
    let checkpoints = fs::read_dir(folder.path().join("alice/checkpoints")).unwrap();
    let names: Vec<String> =
        checkpoints.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert!(names.iter().any(|name| name.ends_with(".safetensors")), "{names:?}");
}

/// Five experiences, long enough to be interrupted.
const LAB: &str = r#"
title = "A lab that is stopped"
control = true

[defaults]
fleet = "lab"
data.views = 2
stream.experiences = 5
train.epochs = 8
replay = { capacity = 64, batch_size = 8 }
exchange = { refresh_epochs = 1, wait_for_peers = 1 }

[[agents]]
agent = "alice"
stream.class_order = 1

[[agents]]
agent = "bob"
seed = 2
stream.class_order = 2
"#;

/// `dkt testbed` of that lab in `folder/out`, with its events on standard output.
fn testbed(folder: &Path, resume: bool) -> Command {
    let mut command = crate::testbed(folder, LAB);
    command.args(["--progress", "json"]).args(resume.then_some("--resume"));
    command
}

/// Interrupts the lab when an agent of that arm has trained an epoch, and none in vain. Starts by arm and agent.
fn interrupt_in_arm(mut lab: Process, exchange: bool) -> (Vec<Started>, String) {
    let deadline = Deadline::default();
    let mut arm = None;
    loop {
        let line = lab.stdout.next(deadline).unwrap().expect("the lab goes on");
        match serde_json::from_str::<Record>(&line).map(|record| record.event) {
            Ok(Event::Started(started)) => arm = Some(started.exchange),
            Ok(Event::Epoch(_)) if arm == Some(exchange) => break,
            _ => {}
        }
    }
    lab.interrupt();
    assert_eq!(lab.wait().code(), Some(0), "{}", lab.stderr.text());
    let text = lab.stdout.text();
    assert!(!text.contains("\"event\":\"stopped\""), "agents say how they would go on by themselves: {text}");
    (starts(&text), text)
}

fn starts(stdout: &str) -> Vec<Started> {
    let started = |line: &str| match serde_json::from_str::<Record>(line).ok()?.event {
        Event::Started(started) => Some(started),
        _ => None,
    };
    stdout.lines().filter_map(started).collect()
}

/// Steps at which the agents of an arm began.
fn resumed(starts: &[Started], exchange: bool) -> BTreeMap<&str, u64> {
    let of_arm = starts.iter().filter(|started| started.exchange == exchange);
    of_arm.map(|started| (started.agent.as_str(), started.resumed_at_step)).collect()
}

/// What the control came to, but for the time it took: nobody taught its agents, so that it is always the same.
fn control(out: &Path) -> Vec<String> {
    let text = fs::read_to_string(out.join("metrics.csv")).unwrap();
    let lines = text.lines().filter(|line| line.starts_with("exchange off,"));
    lines.filter(|line| !line.contains("_second")).map(ToOwned::to_owned).collect()
}

#[test]
fn a_lab_goes_on_in_the_arm_in_which_it_was_stopped() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let (_, text) = interrupt_in_arm(Process::start(testbed(folder.path(), false)), true);
    let file = folder.path().join("lab.toml");
    let says = format!(
        "`dkt testbed {} --out {} --progress json --resume` goes on from there.",
        file.display(),
        out.display()
    );
    assert!(text.contains(&says), "{text}");
    assert!(!out.join("exchange-off").exists(), "the control is not begun");

    let (starts_of_second, _) = interrupt_in_arm(Process::start(testbed(folder.path(), true)), false);
    let resumed_in_first_arm = resumed(&starts_of_second, true);
    assert_eq!(resumed_in_first_arm.len(), 2);
    assert!(resumed_in_first_arm.values().all(|step| *step > 0), "{resumed_in_first_arm:?}");
    assert!(resumed(&starts_of_second, false).values().all(|step| *step == 0), "{starts_of_second:?}");
    let models =
        |arm: &Path| ["alice", "bob"].map(|agent| fs::read(arm.join(agent).join("model.onnx")).unwrap());
    let of_first_arm = models(&out);

    let output = run(testbed(folder.path(), true));
    assert_eq!(output.code, Some(0), "{}", output.stderr);
    let starts_of_third = starts(&output.stdout);
    let n_steps: BTreeMap<&str, u64> =
        starts_of_third.iter().map(|started| (started.agent.as_str(), started.n_steps)).collect();
    assert_eq!(resumed(&starts_of_third, true), n_steps, "an arm that has finished is not trained again");
    assert!(models(&out) == of_first_arm);
    let in_control = resumed(&starts_of_third, false);
    assert!(in_control.iter().any(|(agent, step)| (1..n_steps[agent]).contains(step)), "{in_control:?}");

    let uninterrupted = tempfile::tempdir().unwrap();
    let whole = uninterrupted.path().join("out");
    let output = run(testbed(uninterrupted.path(), false));
    assert_eq!(output.code, Some(0), "{}", output.stderr);
    assert_eq!(control(&out), control(&whole), "the report has the whole course");
    assert!(models(&out.join("exchange-off")) == models(&whole.join("exchange-off")));
    let has_both = |metric: &str| {
        let text = fs::read_to_string(out.join("metrics.csv")).unwrap();
        ["on", "off"].iter().all(|arm| {
            let row = |line: &str| line.starts_with(&format!("exchange {arm},bob,student,{metric},5,"));
            text.lines().filter(|line| row(line)).count() > 0
        })
    };
    assert!(has_both("average_accuracy") && has_both("accuracy"));
}

#[test]
fn there_must_be_a_lab_to_go_on_with() {
    let folder = tempfile::tempdir().unwrap();
    let output = run(testbed(folder.path(), true));
    let out: PathBuf = folder.path().join("out");
    assert_eq!((output.code, output.stdout.as_str()), (Some(66), ""));
    let says = format!("dkt: there is no lab to go on with in `{}`; leave out --resume", out.display());
    assert!(output.stderr.starts_with(&says), "{}", output.stderr);
    assert!(!out.exists());
}
