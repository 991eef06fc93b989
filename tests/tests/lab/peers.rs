//! The peers in Python that the examples have: agents learn from them and teach them.

use std::path::{Path, PathBuf};
use std::process::Command;

use dkt_agent::config::{AgentConfig, EncodingConfig};
use dkt_agent::exchange::message::Message;
use dkt_agent::exchange::topic::Topic;
use dkt_agent::exchange::wire;
use dkt_agent::telemetry::event::Event;
use dkt_tests::broker::Mosquitto;
use dkt_tests::peer::Peer;
use dkt_tests::process::{Ended, Process, run};
use dkt_tests::{config, repository};

use crate::python::python;
use crate::{exchange, start};

/// The handwritten digits as a file that Python reads.
fn digits(folder: &Path) -> PathBuf {
    let file = folder.join("digits.npz");
    let output = run(python([repository("agent/examples/peers/digits.py"), file.clone()]));
    assert_eq!(output.code, Some(0), "{}", output.stderr);
    file
}

/// One of the scripts as agent `python` of the lab, with the padding of the other agents.
fn peer(script: &str, digits: &Path, broker: &Mosquitto) -> Command {
    let mut command = python([repository("agent/examples/peers").join(script)]);
    command.env("PYTHONDONTWRITEBYTECODE", "1").arg(digits).args(["--broker", &broker.url()]);
    command
}

/// Test accuracy of a head after an experience, on the images of each experience.
fn accuracies(ended: &Ended, experience: usize, head: &str) -> Vec<f64> {
    let evaluated = ended.evaluated();
    let heads = &evaluated[experience].heads;
    heads.iter().find(|h| h.head == head).unwrap().per_experience.clone()
}

/// Nothing that came was refused by those who got it.
fn understood(stderr: &str) {
    assert!(!stderr.contains("refused"), "{stderr}");
}

#[test]
fn the_peers_in_python_read_and_sign_the_examples_of_the_protocols_page() {
    let mut check = python([repository("tests/python/check_peers.py"), repository("docs/protocol.md")]);
    check.env("PYTHONDONTWRITEBYTECODE", "1").arg(repository("agent/examples/peers"));
    let output = run(check);
    assert_eq!(output.code, Some(0), "{}", output.stderr);
}

/// An agent learns from a teacher in Python what nobody else could have taught it. Both sign, or neither does.
fn check_teacher(signed: bool) {
    let folder = tempfile::tempdir().unwrap();
    let broker = Mosquitto::lab(&["alice", "python"]);
    let keys = broker.certificates();
    let mut command = peer("teacher.py", &digits(folder.path()), &broker);
    command.arg("--keys").arg(keys.of("python").ca.parent().unwrap());
    if signed {
        let signing = keys.signing_of("python");
        command.arg("--sign").arg(signing.key).arg("--signers").arg(signing.signers);
        command.arg("--numbers").arg(folder.path());
    }
    let mut teacher = Process::start(command);

    let mut taught = config::exchanging(folder.path(), "alice", &broker.url(), Some(keys.of("alice")));
    taught.exchange.signing = signed.then(|| keys.signing_of("alice"));
    taught.exchange.teachers = vec!["python".parse().unwrap()];
    taught.train.epochs = 16;
    // Public images of all classes: those of the second experience are known to the teacher alone in the first.
    taught.stream.proxy = 0.3;
    let mut control = AgentConfig { agent: "control".parse().unwrap(), ..taught.clone() };
    control.out = Some(folder.path().join("control"));
    control.exchange.enabled = false;
    let [taught, control] = [taught, control].map(|config| start(&config).end());

    exchange::learned_from(&taught);
    let student = |ended, experience| accuracies(ended, experience, "student");
    let unseen = student(&taught, 0)[1];
    assert!(accuracies(&taught, 0, "cl")[1] < 0.1, "her own labels say nothing of the second experience");
    assert!(unseen > student(&control, 0)[1] + 0.4, "{unseen}, {:?}", student(&control, 0));
    let [with, without] = [&taught, &control].map(|ended| student(ended, 1).iter().sum::<f64>() / 2.0);
    assert!(with > 0.8 && with > without + 0.4, "{with} beside {without}");

    teacher.terminate();
    assert!(teacher.wait().success());
    understood(&taught.stderr);
    understood(&teacher.stderr.text());
}

