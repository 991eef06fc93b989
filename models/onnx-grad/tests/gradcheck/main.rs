//! Every rule against finite differences, on ONNX Runtime: for random u and v, ⟨u, J v⟩ by a central difference
//! of the forward values equals ⟨Jᵀ u, v⟩ by the derived gradients.

#![allow(clippy::unwrap_used)]

mod activation;
mod constant;
mod convolution;
mod index;
mod kinks;
mod movement;
mod normalisation;
mod plain;
mod problem;
mod reduce;
mod resize;
mod spatial;
#[path = "../support/mod.rs"]
mod support;

use std::collections::{BTreeMap, BTreeSet};

use onnx_grad::graph::{Attribute, DataType, Dim, Graph, Node, Tensor};
use onnx_grad::{BatchNorm, Builder, GradError, check};
use problem::{Arg, Fill, Problem};
use support::Runner;

const SEED: u64 = 20_240_229;
const N_DIRECTIONS: usize = 3;

fn problems() -> Vec<Problem> {
    let mut problems = plain::elementwise();
    problems.extend(activation::activations());
    problems.extend(activation::functions());
    problems.extend(plain::products());
    problems.extend(plain::reductions());
    problems.extend(plain::movements());
    problems.extend(spatial::convolutions());
    problems.extend(spatial::pools());
    problems.extend(index::indices());
    problems.extend(movement::einsums());
    problems.extend(movement::pads());
    problems.extend(movement::rearrangements());
    problems.extend(movement::selections());
    problems.extend(movement::slices());
    problems.extend(reduce::norms_and_products());
    problems.extend(resize::resizes());
    problems.extend(spatial::normalisations());
    problems.extend(convolution::depthwise());
    problems.extend(convolution::volumes());
    problems.extend(convolution::transposed());
    problems.extend(convolution::pools());
    problems.extend(normalisation::single());
    problems.extend(normalisation::patterns());
    problems
}

#[test]
fn every_rule_has_a_problem() {
    let covered: BTreeSet<&str> = problems().iter().map(|p| p.op).collect();
    let rules = check::rules();
    let differentiated = rules.iter().filter(|r| r.how != check::Derivative::Constant);
    let missing: Vec<&str> = differentiated.map(|r| r.op).filter(|op| !covered.contains(op)).collect();
    assert!(missing.is_empty(), "no problem checks the rules of {missing:?}");
}

#[test]
fn gradients_agree_with_finite_differences() {
    let seed = std::env::var("GRADCHECK_SEED").map_or(SEED, |s| s.parse().expect("a number"));
    let mut failures = Vec::new();
    for (i, problem) in problems().iter().enumerate() {
        for &opset in &problem.opsets {
            let mut draws = Draws(seed.wrapping_add(i as u64));
            if let Err(error) = verify(problem, opset, &mut draws) {
                failures.push(format!("{}: {error}", problem.describe(opset)));
            }
        }
    }
    let n_failures = failures.len();
    assert!(failures.is_empty(), "GRADCHECK_SEED={seed}: {n_failures} failures\n{}", failures.join("\n"));
}

/// Step of the central difference, and how far its result may be off, relative to the derivative's size.
///
/// In float64 both rounding (1e-16 / 1e-5) and truncation (1e-10 times a third derivative) are far below the
/// tolerance. The problems in float32 are linear or bilinear within the step, which leaves rounding only: 6e-8 of
/// values up to 50, over a step of 0.1; or they are curved, with values of about 1, and a difference of fourth order
/// leaves 3e-8 times a fifth derivative.
fn precision(problem: &Problem) -> (f64, f64) {
    match (problem.dtype, problem.curved) {
        (DataType::F64, _) => (1e-5, 1e-7),
        (_, false) => (0.1, 1e-4),
        (_, true) => (0.03, 2e-4),
    }
}

