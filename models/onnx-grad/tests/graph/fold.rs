//! What is known of integers when a graph is derived, against what ONNX Runtime computes when it runs.

use std::collections::BTreeMap;

use crate::support::Runner;
use onnx_grad::Builder;
use onnx_grad::graph::{Attribute, DataType, Dim, Tensor};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

const BATCHES: [i64; 3] = [1, 2, 5];
/// ONNX's numbers of the element types.
const TYPES: [i64; 3] = [INT32, INT64, BOOL];
const INT32: i64 = 6;
const INT64: i64 = 7;
const BOOL: i64 = 9;

/// One random node: an operator, and what chooses its inputs and attributes.
type Choice = (u8, [u8; 3]);

struct Net {
    b: Builder,
    /// Integer and boolean values.
    pool: Vec<String>,
}

impl Net {
    fn new() -> Self {
        let mut b = Builder::new("integers", 17);
        b.input("x", DataType::F32, vec!["batch".into(), 2.into(), 3.into()]).unwrap();
        let mut pool = vec![b.op("Shape", &["x"], &[]).unwrap(), b.op("Size", &["x"], &[]).unwrap()];
        for (dims, values) in [
            (&[][..], &[-3][..]),
            (&[], &[2]),
            (&[1], &[5]),
            (&[3], &[-2, 0, 7]),
            (&[2, 3], &[1, -1, 4, -5, 0, 3]),
            (&[2, 1], &[1_i64 << 33, -6]),
        ] {
            pool.push(b.constant(Tensor::from_i64(dims, values)).unwrap());
        }
        Net { b, pool }
    }

    fn pick(&self, choice: u8) -> String {
        self.pool[usize::from(choice) % self.pool.len()].clone()
    }

    fn int(&mut self, value: i64) -> String {
        self.b.constant(Tensor::from_i64(&[], &[value])).unwrap()
    }

    fn is_bool(&self, name: &str) -> bool {
        self.b.value(name).unwrap().dtype == DataType::Bool
    }

    fn rank(&self, name: &str) -> i64 {
        self.b.shape(name).unwrap().len() as i64
    }

    /// Appends the chosen node where its inputs fit.
    fn append(&mut self, (op, [p, q, r]): Choice) {
        const OPS: [&str; 29] = [
            "Add",
            "Sub",
            "Mul",
            "Div",
            "Mod",
            "Max",
            "Min",
            "Equal",
            "Less",
            "LessOrEqual",
            "Greater",
            "GreaterOrEqual",
            "Neg",
            "Where",
            "Cast",
            "CastLike",
            "Identity",
            "Reshape",
            "Flatten",
            "Squeeze",
            "Unsqueeze",
            "Expand",
            "ConstantOfShape",
            "Range",
            "Concat",
            "Gather",
            "Slice",
            "Transpose",
            "ReduceProd",
        ];
        let op = OPS[usize::from(op) % OPS.len()];
        let (a, c) = (self.pick(p), self.pick(q));
        let small = |choice: u8| i64::from(choice % 7) - 3;
        let not_zero = |choice: u8| [-3, -2, -1, 1, 2, 3][usize::from(choice) % 6];
        let axis = i64::from(q) % self.rank(&a).max(1);
        let mut attributes: Vec<(&str, Attribute)> = Vec::new();
        let inputs = match op {
            // The runtime does not survive a division by zero.
            "Div" | "Mod" if self.b.value(&a).unwrap().dtype == DataType::I64 => {
                let divisors = [self.pool[0].clone(), self.int(not_zero(q))];
                vec![a, divisors[usize::from(r) % 2].clone()]
            }
            "Div" | "Mod" => return,
            "Neg" if self.is_bool(&a) => return,
            "Add" | "Sub" | "Mul" | "Max" | "Min" | "Less" | "LessOrEqual" | "Greater" | "GreaterOrEqual"
                if self.is_bool(&a) =>
            {
                return;
            }
            "Neg" | "Identity" => vec![a],
            "Where" => {
                let condition = self.pool.iter().rev().find(|v| self.is_bool(v)).cloned();
                match condition {
                    Some(condition) if !self.is_bool(&a) => vec![condition, a, c],
                    _ => return,
                }
            }
            "Cast" => {
                attributes.push(("to", TYPES[usize::from(q) % 3].into()));
                vec![a]
            }
            "Reshape" => vec![a, self.b.ints(&[[-1, 1], [1, -1]][usize::from(q) % 2]).unwrap()],
            "Flatten" => {
                attributes.push(("axis", axis.into()));
                vec![a]
            }
            "Squeeze" => vec![a],
            "Unsqueeze" => vec![a, self.b.ints(&[axis]).unwrap()],
            "Expand" => vec![a, self.b.ints(&[2, 1, 3][usize::from(q) % 3..]).unwrap()],
            "ConstantOfShape" => {
                attributes.push(("value", Tensor::from_i64(&[1], &[small(p)]).into()));
                vec![self.b.ints(&[[2, 3], [1, 0], [3, 1]][usize::from(q) % 3]).unwrap()]
            }
            "Range" => vec![self.int(small(p)), self.int(small(q)), self.int(not_zero(r))],
            "Concat" => {
                attributes.push(("axis", axis.into()));
                vec![a, c]
            }
            "Gather" => {
                attributes.push(("axis", axis.into()));
                let Some(size) = self.b.shape(&a).unwrap().get(axis as usize).and_then(Dim::size) else {
                    return;
                };
                let Some(index) = i64::from(r).checked_rem(size as i64) else { return };
                vec![a, self.b.ints(&[index, index - size as i64]).unwrap()]
            }
            "Slice" => {
                let mut entry = |value: i64| self.b.ints(&[value]).unwrap();
                vec![a, entry(small(p)), entry(small(q)), entry(axis), entry(not_zero(r))]
            }
            "Transpose" => vec![a],
            "ReduceProd" if self.is_bool(&a) => return,
            "ReduceProd" => {
                attributes.push(("keepdims", i64::from(q % 2).into()));
                vec![a]
            }
            _ => vec![a, c],
        };
        let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
        let mut trial = self.b.clone();
        if let Ok(output) = trial.op(op, &inputs, &attributes)
            && trial.shape(&output).unwrap().iter().all(|d| d.size().is_some_and(|n| n <= 64))
        {
            self.b = trial;
            self.pool.push(output);
        }
    }

