//! Graphs that can be read, but whose shapes, constants or numbers are made to break derivation.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use onnx_grad::graph::{Attribute, DataType, Dim, Graph, Node, Shape, Tensor, ValueInfo};
use onnx_grad::{BatchNorm, Builder, GradError, check};

use crate::any;
use crate::sweep::{self, Draws};

const SEED: u64 = 20_261_124;

#[test]
fn any_node_of_any_operator_is_an_error_or_derived() {
    let started = Instant::now();
    let mut n_derived = BTreeMap::new();
    let mut panicked = BTreeMap::new();
    for (n, op) in (0..).zip(check::operators()) {
        let mut draws = Draws(SEED + n);
        for i in 0..400 {
            let graph = sweep::graph(op, &mut draws, i % 2 == 0);
            // What no file can say is not asked: a file's nodes are checked when it is read.
            let graph = Graph::decode(&graph.encode()).unwrap_or(graph);
            match std::panic::catch_unwind(|| any::derive_all(&graph)) {
                Ok(n) => *n_derived.entry(op).or_insert(0) += n,
                Err(_) => {
                    panicked.entry(op).or_insert(graph);
                }
            }
        }
    }
    assert!(panicked.is_empty(), "{:?} panic, {:?}", panicked.keys(), panicked.first_key_value());
    let n_alive = n_derived.values().filter(|&&n| n > 0).count();
    assert!(2 * n_alive > n_derived.len(), "the graphs are too wild to say anything: {n_derived:?}");
    assert!(started.elapsed() < Duration::from_secs(120), "{:?}", started.elapsed());
}

/// A graph of float32 inputs named `x0`, `x1`, … and nodes that give `y`.
struct Case {
    graph: Graph,
}

impl Case {
    fn new(inputs: &[&[usize]]) -> Self {
        let mut graph = Builder::new("case", 17).finish();
        for (i, dims) in inputs.iter().enumerate() {
            let shape: Shape = dims.iter().map(|&d| Dim::Size(d)).collect();
            graph.inputs.push(ValueInfo { name: format!("x{i}"), dtype: DataType::F32, shape });
        }
        Case { graph }
    }

    fn ints(mut self, name: &str, values: &[i64]) -> Self {
        self.graph.initializers.insert(name.to_owned(), Tensor::from_i64(&[values.len()], values));
        self
    }

    fn node(mut self, op: &str, inputs: &[&str], output: &str, attributes: &[(&str, Attribute)]) -> Self {
        self.graph.nodes.push(Node {
            name: output.to_owned(),
            op: op.to_owned(),
            domain: String::new(),
            inputs: inputs.iter().map(|&i| i.to_owned()).collect(),
            outputs: vec![output.to_owned()],
            attributes: attributes.iter().map(|(k, v)| ((*k).to_owned(), v.clone())).collect(),
        });
        self
    }

    fn reversed(mut self) -> Self {
        self.graph.nodes.reverse();
        self
    }

    /// The error of the gradient of Σ y² with respect to `x0`.
    fn refusal(self) -> GradError {
        let graph = Graph::decode(&self.graph.encode()).unwrap();
        let mut b = match Builder::from_graph(graph) {
            Ok(b) => b,
            Err(error) => return error,
        };
        let square = b.op("Mul", &["y", "y"], &[]).unwrap();
        let loss = b.op("ReduceSum", &[&square], &[("keepdims", Attribute::Int(0))]).unwrap();
        check::gradients(&b.finish(), &loss, &["x0"], BatchNorm::Train).map(|_| ()).unwrap_err()
    }

    #[track_caller]
    fn expect_limit(self, expected: &str) {
        let started = Instant::now();
        match self.refusal() {
            GradError::Limit { name, found, limit, .. } => {
                assert_eq!(name, expected);
                assert!(found > limit, "{found} of {limit}");
            }
            other => panic!("expected limit {expected}, found {other}"),
        }
        assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
    }

    #[track_caller]
    fn expect_shape(self) {
        let error = self.refusal();
        assert!(matches!(error, GradError::Shape { .. }), "{error}");
    }
}

#[test]
fn huge_declared_tensors_are_refused() {
    Case::new(&[&[1 << 20, 1 << 20]]).node("Relu", &["x0"], "y", &[]).expect_limit("MAX_ELEMENTS");
    Case::new(&[&[usize::MAX >> 1, 2]]).node("Relu", &["x0"], "y", &[]).expect_limit("MAX_ELEMENTS");
    Case::new(&[&[0, 1 << 40]]).node("Relu", &["x0"], "y", &[]).expect_limit("MAX_ELEMENTS");
    Case::new(&[&[1; 1000]]).node("Relu", &["x0"], "y", &[]).expect_limit("MAX_RANK");
}