fn verify(problem: &Problem, opset: u32, draws: &mut Draws) -> Result<(), String> {
    let graph = forward(problem, opset).map_err(|e| e.to_string())?;
    let variables: Vec<String> =
        graph.inputs.iter().map(|i| i.name.clone()).filter(|n| n.starts_with('x')).collect();
    let names: Vec<&str> = variables.iter().map(String::as_str).collect();
    let derived = check::gradients(&graph, "loss", &names, problem.batch_norm).map_err(|e| e.to_string())?;
    if let Some(node) = derived.nodes.iter().find(|n| !n.domain.is_empty()) {
        return Err(format!("`{}` is of `{}`", node.op, node.domain));
    }
    // ONNX Runtime's CPU provider adds with several threads at once, which lose updates where indices repeat.
    let adds = |n: &&Node| n.op == "ScatterND" && n.string("reduction", "none").is_ok_and(|r| r == "add");
    if let Some(node) = derived.nodes.iter().filter(adds).find(|n| n.name != "under_test") {
        return Err(format!("`{}` adds by ScatterND", node.name));
    }
    for input in graph.inputs.iter().filter(|i| i.name.starts_with('x')) {
        let gradient = derived.outputs.iter().find(|o| o.name == format!("{}.grad", input.name));
        let shape = gradient.map(|g| &g.shape);
        if shape != Some(&input.shape) {
            return Err(format!("gradient of shape {shape:?} for an input of {:?}", input.shape));
        }
    }
    let mut runner = Runner::new(&derived);

    let at = draws.inputs(problem);
    let y = outputs(&graph, &at);
    let u = cotangents(problem, &y, draws);
    // In training two operators give other values, all else must not.
    let changes = |op: &str| match op {
        "BatchNormalization" => problem.batch_norm == BatchNorm::Train,
        "Dropout" => true,
        _ => false,
    };
    if !graph.nodes.iter().any(|n| changes(&n.op)) {
        verify_outputs(&y, &runner.run(&feeds(&names, &at, &u)))?;
    }
    let (step, tolerance) = precision(problem);
    let (mut error, mut size) = (0.0, 0.0);
    for _ in 0..N_DIRECTIONS {
        let direction: Vec<Vec<f64>> = at.iter().map(|t| draws.normal(t.n_elements())).collect();
        let mut value = |n_steps: f64| -> f64 {
            let moved = along(&at, &direction, n_steps * step);
            let results = runner.run(&feeds(&names, &moved, &u));
            u.iter().map(|(name, u)| dot(&to_f64(u), &to_f64(&results[&name.replace('u', "y")]))).sum()
        };
        let by_difference = if problem.curved {
            let (near, far) = (value(1.0) - value(-1.0), value(2.0) - value(-2.0));
            (8.0 * near - far) / (12.0 * step)
        } else {
            (value(1.0) - value(-1.0)) / (2.0 * step)
        };
        let results = runner.run(&feeds(&names, &at, &u));
        let by_gradient: f64 = variables
            .iter()
            .zip(&direction)
            .map(|(name, v)| dot(&to_f64(&results[&format!("{name}.grad")]), v))
            .sum();
        for (name, tensor) in variables.iter().zip(&at) {
            let gradient = &results[&format!("{name}.grad")];
            if gradient.dims != tensor.dims {
                return Err(format!("gradient {:?} of input {:?}", gradient.dims, tensor.dims));
            }
        }
        error += (by_difference - by_gradient).powi(2);
        size += by_difference.powi(2).max(by_gradient.powi(2));
    }
    let (error, size) = (error.sqrt(), size.sqrt());
    if error <= tolerance * size.max(1e-3) {
        Ok(())
    } else {
        Err(format!("off by {:.1e} of {size:.3}, more than {tolerance:.0e}", error / size))
    }
}

