//! Graphs of one node with whatever inputs, outputs and attributes.

use std::collections::BTreeMap;

use onnx_grad::Builder;
use onnx_grad::graph::{Attribute, DataType, Dim, Graph, Node, Tensor, ValueInfo};

/// Splitmix64.
pub struct Draws(pub u64);

impl Draws {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }
}

/// Attributes of the operators of opsets 13 to 21, with the type that they have there.
const INTS: &[&str] = &[
    "axes",
    "axis",
    "batch_axis",
    "batch_dims",
    "blocksize",
    "ceil_mode",
    "count_include_pad",
    "dilations",
    "direction",
    "end",
    "exclusive",
    "group",
    "hidden_size",
    "keepdims",
    "kernel_shape",
    "largest",
    "layout",
    "linear_before_reset",
    "new_axis",
    "noop_with_empty_axes",
    "num_groups",
    "num_outputs",
    "output_padding",
    "output_shape",
    "p",
    "pads",
    "perm",
    "reverse",
    "select_last_index",
    "size",
    "sorted",
    "start",
    "storage_order",
    "strides",
    "time_axis",
    "to",
    "training_mode",
    "transA",
    "transB",
    "upper",
    "value_int",
    "value_ints",
    "allowzero",
    "align_corners",
    "antialias",
    "dtype",
    "exclude_outside",
    "fmod",
    "stash_type",
    "ignore_index",
    "input_forget",
];
const LISTS: &[&str] = &[
    "axes",
    "dilations",
    "kernel_shape",
    "output_padding",
    "output_shape",
    "pads",
    "perm",
    "strides",
    "value_ints",
];
const FLOATS: &[&str] = &[
    "alpha",
    "beta",
    "bias",
    "epsilon",
    "gamma",
    "lambd",
    "momentum",
    "ratio",
    "clip",
    "cubic_coeff_a",
    "value_float",
    "extrapolation_value",
    "spatial_scale",
    "max",
    "min",
];
const STRINGS: &[(&str, &[&str])] = &[
    ("auto_pad", &["NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID", "", "?"]),
    ("mode", &["constant", "reflect", "edge", "wrap", "nearest", "linear", "cubic", "DCR", "CRD", "?"]),
    ("approximate", &["none", "tanh", "?"]),
    ("reduction", &["none", "add", "mul", "max", "min", "mean", "sum", "?"]),
    ("direction", &["forward", "reverse", "bidirectional", "LEFT", "?"]),
    (
        "equation",
        &["ij,jk->ik", "ij->ji", "ii->i", "...i,i", "i", "->", ",", "é", "bij,bjk", "i,i->", "i->j", "->i"],
    ),
    (
        "coordinate_transformation_mode",
        &["half_pixel", "asymmetric", "align_corners", "tf_crop_and_resize", "?"],
    ),
    ("nearest_mode", &["floor", "ceil", "round_prefer_floor", "?"]),
    ("keep_aspect_ratio_policy", &["stretch", "not_larger", "?"]),
    ("padding_mode", &["zeros", "border", "reflection"]),
];
const TAME: &[i64] = &[0, 1, 1, 1, 2, 2, 3, -1];
const WILD: &[i64] = &[
    0,
    1,
    2,
    3,
    4,
    5,
    -1,
    -2,
    -5,
    11,
    1 << 20,
    1 << 30,
    1 << 31,
    1 << 40,
    i64::MAX,
    i64::MIN,
    i64::MIN + 1,
    1 << 62,
];
const WILD_DIMS: &[usize] = &[0, 1, 2, 3, 1 << 12, 1 << 20, 1 << 24, 1 << 30, 1 << 31];

/// A graph with one node of `op` between floating inputs and a Relu, or something close to it. `wild`: with sizes
/// and numbers that no graph has.
pub fn graph(op: &str, draws: &mut Draws, wild: bool) -> Graph {
    let mut graph = Graph {
        name: "sweep".to_owned(),
        opset: *draws.pick(&[13, 17, 18, 19, 21]),
        inputs: Vec::new(),
        outputs: Vec::new(),
        initializers: BTreeMap::new(),
        nodes: Vec::new(),
        metadata: BTreeMap::new(),
    };
    let dtype = *draws.pick(&[DataType::F32, DataType::F32, DataType::F32, DataType::F64, DataType::F16]);
    let rank = *draws.pick(&[0, 1, 2, 2, 3, 4, 4, 5]);
    let base = shape(draws, rank, wild);
    let n_inputs = *draws.pick(&[0, 1, 1, 1, 2, 2, 2, 3, 3, 4, 5, 5, 6, 8]);
    let mut inputs = Vec::new();
    for i in 0..n_inputs {
        inputs.push(input(&mut graph, draws, i, dtype, &base, wild));
    }
    let n_outputs = *draws.pick(&[1, 1, 1, 1, 1, 2, 3, 0]);
    let outputs: Vec<String> = (0..n_outputs)
        .map(|i| if wild && draws.one_in(20) { String::new() } else { format!("y{i}") })
        .collect();
    let attributes = attributes(draws, wild);
    let domain = String::new();
    graph.nodes.push(Node {
        name: "node".to_owned(),
        op: op.to_owned(),
        domain,
        inputs,
        outputs,
        attributes,
    });
    for i in 0..n_outputs {
        // Declared types and shapes are taken from the file only where they are put out again.
        graph.outputs.push(ValueInfo { name: format!("y{i}"), dtype, shape: Vec::new() });
    }
    graph.outputs.retain(|o| graph.nodes[0].outputs.contains(&o.name));
    graph
}