#[test]
fn huge_computed_tensors_are_refused() {
    let huge = [1 << 31, 1 << 31, 1 << 31];
    Case::new(&[&[1]]).ints("to", &huge).node("Expand", &["x0", "to"], "y", &[]).expect_limit("MAX_ELEMENTS");
    Case::new(&[&[2, 2, 2]])
        .ints("n", &huge)
        .node("Tile", &["x0", "n"], "y", &[])
        .expect_limit("MAX_ELEMENTS");
    Case::new(&[&[2]])
        .ints("to", &huge)
        .node("ConstantOfShape", &["to"], "z", &[])
        .node("Add", &["x0", "z"], "y", &[])
        .expect_limit("MAX_ELEMENTS");
    Case::new(&[&[2]])
        .ints("to", &[i64::MAX])
        .node("ConstantOfShape", &["to"], "z", &[])
        .node("Add", &["x0", "z"], "y", &[])
        .expect_limit("MAX_ELEMENTS");
    Case::new(&[&[2]])
        .ints("n", &[0, 1 << 30])
        .node("Pad", &["x0", "n"], "p", &[])
        .node("Expand", &["p", "n"], "y", &[])
        .expect_shape();
    Case::new(&[&[2]]).ints("n", &[i64::MIN, i64::MAX]).node("Pad", &["x0", "n"], "y", &[]).expect_shape();
    Case::new(&[&[2]]).ints("n", &[i64::MAX, i64::MAX]).node("Pad", &["x0", "n"], "y", &[]).expect_shape();
    Case::new(&[&[1 << 20, 2]])
        .node("MatMul", &["x0", "x0t"], "y", &[])
        .node("Transpose", &["x0"], "x0t", &[])
        .reversed()
        .expect_limit("MAX_ELEMENTS");
    Case::new(&[&[1; 20]])
        .ints("axes", &(0..20).collect::<Vec<_>>())
        .node("Unsqueeze", &["x0", "axes"], "y", &[])
        .expect_limit("MAX_RANK");
}

#[test]
fn ranges_of_any_bounds_have_a_length() {
    for (start, limit, delta) in
        [(i64::MIN, i64::MAX, 1), (i64::MAX, i64::MIN, -1), (0, i64::MAX, i64::MIN), (0, 1, 0)]
    {
        let mut case = Case::new(&[&[2]]);
        for (name, value) in [("start", start), ("limit", limit), ("delta", delta)] {
            case.graph.initializers.insert(name.to_owned(), Tensor::from_i64(&[], &[value]));
        }
        let case = case
            .node("Range", &["start", "limit", "delta"], "r", &[])
            .node("Cast", &["r"], "f", &[("to", Attribute::Int(1))])
            .node("Add", &["x0", "f"], "y", &[]);
        // A length of 0 or beyond all limits, or one that is not known: x0 [2] does not broadcast to any.
        case.refusal();
    }
}

#[test]
fn slices_of_any_bounds_take_neither_memory_nor_time() {
    for start in [i64::MIN, -1, 0, 1, i64::MAX] {
        for end in [i64::MIN, -1, 0, 1, i64::MAX] {
            for step in [i64::MIN, -2, -1, 1, 2, i64::MAX] {
                for size in [0, 1, 5, 1 << 31] {
                    let mut b = Builder::new("slice", 17);
                    b.input("x0", DataType::F32, vec![Dim::Size(size)]).unwrap();
                    for (name, value) in [("start", start), ("end", end), ("axis", 0), ("step", step)] {
                        b.initializer(name, Tensor::from_i64(&[1], &[value])).unwrap();
                    }
                    b.op_named("Slice", &["x0", "start", "end", "axis", "step"], &[], "y").unwrap();
                    b.output("y").unwrap();
                    any::derive_all(&b.finish());
                }
            }
        }
    }
    let backwards = Case::new(&[&[1 << 30]]).ints("s", &[-1]).ints("e", &[i64::MIN]).ints("a", &[0]);
    backwards.node("Slice", &["x0", "s", "e", "a", "s"], "y", &[]).expect_limit("MAX_MADE_BYTES");
    // Too many starts to be read where shapes are inferred.
    let many = Case::new(&[&[4, 4]]).ints("s", &[0; 1 << 17]).ints("e", &[2]);
    many.node("Slice", &["x0", "s", "e"], "y", &[]).expect_shape();
    let twice = Case::new(&[&[4, 4]]).ints("s", &[0, 0]).ints("e", &[2, 2]).ints("a", &[1, -1]);
    twice.node("Slice", &["x0", "s", "e", "a"], "y", &[]).expect_shape();
}