/// Inputs `x0…`, outputs `y0…`, cotangents `u0…`, and the loss Σ ⟨u, y⟩.
fn forward(problem: &Problem, opset: u32) -> Result<Graph, GradError> {
    let mut b = Builder::new(&problem.describe(opset), opset);
    let (mut inputs, mut terms) = (Vec::new(), Vec::new());
    for (i, arg) in problem.args.iter().enumerate() {
        inputs.push(match arg {
            Arg::Var { dims, batch, .. } => {
                let mut shape: Vec<Dim> = dims.iter().map(|&d| d.into()).collect();
                if *batch {
                    shape[0] = "batch".into();
                }
                b.input(&format!("x{i}"), problem.dtype, shape)?
            }
            Arg::ShapeOf(dims) => {
                let mut shape: Vec<Dim> = dims.iter().map(|&d| d.into()).collect();
                shape[0] = "batch".into();
                let x = b.input(&format!("x{i}"), problem.dtype, shape)?;
                // Its gradient is to exist, and to be zero.
                let sum = b.op("ReduceSum", &[&x], &[("keepdims", 0_i64.into())])?;
                let nothing = b.op("Sub", &[&sum, &sum], &[])?;
                terms.push(b.op("Cast", &[&nothing], &[("to", Attribute::Int(11))])?);
                b.op_named("Shape", &[&x], &[], &format!("under_test/shape{i}"))?
            }
            Arg::Const(tensor) => b.initializer(&format!("c{i}"), tensor.clone())?,
            Arg::Floats(dims, values) => {
                b.initializer(&format!("c{i}"), from_f64(problem.dtype, dims, values))?
            }
            Arg::Absent => String::new(),
        });
    }
    let outputs: Vec<String> = (0..problem.n_outputs).map(|i| format!("y{i}")).collect();
    match problem.network {
        Some(network) => {
            b.set_scope("under_test");
            let y = network(&mut b, &inputs)?;
            b.op_named("Identity", &[&y], &[], "y0")?;
            b.set_scope("");
        }
        None => b.push(Node {
            name: "under_test".to_owned(),
            op: problem.op.to_owned(),
            domain: String::new(),
            inputs,
            outputs: outputs.clone(),
            attributes: problem.attributes.iter().map(|(k, v)| ((*k).to_owned(), v.clone())).collect(),
        })?,
    }
    for (i, y) in outputs.iter().enumerate().filter(|(i, _)| !problem.unused.contains(i)) {
        let value = b.value(y)?.clone();
        let u = b.input(&format!("u{i}"), value.dtype, value.shape)?;
        let product = b.op("Mul", &[y, &u], &[])?;
        let sum = b.op("ReduceSum", &[&product], &[("keepdims", 0_i64.into())])?;
        // An operator under test may end in another type than it starts from.
        terms.push(b.op("Cast", &[&sum], &[("to", Attribute::Int(11))])?);
        b.output(y)?;
    }
    let terms: Vec<&str> = terms.iter().map(String::as_str).collect();
    b.op_named("Sum", &terms, &[], "loss")?;
    b.output("loss")?;
    Ok(b.finish())
}

/// Outputs of the network as it is given.
fn outputs(graph: &Graph, at: &[Tensor]) -> BTreeMap<String, Tensor> {
    let mut plain = graph.clone();
    plain.inputs.retain(|i| i.name.starts_with('x'));
    plain.outputs.retain(|o| o.name != "loss");
    plain.nodes.retain(|n| n.name.starts_with("under_test") || n.name == "y0");
    let names: Vec<&str> = plain.inputs.iter().map(|i| i.name.as_str()).collect();
    support::run(&plain, &feeds(&names, at, &[]))
}

/// A random u for every output that the loss depends on.
fn cotangents(
    problem: &Problem,
    outputs: &BTreeMap<String, Tensor>,
    draws: &mut Draws,
) -> Vec<(String, Tensor)> {
    (0..problem.n_outputs)
        .filter(|i| !problem.unused.contains(i))
        .map(|i| {
            let y = &outputs[&format!("y{i}")];
            (format!("u{i}"), from_f64(y.dtype, &y.dims, &draws.normal(y.n_elements())))
        })
        .collect()
}

/// What the network is written as for training gives the values that it gives as it is, but for rounding: ONNX
/// Runtime itself computes some normalisations of float64 in float32.
fn verify_outputs(
    expected: &BTreeMap<String, Tensor>,
    found: &BTreeMap<String, Tensor>,
) -> Result<(), String> {
    for (name, expected) in expected.iter().filter(|(_, y)| y.dtype.is_float()) {
        let (expected, found) = (to_f64(expected), to_f64(&found[name]));
        let size = expected.iter().fold(1.0_f64, |size, y| size.max(y.abs()));
        let error = expected.iter().zip(&found).fold(0.0_f64, |error, (e, f)| error.max((e - f).abs()));
        if error.is_nan() || error > 1e-5 * size || expected.len() != found.len() {
            return Err(format!("`{name}` is off by {error:.1e} of {size:.3} in training"));
        }
    }
    Ok(())
}

fn feeds<'a>(names: &[&'a str], at: &[Tensor], u: &'a [(String, Tensor)]) -> Vec<(&'a str, Tensor)> {
    let cotangents = u.iter().map(|(name, tensor)| (name.as_str(), tensor.clone()));
    names.iter().copied().zip(at.iter().cloned()).chain(cotangents).collect()
}

