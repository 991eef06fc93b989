//! Signed messages, with the keys that `dkt keys` makes.

use std::path::Path;

use dkt_agent::exchange::envelope;
use dkt_agent::exchange::message::Message;
use dkt_agent::exchange::wire;
use dkt_tests::broker::Mosquitto;
use dkt_tests::certs::Certificates;
use dkt_tests::config;
use dkt_tests::peer::Peer;
use dkt_tests::process::{Agent, Ended};
use ed25519_dalek::SigningKey;

use crate::{brokers, exchange, start};

/// Puts messages of Mallory's under her own topics, which the broker allows: a status with a signature that is not
/// hers, and a demand with none.
fn speak_as_mallory(peer: &mut Peer) -> [&'static str; 2] {
    let [status, demand] = ["dkt/1/lab/mallory/status", "dkt/1/lab/mallory/demand"];
    let message = wire::encode(&Message::Cleared);
    let other = SigningKey::from_bytes(&[7; 32]);
    peer.publish(status, &envelope::seal(&other, "mallory", status, 1 << 60, &message), true);
    peer.publish(demand, &[0xa0], true);
    ["signature", "unsigned"]
}

fn has_refused(ended: &Ended, reasons: &[&str]) {
    for reason in reasons {
        assert!(ended.refused(reason) > 0, "{} refused nothing as `{reason}`", ended.name);
    }
    assert!(ended.finished().n_refused >= reasons.len() as u64, "{:?}", ended.finished());
    let warned = ended.stderr.contains("messages refused") && ended.stderr.contains("mallory");
    assert!(warned, "{}", ended.stderr);
}

#[test]
fn agents_of_a_lab_sign_what_they_say_and_refuse_what_another_has_forged() {
    let broker = Mosquitto::lab(&["alice", "bob", "mallory"]);
    let keys = broker.certificates();
    let tls = keys.of("mallory");
    let mut mallory = Peer::connect(broker.port, "mallory", Some((&tls, true))).unwrap();
    let reasons = speak_as_mallory(&mut mallory);
    let folder = tempfile::tempdir().unwrap();
    let agents = ["alice", "bob"].map(|name| {
        let mut config = config::exchanging(folder.path(), name, &broker.url(), Some(keys.of(name)));
        config.exchange.signing = Some(keys.signing_of(name));
        start(&config)
    });
    for ended in agents.map(Agent::end) {
        exchange::learned_from_its_peer(&ended);
        has_refused(&ended, &reasons);
        let report = folder.path().join(&ended.name).join("report.html");
        let report = std::fs::read_to_string(report).unwrap();
        let says = report.lines().find(|line| line.contains("exchange on: messages refused: "));
        let says = says.unwrap_or_else(|| panic!("{} does not say what it refused", ended.name));
        assert!(says.contains("signature 1") && says.contains("unsigned 1"), "{says}");
    }
}

/// A lab's keys, in a folder of its own below.
fn keys(folder: &Path) -> Certificates {
    Certificates::make(&folder.join("keys"), &["alice", "bob", "mallory"])
}

#[test]
fn agents_that_sign_teach_each_other_over_the_embedded_broker_and_refuse_what_is_forged() {
    let broker = brokers::EMBEDDED.start();
    let url = broker.url();
    let folder = tempfile::tempdir().unwrap();
    let keys = keys(folder.path());
    let mut mallory = Peer::connect(broker.port, "mallory", None).unwrap();
    let reasons = speak_as_mallory(&mut mallory);
    let agents = ["alice", "bob"].map(|name| {
        let mut config = config::exchanging(folder.path(), name, &url, None);
        config.exchange.signing = Some(keys.signing_of(name));
        start(&config)
    });
    for ended in agents.map(Agent::end) {
        exchange::learned_from_its_peer(&ended);
        has_refused(&ended, &reasons);
    }
    // Without signing, what somebody has signed is refused by name.
    let mut config = config::exchanging(folder.path(), "carol", &url, None);
    config.exchange.wait_for_peers = 0;
    has_refused(&start(&config).end(), &["signed"]);
}

/// Both have numbers of earlier runs in their folders.
#[test]
fn an_agent_that_signs_and_died_comes_back() {
    let folder = tempfile::tempdir().unwrap();
    let keys = keys(folder.path());
    exchange::check_return(&Mosquitto::dev().url(), |config| {
        config.exchange.signing = Some(keys.signing_of(config.agent.as_str()));
    });
}

/// Its last will is newer than all it has said.
#[test]
fn an_agent_that_signs_and_has_died_is_not_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let keys = keys(folder.path());
    exchange::check_death(&Mosquitto::dev().url(), |config| {
        config.exchange.signing = Some(keys.signing_of(config.agent.as_str()));
    });
}

#[test]
fn a_key_that_is_not_the_agents_ends_it_with_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let keys = keys(folder.path());
    let mut config = config::exchanging(folder.path(), "alice", "mqtt://127.0.0.1:1", None);
    config.exchange.signing = Some(keys.signing_of("bob"));
    let ended = start(&config).end();
    assert_eq!((ended.code, ended.stderr.lines().count()), (Some(78), 1), "{}", ended.stderr);
    assert!(ended.stderr.contains("signing.key`, is not the key of"), "{}", ended.stderr);
}
