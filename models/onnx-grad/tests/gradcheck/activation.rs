//! Activation functions, and functions of one variable whose gradient takes other functions.

use onnx_grad::graph::Attribute;

use crate::problem::{Arg, Fill, Problem, batch, float, mask, x};

/// Inputs of an odd number of elements: [`Fill::Apart`] then stays 0.25 off every multiple of 0.5, where the kinks are.
fn inputs(fill: Fill) -> Vec<Arg> {
    [x(&[]), x(&[5, 5]), batch(&[3, 1, 9])].map(|arg| arg.fill(fill)).to_vec()
}

/// In float32 at `opsets`, and in float64 at those where ONNX Runtime's CPU provider has a float64 kernel, or
/// takes the operator apart into operators that have one.
fn both(
    op: &'static str,
    fill: Fill,
    opsets: (&[u32], &[u32]),
    attributes: &[(&'static str, Attribute)],
) -> Vec<Problem> {
    let mut problems = Vec::new();
    for arg in inputs(fill) {
        let problem = || {
            let problem = Problem::new(op, vec![arg.clone()]);
            attributes.iter().cloned().fold(problem, |p, (name, value)| p.attr(name, value))
        };
        problems.push(problem().curved().opsets(opsets.0));
        if !opsets.1.is_empty() {
            problems.push(problem().opsets(opsets.1));
        }
    }
    problems
}

pub fn activations() -> Vec<Problem> {
    const ALL: &[u32] = &[17, 21];
    let float = |name, value: f32| vec![(name, Attribute::from(value))];
    let mut problems = Vec::new();
    for (op, opsets, attributes) in [
        ("HardSwish", (ALL, &[18][..]), vec![]),
        ("HardSigmoid", (ALL, &[18]), vec![]),
        ("HardSigmoid", (ALL, &[18]), vec![("alpha", (1.0_f32 / 6.0).into()), ("beta", 0.5_f32.into())]),
        ("HardSigmoid", (ALL, &[18]), vec![("alpha", (-0.25_f32).into()), ("beta", 0.5_f32.into())]),
        ("LeakyRelu", (ALL, &[17, 18]), vec![]),
        ("LeakyRelu", (ALL, &[17, 18]), float("alpha", 0.2)),
        ("LeakyRelu", (ALL, &[17, 18]), float("alpha", -0.5)),
        ("LeakyRelu", (ALL, &[17, 18]), float("alpha", 1.5)),
        ("ThresholdedRelu", (ALL, &[18]), vec![]),
        ("ThresholdedRelu", (ALL, &[18]), float("alpha", -0.5)),
        ("Elu", (ALL, &[18]), vec![]),
        ("Elu", (ALL, &[18]), float("alpha", 0.5)),
        ("Selu", (ALL, &[18]), vec![]),
        ("Selu", (ALL, &[18]), vec![("alpha", 0.5_f32.into()), ("gamma", 2_f32.into())]),
        ("Celu", (ALL, &[]), vec![]),
        ("Celu", (ALL, &[]), float("alpha", 2.0)),
    ] {
        problems.extend(both(op, Fill::Apart, opsets, &attributes));
    }
    for (op, opsets, attributes) in [
        ("Gelu", (&[20, 21][..], &[][..]), vec![]),
        ("Gelu", (&[20, 21], &[]), vec![("approximate", Attribute::from("none"))]),
        ("Gelu", (&[20, 21], &[]), vec![("approximate", Attribute::from("tanh"))]),
        ("Mish", (&[18, 21], &[18]), vec![]),
        ("Softplus", (ALL, &[18]), vec![]),
        ("Softsign", (ALL, &[18]), vec![]),
        ("Erf", (ALL, &[]), vec![]),
    ] {
        let fill = if op == "Softsign" { Fill::OffZero } else { Fill::Normal };
        problems.extend(both(op, fill, opsets, &attributes));
    }
    problems.extend(slopes());
    problems.extend(clips());
    problems
}

fn slopes() -> Vec<Problem> {
    let mut problems = Vec::new();
    let shapes: [(&[usize], &[usize]); 7] = [
        (&[3, 5], &[]),
        (&[3, 5], &[1]),
        (&[3, 5], &[5]),
        (&[3, 5], &[3, 1]),
        (&[3, 5], &[3, 5]),
        (&[3, 1, 3, 3], &[1, 1, 1]),
        (&[1, 3, 1, 5], &[3, 1, 1]),
    ];
    for (dims, slope) in shapes {
        for input in [x(dims), batch(dims)] {
            // A slope per element of a batch is no parameter.
            if slope.len() == 2 && matches!(input, Arg::Var { batch: true, .. }) {
                continue;
            }
            let input = input.fill(Fill::OffZero);
            let constant = Arg::Floats(vec![1], vec![0.25]);
            problems.push(Problem::new("PRelu", vec![input.clone(), x(slope)]).f32());
            problems.push(Problem::new("PRelu", vec![input.clone(), x(slope)]).opsets(&[17]));
            problems.push(Problem::new("PRelu", vec![input, constant]).f32());
        }
    }
    problems.push(Problem::new("PRelu", vec![x(&[]).fill(Fill::OffZero), x(&[])]).f32());
    problems
}

fn clips() -> Vec<Problem> {
    let mut problems = Vec::new();
    for input in inputs(Fill::Apart) {
        problems.push(Problem::new("Clip", vec![input.clone(), float(0.0), float(6.0)]));
        problems.push(Problem::new("Clip", vec![input.clone(), float(-1.0)]));
        problems.push(Problem::new("Clip", vec![input.clone(), Arg::Absent, float(1.0)]));
        problems.push(Problem::new("Clip", vec![input.clone(), Arg::Absent, Arg::Absent]));
        problems.push(Problem::new("Clip", vec![input, float(-0.5), float(2.0)]).f32());
    }
    // Bounds that learn. Small ones and inputs beyond 0.5, so that none passes the other.
    let (input, bound) = (batch(&[4, 5]).fill(Fill::OffZero), x(&[]).fill(Fill::Small));
    problems.push(Problem::new("Clip", vec![input.clone(), bound.clone()]));
    problems.push(Problem::new("Clip", vec![input.clone(), Arg::Absent, bound.clone()]));
    problems.push(Problem::new("Clip", vec![input, bound, float(0.75)]));
    problems
}

pub fn functions() -> Vec<Problem> {
    let mut problems = Vec::new();
    for (op, fill, is_f64) in [
        ("Abs", Fill::OffZero, true),
        ("Reciprocal", Fill::OffZero, true),
        ("Sin", Fill::Normal, false),
        ("Cos", Fill::Normal, false),
        ("Tan", Fill::Small, false),
        ("Asin", Fill::Small, false),
        ("Acos", Fill::Small, false),
        ("Atan", Fill::Normal, false),
        ("Sinh", Fill::Normal, false),
        ("Cosh", Fill::Normal, false),
        ("Asinh", Fill::Normal, false),
        ("Acosh", Fill::Large, false),
        ("Atanh", Fill::Small, false),
    ] {
        for arg in inputs(fill) {
            let problem = Problem::new(op, vec![arg]);
            problems.push(if is_f64 { problem } else { problem.curved() });
        }
    }
    // ONNX Runtime's CPU provider has no float64 kernel for Mean.
    problems.push(Problem::new("Mean", vec![x(&[2, 3])]).f32());
    problems.push(Problem::new("Mean", vec![x(&[]), x(&[])]).f32());
    problems.push(Problem::new("Mean", vec![x(&[2, 1]), x(&[1, 3]), x(&[])]).f32());
    problems.push(Problem::new("Mean", vec![batch(&[2, 3]), batch(&[2, 3]), x(&[3]), x(&[1, 1])]).f32());
    // Quotients of 1 to 7, which a step of 1e-5 hardly moves past a whole number.
    for (a, b) in [(x(&[3, 5]), x(&[3, 5])), (batch(&[3, 5]), x(&[5])), (x(&[3, 5]), x(&[]))] {
        let args = vec![a.fill(Fill::Large), b.fill(Fill::Positive)];
        problems.push(Problem::new("Mod", args).attr("fmod", 1_i64));
    }
    problems.extend(powers());
    problems.extend(choices());
    problems
}

/// Pow by exponents of their own shape, learnt or not, and at base 0.
fn powers() -> Vec<Problem> {
    let positive = |arg: Arg| arg.fill(Fill::Positive);
    vec![
        Problem::new("Pow", vec![positive(x(&[])), x(&[])]),
        Problem::new("Pow", vec![positive(x(&[])), x(&[2, 3])]),
        Problem::new("Pow", vec![positive(batch(&[2, 3, 1])), x(&[1, 4])]),
        Problem::new("Pow", vec![positive(batch(&[2, 3, 2, 2])), x(&[1])]),
        Problem::new("Pow", vec![positive(x(&[2, 1])), Arg::Floats(vec![1, 3], vec![-1.5, 0.0, 2.0])]),
        Problem::new("Pow", vec![positive(x(&[])), Arg::Floats(vec![1], vec![2.0])]),
        Problem::new("Pow", vec![Arg::Floats(vec![2], vec![0.0, 2.0]), positive(x(&[2]))]),
    ]
}

/// Where, Max and Min where one side is a scalar or has axes of size 1.
fn choices() -> Vec<Problem> {
    let apart = |arg: Arg| arg.fill(Fill::Apart);
    vec![
        Problem::new("Where", vec![mask(&[], &[1]), x(&[]), x(&[])]),
        Problem::new("Where", vec![mask(&[2, 3], &[1, 0, 1, 0, 0, 1]), x(&[]), x(&[1])]),
        Problem::new("Where", vec![mask(&[1, 3], &[1, 0, 1]), x(&[2, 1]), batch(&[2, 2, 1])]),
        Problem::new("Where", vec![mask(&[1, 1], &[0]), batch(&[3, 2]), x(&[1, 2])]),
        Problem::new("Where", vec![mask(&[3], &[1, 0, 1]), batch(&[2, 3]), x(&[])]).f32(),
        Problem::new("Max", vec![apart(batch(&[2, 1, 3])), apart(x(&[2, 1])), apart(x(&[]))]),
        Problem::new("Min", vec![apart(x(&[])), float(0.1)]),
        Problem::new("Max", vec![apart(batch(&[3, 4])), float(0.25)]).f32(),
    ]
}
