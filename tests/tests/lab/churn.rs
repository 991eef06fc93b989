//! Labs whose agents join late, leave and come back.

use std::fs;
use std::path::Path;

use dkt_agent::telemetry::event::{Epoch, Event, Record};
use dkt_tests::deadline::Deadline;
use dkt_tests::process::{Output, Process, run};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// Alice is there throughout, and slow enough for the others to be seen. Bob joins after her first experience; carol
/// leaves after her own first and comes back after alice's second.
const LAB: &str = r#"
title = "A lab whose agents come and go"

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
train.epochs = 32

[[agents]]
agent = "bob"
seed = 2
stream.class_order = 2
join = { after = "alice", experience = 1 }
exchange.wait_for_peers = 0

[[agents]]
agent = "carol"
seed = 3
stream.class_order = 3
leave = { after_experience = 1 }
rejoin = { after = "alice", experience = 2 }
"#;

const HISTORY: [&str; 3] = [
    "bob joined after experience 1 of alice",
    "carol left after its experience 1",
    "carol came back after experience 2 of alice",
];

fn command(folder: &Path, lab: &str, options: &[&str]) -> std::process::Command {
    let mut command = crate::testbed(folder, lab);
    command.args(options);
    command
}

fn testbed(folder: &Path, lab: &str, options: &[&str]) -> Output {
    let output = run(command(folder, lab, options));
    assert_eq!(output.code, Some(0), "{}", output.stderr);
    output
}

/// An agent of the only arm, as `metrics.json` has it.
fn agent(folder: &Path, index: usize) -> Value {
    let text = fs::read_to_string(folder.join("out/metrics.json")).unwrap();
    serde_json::from_str::<Value>(&text).unwrap()["arms"][0]["agents"][index].take()
}

fn epochs(agent: &Value) -> Vec<Epoch> {
    serde_json::from_value(agent["epochs"].clone()).unwrap()
}

/// The time, in seconds, of the first line of progress with that text.
fn at_s(output: &Output, text: &str) -> f64 {
    let line = output.stderr.lines().find(|line| line.contains(text));
    let line = line.unwrap_or_else(|| panic!("nobody said `{text}`:\n{}", output.stderr));
    line.split_whitespace().next().unwrap().parse().unwrap()
}

/// Every line of the history, once, whatever the order.
fn has_history(output: &Output, folder: &Path) {
    let report = fs::read_to_string(folder.join("out/report.html")).unwrap();
    for line in HISTORY {
        let line = format!("exchange on   {line}\n");
        assert_eq!(output.stdout.matches(&line).count(), 1, "`{line}` in:\n{}", output.stdout);
        assert!(report.contains(&line), "the report has no `{line}`");
    }
}

#[test]
fn agents_join_late_leave_and_come_back() {
    let folder = tempfile::tempdir().unwrap();
    let output = testbed(folder.path(), LAB, &["--progress", "plain"]);
    has_history(&output, folder.path());
    // Position of a line in the log of progress.
    let told = |text: &str| {
        let position = output.stderr.find(text);
        position.unwrap_or_else(|| panic!("nobody said `{text}`:\n{}", output.stderr))
    };
    assert!(told("bob: joins after experience 1 of alice\n") < told("alice: experience 1/5 trained"));
    assert!(told("alice: experience 1/5 trained") < told("bob: digits-cnn "));
    assert!(told("carol: experience 1/5 trained") < told("carol: carol left after its experience 1"));
    assert!(told("alice: experience 2/5 trained") < told(", resumed at step "));
    for (earlier, later) in [
        ("alice: experience 1/5 trained", "bob: experience 1/5 trained"),
        ("carol: carol left", ", resumed at step "),
        ("alice: experience 2/5 trained", "carol: experience 2/5 trained"),
    ] {
        assert!(at_s(&output, earlier) <= at_s(&output, later), "one clock:\n{}", output.stderr);
    }
    assert!(!output.stderr.contains("warning: "), "nobody waits in vain:\n{}", output.stderr);

    let [alice, bob, carol] = [0, 1, 2].map(|index| agent(folder.path(), index));
    for (agent, n_epochs) in [(&alice, 32), (&bob, 8), (&carol, 8)] {
        assert!(agent["finished"].is_object(), "{agent}");
        let epochs: Vec<(u32, u32)> = epochs(agent).iter().map(|e| (e.experience, e.epoch)).collect();
        let whole: Vec<(u32, u32)> =
            (0..5).flat_map(|e| (0..n_epochs).map(move |epoch| (e, epoch))).collect();
        assert_eq!(epochs, whole, "each epoch is told once");
    }
    assert!(carol["started"]["resumed_at_step"].as_u64().unwrap() > 0);
    let n_peers: Vec<u32> = epochs(&alice).iter().map(|e| e.n_peers).collect();
    assert!(n_peers[..32].iter().all(|n| *n <= 1), "carol alone, as long as she is there: {n_peers:?}");
    assert!(n_peers[32..].contains(&2), "both others are there in the end: {n_peers:?}");
    assert!(epochs(&bob).iter().any(|e| e.teacher_share > 0.0), "the late one is taught: {bob}");
}

