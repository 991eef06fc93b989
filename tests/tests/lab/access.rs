//! The broker of a lab: TLS, certificates, and who may say what; `lab.conf` and `lab.acl` as they are shipped.

use std::path::Path;

use dkt_agent::config::TlsConfig;
use dkt_agent::telemetry::event::Event;
use dkt_tests::broker::Mosquitto;
use dkt_tests::certs::Certificates;
use dkt_tests::config;
use dkt_tests::peer::{Delivered, Peer};
use dkt_tests::process::Agent;

use crate::{exchange, start};

const TARGETS: &str = "targets/0123456789abcdef";

#[test]
fn two_agents_teach_each_other_in_a_lab_with_certificates() {
    let broker = Mosquitto::lab(&["alice", "bob"]);
    exchange::check(&broker.url(), |name| Some(broker.certificates().of(name)));
}

#[test]
fn two_agents_at_two_sites_teach_each_other_over_a_bridge() {
    let hub = Mosquitto::lab(&["alice", "bob"]);
    let site = Mosquitto::bridged(&["carol", "dave"], &hub);
    let folder = tempfile::tempdir().unwrap();
    let agents = [("alice", &hub), ("carol", &site)].map(|(name, broker)| {
        let tls = Some(broker.certificates().of(name));
        start(&config::exchanging(folder.path(), name, &broker.url(), tls))
    });
    agents.map(Agent::end).iter().for_each(exchange::learned_from_its_peer);
}

/// Alice, with those certificates, is not let in: one clear line, in the time that she allows.
fn is_refused(folder: &Path, broker: &str, tls: Option<TlsConfig>) {
    let mut config = config::exchanging(folder, "alice", broker, tls);
    config.exchange.connect_timeout_s = 2.0;
    let ended = start(&config).end();
    assert_eq!(ended.code, Some(69), "{ended:?}");
    assert_eq!(ended.stderr.lines().count(), 1, "{}", ended.stderr);
    let clear = format!("dkt: no connection to the broker at {broker} within 2 s");
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
    is_refused(folder.path(), &broker.url(), Some(tls));
}

#[test]
fn an_agent_refuses_a_broker_that_another_authority_has_signed() {
    let broker = Mosquitto::lab(&["alice"]);
    let folder = tempfile::tempdir().unwrap();
    let foreign = Certificates::make(&folder.path().join("certs"), &["alice"]);
    let tls = TlsConfig { ca: foreign.of("alice").ca, ..broker.certificates().of("alice") };
    is_refused(folder.path(), &broker.url(), Some(tls));
}

#[test]
fn an_agent_is_refused_when_its_certificate_has_expired() {
    let broker = Mosquitto::lab(&["alice"]);
    let folder = tempfile::tempdir().unwrap();
    let expired = broker.certificates().sign("expired", "alice", (2020, 2021));
    is_refused(folder.path(), &broker.url(), Some(expired));
}

#[test]
fn an_agent_without_tls_is_refused_by_the_broker_of_a_lab() {
    let broker = Mosquitto::lab(&["alice"]);
    let folder = tempfile::tempdir().unwrap();
    is_refused(folder.path(), &format!("mqtt://127.0.0.1:{}", broker.port), None);
}

#[test]
fn a_client_without_a_certificate_is_refused() {
    let broker = Mosquitto::lab(&["alice"]);
    let alice = broker.certificates().of("alice");
    assert!(Peer::connect(broker.port, "alice", Some((&alice, false))).is_err());
    assert!(Peer::connect(broker.port, "alice", Some((&alice, true))).is_ok(), "{}", broker.log());
}

/// Two clients of a lab: one that tries what it must not, and one that listens to everything it may.
struct Pair {
    alice: Peer,
    bob: Peer,
}

fn pair(broker: &Mosquitto, tls: &TlsConfig) -> Pair {
    let alice = Peer::connect(broker.port, "alice", Some((tls, true))).unwrap();
    let own = broker.certificates().of("bob");
    let mut bob = Peer::connect(broker.port, "bob", Some((&own, true))).unwrap();
    for filter in ["dkt/1/+/+/status", "dkt/1/+/+/demand", "dkt/1/+/+/targets/+", "dkt/1/+/+/repair/bob"] {
        assert!(bob.subscribe(filter), "{filter}");
    }
    Pair { alice, bob }
}

impl Pair {
    /// Publishes under each topic, then under one that is allowed: Bob is given that one and nothing before it.
    fn not_delivered(&mut self, topics: &[String], allowed: &str) {
        for topic in topics {
            self.alice.publish(topic, topic.as_bytes(), false);
            self.alice.publish(topic, topic.as_bytes(), true);
        }
        self.alice.publish(allowed, b"the end", false);
        let delivered = self.bob.next("what is allowed");
        assert_eq!(delivered, Delivered { topic: allowed.to_owned(), payload: b"the end".to_vec() });
    }
}

#[test]
fn nobody_can_publish_under_the_name_of_another() {
    let broker = Mosquitto::lab(&["alice", "bob"]);
    let mut pair = pair(&broker, &broker.certificates().of("alice"));
    let bobs = ["status", "demand", TARGETS, "repair/bob", "repair/alice"]
        .map(|leaf| format!("dkt/1/lab/bob/{leaf}"));
    pair.not_delivered(&bobs, "dkt/1/lab/alice/status");
    // Neither outside of the protocol, where Bob would not listen: the administrator does not either.
    let others = [
        "dkt/2/lab/alice/status",
        "dkt/1/lab/alice/model",
        "dkt/1/lab/alice/status/more",
        "$SYS/broker/uptime",
    ];
    pair.not_delivered(&others.map(str::to_owned), &format!("dkt/1/lab/alice/{TARGETS}"));
}

#[test]
fn a_common_name_with_a_wildcard_opens_nothing() {
    for name in ["+", "#", "bob/status", ""] {
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
    let mut pair = pair(&broker, &broker.certificates().of("alice"));
    let own = broker.certificates().of("alice");
    // It calls itself Bob; were that believed, Bob's connection would end.
    let mut imposter = Peer::connect(broker.port, "bob", Some((&own, true))).unwrap();
    imposter.publish("dkt/1/lab/bob/status", b"forged", false);
    imposter.publish("dkt/1/lab/alice/status", b"true", false);
    assert_eq!(pair.bob.next("what is allowed").topic, "dkt/1/lab/alice/status");
}

#[test]
fn what_one_agent_is_asked_no_other_can_read() {
    let broker = Mosquitto::lab(&["alice", "bob", "carol"]);
    let Pair { mut alice, mut bob } = pair(&broker, &broker.certificates().of("alice"));
    let own = broker.certificates().of("carol");
    let mut carol = Peer::connect(broker.port, "carol", Some((&own, true))).unwrap();
    // mosquitto grants subscriptions and then delivers nothing of what may not be read.
    for filter in ["#", "$SYS/#", "dkt/1/+/+/repair/+", "dkt/1/lab/alice/repair/bob"] {
        carol.subscribe(filter);
    }
    alice.publish("dkt/1/lab/alice/repair/bob", b"for bob", true);
    assert_eq!(bob.next("a question").payload, b"for bob");
    alice.publish("dkt/1/lab/alice/repair/carol", b"for carol", true);
    assert_eq!(carol.next("a question").payload, b"for carol");
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
