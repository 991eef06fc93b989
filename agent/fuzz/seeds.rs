//! Writes what the fuzzer starts from: one message of each kind, and conversations, of them and of signed ones.
//!
//! `cargo run --release --example seeds` in this folder fills `corpus/message`, `corpus/engine` and `corpus/envelope`.

#[path = "../tests/exchange/messages.rs"]
#[allow(dead_code, clippy::unwrap_used)]
mod messages;

use std::path::Path;
use std::{fs, io};

use dkt_agent::exchange::topic::Topic;
use dkt_agent::exchange::wire;

/// Keys and values that the fuzzer would not guess.
const DICTIONARY: [&str; 6] = ["online", "finished", "offline", "dkt/1/lab/", "/targets/", "/repair/"];

/// Kind, which number or message, under which topic, and the bytes; as in the target `envelope`.
const SIGNED: [(u8, u8, u8, &[u8]); 18] = [
    (0, 5, 1, b"a status"),
    (4, 0, 0, b""),
    (0, 6, 1, b""),
    (4, 0, 0, b""),
    (3, 7, 17, b"targets, held back"),
    (0, 8, 17, b"targets"),
    (4, 2, 0, b""),
    (7, 0, 0, b""),
    (0, 60, 17, b"targets after a crash"),
    (0, 255, 10, b"a demand with the last number"),
    (1, 9, 2, b"another's key"),
    (2, 9, 2, b"another's name"),
    (0, 9, 3, b"of a stranger"),
    (0, 9, 4, b"with a weak key"),
    (0, 3, 0, b"the receiver's own"),
    (5, 5, 0, &[3, 1, 0x40, 60, 0, 0]),
    (6, 0, 2, b""),
    (
        7,
        0,
        0,
        &[0xd2, 0x84, 0x4c, 0xa3, 0x01, 0x27, 0x04, 0x41, b'a', 0x3a, 0, 1, 0, 0, 0x05, 0xa0, 0x40, 0x58, 64],
    ),
];

fn main() -> io::Result<()> {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let write = |target: &str, name: &str, bytes: &[u8]| {
        fs::create_dir_all(corpus.join(target))?;
        fs::write(corpus.join(target).join(name), bytes)
    };
    let mut conversation = Vec::new();
    let mut keys: Vec<String> = DICTIONARY.iter().map(|&word| word.to_owned()).collect();
    for (i, (leaf, message)) in messages::one_of_each().into_iter().enumerate() {
        let topic =
            Topic { fleet: "lab".parse().expect("a name"), agent: "a".parse().expect("a name"), leaf };
        let payload = wire::encode(&message);
        for key in messages::fields(&payload).into_keys() {
            if let serde_cbor::Value::Text(key) = key {
                keys.push(key);
            }
        }
        let record = [topic.to_string().as_bytes(), b"\n", &payload].concat();
        write("message", &i.to_string(), &record)?;
        conversation.extend((record.len() as u16).to_le_bytes());
        conversation.push(3);
        conversation.extend(record);
        write("engine", &i.to_string(), &conversation)?;
    }
    conversation.clear();
    // The last ones are more topics of one sender than are remembered.
    let many = (0..17).map(|leaf| (0, 64, leaf << 3 | 2, &b"one of many"[..]));
    for (i, (kind, which, under, bytes)) in SIGNED.into_iter().chain(many).enumerate() {
        conversation.extend([kind, which, under, bytes.len() as u8]);
        conversation.extend(bytes);
        write("envelope", &i.to_string(), &conversation)?;
    }
    keys.sort();
    keys.dedup();
    let dictionary: String = keys.iter().map(|key| format!("\"{key}\"\n")).collect();
    fs::write(corpus.join("names.dict"), dictionary)
}
