//! Any bytes under any topic are refused or are a message, which stays the same when written and read again.
#![no_main]

use dkt_agent::exchange::topic::Topic;
use dkt_agent::exchange::wire;
use libfuzzer_sys::fuzz_target;

// A topic, a line feed, a payload.
fuzz_target!(|input: &[u8]| {
    let Some(end) = input.iter().position(|byte| *byte == b'\n') else { return };
    let Ok(topic) = String::from_utf8_lossy(&input[..end]).parse::<Topic>() else { return };
    let Ok(message) = wire::decode(&topic.leaf, &input[end + 1..]) else { return };
    // Not the message but its bytes are compared: half precision rounds what came in single precision.
    let once = wire::encode(&message);
    let again = wire::decode(&topic.leaf, &once).expect("what was written is read");
    assert_eq!(wire::encode(&again), once);
});
