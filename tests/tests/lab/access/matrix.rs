//! Who may do what: every kind of client, by publishing, retaining, a last will and subscribing, under every kind of
//! topic. A publication that is denied is acknowledged like any other (MQTT 3.1.1, section 3.3.5), so what counts is
//! what an administrator, who is added for this test and may read everything, is given.

use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::io::Write;

use dkt_agent::config::TlsConfig;
use dkt_tests::broker::Mosquitto;
use dkt_tests::certs::Certificates;
use dkt_tests::peer::{Delivered, Peer, shout};

/// No agent can have this name.
const ADMINISTRATOR: &str = "administrator.test";
/// `lab.acl` with him in it. Nothing of others is changed.
const MAY_EVERYTHING: &str = "\nuser administrator.test\ntopic readwrite #\ntopic readwrite $SYS/#\n";
/// What the administrator says last.
const THE_END: &str = "the/end";
/// What everybody may read, said last.
const STATUS: &str = "dkt/1/the-end/somebody/status";

/// A topic; of Alice, Bob and somebody called `a/b`, who may write it, and who may read it.
type Row = (&'static str, &'static str, &'static str);
const ALL: &str = "alice bob a/b";

const TOPICS: [Row; 37] = [
    ("dkt/1/lab/alice/status", "alice", ALL),
    ("dkt/1/lab/alice/demand", "alice", ALL),
    ("dkt/1/lab/alice/demand/bob", "alice", "bob"),
    ("dkt/1/lab/alice/demand/carol", "alice", ""),
    ("dkt/1/lab/alice/targets/0123456789abcdef", "alice", ALL),
    ("dkt/1/lab/alice/inputs/0123456789abcdef", "alice", ALL),
    ("dkt/1/lab/alice/repair/alice", "alice", "alice"),
    ("dkt/1/lab/alice/repair/bob", "alice", "bob"),
    ("dkt/1/lab/alice/repair/carol", "alice", ""),
    ("dkt/1/other/alice/status", "alice", ALL),
    ("dkt/1/lab/bob/status", "bob", ALL),
    ("dkt/1/lab/bob/demand", "bob", ALL),
    ("dkt/1/lab/bob/demand/alice", "bob", "alice"),
    ("dkt/1/lab/bob/targets/0123456789abcdef", "bob", ALL),
    ("dkt/1/lab/bob/inputs/0123456789abcdef", "bob", ALL),
    ("dkt/1/lab/bob/repair/alice", "bob", "alice"),
    ("dkt/1/lab/bob/repair/bob", "bob", "bob"),
    ("dkt/1/lab/bob/repair/carol", "bob", ""),
    ("dkt/1/lab/carol/status", "", ALL),
    ("dkt/1/lab/carol/targets/0123456789abcdef", "", ALL),
    ("dkt/1/lab/carol/inputs/0123456789abcdef", "", ALL),
    ("dkt/1/lab/carol/demand/alice", "", "alice"),
    ("dkt/1/lab/carol/repair/alice", "", "alice"),
    // Not of the protocol.
    ("dkt/1/lab/alice", "", ""),
    ("dkt/1/lab/alice/model", "", ""),
    ("dkt/1/lab/alice/targets", "", ""),
    ("dkt/1/lab/alice/inputs", "", ""),
    ("dkt/1/lab/alice/status/more", "", ""),
    ("dkt/1/lab/alice/demand/bob/more", "", ""),
    ("dkt/1/alice/status", "", ""),
    ("dkt/2/lab/alice/status", "", ""),
    ("alice/status", "", ""),
    ("outside", "", ""),
    ("$SYS/broker/uptime", "", ""),
    ("$SYS/alice/status", "", ""),
    // A slash in a name makes a level more, and no agent takes a topic of so many for one of the protocol.
    ("dkt/1/lab/a/b/status", "a/b", ""),
    ("dkt/1/lab/a/status", "", ALL),
];

/// Subscriptions, beside those to each topic by its name.
const FILTERS: [&str; 9] = [
    "#",
    "+/+/+/+/+",
    "$SYS/#",
    "dkt/#",
    "dkt/1/+/+/demand/+",
    "dkt/1/+/+/repair/+",
    "dkt/1/lab/alice/#",
    "dkt/1/lab/bob/#",
    "dkt/2/#",
];

/// Clients that are let in: what their certificates call them, in the order in which they are tried.
const LET_IN: [&str; 5] = ["alice", "bob", "a/b", "+", "#"];

fn topics_of(column: impl Fn(&Row) -> &'static str, who: &str) -> Vec<&'static str> {
    TOPICS.iter().filter(|row| column(row).split(' ').any(|name| name == who)).map(|row| row.0).collect()
}

struct Lab {
    broker: Mosquitto,
    administrator: TlsConfig,
}

impl Lab {
    /// Alice and Bob; of Carol, the certificate that she had until she was revoked.
    fn new() -> (Self, TlsConfig) {
        let mut revoked = None;
        let broker = Mosquitto::lab_with(&["alice", "bob", "carol"], |installed, certificates| {
            let mut acl = OpenOptions::new().append(true).open(installed.join("lab.acl")).unwrap();
            acl.write_all(MAY_EVERYTHING.as_bytes()).unwrap();
            revoked = Some(certificates.copy_of("carol", "revoked"));
            certificates.revoke("carol");
        });
        let administrator = broker.certificates().sign("administrator", ADMINISTRATOR, (2020, 2090));
        (Lab { broker, administrator }, revoked.unwrap())
    }

    /// Somebody who hears everything, what is retained too.
    fn administrator(&self) -> Peer {
        let mut peer =
            Peer::connect(self.broker.port, ADMINISTRATOR, Some((&self.administrator, true))).unwrap();
        assert!(peer.subscribe("#") && peer.subscribe("$SYS/#"));
        peer
    }

    /// All call themselves Alice; the broker goes by their certificates.
    fn connect(&self, tls: &TlsConfig, will: Option<(&str, &str)>) -> Peer {
        Peer::connect_with_will(self.broker.port, "alice", Some((tls, true)), will).unwrap()
    }

    /// Breaks a connection, and waits until the broker has seen it: then the last will has been said, or never is.
    fn drop(&self, who: &str, peer: Peer) {
        drop(peer);
        self.broker.wait_for_log(&format!("Client {who} "));
    }
}

/// Topics under which a payload came, in order.
fn under(delivered: Vec<Delivered>, payload: &str) -> Vec<String> {
    delivered.into_iter().filter(|d| d.payload == payload.as_bytes()).map(|d| d.topic).collect()
}

/// What is retained of a payload, as a new administrator is told. He is the only one there is.
fn retained(lab: &Lab, payload: &str) -> BTreeSet<String> {
    let mut late = lab.administrator();
    late.publish(THE_END, b"", false);
    let kept = under(late.delivered_before(THE_END), payload).into_iter().collect();
    lab.drop(ADMINISTRATOR, late);
    kept
}

#[test]
fn who_is_let_in_can_do_what_the_access_list_names_and_nothing_else() {
    let (lab, _) = Lab::new();
    for who in LET_IN {
        let tls = match who {
            "alice" | "bob" => lab.broker.certificates().of(who),
            odd => lab.broker.certificates().sign("odd", odd, (2020, 2090)),
        };
        publishes_what_it_may(&lab, who, &tls);
        leaves_a_will_where_it_may(&lab, who, &tls);
        hears_what_it_may(&lab, who, &tls);
    }
}

fn publishes_what_it_may(lab: &Lab, who: &str, tls: &TlsConfig) {
    let allowed = topics_of(|row| row.1, who);
    for retain in [false, true] {
        let payload = format!("{who} publishes, {retain}");
        let mut administrator = lab.administrator();
        let mut client = lab.connect(tls, None);
        for (topic, ..) in TOPICS {
            client.publish(topic, payload.as_bytes(), retain);
        }
        // The last on this connection is allowed, where anything is; all have been acknowledged in any case.
        let last = allowed.last().copied();
        if let Some(topic) = last {
            client.publish(topic, b"the end", false);
            let end = |d: &Delivered| (d.topic == topic && d.payload == b"the end").then_some(());
            let mut before = Vec::new();
            administrator.find("what is allowed", |d| {
                before.push(d.clone());
                end(d)
            });
            assert_eq!(under(before, &payload), allowed, "{payload}");
        } else {
            administrator.publish(THE_END, b"", false);
            let none = under(administrator.delivered_before(THE_END), &payload);
            assert_eq!(none, [""; 0], "{payload}");
        }
        lab.drop(who, client);
        lab.drop(ADMINISTRATOR, administrator);
        let kept =
            if retain { allowed.iter().map(|&topic| topic.to_owned()).collect() } else { BTreeSet::new() };
        assert_eq!(retained(lab, &payload), kept, "{payload}");
    }
}

fn leaves_a_will_where_it_may(lab: &Lab, who: &str, tls: &TlsConfig) {
    let allowed = topics_of(|row| row.1, who);
    let payload = format!("{who} has gone");
    let mut administrator = lab.administrator();
    for (topic, ..) in TOPICS {
        lab.drop(who, lab.connect(tls, Some((topic, &payload))));
    }
    administrator.publish(THE_END, b"", false);
    assert_eq!(under(administrator.delivered_before(THE_END), &payload), allowed, "{payload}");
    lab.drop(ADMINISTRATOR, administrator);
    assert_eq!(retained(lab, &payload), allowed.iter().map(|&topic| topic.to_owned()).collect(), "{payload}");
}

fn hears_what_it_may(lab: &Lab, who: &str, tls: &TlsConfig) {
    let allowed = topics_of(|row| row.2, who);
    let mut administrator = lab.administrator();
    let by_name: Vec<&str> = TOPICS.iter().map(|row| row.0).collect();
    for filters in FILTERS.iter().map(std::slice::from_ref).chain([by_name.as_slice()]) {
        let payload = format!("for {who}, who has subscribed to {}", filters.join(" and "));
        let mut client = lab.connect(tls, None);
        for filter in filters {
            client.subscribe(filter);
        }
        client.subscribe(STATUS);
        for (topic, ..) in TOPICS {
            administrator.publish(topic, payload.as_bytes(), false);
        }
        administrator.publish(STATUS, b"", false);
        let delivered =
            if allowed.is_empty() { client.delivered_until_now() } else { client.delivered_before(STATUS) };
        let heard: BTreeSet<String> = under(delivered, &payload).into_iter().collect();
        let matches = |topic: &str| filters.iter().any(|f| *f == topic || rumqttc::matches(topic, f));
        let expected = allowed.iter().filter(|topic| matches(topic)).map(|&topic| topic.to_owned()).collect();
        assert_eq!(heard, expected, "{payload}");
        lab.drop(who, client);
    }
    lab.drop(ADMINISTRATOR, administrator);
}

#[test]
fn who_is_not_let_in_can_do_nothing() {
    let (lab, revoked) = Lab::new();
    let certificates = lab.broker.certificates();
    let folder = tempfile::tempdir().unwrap();
    let foreign = Certificates::make(&folder.path().join("keys"), &["alice"]);
    let alice = certificates.of("alice");
    // All of them trust the lab's authority, and call themselves Alice.
    let foreign = TlsConfig { ca: alice.ca.clone(), ..foreign.of("alice") };
    let refused = [
        ("revoked", revoked, true),
        ("expired", certificates.sign("expired", "alice", (2020, 2021)), true),
        ("not yet good", certificates.sign("early", "alice", (2089, 2090)), true),
        ("of a foreign authority", foreign, true),
        ("none", alice.clone(), false),
    ];
    let mut administrator = lab.administrator();
    for (what, tls, shown) in &refused {
        assert!(Peer::connect(lab.broker.port, "alice", Some((tls, *shown))).is_err(), "{what}");
        for (topic, ..) in TOPICS {
            let answer = shout(lab.broker.port, (tls, *shown), "alice", topic, what);
            assert_eq!(answer, b"", "certificate: {what}");
        }
        administrator.publish(THE_END, b"", false);
        assert_eq!(under(administrator.delivered_before(THE_END), what), [""; 0], "certificate: {what}");
    }
    // The same words of hers are heard.
    let topic = "dkt/1/lab/alice/status";
    let answer = shout(lab.broker.port, (&alice, true), "alice", topic, "herself");
    assert_eq!(answer[..4], [0x20, 2, 0, 0], "CONNACK: {answer:?}");
    administrator.publish(THE_END, b"", false);
    assert_eq!(under(administrator.delivered_before(THE_END), "herself"), [topic, topic]);
    lab.drop(ADMINISTRATOR, administrator);
    for (what, ..) in refused {
        assert_eq!(retained(&lab, what), BTreeSet::new(), "certificate: {what}");
    }
}