/// Who comes back in a lab that goes on does not leave again, and the report has the whole history.
#[test]
fn a_lab_that_goes_on_knows_who_has_come_and_gone() {
    let folder = tempfile::tempdir().unwrap();
    let options = ["--progress", "plain"];
    let mut lab = Process::start(command(folder.path(), LAB, &options));
    let deadline = Deadline::default();
    loop {
        let line = lab.stderr.next(deadline).unwrap().expect("the lab goes on");
        if line.contains("carol: ") && line.contains(", resumed at step ") {
            break;
        }
    }
    lab.interrupt();
    assert_eq!(lab.wait().code(), Some(0), "{}", lab.stderr.text());
    assert!(!lab.stderr.text().contains("warning: "), "{}", lab.stderr.text());

    let output = testbed(folder.path(), LAB, &["--progress", "plain", "--resume"]);
    has_history(&output, folder.path());
    assert!(!output.stderr.contains("carol left"), "it left before:\n{}", output.stderr);
    assert!((0..3).all(|index| agent(folder.path(), index)["finished"].is_object()));
}

#[test]
fn one_that_has_left_for_good_is_shown_as_far_as_it_came() {
    let folder = tempfile::tempdir().unwrap();
    let lab = LAB.replace("rejoin = ", "# rejoin = ");
    let output = testbed(folder.path(), &lab, &[]);
    assert!(output.stdout.contains("carol left after its experience 1\n"), "{}", output.stdout);
    assert!(!output.stdout.contains("came back"), "{}", output.stdout);
    let carol = agent(folder.path(), 2);
    assert!(carol["finished"].is_null());
    assert_eq!(carol["heads"][0]["accuracy"].as_array().unwrap().len(), 1, "one experience is trained");
    assert!(folder.path().join("out/carol/model.onnx").exists());
}

/// Somebody ends alice alone, by hand.
#[test]
fn nobody_waits_for_one_that_was_ended() {
    let folder = tempfile::tempdir().unwrap();
    let lab = LAB
        .replace("train.epochs = 32", "train.epochs = 100000")
        .replace("[[agents]]\nagent = \"carol\"", "#")
        .replace("wait_for_peers = 1", "wait_for_peers = 0");
    let lab = lab.split("\n#\nseed = 3").next().unwrap();
    let mut lab = Process::start(command(folder.path(), lab, &["--progress", "json"]));
    let deadline = Deadline::default();
    loop {
        let line = lab.stdout.next(deadline).unwrap().expect("an epoch ends");
        let record: Record = serde_json::from_str(&line).unwrap();
        if matches!(record.event, Event::Epoch(_)) {
            break;
        }
    }
    kill_process(only_child(&lab), Signal::TERM).unwrap();
    assert_eq!(lab.wait().code(), Some(0), "{}", lab.stderr.text());
    let says = "bob never joined: alice ended before it had trained experience 1";
    let stdout = lab.stdout.text();
    assert!(stdout.contains(&format!("\"event\":\"warning\",\"message\":\"{says}\"")), "{stdout}");
    assert!(stdout.contains(&format!("exchange on   {says}\n")), "{stdout}");
    assert!(!folder.path().join("out/bob").exists(), "it was never started");
}

/// The agent's process, as the system tells it.
fn only_child(lab: &Process) -> Pid {
    let id = lab.id();
    let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap();
    Pid::from_raw(children.trim().parse().unwrap()).unwrap()
}
