//! Whole agents over a broker.

use dkt_tests::brokers::Broker;
use dkt_tests::config;
use dkt_tests::process::Agent;

use crate::{exchange, start};

/// What the functions below show, in their order.
pub const PROMISES: [&str; 4] = [
    "two agents teach each other",
    "an agent that was killed comes back, and the two teach each other again",
    "an agent that has died is not waited for",
    "agents teach each other again after the broker was killed and came back empty",
];

/// Alice and Bob, until both have trained their streams.
pub fn teach_each_other(broker: &Broker) {
    exchange::check(&broker.url(), |_| ());
}

/// Bob dies in mid-run and comes back.
pub fn die_and_come_back(broker: &Broker) {
    exchange::check_return(&broker.url(), |_| ());
}

/// Bob dies for good.
pub fn die(broker: &Broker) {
    exchange::check_death(&broker.url(), |_| ());
}

pub fn survive_the_broker(mut broker: Broker) {
    let folder = tempfile::tempdir().unwrap();
    // They train until they are asked to stop: how long a reconnection takes is drawn by lot.
    let mut agents = ["alice", "bob"].map(|name| {
        let mut config = config::exchanging(folder.path(), name, &broker.url(), None);
        config.train.epochs = 100_000;
        start(&config)
    });
    agents.iter_mut().for_each(|agent| exchange::taught(agent, 0));
    broker.kill();
    agents.iter().for_each(|agent| agent.said("connection lost; trying again"));
    broker.restart_empty();
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
