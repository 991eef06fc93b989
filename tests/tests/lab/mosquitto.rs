//! Over mosquitto, with the shipped configuration for one machine: agents beside a peer that is no agent. What holds
//! at other brokers, too, is in `brokers`.

use std::collections::BTreeSet;

use dkt_agent::config::EncodingConfig;
use dkt_agent::exchange::message::{AgentState, Message, Repair, Status, TargetChunk};
use dkt_agent::exchange::rows::{Floats, Rows};
use dkt_agent::exchange::topic::{Leaf, Topic};
use dkt_agent::exchange::wire;
use dkt_agent::ids::{Round, SampleId, View};
use dkt_agent::telemetry::event::Event;
use dkt_tests::broker::Mosquitto;
use dkt_tests::config;
use dkt_tests::peer::Peer;
use dkt_tests::process::Agent;

use crate::{exchange, start};

const CLASSES: usize = 10;
/// Carol's only run.
const SESSION: u64 = 7;

/// Each in its own form, which the other reads; bob leaves out what has hardly changed.
#[test]
fn agents_teach_each_other_in_every_encoding_over_mosquitto() {
    let labs = [(EncodingConfig::F32, EncodingConfig::U8), (EncodingConfig::F16, EncodingConfig::TopK(2))];
    let broker = Mosquitto::dev();
    for (of_alice, of_bob) in labs {
        let folder = tempfile::tempdir().unwrap();
        let mut watcher = Peer::connect(broker.port, "watcher", None).unwrap();
        assert!(watcher.subscribe("dkt/1/+/+/targets/+"));
        let agents = [("alice", of_alice, 0.0), ("bob", of_bob, 0.1)].map(|(name, encoding, delta)| {
            let mut config = config::exchanging(folder.path(), name, &broker.url(), None);
            (config.exchange.encoding, config.exchange.delta) = (encoding, delta);
            start(&config)
        });
        let mut seen = BTreeSet::new();
        watcher.find("rows of both, and some of bob's that are the same", |delivered| {
            let topic: Topic = delivered.topic.parse().unwrap();
            let Message::Targets(chunk) = wire::decode(&topic.leaf, &delivered.payload).unwrap() else {
                panic!("{topic}")
            };
            let encoding = if topic.agent.as_str() == "alice" { of_alice } else { of_bob };
            if !chunk.ids.is_empty() {
                let is_form = matches!(
                    (encoding, &chunk.rows),
                    (EncodingConfig::F32, Rows::Dense(Floats::F32(_)))
                        | (EncodingConfig::F16, Rows::Dense(Floats::F16(_)))
                        | (EncodingConfig::U8, Rows::Affine { .. })
                        | (EncodingConfig::TopK(2), Rows::TopK { .. })
                );
                assert!(is_form, "{topic}: {encoding:?}, {:?}", chunk.rows);
                seen.insert((topic.agent.to_string(), "rows"));
            }
            if chunk.same.is_some() {
                seen.insert((topic.agent.to_string(), "same"));
            }
            (seen.len() == 3).then_some(())
        });
        assert!(!seen.contains(&("alice".to_owned(), "same")), "she has no delta");
        for ended in agents.map(Agent::end) {
            exchange::learned_from_its_peer(&ended);
        }
    }
}

#[test]
fn agents_say_nothing_that_is_not_in_the_protocol_and_then_goodbye() {
    const CHUNK_BYTES: usize = 4096;
    let folder = tempfile::tempdir().unwrap();
    let broker = Mosquitto::dev();
    let mut everything = Peer::connect(broker.port, "watcher", None).unwrap();
    assert!(everything.subscribe("#"));
    let agents = ["alice", "bob"].map(|name| {
        let mut config = config::exchanging(folder.path(), name, &broker.url(), None);
        config.exchange.chunk_bytes = CHUNK_BYTES;
        start(&config)
    });
    let mut gone = BTreeSet::new();
    everything.find("the goodbyes of both", |delivered| {
        let topic: Topic = delivered.topic.parse().unwrap();
        match wire::decode(&topic.leaf, &delivered.payload).unwrap() {
            Message::Status(status) if status.state == AgentState::Offline => {
                gone.insert(topic.agent);
            }
            Message::Targets(_) => {
                assert!(delivered.payload.len() <= CHUNK_BYTES, "{}", delivered.payload.len());
            }
            _ => {}
        }
        (gone.len() == agents.len()).then_some(())
    });
    for ended in agents.map(Agent::end) {
        exchange::learned_from_its_peer(&ended);
    }
    // Who comes later hears that they are gone, and of no wish that is left.
    let mut late = Peer::connect(broker.port, "late", None).unwrap();
    assert!(late.subscribe("#"));
    late.publish("the/end", b"", false);
    let mut kept = Vec::new();
    late.find("what is retained", |delivered| {
        if delivered.topic == "the/end" {
            return Some(());
        }
        let topic: Topic = delivered.topic.parse().unwrap();
        let message = wire::decode(&topic.leaf, &delivered.payload).unwrap();
        let Message::Status(status) = message else { panic!("{topic} is retained") };
        // In its own words: its last will is from before its first round.
        assert!(status.state == AgentState::Offline && status.round > Round(0), "{topic}: {status:?}");
        kept.push(topic.agent.to_string());
        None
    });
    kept.sort();
    assert_eq!(kept, ["alice", "bob"]);
}

/// A peer called Carol who hears everything that Alice says, and speaks the protocol.
struct Carol {
    peer: Peer,
    /// Alice's data, classes and network: Carol has the same.
    status: Status,
}