fn shape(draws: &mut Draws, rank: usize, wild: bool) -> Vec<Dim> {
    let dim = |draws: &mut Draws| match draws.below(12) {
        0 | 1 => Dim::from("batch"),
        2 => Dim::from("n"),
        3 if wild => Dim::Size(*draws.pick(WILD_DIMS)),
        _ => Dim::Size(*draws.pick(&[1, 1, 2, 2, 2, 3, 4])),
    };
    (0..rank).map(|_| dim(draws)).collect()
}

fn input(
    graph: &mut Graph,
    draws: &mut Draws,
    i: usize,
    dtype: DataType,
    base: &[Dim],
    wild: bool,
) -> String {
    let name = format!("x{i}");
    let float_input = |graph: &mut Graph, shape: Vec<Dim>, dtype| {
        graph.inputs.push(ValueInfo { name: name.clone(), dtype, shape });
    };
    match draws.below(if i == 0 { 5 } else { 12 }) {
        0..=2 => float_input(graph, base.to_vec(), dtype),
        3 => {
            let rank = draws.below(6);
            let shape = shape(draws, rank, wild);
            float_input(graph, shape, dtype);
        }
        4 => {
            let dims: Vec<usize> = base.iter().map(|d| d.size().filter(|&n| n < 5).unwrap_or(2)).collect();
            graph.initializers.insert(name.clone(), Tensor::zeros(dtype, &dims));
        }
        5 if wild => return String::new(),
        6 => {
            let other = *draws.pick(&[DataType::I64, DataType::Bool, DataType::I32, DataType::U8]);
            float_input(graph, base.to_vec(), other);
        }
        7 => {
            let channels = base.get(1).and_then(Dim::size).filter(|&n| n < 5).unwrap_or(2);
            graph.initializers.insert(name.clone(), Tensor::zeros(dtype, &[channels]));
        }
        8 => {
            let value = if draws.one_in(2) { 2.0 } else { 0.5 };
            let scalar = Tensor::scalar(dtype, value).unwrap_or(Tensor::zeros(dtype, &[]));
            graph.initializers.insert(name.clone(), scalar);
        }
        _ => {
            let values: Vec<i64> = (0..draws.below(6)).map(|_| integer(draws, wild)).collect();
            let tensor = match values.first() {
                Some(&first) if draws.one_in(4) => Tensor::from_i64(&[], &[first]),
                _ => Tensor::from_i64(&[values.len()], &values),
            };
            graph.initializers.insert(name.clone(), tensor);
        }
    }
    name
}

fn integer(draws: &mut Draws, wild: bool) -> i64 {
    *draws.pick(if wild { WILD } else { TAME })
}

fn attributes(draws: &mut Draws, wild: bool) -> BTreeMap<String, Attribute> {
    let mut attributes = BTreeMap::new();
    for name in INTS {
        if draws.one_in(4) {
            let value = integer(draws, wild);
            attributes.insert((*name).to_owned(), Attribute::Int(value));
        }
    }
    for name in LISTS {
        attributes.remove(*name);
        if draws.one_in(2) {
            let values: Vec<i64> = (0..draws.below(6)).map(|_| integer(draws, wild)).collect();
            attributes.insert((*name).to_owned(), Attribute::Ints(values));
        }
    }
    for name in FLOATS {
        if draws.one_in(6) {
            let value = *draws.pick(&[0.0, 0.5, 1.0, -1.0, 1e-5, f32::MAX, f32::NAN]);
            attributes.insert((*name).to_owned(), Attribute::Float(value));
        }
    }
    for (name, values) in STRINGS {
        if draws.one_in(4) {
            attributes.insert((*name).to_owned(), Attribute::from(*draws.pick(values)));
        }
    }
    if draws.one_in(2) {
        let tensor = match draws.below(3) {
            0 => Tensor::from_i64(&[2], &[integer(draws, wild), 1]),
            1 => Tensor::zeros(DataType::F32, &[]),
            _ => Tensor::from_i64(&[1], &[integer(draws, wild)]),
        };
        attributes.insert("value".to_owned(), tensor.into());
    }
    if wild && draws.one_in(4) {
        // Of a type that no operator has it in.
        for value in attributes.values_mut() {
            if draws.one_in(8) {
                *value = draws.pick(&[Attribute::Floats(Vec::new()), Attribute::Int(1), "x".into()]).clone();
            }
        }
    }
    attributes
}

/// Every attribute that is drawn.
#[allow(dead_code)] // The fuzzer's dictionary.
pub fn attribute_names() -> impl Iterator<Item = &'static str> {
    let strings = STRINGS.iter().map(|(name, _)| *name);
    INTS.iter().chain(LISTS).chain(FLOATS).copied().chain(strings)
}

/// Up to four graphs with one node of `op` that can be derived from.
#[allow(dead_code)] // The fuzzer's seeds.
pub fn plausible(op: &str) -> Vec<Graph> {
    let mut draws = Draws(1);
    (0..20_000)
        .map(|_| graph(op, &mut draws, false))
        .filter(|graph| Builder::from_graph(graph.clone()).is_ok())
        .take(4)
        .collect()
}
