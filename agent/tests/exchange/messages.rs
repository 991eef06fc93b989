//! Messages to try things with.

use std::collections::BTreeMap;

use dkt_agent::data::ImageShape;
use dkt_agent::exchange::message::{
    AgentState, Demand, Inputs, Message, Repair, Same, SampleSet, Status, TargetChunk,
};
use dkt_agent::exchange::rows::{Encoding, Rows};
use dkt_agent::exchange::sample_list::SampleList;
use dkt_agent::exchange::topic::Leaf;
use dkt_agent::ids::{Digest, Round, SampleId, View};
use half::f16;
use proptest::collection::{btree_map, btree_set, vec};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use serde_cbor::Value;

/// The same cases every time, so there is nothing to write down about those that failed.
pub fn seeded(cases: u32) -> ProptestConfig {
    let rng_seed = RngSeed::Fixed(1);
    ProptestConfig { cases, rng_seed, failure_persistence: None, ..ProptestConfig::default() }
}

pub fn samples(n_samples: u32, ids: &[u32]) -> SampleSet {
    let mut set = SampleSet::new(n_samples);
    ids.iter().for_each(|id| set.insert(SampleId(*id)));
    set
}

/// One message of each kind, with the end of a topic that it fits.
pub fn one_of_each() -> [(Leaf, Message); 5] {
    let data = Digest::of(b"data");
    let model = Digest::of(b"model");
    let status = Status {
        state: AgentState::Online,
        session: 1_700_000_000_000_000,
        data,
        classes: vec!["0".to_owned(), "one".to_owned(), "zwölf".to_owned()],
        model,
        round: Round(3),
        accepts: None,
        sends: None,
    };
    let demand = Demand { data, n_views: 4, samples: samples(20, &[0, 7, 8, 19]) };
    let missing = BTreeMap::from([(View(0), samples(20, &[7])), (View(3), samples(20, &[0, 19]))]);
    let chunk = TargetChunk {
        session: 1_700_000_000_000_000,
        data,
        model,
        round: Round(3),
        temperature: 2.0,
        view: View(3),
        n_classes: 3,
        ids: vec![SampleId(0), SampleId(19)].into(),
        rows: Rows::pack(Encoding::F16, &[-1.5, 0.0, 8.25, 1.0, 2.0, -65504.0], 3, 2.0),
        same: None,
    };
    let inputs = Inputs {
        session: 1_700_000_000_000_000,
        data,
        view: View(3),
        shape: ImageShape { channels: 1, height: 2, width: 3 },
        ids: vec![SampleId(0), SampleId(19)],
        pixels: (0..12).collect(),
        teachers: Vec::new(),
    };
    [
        (Leaf::Status, Message::Status(status)),
        (Leaf::Demand { teacher: None }, Message::Demand(demand)),
        (
            Leaf::Repair { teacher: "b".parse().unwrap() },
            Message::Repair(Repair { data, round: Round(3), missing }),
        ),
        (Leaf::Targets { data: data.short() }, Message::Targets(chunk)),
        (Leaf::Inputs { data: data.short() }, Message::Inputs(inputs)),
    ]
}

/// The fields of an encoded message, to be changed.
pub fn fields(bytes: &[u8]) -> BTreeMap<Value, Value> {
    match serde_cbor::from_slice(bytes).unwrap() {
        Value::Map(fields) => fields,
        other => panic!("{other:?}"),
    }
}

pub fn key(name: &str) -> Value {
    Value::Text(name.to_owned())
}

/// `bytes` with one field set to something else.
pub fn with(bytes: &[u8], name: &str, value: Value) -> Vec<u8> {
    let mut fields = fields(bytes);
    fields.insert(key(name), value);
    serde_cbor::to_vec(&Value::Map(fields)).unwrap()
}

pub fn without(bytes: &[u8], name: &str) -> Vec<u8> {
    let mut fields = fields(bytes);
    fields.remove(&key(name)).unwrap();
    serde_cbor::to_vec(&Value::Map(fields)).unwrap()
}

fn digest() -> impl Strategy<Value = Digest> {
    any::<[u8; 32]>().prop_map(Digest)
}

fn round() -> impl Strategy<Value = Round> {
    (1..=u64::MAX).prop_map(Round)
}

fn set(n_samples: u32) -> impl Strategy<Value = SampleSet> {
    btree_set(0..n_samples, 0..30)
        .prop_map(move |ids| samples(n_samples, &ids.into_iter().collect::<Vec<_>>()))
}

fn status() -> impl Strategy<Value = Message> {
    let state = prop_oneof![Just(AgentState::Online), Just(AgentState::Finished), Just(AgentState::Offline)];
    let shapes = (proptest::option::of(shape()), proptest::option::of(shape()));
    (state, any::<u64>(), digest(), vec(".{0,64}", 1..20), digest(), any::<u64>(), shapes).prop_map(
        |(state, session, data, classes, model, round, (accepts, sends))| {
            let round = Round(round);
            Message::Status(Status { state, session, data, classes, model, round, accepts, sends })
        },
    )
}

fn shape() -> impl Strategy<Value = ImageShape> {
    (1_u16.., 1_u16.., 1_u16..).prop_map(|(channels, height, width)| ImageShape { channels, height, width })
}

