//! A broker that dies and comes back.

use std::path::Path;

use dkt_agent::config::AgentConfig;
use dkt_agent::telemetry::event::Event;
use dkt_tests::broker::{Mosquitto, free_port};
use dkt_tests::config;
use dkt_tests::process::Agent;

use crate::{exchange, start};

/// Alice and Bob at `broker`.
fn two_agents(folder: &Path, broker: &Mosquitto, change: impl Fn(&mut AgentConfig)) -> [Agent; 2] {
    ["alice", "bob"].map(|name| {
        let mut config = config::exchanging(folder, name, &broker.url(), None);
        change(&mut config);
        start(&config)
    })
}

#[test]
fn soft_targets_are_exchanged_again_after_the_broker_has_died_and_come_back() {
    let folder = tempfile::tempdir().unwrap();
    let mut broker = Mosquitto::dev();
    // They train until they are asked to stop: how long a reconnection takes is drawn by lot.
    let mut agents = two_agents(folder.path(), &broker, |config| config.train.epochs = 100_000);
    agents.iter_mut().for_each(|agent| exchange::taught(agent, 0));
    broker.kill();
    agents.iter().for_each(|agent| agent.said("connection lost; trying again"));
    broker.restart();
    for agent in &mut agents {
        let before = agent.wait_from_now("what it has received so far", exchange::targets_in);
        exchange::taught(agent, before);
    }
    agents.iter().for_each(Agent::terminate);
    for ended in agents.map(Agent::end) {
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        assert!(ended.teacher_shares().iter().any(|share| *share > 0.0), "{} was never taught", ended.name);
    }
}

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
    let mut agents = two_agents(folder.path(), &broker, |config| config.exchange.linger_s = 0.5);
    for agent in &mut agents {
        agent.wait_for("an epoch", |event| matches!(event, Event::Epoch(_)).then_some(()));
    }
    broker.kill();
    agents.iter().for_each(|agent| agent.said("connection lost; trying again"));
    for ended in agents.map(Agent::end) {
        ended.finished();
    }
}