#[test]
fn windows_of_any_size_are_refused_or_cheap() {
    let pool = |dims: &[usize], kernel: i64, pads: i64| {
        let attributes =
            [("kernel_shape", Attribute::Ints(vec![kernel])), ("pads", Attribute::Ints(vec![pads, pads]))];
        Case::new(&[dims]).node("AveragePool", &["x0"], "y", &attributes)
    };
    pool(&[1, 1, 4], 1 << 40, 1 << 40).expect_limit("MAX_ATTRIBUTE");
    pool(&[1, 1, 1 << 20], 1 << 10, 0).expect_limit("MAX_MADE_BYTES");
    pool(&[1, 1, 4], i64::MIN, 0).expect_limit("MAX_ATTRIBUTE");
    pool(&[1, 1, 4], 0, 0).expect_shape();
    let wide = Attribute::Ints(vec![1 << 30]);
    let wide =
        [("kernel_shape", wide.clone()), ("pads", Attribute::Ints(vec![1 << 30, 0])), ("dilations", wide)];
    Case::new(&[&[1, 1, 4]]).node("AveragePool", &["x0"], "y", &wide).expect_shape();
    // A few outputs of a window far larger than the input.
    let mut b = Builder::new("pool", 17);
    b.input("x0", DataType::F32, vec![1.into(), 1.into(), 4.into()]).unwrap();
    let window = [("kernel_shape", vec![1 << 30].into()), ("pads", vec![1 << 30, 0].into())];
    b.op_named("AveragePool", &["x0"], &window, "y").unwrap();
    b.output("y").unwrap();
    assert!(any::derive_all(&b.finish()) > 0);
}

#[test]
fn convolutions_of_any_size_are_refused() {
    let conv = |x: &[usize], w: &[usize], attributes: &[(&str, Attribute)]| {
        Case::new(&[x, w]).node("Conv", &["x0", "x1"], "y", attributes)
    };
    conv(&[1, 1, 1 << 16], &[1, 1, 1 << 16], &[]).expect_limit("MAX_MADE_BYTES");
    conv(&[1, 1, 8], &[1, 1], &[]).expect_shape();
    conv(&[1, 1, 8], &[1, 1, 3], &[("group", 0.into())]).expect_shape();
    conv(&[1, 1, 8], &[1, 1, 3], &[("group", (-1).into())]).expect_shape();
    conv(&[1, 2, 8], &[3, 1, 3], &[("group", 2.into())]).expect_shape();
    conv(&[1, 1, 8], &[1, 1, 3], &[("strides", vec![0].into())]).expect_shape();
    conv(&[1, 1, 8], &[1, 1, 3], &[("kernel_shape", vec![5].into())]).expect_shape();
    conv(&[1, 1, 8], &[1, 1, 3], &[("kernel_shape", vec![3, 3].into())]).expect_shape();
    conv(&[1, 1, 8], &[1, 1, 3], &[("dilations", vec![1 << 40].into())]).expect_limit("MAX_ATTRIBUTE");
    let transposed = |attributes: &[(&str, Attribute)]| {
        Case::new(&[&[1, 1, 4, 4], &[1, 1, 3, 3]]).node("ConvTranspose", &["x0", "x1"], "y", attributes)
    };
    let same = ("auto_pad", "SAME_UPPER".into());
    transposed(&[same, ("output_padding", vec![1].into())]).expect_shape();
    transposed(&[("output_shape", vec![6].into())]).expect_shape();
}

#[test]
fn a_declared_number_of_channels_makes_no_constant() {
    let n = 1 << 31;
    Case::new(&[&[1, n], &[n], &[n], &[n], &[n]])
        .node("BatchNormalization", &["x0", "x1", "x2", "x3", "x4"], "y", &[])
        .expect_limit("MAX_MADE_BYTES");
}

#[test]
fn contents_that_double_stay_small() {
    let mut case = Case::new(&[&[2]]).ints("c0", &[1, 1]);
    for i in 0..60 {
        let (from, to) = (format!("c{i}"), format!("c{}", i + 1));
        case = case.node("Concat", &[&from, &from], &to, &[("axis", 0.into())]);
    }
    case.node("Reshape", &["x0", "c60"], "y", &[]).expect_limit("MAX_ELEMENTS");

    // n, n², n⁴, …
    let mut b = Builder::new("products", 17);
    b.input("x0", DataType::F32, vec!["n".into()]).unwrap();
    let mut n = b.op("Shape", &["x0"], &[]).unwrap();
    for _ in 0..60 {
        n = b.op("Mul", &[&n, &n], &[]).unwrap();
    }
    b.op("Expand", &["x0", &n], &[]).unwrap_err();

    // Long contents, again and again: they are followed no more before they fill the memory.
    let mut b = Builder::new("contents", 17);
    b.input("x0", DataType::F32, vec![2.into()]).unwrap();
    b.initializer("c", Tensor::from_i64(&[65536], &[1; 65536])).unwrap();
    for _ in 0..400 {
        b.op("Identity", &["c"], &[]).unwrap();
    }
    b.op("Neg", &["c"], &[]).unwrap();
}