#[test]
fn an_agent_of_a_secured_lab_learns_from_a_teacher_in_python() {
    check_teacher(false);
}

#[test]
fn an_agent_of_a_lab_that_signs_learns_from_a_teacher_in_python() {
    check_teacher(true);
}

/// A student in Python gets every row of Alice's, who writes them in this form, and leaves out what has not changed
/// by more than `delta`.
fn check_student(encoding: EncodingConfig, delta: f32) {
    let folder = tempfile::tempdir().unwrap();
    let broker = Mosquitto::dev();
    let mut watcher = Peer::connect(broker.port, "watcher", None).unwrap();
    assert!(watcher.subscribe("dkt/1/lab/alice/targets/+"));
    let mut alice = config::exchanging(folder.path(), "alice", &broker.url(), None);
    alice.stream.experiences = 1;
    (alice.exchange.encoding, alice.exchange.delta) = (encoding, delta);
    let alice = start(&alice);
    let mut command = peer("student.py", &digits(folder.path()), &broker);
    command.args(["--views", "2", "--out"]).arg(folder.path().join("targets.npz"));
    let student = run(command);
    let alice = alice.end();
    alice.finished();

    assert_eq!(student.code, Some(0), "{}", student.stderr);
    let last = student.stdout.lines().last().unwrap();
    let (rows, rest) = last.split_once(" rows, ").unwrap_or_else(|| panic!("{last}"));
    assert_eq!(rows, "2866 of 2866", "two views of each image: {last}");
    // A row under another image's number would be right by chance.
    let right: f64 = rest.split_once('%').unwrap().0.parse().unwrap();
    let accuracy = 100.0 * accuracies(&alice, 0, "cl")[0];
    assert!(right > 80.0 && (right - accuracy).abs() < 10.0, "{right}% of the rows, {accuracy}% in testing");
    understood(&alice.stderr);
    understood(&student.stderr);
    if delta > 0.0 {
        watcher.find("rows that have hardly changed", |delivered| {
            let topic: Topic = delivered.topic.parse().unwrap();
            let message = wire::decode(&topic.leaf, &delivered.payload).unwrap();
            matches!(message, Message::Targets(chunk) if chunk.same.is_some()).then_some(())
        });
    }
}

#[test]
fn a_student_in_python_is_taught_everything_that_it_demands() {
    check_student(EncodingConfig::F16, 0.0);
}

#[test]
fn a_student_in_python_reads_a_byte_a_logit_and_what_has_hardly_changed() {
    check_student(EncodingConfig::U8, 0.3);
}

#[test]
fn a_student_in_python_reads_the_largest_logits_and_what_has_hardly_changed() {
    check_student(EncodingConfig::TopK(2), 0.3);
}

#[test]
fn a_peer_of_a_newer_version_is_refused_and_told_of() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Mosquitto::dev();
    let mut carol = Peer::connect(broker.port, "carol", None).unwrap();
    assert!(carol.subscribe("dkt/1/lab/alice/status"));
    let mut alice = config::exchanging(folder.path(), "alice", &broker.url(), None);
    alice.exchange.wait_for_peers = 0;
    alice.train.epochs = 100_000;
    let mut alice = start(&alice);

    // Alice's status in Carol's mouth would make her a peer, but for the version.
    let status = carol.next("Alice's status").payload;
    let [mut newer, same] = [status.clone(), status];
    let v = newer.windows(3).position(|bytes| *bytes == [0x61, b'v', 1]).unwrap();
    newer[v + 2] = 2;
    carol.publish("dkt/2/lab/carol/status", &newer, true);
    carol.publish("dkt/1/lab/carol/status", &newer, true);
    alice.said("expected protocol version 1, found 2");
    let peers = |event: &Event| match event {
        Event::Epoch(epoch) => Some(epoch.n_peers),
        _ => None,
    };
    assert_eq!(alice.wait_from_now("an epoch beside nobody", peers), 0);
    carol.publish("dkt/1/lab/carol/status", &same, true);
    alice.wait_for("an epoch beside Carol", |event| peers(event).filter(|n| *n == 1));
    alice.terminate();
    let ended = alice.end();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
}