fn along(at: &[Tensor], direction: &[Vec<f64>], by: f64) -> Vec<Tensor> {
    at.iter()
        .zip(direction)
        .map(|(tensor, v)| {
            let moved: Vec<f64> = to_f64(tensor).iter().zip(v).map(|(x, v)| x + by * v).collect();
            from_f64(tensor.dtype, &tensor.dims, &moved)
        })
        .collect()
}

/// Content of a floating tensor.
fn to_f64(tensor: &Tensor) -> Vec<f64> {
    match tensor.dtype {
        DataType::F32 => tensor.to_f32().unwrap().into_iter().map(f64::from).collect(),
        DataType::F64 => {
            tensor.bytes.chunks_exact(8).map(|b| f64::from_le_bytes(b.try_into().unwrap())).collect()
        }
        other => panic!("{other} is no floating type of these tests"),
    }
}

/// A floating tensor of type `dtype`.
fn from_f64(dtype: DataType, dims: &[usize], values: &[f64]) -> Tensor {
    let bytes = values
        .iter()
        .flat_map(|&v| match dtype {
            DataType::F32 => (v as f32).to_le_bytes().to_vec(),
            _ => v.to_le_bytes().to_vec(),
        })
        .collect();
    Tensor { dtype, dims: dims.to_vec(), bytes }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// SplitMix64 (Steele, Lea and Flood 2014).
struct Draws(u64);

impl Draws {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// In [0, 1).
    fn uniform(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Mean 0, variance 1, and never beyond 1.74, so that a step has a known reach.
    fn normal(&mut self, n: usize) -> Vec<f64> {
        (0..n).map(|_| (2.0 * self.uniform() - 1.0) * 3_f64.sqrt()).collect()
    }

    fn inputs(&mut self, problem: &Problem) -> Vec<Tensor> {
        let variables = problem.args.iter().filter_map(|arg| match arg {
            Arg::Var { dims, fill, .. } => Some((dims, *fill)),
            Arg::ShapeOf(dims) => Some((dims, Fill::Normal)),
            _ => None,
        });
        let n_total: usize = variables.clone().map(|(dims, _)| dims.iter().product::<usize>()).sum();
        let mut grid = self.grid(n_total).into_iter();
        variables
            .map(|(dims, fill)| {
                let n = dims.iter().product();
                let values: Vec<f64> = match fill {
                    Fill::Normal => self.normal(n),
                    Fill::Positive => (0..n).map(|_| 0.5 + 1.5 * self.uniform()).collect(),
                    Fill::Small => (0..n).map(|_| 0.5 * self.uniform() - 0.25).collect(),
                    Fill::Large => (0..n).map(|_| 2.0 + 1.5 * self.uniform()).collect(),
                    Fill::OffZero => self.off_zero(n),
                    Fill::Far => (0..n).map(|_| self.signed(8.0, 24.0)).collect(),
                    Fill::Zero => vec![0.0; n],
                    Fill::SomeZeros => {
                        let values = self.off_zero(n).into_iter().enumerate();
                        values.map(|(i, x)| if i % 3 == 0 { 0.0 } else { x }).collect()
                    }
                    Fill::Apart => grid.by_ref().take(n).collect(),
                };
                from_f64(problem.dtype, dims, &values)
            })
            .collect()
    }

    /// Magnitude `from` to `to`, either sign.
    fn signed(&mut self, from: f64, to: f64) -> f64 {
        let magnitude = from + (to - from) * self.uniform();
        if self.next() & 1 == 0 { magnitude } else { -magnitude }
    }

    /// Magnitude 0.5 to 2, either sign.
    fn off_zero(&mut self, n: usize) -> Vec<f64> {
        (0..n).map(|_| self.signed(0.5, 2.0)).collect()
    }

    /// 0.5, 1.0, 1.5, … around zero, shuffled.
    fn grid(&mut self, n: usize) -> Vec<f64> {
        let mut values: Vec<f64> = (0..n).map(|i| 0.5 * (i as f64 - n as f64 / 2.0)).collect();
        for i in (1..n).rev() {
            let j = (self.next() % (i as u64 + 1)) as usize;
            values.swap(i, j);
        }
        values
    }
}
