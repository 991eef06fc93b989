//! A broker that is not there. One that dies and comes back is in `brokers`.

use dkt_agent::telemetry::event::Event;
use dkt_tests::broker::{Mosquitto, free_port};
use dkt_tests::config;
use dkt_tests::process::Agent;

use crate::start;

#[test]
fn an_agent_that_waits_for_its_broker_ends_when_asked_to() {
    let folder = tempfile::tempdir().unwrap();
    let nowhere = format!("mqtt://127.0.0.1:{}", free_port());
    let mut config = config::exchanging(folder.path(), "alice", &nowhere, None);
    // Longer than any test waits.
    config.exchange.connect_timeout_s = 1e6;
    let mut alice = start(&config);
    alice.wait_for("the attempt to connect", |event| matches!(event, Event::Waiting { .. }).then_some(()));
    alice.terminate();
    let ended = alice.end();
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""));
}

#[test]
fn agents_finish_without_a_broker_that_does_not_come_back() {
    let folder = tempfile::tempdir().unwrap();
    let mut broker = Mosquitto::dev();
    let mut agents = ["alice", "bob"].map(|name| {
        let mut config = config::exchanging(folder.path(), name, &broker.url(), None);
        config.exchange.linger_s = 0.5;
        start(&config)
    });
    for agent in &mut agents {
        agent.wait_for("an epoch", |event| matches!(event, Event::Epoch(_)).then_some(()));
    }
    broker.kill();
    agents.iter().for_each(|agent| agent.said("connection lost; trying again"));
    for ended in agents.map(Agent::end) {
        ended.finished();
    }
}
