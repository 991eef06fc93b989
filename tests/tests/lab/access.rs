//! The broker of a lab: TLS, certificates, and who may say what; `lab.conf` and `lab.acl` as they are shipped.

mod matrix;

use std::path::Path;

use dkt_agent::config::TlsConfig;
use dkt_agent::telemetry::event::Event;
use dkt_tests::broker::Mosquitto;
use dkt_tests::certs::Certificates;
use dkt_tests::config;
use dkt_tests::peer::Peer;
use dkt_tests::process::Agent;

use crate::{exchange, start};

#[test]
fn two_agents_teach_each_other_in_a_lab_with_certificates() {
    let broker = Mosquitto::lab(&["alice", "bob"]);
    exchange::check(&broker.url(), |config| {
        config.exchange.tls = Some(broker.certificates().of(config.agent.as_str()));
    });
}

/// Alice, with those certificates, is not let in: one clear line that says why.
fn is_refused(folder: &Path, broker: &str, tls: Option<TlsConfig>, reason: &str) {
    let mut config = config::exchanging(folder, "alice", broker, tls);
    config.exchange.connect_timeout_s = 2.0;
    let ended = start(&config).end();
    assert_eq!(ended.code, Some(69), "{ended:?}");
    assert_eq!(ended.stderr.lines().count(), 1, "{}", ended.stderr);
    let clear = format!("dkt: no connection to the broker at {broker}: {reason}");
    assert!(ended.stderr.starts_with(&clear), "{}", ended.stderr);
    assert!(!ended.events.iter().any(|event| matches!(event, Event::Started(_))), "nothing is trained");
}

#[test]
fn an_agent_is_refused_with_a_certificate_that_another_authority_has_signed() {
    let broker = Mosquitto::lab(&["alice"]);
    let folder = tempfile::tempdir().unwrap();
    let foreign = Certificates::make(&folder.path().join("certs"), &["alice"]);
    // She trusts the lab's authority, and is not trusted by it.
    let tls = TlsConfig { ca: broker.certificates().of("alice").ca, ..foreign.of("alice") };
    is_refused(folder.path(), &broker.url(), Some(tls), "it does not know the authority");
}

#[test]
fn an_agent_refuses_a_broker_that_another_authority_has_signed() {
    let broker = Mosquitto::lab(&["alice"]);
    let folder = tempfile::tempdir().unwrap();
    let foreign = Certificates::make(&folder.path().join("certs"), &["alice"]);
    let tls = TlsConfig { ca: foreign.of("alice").ca, ..broker.certificates().of("alice") };
    is_refused(folder.path(), &broker.url(), Some(tls), "its certificate is not of the authority");
}

#[test]
fn an_agent_is_refused_when_its_certificate_is_revoked() {
    let mut revoked = None;
    let broker = Mosquitto::lab_with(&["alice"], |_, certificates| {
        revoked = Some(certificates.copy_of("alice", "revoked"));
        certificates.revoke("alice");
    });
    let folder = tempfile::tempdir().unwrap();
    is_refused(folder.path(), &broker.url(), revoked, "it says that this agent's certificate is revoked");
}

#[test]
fn an_agent_without_tls_is_refused_by_the_broker_of_a_lab() {
    let broker = Mosquitto::lab(&["alice"]);
    let folder = tempfile::tempdir().unwrap();
    let url = format!("mqtt://127.0.0.1:{}", broker.port);
    is_refused(folder.path(), &url, None, "it answers and ends the connection at once");
}

#[test]
fn a_common_name_that_is_no_name_opens_nothing() {
    for name in ["bob/status", "lab/bob", ""] {
        let broker = Mosquitto::lab(&["bob"]);
        let tls = broker.certificates().sign("odd", name, (2020, 2090));
        // A broker that refuses such a name is as good as one under which it can do nothing.
        let Ok(mut odd) = Peer::connect(broker.port, "odd", Some((&tls, true))) else { continue };
        let own = broker.certificates().of("bob");
        let mut bob = Peer::connect(broker.port, "bob", Some((&own, true))).unwrap();
        assert!(bob.subscribe("dkt/1/+/+/status"));
        odd.publish("dkt/1/lab/bob/status", b"forged", false);
        odd.publish("dkt/1/lab/alice/status", b"forged", true);
        bob.publish("dkt/1/lab/bob/status", b"own", false);
        assert_eq!(bob.next("its own status").payload, b"own", "common name `{name}`");
    }
}

#[test]
fn an_agent_takes_the_name_on_its_certificate_and_throws_nobody_off() {
    let broker = Mosquitto::lab(&["alice", "bob"]);
    let [alice, bob] = ["alice", "bob"].map(|name| broker.certificates().of(name));
    let mut bob = Peer::connect(broker.port, "bob", Some((&bob, true))).unwrap();
    assert!(bob.subscribe("dkt/1/+/+/status"));
    // It calls itself Bob; were that believed, Bob's connection would end.
    let mut imposter = Peer::connect(broker.port, "bob", Some((&alice, true))).unwrap();
    imposter.publish("dkt/1/lab/bob/status", b"forged", false);
    imposter.publish("dkt/1/lab/alice/status", b"true", false);
    assert_eq!(bob.next("what is allowed").topic, "dkt/1/lab/alice/status");
}

#[test]
fn two_fleets_at_one_broker_do_not_mix() {
    let broker = Mosquitto::lab(&["alice", "bob"]);
    let folder = tempfile::tempdir().unwrap();
    let agents = ["alice", "bob"].map(|name| {
        let tls = Some(broker.certificates().of(name));
        let mut config = config::exchanging(folder.path(), name, &broker.url(), tls);
        config.fleet = format!("fleet-of-{name}").parse().unwrap();
        config.exchange.wait_for_peers = 0;
        config.train.epochs = 2;
        start(&config)
    });
    for ended in agents.map(Agent::end) {
        assert_eq!(ended.finished().rows_applied, 0);
        assert_eq!(ended.traffic("status").messages_in, 0, "{}", ended.name);
    }
}
