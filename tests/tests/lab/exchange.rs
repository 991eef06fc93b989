//! Two agents that teach each other: the same at every broker.

use std::net::TcpListener;
use std::path::Path;

use dkt_agent::config::AgentConfig;
use dkt_agent::exchange::connection::STOP_TIMEOUT;
use dkt_agent::telemetry::event::Event;
use dkt_tests::process::{Agent, Ended, of_kind, run};
use dkt_tests::{broker, config};

use crate::{dkt, start};

/// Alice and Bob, configured so, train at `broker` until both have finished.
pub fn check(broker: &str, configure: impl Fn(&mut AgentConfig)) {
    let folder = tempfile::tempdir().unwrap();
    let agents = ["alice", "bob"].map(|name| {
        let mut config = config::exchanging(folder.path(), name, broker, None);
        configure(&mut config);
        start(&config)
    });
    for ended in agents.map(Agent::end) {
        learned_from_its_peer(&ended);
        // A broker that does not answer is given so long; this one does.
        assert!(
            ended.goodbye_s() < STOP_TIMEOUT.as_secs_f64(),
            "{} took {} s to say goodbye",
            ended.name,
            ended.goodbye_s()
        );
        its_model_is_as_good_as_it_says(&ended, &folder.path().join(&ended.name).join("model.onnx"));
    }
}

/// Its peer's rows came, and it trained with them.
pub fn learned_from(ended: &Ended) {
    let name = &ended.name;
    let finished = ended.finished();
    assert!(finished.rows_applied > 0, "{name} applied no soft targets: {finished:?}");
    let shares = ended.teacher_shares();
    assert!(shares.iter().any(|share| *share > 0.0), "{name} was never taught: {shares:?}");
}

pub fn learned_from_its_peer(ended: &Ended) {
    learned_from(ended);
    let name = &ended.name;
    for kind in ["status", "demand", "targets"] {
        let traffic = ended.traffic(kind);
        assert!(traffic.messages_out > 0 && traffic.messages_in > 0, "{name}: {traffic:?}");
        assert!(traffic.bytes_out > 0 && traffic.bytes_in > 0, "{name}: {traffic:?}");
    }
}

/// The final model, evaluated by another runtime.
fn its_model_is_as_good_as_it_says(ended: &Ended, model: &Path) {
    let output = run(dkt([
        "eval".as_ref(),
        model.as_os_str(),
        "--data".as_ref(),
        "digits".as_ref(),
        "--json".as_ref(),
    ]));
    assert_eq!(output.code, Some(0), "{}", output.stderr);
    let evaluation: serde_json::Value = serde_json::from_str(&output.stdout).unwrap();
    let told = ended.evaluated();
    let told = &told.last().expect("it was evaluated after each experience").heads;
    for (head, told) in evaluation["heads"].as_array().unwrap().iter().zip(told) {
        assert_eq!(head["head"], told.head);
        let accuracy = head["accuracy"].as_f64().unwrap();
        // A tie of two logits may fall to the other side: one image.
        let image = 1.0 / evaluation["n_samples"].as_f64().unwrap();
        assert!((accuracy - told.stream).abs() < 1.5 * image, "{}: {accuracy}, {told:?}", ended.name);
    }
}

/// Bob dies in mid-run, comes back from his checkpoint, and the two teach each other again.
pub fn check_return(broker: &str, configure: impl Fn(&mut AgentConfig)) {
    let folder = tempfile::tempdir().unwrap();
    // They train until they are asked to stop.
    let [alice, bob] = ["alice", "bob"].map(|name| {
        let mut config = config::exchanging(folder.path(), name, broker, None);
        configure(&mut config);
        config.train.epochs = 100_000;
        config.checkpoint.every_steps = 10;
        config
    });
    let (mut alice, mut first) = (start(&alice), start(&bob));
    taught(&mut alice, 0);
    taught(&mut first, 0);
    let saved = first.checkpointed(0);
    first.kill();
    let mut second = start(&bob);
    assert!(second.started().resumed_at_step >= saved);
    taught(&mut second, 0);
    let before = alice.wait_from_now("what she has received so far", targets_in);
    taught(&mut alice, before);
    for agent in [alice, second] {
        agent.terminate();
        let ended = agent.end();
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    }
}

/// Bob dies for good: Alice, having trained her stream, hears so from the broker and does not wait for him.
pub fn check_death(broker: &str, configure: impl Fn(&mut AgentConfig)) {
    let folder = tempfile::tempdir().unwrap();
    let [alice, bob] = ["alice", "bob"].map(|name| {
        let mut config = config::exchanging(folder.path(), name, broker, None);
        configure(&mut config);
        config.exchange.linger_s = 100_000.0;
        config.train.epochs = if name == "alice" { 8 } else { 100_000 };
        config
    });
    let (mut alice, mut bob) = (start(&alice), start(&bob));
    alice.wait_for("an epoch beside Bob", |event| match event {
        Event::Epoch(epoch) => (epoch.n_peers == 1).then_some(()),
        _ => None,
    });
    bob.kill();
    alice.end().finished();
}

/// Waits until the agent has received more than `n` messages of soft targets.
pub fn taught(agent: &mut Agent, n: u64) {
    agent.wait_for("soft targets", |event| targets_in(event).filter(|now| *now > n));
}

/// Messages of soft targets received, as an event of the totals says.
pub fn targets_in(event: &Event) -> Option<u64> {
    match event {
        Event::Traffic(traffic) => Some(of_kind(traffic, "targets").messages_in),
        _ => None,
    }
}

#[test]
fn without_exchange_no_connection_is_attempted() {
    let folder = tempfile::tempdir().unwrap();
    let port = broker::free_port();
    let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
    let mut config = config::exchanging(folder.path(), "alice", &format!("mqtt://127.0.0.1:{port}"), None);
    config.exchange.enabled = false;
    config.train.epochs = 1;
    let ended = start(&config).end();
    assert_eq!(ended.finished().rows_applied, 0);
    listener.set_nonblocking(true).unwrap();
    let error = listener.accept().expect_err("nobody connects");
    assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
}
