//! The examples of docs/protocol.md are what the encoder writes, and say what they are said to say.

use dkt_agent::data::ImageShape;
use dkt_agent::exchange::engine::{Limits, MAX_PEERS};
use dkt_agent::exchange::envelope::{ENVELOPE_BYTES, Envelope, seal};
use dkt_agent::exchange::message::{AgentState, Demand, Inputs, Message, Repair, Same, Status, TargetChunk};
use dkt_agent::exchange::refusal::REASONS;
use dkt_agent::exchange::replay::{MARK_AHEAD, MAX_TOPICS, Numbers};
use dkt_agent::exchange::rows::{Encoding, Rows};
use dkt_agent::exchange::sample_list::SampleList;
use dkt_agent::exchange::topic::Topic;
use dkt_agent::exchange::wire::{
    MAX_CLASS_NAME_BYTES, MAX_CLASSES, MAX_MESSAGE_BYTES, MAX_NAMED_TEACHERS, MAX_SAMPLES, decode, encode,
};
use dkt_agent::ids::{Digest, Round, SampleId, View};
use ed25519_dalek::SigningKey;
use half::f16;

use crate::messages::{fields, forms_of_targets, one_of_each, samples};

const DOCUMENT: &str = include_str!("../../../docs/protocol.md");

/// The messages of the worked example, by their topics.
fn examples() -> Vec<(&'static str, Message)> {
    let (data, model) = (Digest::of(b"the data of the example"), Digest::of(b"the model of the example"));
    let session = 1_767_225_600_000_000;
    vec![
        (
            "dkt/1/lab/bob/status",
            Message::Status(Status {
                state: AgentState::Online,
                session,
                data,
                classes: vec!["cat".to_owned(), "dog".to_owned()],
                model,
                round: Round(1),
                accepts: Some(ImageShape { channels: 1, height: 2, width: 2 }),
                sends: None,
            }),
        ),
        (
            "dkt/1/lab/alice/demand",
            Message::Demand(Demand { data, n_views: 2, samples: samples(20, &[0, 3, 17]) }),
        ),
        (
            "dkt/1/lab/bob/targets/DATA",
            Message::Targets(TargetChunk {
                session,
                data,
                model,
                round: Round(1),
                temperature: 2.0,
                view: View(0),
                n_classes: 2,
                ids: vec![SampleId(0), SampleId(3), SampleId(17)].into(),
                rows: Rows::pack(Encoding::F16, &[1.5, -0.25, -3.0, 0.5, 2.0, 2.0], 2, 2.0),
                same: None,
            }),
        ),
        (
            "dkt/1/lab/alice/repair/bob",
            Message::Repair(Repair {
                data,
                round: Round(1),
                missing: [(View(1), samples(20, &[0, 3, 17]))].into(),
            }),
        ),
        ("dkt/1/lab/bob/targets/DATA", Message::Targets(other_form(Encoding::U8))),
        ("dkt/1/lab/bob/targets/DATA", Message::Targets(other_form(Encoding::TopK(2)))),
        (
            "dkt/1/lab/bob/targets/DATA",
            Message::Targets(TargetChunk {
                round: Round(2),
                ids: vec![SampleId(3)].into(),
                rows: Rows::pack(Encoding::F16, &[-1.0, 0.5, 0.25, 2.0], 4, 2.0),
                same: Some(Same { base: Round(1), ids: SampleList::shortest(&[0, 4, 17].map(SampleId)) }),
                ..other_form(Encoding::F16)
            }),
        ),
        (
            "dkt/1/lab/carol/inputs/CAROL",
            Message::Inputs(Inputs {
                session: session + 1,
                data: Digest::of(b"the data of Carol"),
                view: View(0),
                shape: ImageShape { channels: 1, height: 2, width: 2 },
                ids: vec![SampleId(5), SampleId(6)],
                pixels: vec![0, 64, 128, 255, 1, 2, 3, 4],
                teachers: vec!["bob".parse().unwrap()],
            }),
        ),
    ]
}

/// Rows of two samples in four classes.
fn other_form(encoding: Encoding) -> TargetChunk {
    let logits = [5.0, -0.25, 0.5, 1.0, -1.0, 0.0, 0.25, 2.0];
    TargetChunk {
        session: 1_767_225_600_000_000,
        data: Digest::of(b"the data of the example"),
        model: Digest::of(b"the model of the example"),
        round: Round(1),
        temperature: 2.0,
        view: View(1),
        n_classes: 4,
        ids: SampleList::shortest(&[3, 17].map(SampleId)),
        rows: Rows::pack(encoding, &logits, 4, 2.0),
        same: None,
    }
}

