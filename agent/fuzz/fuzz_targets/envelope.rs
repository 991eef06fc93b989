//! Whatever arrives, under whatever topic and in whatever order, a verifier lets nothing pass but what the topic's agent
//! has signed for it, in the order of its numbers, and refuses nothing that is signed and new.
#![no_main]

use std::collections::BTreeMap;
use std::sync::LazyLock;

use dkt_agent::exchange::envelope::{Envelope, seal};
use dkt_agent::exchange::replay::{MARK_AHEAD, MAX_TOPICS, Marks, MarksState};
use dkt_agent::exchange::topic::{Leaf, Topic};
use dkt_agent::exchange::verifier::Verifier;
use dkt_agent::ids::AgentId;
use ed25519_dalek::{SigningKey, VerifyingKey};
use libfuzzer_sys::fuzz_target;

/// The receiver, two that it knows, one that it does not, and one whose public key is weak.
const SENDERS: [&str; 5] = ["b", "a", "c", "stranger", "weak"];
const MAX_RECORDS: usize = 64;

/// As the senders have them; that of the last does not belong to its public key.
static KEYS: LazyLock<[SigningKey; 5]> =
    LazyLock::new(|| [0, 1, 2, 3, 4].map(|i| SigningKey::from_bytes(&[i; 32])));

fn public_keys() -> BTreeMap<AgentId, VerifyingKey> {
    let name = |i: usize| SENDERS[i].parse().expect("a name");
    let mut keys: BTreeMap<_, _> = (0..3).map(|i| (name(i), KEYS[i].verifying_key())).collect();
    // The neutral element: half of all that is signed with nothing holds for it, if nobody looks.
    let neutral = std::array::from_fn(|i| u8::from(i == 0));
    keys.insert(name(4), VerifyingKey::from_bytes(&neutral).expect("a point"));
    keys
}

/// 32 of each sender, twice as many as a verifier remembers.
fn topic(byte: u8) -> Topic {
    let leaf = match byte >> 3 & 0xf {
        0 => Leaf::Status,
        1 => Leaf::Demand { teacher: None },
        2 => Leaf::Targets { data: "0123456789abcdef".to_owned() },
        3 => Leaf::Inputs { data: "0123456789abcdef".to_owned() },
        n @ 4..8 => Leaf::Repair { teacher: n.to_string().parse().expect("a name") },
        n => Leaf::Demand { teacher: Some(n.to_string().parse().expect("a name")) },
    };
    let fleet = if byte < 0x80 { "lab" } else { "other" };
    let sender = SENDERS[usize::from(byte & 7) % SENDERS.len()];
    Topic { fleet: fleet.parse().expect("a name"), agent: sender.parse().expect("a name"), leaf }
}

/// A few numbers in each of four epochs, and the last one that there is.
fn number(byte: u8) -> u64 {
    if byte == u8::MAX { u64::MAX } else { u64::from(byte >> 6) << 32 | u64::from(byte & 0x3f) }
}

/// What a holder of a key has signed.
struct Said {
    key: usize,
    key_id: &'static str,
    topic: Topic,
    number: u64,
    payload: Vec<u8>,
    bytes: Vec<u8>,
}

/// What was let pass last under a topic.
#[derive(Clone)]
struct Passed {
    number: u64,
    /// Up to which number the next may be refused: a crash leaves soft targets marked ahead of what has come.
    up_to: u64,
    payload: Vec<u8>,
    bytes: Vec<u8>,
}

struct Trial {
    verifier: Verifier,
    said: Vec<Said>,
    passed: BTreeMap<Topic, Passed>,
    /// The receiver's file, and what had passed when it was written.
    file: (MarksState, BTreeMap<Topic, Passed>),
}

impl Trial {
    fn new() -> Self {
        let verifier = Verifier::new("b".parse().expect("a name"), public_keys(), Marks::default());
        Trial { verifier, said: Vec::new(), passed: BTreeMap::new(), file: Default::default() }
    }

    /// `key` signs, whether what it signs is its own or not.
    fn sign(&mut self, key: usize, key_id: &'static str, topic: Topic, number: u64, payload: &[u8]) {
        let bytes = seal(&KEYS[key], key_id, &topic.to_string(), number, payload);
        self.said.push(Said { key, key_id, topic, number, payload: payload.to_vec(), bytes });
    }

    /// Between messages, when whatever has passed may have had an effect.
    fn crash(&mut self) {
        let (state, filed) = &self.file;
        self.verifier.marks = Marks::of_state(state.clone());
        for (topic, passed) in &mut self.passed {
            if topic.leaf.is_retained() {
                let filed = filed.get(topic).expect("each topic is written down");
                assert_eq!(filed.payload, passed.payload, "a crash brings back what was taken back");
                *passed = filed.clone();
            } else {
                passed.up_to = passed.number.saturating_add(MARK_AHEAD);
            }
        }
    }