#[test]
fn axes_are_named_once() {
    let zeros = [0; 30];
    Case::new(&[&[2, 2]]).ints("axes", &zeros).node("ReduceSum", &["x0", "axes"], "y", &[]).expect_shape();
    Case::new(&[&[1, 2]]).ints("axes", &[0, 0]).node("Squeeze", &["x0", "axes"], "y", &[]).expect_shape();
    Case::new(&[&[2, 2]]).ints("axes", &[0, 0]).node("Unsqueeze", &["x0", "axes"], "y", &[]).expect_shape();
    let many: Vec<i64> = (0..200_000).collect();
    Case::new(&[&[2, 2]]).ints("axes", &many).node("Unsqueeze", &["x0", "axes"], "y", &[]).expect_shape();
    Case::new(&[&[2, 2]]).node("Transpose", &["x0"], "y", &[("perm", vec![-1, 0].into())]).expect_shape();
}

#[test]
fn an_unknown_target_has_a_rank() {
    let mut case = Case::new(&[&[2]]);
    let shape = vec![Dim::Size(1 << 40)];
    case.graph.inputs.push(ValueInfo { name: "to".to_owned(), dtype: DataType::I64, shape });
    case.node("Reshape", &["x0", "to"], "y", &[]).expect_limit("MAX_ELEMENTS");
    let mut case = Case::new(&[&[2]]);
    let shape = vec![Dim::Size(1 << 30)];
    case.graph.inputs.push(ValueInfo { name: "to".to_owned(), dtype: DataType::I64, shape });
    case.node("Reshape", &["x0", "to"], "y", &[]).expect_shape();
}

#[test]
fn repeats_are_one_per_axis() {
    for repeats in [&[][..], &[2], &[2, 2, 2], &[2, -1]] {
        Case::new(&[&[2, 2]]).ints("n", repeats).node("Tile", &["x0", "n"], "y", &[]).expect_shape();
    }
}

#[test]
fn matrices_along_huge_axes_are_refused() {
    let reflect = [("mode", Attribute::from("reflect"))];
    let pad = |n: usize| Case::new(&[&[n]]).ints("n", &[1, 1]).node("Pad", &["x0", "n"], "y", &reflect);
    pad(1 << 20).expect_limit("MAX_MADE_BYTES");
    pad(0).expect_shape();
    let lrn = Case::new(&[&[1, 1 << 20, 1, 1]]).node("LRN", &["x0"], "y", &[("size", 3.into())]);
    lrn.expect_limit("MAX_MADE_BYTES");
    let resize = |n: usize, sizes: &[i64]| {
        Case::new(&[&[n]]).ints("sizes", sizes).node("Resize", &["x0", "", "", "sizes"], "y", &[])
    };
    resize(1 << 20, &[1 << 20 | 1]).expect_limit("MAX_MADE_BYTES");
    resize(0, &[3]).expect_shape();
    let gather = Case::new(&[&[1 << 30]]).ints("i", &[1]).node("Gather", &["x0", "i"], "y", &[]);
    gather.expect_limit("MAX_MADE_BYTES");
    let dw = Case::new(&[&[64, 1, 8192], &[1, 64, 8192]]).node(
        "Conv",
        &["x1", "x0"],
        "y",
        &[("group", 64.into())],
    );
    dw.expect_limit("MAX_WINDOW");
}

/// Where a node has the name of another's output, what the one keeps must not be taken for the other's.
#[test]
fn names_of_nodes_and_of_values_do_not_mix() {
    let mut b = Builder::new("names", 17);
    b.input("x0", DataType::F32, vec![1.into(), 1.into(), 4.into()]).unwrap();
    let window = [("kernel_shape", Attribute::Ints(vec![2]))];
    b.op_named("MaxPool", &["x0"], &window, "a").unwrap();
    b.op_named("Dropout", &["a"], &[], "y").unwrap();
    b.output("y").unwrap();
    let mut graph = b.finish();
    for node in &mut graph.nodes {
        "a".clone_into(&mut node.name);
    }
    assert!(any::derive_all(&graph) > 0);
}
