//! Whatever peers say, in whatever order and at whatever times, an agent neither panics nor believes too much.
#![no_main]

use std::time::Duration;

use dkt_agent::data::ImageShape;
use dkt_agent::exchange::engine::{Action, Engine, EngineConfig, Event, Limits};
use dkt_agent::exchange::rows::Encoding;
use dkt_agent::exchange::topic::Topic;
use dkt_agent::exchange::wire;
use dkt_agent::ids::{Digest, Round, SampleId};
use libfuzzer_sys::fuzz_target;

/// As in the seeds.
const N_SAMPLES: u32 = 20;
const CLASSES: [&str; 3] = ["0", "one", "zwölf"];
const MAX_TARGET_BYTES: usize = 8 * 1024;

fn config() -> EngineConfig {
    EngineConfig {
        agent: "b".parse().expect("a name"),
        fleet: "lab".parse().expect("a name"),
        session: 1,
        data: Digest::of(b"data"),
        n_samples: N_SAMPLES,
        classes: CLASSES.map(str::to_owned).to_vec(),
        model: Digest::of(b"model"),
        temperature: 2.0,
        teachers: Vec::new(),
        chunk_bytes: 1024,
        encoding: Encoding::F16,
        delta: 0.1,
        accepts: Some(ImageShape { channels: 1, height: 2, width: 3 }),
        sends: None,
        inputs_in_flight: 8,
        limits: Limits { max_target_bytes: MAX_TARGET_BYTES, max_teaching_bytes: 4096, ..Limits::default() },
    }
}

// Records, each of a length (2 bytes, little endian), a wait in seconds (1 byte), and a topic, a line feed and a
// payload of that length together.
fuzz_target!(|input: &[u8]| {
    let mut engine = Engine::new(config());
    let mut now = Duration::ZERO;
    engine.step(Event::Connected, now);
    engine.step(Event::RoundStarted(Round(1)), now);
    engine.step(Event::Demand { samples: (0..10).map(SampleId).collect(), n_views: 2 }, now);
    let mut rest = input;
    while let [a, b, wait, after @ ..] = rest {
        let n = usize::from(u16::from_le_bytes([*a, *b])).min(after.len());
        let (record, behind) = after.split_at(n);
        rest = behind;
        now += Duration::from_secs((*wait).into());
        let end = record.iter().position(|byte| *byte == b'\n').unwrap_or(n);
        let topic = String::from_utf8_lossy(&record[..end]).parse::<Topic>();
        let payload = record.get(end + 1..).unwrap_or_default();
        if let Ok(topic) = topic
            && let Ok(message) = wire::decode(&topic.leaf, payload)
        {
            published(&engine.step(Event::Received { topic, message }, now));
        }
        published(&engine.step(Event::Tick, now));
        if let Some((view, ids)) = engine.next_label_batch(4) {
            assert!(!ids.is_empty() && ids.iter().all(|id| id.0 < N_SAMPLES));
            let logits = vec![1.0; ids.len() * CLASSES.len()];
            published(&engine.step(Event::Labelled { view, ids, logits }, now));
        }
    }
    let mut row = [0.0; CLASSES.len()];
    for id in 0..N_SAMPLES {
        let held = engine.teacher_row(SampleId(id), dkt_agent::ids::View(0), &mut row);
        assert!(!held || id < 10, "a row that was not demanded");
        assert!(row.iter().all(|v| v.is_finite()));
    }
});

/// What an agent says is read by its peers, and is no longer than allowed.
fn published(actions: &[Action]) {
    for action in actions {
        if let Action::Publish { topic, message, .. } = action {
            let bytes = wire::encode(message);
            assert!(bytes.len() <= wire::MAX_MESSAGE_BYTES);
            wire::decode(&topic.leaf, &bytes).expect("what was written is read");
        }
    }
}
