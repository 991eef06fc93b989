//! Hostile messages by the million, made cheaply out of a pool of valid ones. The test and the bench of refusals share it.

use std::collections::BTreeMap;

use dkt_agent::exchange::envelope::seal;
use dkt_agent::exchange::replay::Marks;
use dkt_agent::exchange::topic::{Leaf, Topic};
use dkt_agent::exchange::verifier::Verifier;
use dkt_agent::ids::AgentId;
use ed25519_dalek::SigningKey;

/// The ways in which a message is hostile.
pub const KINDS: [&str; 11] = [
    "forged",
    "bit flipped",
    "wrong key",
    "spliced",
    "other topic",
    "replayed",
    "reordered",
    "truncated",
    "other sender's key id",
    "unknown sender",
    "unsigned",
];

const SENDERS: usize = 8;
/// Numbers of each topic: below the first of these nothing was delivered, up to the second everything, from there on
/// nothing again.
const NUMBERS: [u64; 3] = [4, 8, 12];

/// SplitMix64: fast, and the same everywhere.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    fn pick<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len())]
    }
}

#[derive(Clone)]
pub struct Sealed {
    pub topic: Topic,
    pub bytes: Vec<u8>,
    message: Vec<u8>,
}

/// Valid messages of some senders, and what somebody with a key of his own can make.
pub struct Pool {
    /// By topic and number.
    by_topic: Vec<Vec<Sealed>>,
    /// Under topics of the senders, by the key of another member, with the senders' key ids.
    wrong_key: Vec<Sealed>,
    /// The same with his own.
    own_key_id: Vec<Sealed>,
    unknown: Vec<Sealed>,
}

fn key(name: &str) -> SigningKey {
    SigningKey::from_bytes(blake3::hash(name.as_bytes()).as_bytes())
}

fn topics(name: &str) -> [Topic; 4] {
    let leaves = [
        Leaf::Status,
        Leaf::Demand { teacher: None },
        Leaf::Repair { teacher: "victim".parse().unwrap() },
        Leaf::Targets { data: "0123456789abcdef".to_owned() },
    ];
    leaves.map(|leaf| Topic { fleet: "lab".parse().unwrap(), agent: name.parse().unwrap(), leaf })
}

fn sealed(signer: &str, key_id: &str, topic: &Topic, number: u64, message_bytes: usize) -> Sealed {
    let mut random = Random(number);
    let message: Vec<u8> =
        std::iter::once(0xa7).chain((1..message_bytes).map(|_| random.next() as u8)).collect();
    let bytes = seal(&key(signer), key_id, &topic.to_string(), number, &message);
    Sealed { topic: topic.clone(), bytes, message }
}

fn names() -> Vec<String> {
    (0..SENDERS).map(|i| format!("sender-{i}")).collect()
}

impl Pool {
    /// Of messages that are as long as this before they are signed.
    pub fn new(message_bytes: usize) -> Self {
        let all: Vec<Topic> = names().iter().flat_map(|name| topics(name)).collect();
        let numbers = 0..NUMBERS[2];
        let by_topic = |topic: &Topic| {
            let name = topic.agent.as_str();
            numbers.clone().map(|number| sealed(name, name, topic, number, message_bytes)).collect()
        };
        let by_mallory = |key_id: &dyn Fn(&Topic) -> String| {
            all.iter().map(|topic| sealed("mallory", &key_id(topic), topic, 1 << 40, message_bytes)).collect()
        };
        Pool {
            by_topic: all.iter().map(by_topic).collect(),
            wrong_key: by_mallory(&|topic| topic.agent.to_string()),
            own_key_id: by_mallory(&|_| "mallory".to_owned()),
            unknown: topics("eve")
                .iter()
                .map(|topic| sealed("eve", "eve", topic, 5, message_bytes))
                .collect(),
        }
    }

    /// One that has taken in the messages in the middle of each topic.
    pub fn victim(&self) -> Verifier {
        let names = names().into_iter().chain(["victim".to_owned(), "mallory".to_owned()]);
        let signers: BTreeMap<AgentId, _> =
            names.map(|name| (name.parse().unwrap(), key(&name).verifying_key())).collect();
        let mut victim = Verifier::new("victim".parse().unwrap(), signers, Marks::default());
        for messages in &self.by_topic {
            for message in &messages[NUMBERS[0] as usize..NUMBERS[1] as usize] {
                victim.open(&message.topic, &message.bytes).unwrap();
            }
        }
        victim
    }

    /// Valid messages that were not delivered, in an order in which a victim takes them all.
    pub fn fresh(&self) -> impl Iterator<Item = &Sealed> {
        self.by_topic.iter().flat_map(|messages| &messages[NUMBERS[1] as usize..])
    }

    /// A hostile message of a kind; `into` is put to use again.
    pub fn hostile<'a>(&'a self, kind: usize, random: &mut Random, into: &mut Vec<u8>) -> &'a Topic {
        let messages = random.pick(&self.by_topic);
        let [old, seen, all] = NUMBERS.map(|n| n as usize);
        let fresh = &messages[seen + random.below(all - seen)];
        let bytes = |message: &Sealed, into: &mut Vec<u8>| {
            into.clear();
            into.extend_from_slice(&message.bytes);
        };
        bytes(fresh, into);
        let n = into.len();
        match KINDS[kind] {
            "forged" => {
                for chunk in into[n - 64..].chunks_mut(8) {
                    chunk.copy_from_slice(&random.next().to_le_bytes());
                }
                // As a signature may be: others are refused without a look at the curve.
                into[n - 1] &= 0x0f;
            }
            "bit flipped" => {
                let bit = random.below(8 * n);
                into[bit / 8] ^= 1 << (bit % 8);
            }
            "wrong key" => {
                let message = random.pick(&self.wrong_key);
                bytes(message, into);
                return &message.topic;
            }
            "spliced" => {
                // Signatures of the same sender for another message.
                let other = &messages[random.below(seen)];
                into[n - 64..].copy_from_slice(&other.bytes[other.bytes.len() - 64..]);
            }
            "other topic" => {
                // Of the same sender four times as often as by chance.
                let at = random.below(4);
                let own = topics(fresh.topic.agent.as_str()).iter().position(|topic| *topic == fresh.topic);
                let first = self.by_topic.iter().position(|m| m[0].topic.agent == fresh.topic.agent).unwrap();
                let other = if own == Some(at) { (first + 4 + at) % self.by_topic.len() } else { first + at };
                return &self.by_topic[other][0].topic;
            }
            "replayed" => {
                // The last of a retained topic is allowed to come again.
                let is_retained = !matches!(fresh.topic.leaf, Leaf::Targets { .. });
                let last = if is_retained { seen - 1 } else { seen };
                bytes(&messages[old + random.below(last - old)], into);
            }
            "reordered" => bytes(&messages[random.below(old)], into),
            "truncated" => into.truncate(random.below(n)),
            "other sender's key id" => {
                let message = random.pick(&self.own_key_id);
                bytes(message, into);
                return &message.topic;
            }
            "unknown sender" => {
                let message = random.pick(&self.unknown);
                bytes(message, into);
                return &message.topic;
            }
            "unsigned" => {
                into.clear();
                into.extend_from_slice(&fresh.message);
            }
            _ => unreachable!("the kinds are listed"),
        }
        &fresh.topic
    }
}