/// Diagnostic notation (RFC 8949, section 8) of a message, one field a line, and the same in hexadecimal, one line
/// for each field: as the document shows them.
fn written(bytes: &[u8]) -> (String, String) {
    let mut at = 1;
    let (mut notation, mut hex) = ("{\n".to_owned(), format!("{:02x}\n", bytes[0]));
    for _ in 0..bytes[0] - 0xa0 {
        let start = at;
        let (name, value) = (item(bytes, &mut at), item(bytes, &mut at));
        notation += &format!("  {name}: {value},\n");
        bytes[start..at].iter().for_each(|byte| hex += &format!("{byte:02x}"));
        hex += "\n";
    }
    assert_eq!(at, bytes.len());
    (notation + "}\n", hex)
}

/// One item, as far as messages have them.
fn item(bytes: &[u8], at: &mut usize) -> String {
    let head = bytes[*at];
    let n_more = match head & 0x1f {
        24 => 1,
        25 => 2,
        26 => 4,
        27 => 8,
        _ => 0,
    };
    let more = &bytes[*at + 1..*at + 1 + n_more];
    let n = match n_more {
        0 => u64::from(head & 0x1f),
        _ => more.iter().fold(0, |n, byte| n << 8 | u64::from(*byte)),
    };
    *at += 1 + n_more;
    let mut take = |n: u64| {
        *at += n as usize;
        &bytes[*at - n as usize..*at]
    };
    match head >> 5 {
        0 => n.to_string(),
        2 => format!("h'{}'", take(n).iter().map(|byte| format!("{byte:02x}")).collect::<String>()),
        3 => format!("{:?}", std::str::from_utf8(take(n)).unwrap()),
        4 => format!("[{}]", (0..n).map(|_| item(bytes, at)).collect::<Vec<_>>().join(", ")),
        5 => {
            let entry = |_| format!("{}: {}", item(bytes, at), item(bytes, at));
            format!("{{{}}}", (0..n).map(entry).collect::<Vec<_>>().join(", "))
        }
        6 => format!("{n}({})", item(bytes, at)),
        7 if n_more == 2 => format!("{:?}", f16::from_bits(n as u16).to_f32()),
        _ => panic!("head {head:#x}"),
    }
}

/// Text between fences of this kind, in order.
fn blocks(kind: &str) -> Vec<&'static str> {
    let opening = format!("```{kind}\n");
    DOCUMENT.split(&opening).skip(1).map(|rest| rest.split("```").next().unwrap()).collect()
}

#[test]
fn the_worked_example_is_what_the_encoder_writes() {
    let (notations, hexes) = (blocks("cbor-diagnostic"), blocks("hex"));
    let examples = examples();
    let mut expected = String::new();
    for (topic, message) in &examples {
        let topic = topic.replace("DATA", &Digest::of(b"the data of the example").short());
        let topic = topic.replace("CAROL", &Digest::of(b"the data of Carol").short());
        let (notation, hex) = written(&encode(message));
        expected += &format!("`{topic}`\n\n```cbor-diagnostic\n{notation}```\n\n```hex\n{hex}```\n\n");
        assert!(
            DOCUMENT.contains(&format!("`{topic}`")),
            "`{topic}` is not in the document; expected:\n{expected}"
        );
    }
    let found: String = notations.iter().zip(&hexes).flat_map(|(n, h)| [*n, *h]).collect();
    let wanted: String =
        examples.iter().map(|(_, m)| written(&encode(m))).flat_map(|(n, h)| [n, h]).collect();
    assert_eq!(found, wanted, "expected:\n{expected}");
}

#[test]
fn the_worked_example_reads_back() {
    let hexes = blocks("hex");
    assert_eq!(hexes.len(), examples().len());
    for (hex, (topic, message)) in hexes.iter().zip(examples()) {
        let topic: Topic =
            topic.replace("DATA", &"0".repeat(16)).replace("CAROL", &"0".repeat(16)).parse().unwrap();
        let digits: Vec<u8> = hex.bytes().filter(|c| !c.is_ascii_whitespace()).collect();
        let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
        let bytes: Vec<u8> = digits.chunks(2).map(byte).collect();
        assert_eq!(decode(&topic.leaf, &bytes).unwrap(), message);
    }
}

#[test]
fn the_signed_example_is_what_the_encoder_writes() {
    let [_, (topic, demand), ..] = &examples()[..] else { panic!("no demand") };
    let key = SigningKey::from_bytes(blake3::hash(b"the key of the example").as_bytes());
    let mut numbers = Numbers::after(None, 1_767_225_600).unwrap();
    let number = [numbers.take(), numbers.take()][1].unwrap();
    let message = encode(demand);
    let sealed = seal(&key, "alice", topic, number, &message);
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let [found, signed] = ["envelope-hex", "signed-hex"].map(|kind| blocks(kind)[0].replace('\n', ""));
    assert_eq!(found, hex(&sealed));
    assert!(signed.contains(&hex(topic.as_bytes())) && signed.ends_with(&hex(&message)));
    let digits: Vec<u8> =
        (0..signed.len() / 2).map(|i| u8::from_str_radix(&signed[2 * i..2 * i + 2], 16).unwrap()).collect();
    let signature = ed25519_dalek::Signer::sign(&key, &digits).to_bytes();
    assert!(sealed.ends_with(&signature), "what is said to be signed is");
    let notation = format!(
        "18([\n  << {{1: -8, 4: 'alice', -65537: {number}}} >>,\n  {{}},\n  h'{}',\n  h'{}',\n])\n",
        hex(&message),
        hex(&signature)
    );
    assert_eq!(blocks("cbor-envelope"), [notation]);
    let public = key.verifying_key();
    assert!(DOCUMENT.contains(&hex(public.as_bytes())));
    assert!(Envelope::read(&sealed).unwrap().is_signed_by(&public, topic));
}