    fn offer(&mut self, topic: &Topic, bytes: &[u8]) {
        let before = self.verifier.marks.clone();
        let opened = self.verifier.open(topic, bytes).ok();
        let is_own = topic.agent.as_str() == "b";
        if is_own && bytes.is_empty() {
            assert_eq!(opened, Some(bytes));
            return;
        }
        // Whose content this is, if anybody's. The form of what is around it is nobody's, and may have been changed.
        let said = Envelope::read(bytes).ok().and_then(|envelope| {
            self.said.iter().find(|said| {
                said.key < 3
                    && [SENDERS[said.key], said.key_id] == [topic.agent.as_str(); 2]
                    && (&said.topic, said.number, &said.payload[..])
                        == (topic, envelope.number, envelope.payload)
            })
        });
        let last = self.passed.get(topic);
        let is_again = topic.leaf.is_retained() && last.is_some_and(|last| last.bytes == bytes);
        match (opened, said) {
            (Some(opened), Some(said)) => {
                let is_newer = last.is_none_or(|last| said.number > last.number);
                assert!(is_own || is_again || is_newer, "an old number");
                assert_eq!(opened, said.payload);
            }
            (Some(_), None) => panic!("nobody has signed this"),
            (None, Some(said)) if said.bytes == bytes => {
                let of_sender = || self.passed.iter().filter(|(passed, _)| passed.agent == topic.agent);
                // Some topic was forgotten, perhaps this one: only what is above all others must pass.
                let is_full = of_sender().count() > MAX_TOPICS;
                let up_to = match is_full {
                    true => of_sender().map(|(_, passed)| passed.up_to).max(),
                    false => last.map(|last| last.up_to),
                };
                let is_late = up_to.is_some_and(|up_to| said.number <= up_to);
                assert!(!is_own && is_late && (is_full || !is_again), "signed, new, and refused");
            }
            (None, _) => {}
        }
        match said {
            Some(said) if opened.is_some() && !is_own && !is_again => {
                let (number, payload) = (said.number, said.payload.clone());
                let passed = Passed { number, up_to: number, payload, bytes: bytes.to_vec() };
                self.passed.insert(topic.clone(), passed);
            }
            _ => assert!(self.verifier.marks == before, "marked what is refused, known or its own"),
        }
        if !self.verifier.marks.are_kept() {
            let state = self.verifier.marks.state(MARK_AHEAD);
            self.verifier.marks.kept(&state);
            self.file = (state, self.passed.clone());
        }
    }
}

/// Each change takes three bytes: where, how many bytes are taken out there, and which one is put in instead.
fn changed(bytes: &[u8], changes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for change in changes.chunks_exact(3) {
        let at = usize::from(change[0]).min(bytes.len());
        let end = (at + usize::from(change[1] & 3)).min(bytes.len());
        bytes.splice(at..end, [change[2]]);
    }
    bytes
}

// Records, each of four bytes and as many as the last of them says.
fuzz_target!(|input: &[u8]| {
    let mut trial = Trial::new();
    let mut rest = input;
    for _ in 0..MAX_RECORDS {
        let [kind, which, under, n, after @ ..] = rest else { break };
        let (bytes, behind) = after.split_at(after.len().min(usize::from(*n)));
        rest = behind;
        let under = topic(*under);
        let sender = SENDERS.iter().position(|name| *name == under.agent.as_str()).expect("one of them");
        let said = trial.said.get(usize::from(*which) % trial.said.len().max(1));
        match (kind % 8, said) {
            (0..3, _) => {
                // The kinds 1 and 2: somebody else's key, or somebody else's name.
                let other = (sender + 1) % SENDERS.len();
                let key = if *kind % 8 == 1 { other } else { sender };
                let key_id = SENDERS[if *kind % 8 == 2 { other } else { sender }];
                trial.sign(key, key_id, under.clone(), number(*which), bytes);
                let bytes = trial.said.last().expect("signed").bytes.clone();
                trial.offer(&under, &bytes);
            }
            // Signed and held back, to come late or never.
            (3, _) => {
                trial.sign(sender, SENDERS[sender], under, number(*which), bytes);
            }
            (4, Some(said)) => {
                let (topic, bytes) = (said.topic.clone(), said.bytes.clone());
                trial.offer(&topic, &bytes);
            }
            (5, Some(said)) => {
                let (topic, bytes) = (said.topic.clone(), changed(&said.bytes, bytes));
                trial.offer(&topic, &bytes);
            }
            (6, Some(said)) => {
                let bytes = changed(&said.bytes, bytes);
                trial.offer(&under, &bytes);
            }
            (7, _) if bytes.is_empty() => trial.crash(),
            _ => trial.offer(&under, bytes),
        }
    }
});