fn inputs() -> impl Strategy<Value = Message> {
    let small = (1_u16..4, 1_u16..4, 1_u16..4);
    let shape = small.prop_map(|(channels, height, width)| ImageShape { channels, height, width });
    (shape, 1_usize..9).prop_flat_map(|(shape, n_ids)| {
        let head = (any::<u64>(), digest(), any::<u8>());
        let rows = (vec(any::<u32>().prop_map(SampleId), n_ids), vec(any::<u8>(), n_ids * shape.n_pixels()));
        let names = vec("[a-z0-9_-]{1,64}".prop_map(|name| name.parse().unwrap()), 0..4);
        (head, rows, names).prop_map(move |((session, data, view), (ids, pixels), teachers)| {
            Message::Inputs(Inputs { session, data, view: View(view), shape, ids, pixels, teachers })
        })
    })
}

fn demand() -> impl Strategy<Value = Message> {
    (1_u32..400).prop_flat_map(|n| {
        (digest(), 1_u8.., set(n))
            .prop_map(|(data, n_views, samples)| Message::Demand(Demand { data, n_views, samples }))
    })
}

fn repair() -> impl Strategy<Value = Message> {
    (1_u32..400).prop_flat_map(|n| {
        let missing = btree_map(any::<u8>().prop_map(View), set(n), 1..10);
        (digest(), round(), missing)
            .prop_map(|(data, round, missing)| Message::Repair(Repair { data, round, missing }))
    })
}

/// One message of each form of soft targets: of each encoding, of rows and samples that are the same, and of the latter
/// alone; all with samples in a window where that is shorter.
pub fn forms_of_targets() -> Vec<Message> {
    let [_, _, _, (_, Message::Targets(chunk)), _] = one_of_each() else { panic!() };
    let logits = [-1.5, 0.0, 8.25, 1.0, 2.0, -4.0];
    let ids = SampleList::shortest(&[SampleId(4), SampleId(19)]);
    let same = Some(Same { base: Round(1), ids: SampleList::shortest(&[5, 6, 7, 20].map(SampleId)) });
    let encodings = [Encoding::F32, Encoding::F16, Encoding::U8, Encoding::TopK(1), Encoding::TopK(3)];
    let packed = encodings.map(|encoding| Rows::pack(encoding, &logits, 3, 2.0));
    let with = |rows, same| TargetChunk { ids: ids.clone(), rows, same, ..chunk.clone() };
    let mut forms: Vec<TargetChunk> = packed.iter().map(|rows| with(rows.clone(), None)).collect();
    forms.extend(packed.into_iter().map(|rows| with(rows, same.clone())));
    let one = Some(Same { base: Round(2), ids: vec![SampleId(3)].into() });
    for same in [same, one] {
        forms.push(TargetChunk { ids: Vec::new().into(), rows: Rows::none(), same, ..chunk.clone() });
    }
    forms.into_iter().map(Message::Targets).collect()
}

fn sample_list(n: std::ops::Range<usize>) -> impl Strategy<Value = SampleList> {
    let listed = vec(any::<u32>().prop_map(SampleId), n.clone()).prop_map(SampleList::from);
    let window = (0_u32..7_000_000, btree_set(0_u32..200, n)).prop_map(|(first, ids)| {
        SampleList::shortest(&ids.into_iter().map(|id| SampleId(first + id)).collect::<Vec<_>>())
    });
    prop_oneof![listed, window]
}

/// Rows of each form.
fn targets() -> impl Strategy<Value = Message> {
    let half = any::<u16>().prop_map(f16::from_bits).prop_filter("finite", |v| v.is_finite());
    let logit = prop_oneof![half.prop_map(f16::to_f32), -20.0_f32..20.0];
    let encoding = prop_oneof![
        Just(Encoding::F32),
        Just(Encoding::F16),
        Just(Encoding::U8),
        (1_usize..50).prop_map(Encoding::TopK)
    ];
    (sample_list(1..20), prop_oneof![9 => 1_usize..40, 1 => 250_usize..300]).prop_flat_map(
        move |(ids, n_classes)| {
            let head = (any::<u64>(), digest(), digest(), round(), 0.001_f32..100.0, any::<u8>());
            let same = proptest::option::of((any::<u64>(), sample_list(1..20)));
            let logits = vec(logit.clone(), ids.len() * n_classes);
            (head, Just(ids), logits, encoding.clone(), same, 0..10).prop_map(
                move |(
                    (session, data, model, round, temperature, view),
                    ids,
                    logits,
                    encoding,
                    same,
                    tenth,
                )| {
                    let view = View(view);
                    let same = same.filter(|_| round.0 > 1);
                    let same = same.map(|(base, ids)| Same { base: Round(1 + base % (round.0 - 1)), ids });
                    let (ids, rows) = if tenth == 0 && same.is_some() {
                        (Vec::new().into(), Rows::none())
                    } else {
                        (ids, Rows::pack(encoding, &logits, n_classes, temperature))
                    };
                    Message::Targets(TargetChunk {
                        session,
                        data,
                        model,
                        round,
                        temperature,
                        view,
                        n_classes,
                        ids,
                        rows,
                        same,
                    })
                },
            )
        },
    )
}

/// Any message, with the end of a topic that it fits.
pub fn any_message() -> impl Strategy<Value = (Leaf, Message)> {
    let repairs = Leaf::Repair { teacher: "b".parse().unwrap() };
    prop_oneof![
        status().prop_map(|message| (Leaf::Status, message)),
        demand().prop_map(|message| (Leaf::Demand { teacher: None }, message)),
        repair().prop_map(move |message| (repairs.clone(), message)),
        targets().prop_map(|message| (Leaf::Targets { data: "0123456789abcdef".to_owned() }, message)),
        inputs().prop_map(|message| (Leaf::Inputs { data: "0123456789abcdef".to_owned() }, message)),
    ]
}