#[test]
fn every_reason_of_a_refusal_is_described() {
    let rows: Vec<&str> =
        REASONS.into_iter().filter(|r| !DOCUMENT.contains(&format!("\n| `{r}` |"))).collect();
    assert!(rows.is_empty(), "{rows:?}");
    assert!(DOCUMENT.contains(&format!("at most {MAX_TOPICS} topics")));
    assert!(DOCUMENT.contains(&format!("writes down a number {MARK_AHEAD} above")));
}

#[test]
fn every_field_of_every_message_is_described() {
    let sections = ["### status", "### demand", "### repair", "### targets", "### inputs"];
    let of_each = sections.into_iter().zip(one_of_each().map(|(_, message)| message));
    let forms = forms_of_targets().into_iter().map(|message| ("### targets", message));
    for (heading, message) in of_each.chain(forms) {
        let start = DOCUMENT.find(&format!("\n{heading}\n")).unwrap_or_else(|| panic!("no `{heading}`"));
        let section = DOCUMENT[start + 5..].split("\n## ").next().unwrap().split("\n### ").next().unwrap();
        for name in fields(&encode(&message)).into_keys() {
            let serde_cbor::Value::Text(name) = name else { panic!("{name:?}") };
            assert!(
                section.contains(&format!("\n| `{name}` |")),
                "`{name}` is not described under `{heading}`"
            );
        }
    }
}

#[test]
fn the_bounds_and_times_are_those_of_the_code() {
    let Limits {
        repair_after,
        repair_at_most,
        announce_every,
        max_target_bytes,
        max_teaching_bytes,
        max_sent_bytes,
        max_inputs_bytes,
    } = Limits::default();
    let rows = [
        ("message", MAX_MESSAGE_BYTES as u64, " bytes"),
        ("envelope of a signed message", ENVELOPE_BYTES as u64, " bytes"),
        ("samples of a data set", MAX_SAMPLES.into(), ""),
        ("classes", MAX_CLASSES as u64, ""),
        ("name of a class", MAX_CLASS_NAME_BYTES as u64, " bytes"),
        ("peers known at once", MAX_PEERS as u64, ""),
        ("memory of rows held", max_target_bytes as u64, " bytes"),
        ("memory of demands and views to be labelled", max_teaching_bytes as u64, " bytes"),
        ("memory of rows sent, with a delta", max_sent_bytes as u64, " bytes"),
        ("memory of images to be labelled", max_inputs_bytes as u64, " bytes"),
        ("teachers named beside images", MAX_NAMED_TEACHERS as u64, ""),
        ("first wait before a repair", repair_after.as_secs(), " s"),
        ("longest wait before a repair", repair_at_most.as_secs(), " s"),
        ("between two announcements", announce_every.as_secs(), " s"),
    ];
    for (what, n, unit) in rows {
        let row = format!("| {what} | {}{unit} |", grouped(n));
        assert!(DOCUMENT.contains(&row), "not in the document: {row}");
    }
}

/// Of 1,000 rows in a message, all of its bytes.
#[test]
fn the_table_of_sizes_is_what_the_encoder_writes() {
    let named = [
        ("`f32`", Encoding::F32),
        ("`f16`", Encoding::F16),
        ("`u8`", Encoding::U8),
        ("`{ top_k = 5 }`", Encoding::TopK(5)),
        ("`{ top_k = 2 }`", Encoding::TopK(2)),
        ("`{ top_k = 1 }`", Encoding::TopK(1)),
    ];
    let ids: Vec<SampleId> = (0..1000).map(|i| SampleId(5 * i)).collect();
    let row_bytes = |encoding, n_classes| {
        let rows = Rows::pack(encoding, &vec![0.0; 1000 * n_classes], n_classes, 2.0);
        let chunk =
            TargetChunk { n_classes, ids: SampleList::shortest(&ids), rows, ..other_form(Encoding::F16) };
        encode(&Message::Targets(chunk)).len() as f64 / 1000.0
    };
    let rows = named.map(|(name, encoding)| {
        format!("| {name} | {:.1} | {:.1} |\n", row_bytes(encoding, 10), row_bytes(encoding, 100))
    });
    let table = rows.concat();
    assert!(DOCUMENT.contains(&table), "not in the document:\n{table}");
}

/// With a comma for every thousand.
fn grouped(n: u64) -> String {
    if n < 1000 { n.to_string() } else { format!("{},{:03}", grouped(n / 1000), n % 1000) }
}
