//! What is written is read again as it was, whatever the graph.

use std::collections::{BTreeMap, BTreeSet};

use onnx_grad::graph::{Attribute, DataType, Dim, Graph, Node, Shape, Tensor, ValueInfo};
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

fn dtype() -> impl Strategy<Value = DataType> {
    use DataType::{BF16, Bool, F16, F32, F64, I8, I32, I64, U8};
    prop::sample::select(vec![F16, BF16, F32, F64, I8, U8, I32, I64, Bool])
}

fn shape() -> impl Strategy<Value = Shape> {
    let dim = prop_oneof![
        (0_usize..=i64::MAX as usize).prop_map(Dim::Size),
        "[a-z*+ ]{1,8}".prop_map(Dim::Symbol),
    ];
    vec(dim, 0..5)
}

fn tensor() -> impl Strategy<Value = Tensor> {
    (dtype(), vec(0_usize..4, 0..4)).prop_flat_map(|(dtype, dims)| {
        let n_bytes = dims.iter().product::<usize>() * dtype.size_bytes();
        vec(any::<u8>(), n_bytes).prop_map(move |bytes| Tensor { dtype, dims: dims.clone(), bytes })
    })
}

/// Numbers that are equal to themselves.
fn float() -> impl Strategy<Value = f32> {
    any::<f32>().prop_filter("not NaN", |f| !f.is_nan())
}

fn attribute() -> impl Strategy<Value = Attribute> {
    prop_oneof![
        float().prop_map(Attribute::Float),
        any::<i64>().prop_map(Attribute::Int),
        any::<String>().prop_map(Attribute::String),
        tensor().prop_map(Attribute::Tensor),
        vec(float(), 0..4).prop_map(Attribute::Floats),
        vec(any::<i64>(), 0..4).prop_map(Attribute::Ints),
        vec(any::<String>(), 0..4).prop_map(Attribute::Strings),
    ]
}

/// Operator, domain, inputs among the values before (by number, or left out), number of outputs, attributes.
type Draft = (String, String, Vec<Option<prop::sample::Index>>, usize, BTreeMap<String, Attribute>);

/// No `Identity`, `BatchNormalization` or `Dropout`: reading undoes what exporters do with these.
fn draft() -> impl Strategy<Value = Draft> {
    let op =
        prop::sample::select(vec!["Add", "Conv", "Relu", "Split", "Unheard", ""]).prop_map(str::to_owned);
    let domain = prop::sample::select(vec!["", "", "com.microsoft", "ai.onnx.ml"]).prop_map(str::to_owned);
    let inputs = vec(prop::option::weighted(0.8, any::<prop::sample::Index>()), 0..4);
    (op, domain, inputs, 0_usize..3, btree_map("[a-z_]{1,8}", attribute(), 0..3))
}

fn graph() -> impl Strategy<Value = Graph> {
    let values =
        (btree_map("[a-z]{1,3}", (dtype(), shape()), 0..4), btree_map("[A-Z./]{1,3}", tensor(), 0..4));
    let outputs = vec((any::<prop::sample::Index>(), dtype(), shape()), 0..3);
    let texts = (any::<String>(), btree_map(any::<String>(), any::<String>(), 0..3));
    (values, vec(draft(), 0..6), outputs, 13_u32..=21, texts).prop_map(
        |((inputs, initializers), drafts, outputs, opset, (name, metadata))| {
            let mut values: Vec<String> = inputs.keys().chain(initializers.keys()).cloned().collect();
            let mut nodes = Vec::new();
            for (i, (op, domain, inputs, n_outputs, attributes)) in drafts.into_iter().enumerate() {
                let input = |index: Option<prop::sample::Index>| match index {
                    Some(index) if !values.is_empty() => index.get(&values).clone(),
                    _ => String::new(),
                };
                let inputs = inputs.into_iter().map(input).collect();
                let outputs: Vec<String> = (0..n_outputs).map(|k| format!("node{i}:{k}")).collect();
                values.extend(outputs.iter().cloned());
                nodes.push(Node { name: format!("node{i}"), op, domain, inputs, outputs, attributes });
            }
            let mut taken = BTreeSet::new();
            let outputs = outputs
                .into_iter()
                .filter(|_| !values.is_empty())
                .map(|(index, dtype, shape)| ValueInfo { name: index.get(&values).clone(), dtype, shape })
                .filter(|info| taken.insert(info.name.clone()))
                .collect();
            let inputs =
                inputs.into_iter().map(|(name, (dtype, shape))| ValueInfo { name, dtype, shape }).collect();
            Graph { name, opset, inputs, outputs, initializers, nodes, metadata }
        },
    )
}

fn seeded(cases: u32) -> ProptestConfig {
    let rng_seed = RngSeed::Fixed(1);
    ProptestConfig { cases, rng_seed, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(seeded(500))]

    #[test]
    fn a_graph_is_read_as_it_was_written(graph in graph()) {
        let bytes = graph.encode();
        let read = Graph::decode(&bytes).unwrap();
        prop_assert_eq!(&read, &graph);
        prop_assert_eq!(read.encode(), bytes);
    }
}