    /// What is known of a value's content: the dimensions of a tensor that would have it as its shape.
    fn known(&self, value: &str) -> Option<Vec<Dim>> {
        let mut b = self.b.clone();
        let flat = b.ints(&[-1]).unwrap();
        let x = b.op("Reshape", &[value, &flat], &[]).unwrap();
        let x = b.op("Cast", &[&x], &[("to", INT64.into())]).unwrap();
        let of_shape = |b: &mut Builder, x: &str| -> Option<Vec<Dim>> {
            let y = b.op("ConstantOfShape", &[x], &[]).ok()?;
            Some(b.shape(&y).unwrap().clone())
        };
        of_shape(&mut b, &x).or_else(|| {
            // There are no negative dimensions: a number in two parts.
            let zero = b.constant(Tensor::from_i64(&[], &[0])).unwrap();
            let minus = b.op("Neg", &[&x], &[]).unwrap();
            let above = b.op("Max", &[&x, &zero], &[]).unwrap();
            let below = b.op("Max", &[&minus, &zero], &[]).unwrap();
            let both = b.op("Concat", &[&above, &below], &[("axis", 0_i64.into())]).unwrap();
            of_shape(&mut b, &both)
        })
    }
}

/// The number that `dim` stands for.
fn evaluate(dim: &Dim, batch: i64) -> i64 {
    match dim {
        Dim::Size(n) => *n as i64,
        Dim::Symbol(product) => product
            .split('*')
            .map(|factor| if factor == "batch" { batch } else { factor.parse().unwrap() })
            .product(),
    }
}

fn integers(tensor: &Tensor) -> Vec<i64> {
    match tensor.dtype {
        DataType::I64 => tensor.to_i64().unwrap(),
        DataType::I32 => {
            tensor.bytes.as_chunks::<4>().0.iter().map(|b| i32::from_le_bytes(*b).into()).collect()
        }
        DataType::Bool => tensor.bytes.iter().map(|&b| b.into()).collect(),
        other => panic!("no value of type {other}"),
    }
}

/// Number of values that were known.
fn verify(choices: &[Choice]) -> usize {
    let mut net = Net::new();
    for &choice in choices {
        net.append(choice);
    }
    let pool = std::mem::take(&mut net.pool);
    let known: BTreeMap<&String, Vec<Dim>> =
        pool.iter().filter_map(|value| Some((value, net.known(value)?))).collect();
    for (i, value) in pool.iter().enumerate() {
        net.b.op_named("Identity", &[value], &[], &format!("result {i}")).unwrap();
        net.b.output(&format!("result {i}")).unwrap();
    }
    let mut runner = Runner::new(net.b.graph());
    for batch in BATCHES {
        let x = Tensor::zeros(DataType::F32, &[batch as usize, 2, 3]);
        let results = runner.run(&[("x", x)]);
        for (i, value) in pool.iter().enumerate() {
            let Some(known) = known.get(value) else { continue };
            let computed = integers(&results[&format!("result {i}")]);
            let mut expected: Vec<i64> = known.iter().map(|d| evaluate(d, batch)).collect();
            if expected.len() > computed.len() {
                let (above, below) = expected.split_at(computed.len());
                expected = above.iter().zip(below).map(|(a, b)| a - b).collect();
            }
            assert_eq!(expected, computed, "{value}, batch {batch}: {:#?}", net.b.graph().nodes);
        }
    }
    known.len()
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 200,
        rng_seed: RngSeed::Fixed(1),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn known_integers_are_those_that_the_runtime_computes(
        choices in prop::collection::vec(any::<Choice>(), 1..40),
    ) {
        // Those that every graph starts with are known at least, but for the one that no shape can show.
        prop_assert!(verify(&choices) >= 7);
    }
}
