//! What a broker promises to clients, one function each. It comes back with what the broker does.

use std::cell::Cell;

use dkt_agent::exchange::wire::MAX_MESSAGE_BYTES;
use dkt_tests::brokers::Broker;
use dkt_tests::deadline::Deadline;
use dkt_tests::peer::{Delivered, Peer};

use super::{HOLDS, Row};

/// Chunks of soft targets, unless configured otherwise.
const CHUNK_BYTES: usize = 64 * 1024;
/// Chunks that wait for somebody who does not read for a while.
const BURST: usize = 100;
/// Longer than any packet of the protocol, with its topic and header.
const TOO_LONG_BYTES: usize = MAX_MESSAGE_BYTES + 64 * 1024;

const LOST: &str = "lost";

pub const RETAINED_BY_WILDCARD: &str = "…, also to who subscribes with `+` in the place of the name";
pub const BY_WHOLE_TOPIC: &str = "retained messages are found by their whole topic only";
pub const LONGER_PACKET: &str = "a packet longer than the protocol's longest reaches nobody";
pub const PASSED_ON: &str = "is passed on";

type Check = fn(&Fleet) -> &'static str;

pub const PROMISES: [(&str, Check); 14] = [
    ("the last retained message reaches who subscribes later", retained),
    (RETAINED_BY_WILDCARD, retained_by_wildcard),
    ("an empty message takes a retained one back, and is heard", taken_back),
    ("messages of 64 KiB arrive", |fleet| arrives(fleet, CHUNK_BYTES)),
    ("the protocol's longest messages, 1 MiB, arrive", |fleet| arrives(fleet, MAX_MESSAGE_BYTES)),
    ("a retained message of 1 MiB reaches who subscribes later", long_retained),
    (LONGER_PACKET, longer_packet),
    ("QoS 1 is granted, and kept on delivery", at_least_once),
    ("100 chunks of 64 KiB wait for a slow reader, and arrive once and in order", burst),
    ("`+` in the middle of a filter stands for any name, and for no more", wildcards),
    ("a message that nobody reads is acknowledged", unread),
    ("the last will of a connection that breaks is said, and retained", will),
    ("who says goodbye has no last will", no_will),
    ("a second connection of a client id ends the first", take_over),
];

/// Asks for everything; the differences from what is expected, all of them, fail the test.
pub fn check(row: &Row) {
    let broker = row.start();
    let mut wrong = Vec::new();
    for (index, (promise, check)) in PROMISES.iter().enumerate() {
        let does = check(&Fleet { broker: &broker, name: format!("fleet-{index}"), n_clients: Cell::new(0) });
        let expected = row.expected(promise);
        if does != expected {
            wrong.push(format!("{promise}: expected `{expected}`, found `{does}`"));
        }
    }
    assert!(wrong.is_empty(), "{}: {wrong:#?}", row.name);
}

/// Topics and clients of one promise's own.
pub struct Fleet<'a> {
    broker: &'a Broker,
    name: String,
    n_clients: Cell<usize>,
}

impl Fleet<'_> {
    fn topic(&self, rest: &str) -> String {
        format!("dkt/1/{}/{rest}", self.name)
    }

    /// A client with an id that no other has. A broker may take its time to forget one that has gone, and NATS shuts
    /// out for a second who seems to be taken over again and again.
    fn client(&self) -> Peer {
        self.n_clients.set(self.n_clients.get() + 1);
        Peer::connect(self.broker.port, &format!("{}-{}", self.name, self.n_clients.get()), None).unwrap()
    }

    fn publish(&self, rest: &str, payload: &[u8], retain: bool) {
        self.client().publish(&self.topic(rest), payload, retain);
    }

    /// Somebody who has subscribed to that.
    fn listener(&self, filter: &str) -> Listener {
        let filter = self.topic(filter);
        let mut peer = self.client();
        assert!(peer.subscribe(&filter));
        Listener { peer, end: filter.replace('+', "the-end") }
    }

    /// Payloads that reach somebody who subscribes now.
    fn late(&self, filter: &str) -> Vec<Vec<u8>> {
        self.listener(filter).given().into_iter().map(|delivered| delivered.payload).collect()
    }
}

/// Somebody who has subscribed, and the topic of their last word. It is under the same filter as all else: between
/// filters no order is promised, and NATS keeps none.
struct Listener {
    peer: Peer,
    end: String,
}

impl Listener {
    /// What is delivered until the last word comes back.
    fn given(&mut self) -> Vec<Delivered> {
        const END: &[u8] = b"the end";
        self.peer.publish(&self.end, END, false);
        let mut given = Vec::new();
        self.peer.find("the last word", |delivered| {
            let is_end = delivered.topic == self.end && delivered.payload == END;
            if !is_end {
                given.push(delivered.clone());
            }
            is_end.then_some(())
        });
        given
    }
}

fn holds_if(holds: bool, otherwise: &'static str) -> &'static str {
    if holds { HOLDS } else { otherwise }
}

fn retained(fleet: &Fleet) -> &'static str {
    for payload in [b"first", b"other"] {
        fleet.publish("alice/status", payload, true);
    }
    holds_if(fleet.late("alice/status") == [b"other"], LOST)
}

fn retained_by_wildcard(fleet: &Fleet) -> &'static str {
    fleet.publish("alice/status", b"here", true);
    fleet.publish("bob/status", b"here", true);
    fleet.publish("alice/demand", b"not asked for", true);
    let by_topic = fleet.late("alice/status") == [b"here"];
    match (fleet.late("+/status").as_slice(), by_topic) {
        ([alice, bob], _) if alice == b"here" && bob == b"here" => HOLDS,
        ([], true) => BY_WHOLE_TOPIC,
        _ => LOST,
    }
}

