//! Writes what the fuzzer starts from: one message of each kind, and conversations of them.
//!
//! `cargo run --release --example seeds` in this folder fills `corpus/message` and `corpus/engine`.

#[path = "../tests/exchange/messages.rs"]
#[allow(dead_code, clippy::unwrap_used)]
mod messages;

use std::path::Path;
use std::{fs, io};

use dkt_agent::exchange::topic::Topic;
use dkt_agent::exchange::wire;

/// Keys and values that the fuzzer would not guess.
const DICTIONARY: [&str; 6] = ["online", "finished", "offline", "dkt/1/lab/", "/targets/", "/repair/"];

fn main() -> io::Result<()> {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let write = |target: &str, name: &str, bytes: &[u8]| {
        fs::create_dir_all(corpus.join(target))?;
        fs::write(corpus.join(target).join(name), bytes)
    };
    let mut conversation = Vec::new();
    let mut keys: Vec<String> = DICTIONARY.iter().map(|&word| word.to_owned()).collect();
    for (i, (leaf, message)) in messages::one_of_each().into_iter().enumerate() {
        let topic = Topic { fleet: "lab".parse().expect("a name"), agent: "a".parse().expect("a name"), leaf };
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
    keys.sort();
    keys.dedup();
    let dictionary: String = keys.iter().map(|key| format!("\"{key}\"\n")).collect();
    fs::write(corpus.join("names.dict"), dictionary)
}