impl Carol {
    /// Comes before Alice and waits for her.
    fn meet(mut peer: Peer) -> Self {
        let status = wait_for(&mut peer, "Alice's status", |_, message| match message {
            Message::Status(status) => Some(status),
            _ => None,
        });
        Carol { peer, status }
    }

    fn say(&mut self, leaf: Leaf, message: &Message) {
        let retain = !matches!(leaf, Leaf::Targets { .. });
        self.peer.publish(&carols(leaf).to_string(), &wire::encode(message), retain);
    }

    /// Tells everyone that she trains, and that her round of soft targets has begun.
    fn announce(&mut self, state: AgentState, round: u64) {
        let status = Status { state, round: Round(round), session: SESSION, ..self.status.clone() };
        self.say(Leaf::Status, &Message::Status(status));
    }

    /// The same logits for all of the samples that Alice lacks.
    fn teach(&mut self, repair: &Repair) {
        for (view, set) in &repair.missing {
            let ids: Vec<SampleId> = set.iter().collect();
            let chunk = TargetChunk {
                session: SESSION,
                data: self.status.data,
                model: self.status.model,
                round: repair.round,
                temperature: 2.0,
                view: *view,
                n_classes: CLASSES,
                rows: Rows::Dense(Floats::F32(vec![0.25; ids.len() * CLASSES])),
                ids: ids.into(),
                same: None,
            };
            self.say(Leaf::Targets { data: self.status.data.short() }, &Message::Targets(chunk));
        }
    }
}

/// Waits for something that Alice says.
fn wait_for<T>(peer: &mut Peer, what: &str, mut pick: impl FnMut(&Leaf, Message) -> Option<T>) -> T {
    peer.find(what, |delivered| {
        let topic: Topic = delivered.topic.parse().unwrap();
        let message = wire::decode(&topic.leaf, &delivered.payload).unwrap();
        pick(&topic.leaf, message)
    })
}

fn carols(leaf: Leaf) -> Topic {
    Topic { fleet: "lab".parse().unwrap(), agent: "carol".parse().unwrap(), leaf }
}

fn listener(broker: &Mosquitto) -> Peer {
    let mut peer = Peer::connect(broker.port, "carol", None).unwrap();
    assert!(peer.subscribe("dkt/1/lab/alice/#"));
    peer
}

#[test]
fn an_agent_asks_again_for_what_a_silent_teacher_owes_it() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Mosquitto::dev();
    let peer = listener(&broker);
    let mut config = config::exchanging(folder.path(), "alice", &broker.url(), None);
    // She trains until she is asked to stop, because she asks only while she trains.
    config.train.epochs = 100_000;
    let mut alice = start(&config);
    let mut carol = Carol::meet(peer);
    carol.announce(AgentState::Online, 1);
    let repair = wait_for(&mut carol.peer, "Alice's question", |leaf, message| match (leaf, message) {
        (Leaf::Repair { teacher }, Message::Repair(repair)) if teacher.as_str() == "carol" => Some(repair),
        _ => None,
    });
    let n_missing: usize = repair.missing.values().map(|set| set.len()).sum();
    assert!(n_missing > 0);
    carol.teach(&repair);
    alice.wait_for("an epoch with a teacher for every new sample", |event| match event {
        Event::Epoch(epoch) => (epoch.teacher_share == 1.0).then_some(()),
        _ => None,
    });
    // What is not asked for any more is taken back.
    wait_for(&mut carol.peer, "Alice's question to be taken back", |leaf, message| match (leaf, message) {
        (Leaf::Repair { .. }, Message::Cleared) => Some(()),
        _ => None,
    });
    alice.terminate();
    let ended = alice.end();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
}

#[test]
fn nothing_that_a_peer_says_ends_an_agent() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Mosquitto::dev();
    let peer = listener(&broker);
    let alice = start(&config::exchanging(folder.path(), "alice", &broker.url(), None));
    let mut carol = Carol::meet(peer);
    carol.announce(AgentState::Online, 1);
    let data = carol.status.data.short();
    let leaves = || {
        let repair = Leaf::Repair { teacher: "alice".parse().unwrap() };
        [Leaf::Status, Leaf::Demand { teacher: None }, repair, Leaf::Targets { data: data.clone() }]
    };
    let bombs: [&[u8]; 5] = [
        b"",
        b"not CBOR",
        // An array of 2^63 elements, and a map that never ends.
        &[0x9b, 0x80, 0, 0, 0, 0, 0, 0, 0],
        &[0xbf; 4096],
        &[0; 1024 * 1024],
    ];
    for leaf in leaves() {
        for bomb in bombs {
            carol.peer.publish(&carols(leaf.clone()).to_string(), bomb, false);
        }
    }
    // Well formed, but not a number, and of samples that nobody has.
    let chunk = TargetChunk {
        session: SESSION,
        data: carol.status.data,
        model: carol.status.model,
        round: Round(u64::MAX),
        temperature: 2.0,
        view: View(255),
        n_classes: CLASSES,
        ids: vec![SampleId(u32::MAX)].into(),
        rows: Rows::Dense(Floats::F32(vec![f32::NAN; CLASSES])),
        same: None,
    };
    carol.say(Leaf::Targets { data }, &Message::Targets(chunk.clone()));
    carol.say(
        Leaf::Targets { data: carol.status.data.short() },
        &Message::Targets(TargetChunk { rows: Rows::Dense(Floats::F32(vec![1.0; CLASSES])), ..chunk }),
    );
    carol.announce(AgentState::Finished, 1);
    let ended = alice.end();
    assert_eq!(ended.finished().rows_applied, 0);
    assert!(!ended.stderr.contains("panicked"), "{}", ended.stderr);
}