fn taken_back(fleet: &Fleet) -> &'static str {
    let mut listener = fleet.listener("alice/demand");
    for payload in [b"".as_slice(), b"wish", b""] {
        fleet.publish("alice/demand", payload, true);
    }
    let heard: Vec<Vec<u8>> = listener.given().into_iter().map(|d| d.payload).collect();
    if heard != [b"".as_slice(), b"wish", b""] {
        return "is not heard";
    }
    holds_if(fleet.late("alice/demand").is_empty(), "stays")
}

fn arrives(fleet: &Fleet, n_bytes: usize) -> &'static str {
    let mut listener = fleet.listener("+/targets/0123456789abcdef");
    // Bytes that differ, so that one that is missing is seen.
    let payload: Vec<u8> = (0..n_bytes).map(|i| (i % 251) as u8).collect();
    fleet.publish("alice/targets/0123456789abcdef", &payload, false);
    let given = listener.given();
    holds_if(given.len() == 1 && given[0].payload == payload, LOST)
}

fn long_retained(fleet: &Fleet) -> &'static str {
    let payload = vec![7; MAX_MESSAGE_BYTES];
    fleet.publish("alice/status", &payload, true);
    holds_if(fleet.late("alice/status") == [payload], LOST)
}

fn longer_packet(fleet: &Fleet) -> &'static str {
    let mut listener = fleet.listener("+/targets/0123456789abcdef");
    let topic = fleet.topic("alice/targets/0123456789abcdef");
    fleet.client().offer(&topic, &vec![7; TOO_LONG_BYTES]);
    holds_if(listener.given().is_empty(), PASSED_ON)
}

fn at_least_once(fleet: &Fleet) -> &'static str {
    let mut listener = fleet.listener("alice/status");
    fleet.publish("alice/status", b"here", true);
    let live = listener.given();
    let late = fleet.listener("alice/status").given();
    let delivered = [live, late].concat();
    let is_kept = delivered.len() == 2 && delivered.iter().all(|d| d.qos as u8 == 1);
    holds_if(is_kept, "messages are delivered with QoS 0")
}

fn burst(fleet: &Fleet) -> &'static str {
    let mut listener = fleet.listener("alice/targets/+");
    let topic = fleet.topic("alice/targets/0123456789abcdef");
    let mut alice = fleet.client();
    for index in 0..BURST {
        alice.publish(&topic, &vec![index as u8; CHUNK_BYTES], false);
    }
    let given = listener.given();
    if given.len() < BURST {
        return LOST;
    }
    holds_if(given.iter().map(|d| usize::from(d.payload[0])).eq(0..BURST), "twice or in another order")
}

fn wildcards(fleet: &Fleet) -> &'static str {
    let filters = ["+/repair/bob", "+/status"];
    let mut listeners = filters.map(|filter| fleet.listener(filter));
    for rest in ["alice/repair/bob", "carol/repair/bob", "alice/status"] {
        fleet.publish(rest, b"for bob", false);
    }
    for rest in ["alice/repair/carol", "alice/status/more", "alice", "status", "a/b/status"] {
        fleet.publish(rest, b"not for bob", false);
    }
    fleet.client().publish("dkt/1/another/alice/status", b"not for bob", false);
    let given = listeners.each_mut().map(|listener| -> Vec<String> {
        listener.given().into_iter().map(|delivered| delivered.topic).collect()
    });
    let [alice, carol, status] =
        ["alice/repair/bob", "carol/repair/bob", "alice/status"].map(|rest| fleet.topic(rest));
    holds_if(given == [vec![alice, carol], vec![status]], "matches other topics")
}

fn unread(fleet: &Fleet) -> &'static str {
    let topic = fleet.topic("alice/targets/0123456789abcdef");
    let answer = fleet.client().try_publish(&topic, b"to nobody", false);
    holds_if(answer.is_ok(), "ends the connection")
}

/// Somebody with a last will under their status.
fn mortal(fleet: &Fleet) -> Peer {
    let topic = fleet.topic("alice/status");
    let id = format!("{}-alice", fleet.name);
    let mut alice = Peer::connect_with_will(fleet.broker.port, &id, None, Some((&topic, "gone"))).unwrap();
    alice.publish(&topic, b"here", true);
    alice
}

fn will(fleet: &Fleet) -> &'static str {
    let mut listener = fleet.listener("+/status");
    drop(mortal(fleet));
    for expected in [b"here", b"gone"] {
        assert_eq!(listener.peer.next("Alice's status, then her will").payload, expected);
    }
    // Who listens may hear it before it is kept.
    let deadline = Deadline::default();
    while fleet.late("alice/status") != [b"gone"] {
        if deadline.is_over() {
            return "is not retained";
        }
    }
    HOLDS
}

fn no_will(fleet: &Fleet) -> &'static str {
    let mut listener = fleet.listener("alice/status");
    mortal(fleet).say_goodbye();
    let given = listener.given();
    let is_silent = given.len() == 1 && fleet.late("alice/status") == [b"here"];
    holds_if(is_silent, "is said all the same")
}

fn take_over(fleet: &Fleet) -> &'static str {
    let id = format!("{}-alice", fleet.name);
    let [first, mut second] = [0, 1].map(|_| Peer::connect(fleet.broker.port, &id, None).unwrap());
    first.wait_for_the_end();
    // She can be heard.
    let topic = fleet.topic("alice/status");
    assert!(second.subscribe(&topic));
    second.publish(&topic, b"here", false);
    holds_if(second.next("her own words").payload == b"here", LOST)
}
