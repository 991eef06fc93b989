//! Operators that work element by element, products, reductions and movements.

use onnx_grad::graph::{DataType, Tensor};

use crate::problem::{Arg, Fill, Problem, batch, float, int, ints, mask, x};

/// Pairs of shapes that broadcast: same, scalar, suffix, inner 1, both ways, batch of 1, symbolic batch.
fn pairs() -> Vec<[Arg; 2]> {
    let fixed: [(&[usize], &[usize]); 9] = [
        (&[2, 3], &[2, 3]),
        (&[2, 3], &[]),
        (&[], &[2, 3]),
        (&[2, 3, 4], &[4]),
        (&[3, 1], &[2, 3, 4]),
        (&[2, 1, 4], &[3, 1]),
        (&[1, 3], &[2, 1]),
        (&[1, 1], &[1]),
        (&[], &[]),
    ];
    let mut pairs: Vec<[Arg; 2]> = fixed.iter().map(|(a, b)| [x(a), x(b)]).collect();
    pairs.push([batch(&[3, 4]), x(&[4])]);
    pairs.push([x(&[1, 4]), batch(&[3, 4])]);
    pairs.push([batch(&[3, 2, 2]), x(&[2, 1])]);
    pairs.push([batch(&[1, 4]), batch(&[1, 4])]);
    pairs
}

fn filled(pairs: Vec<[Arg; 2]>, fills: [Fill; 2]) -> Vec<Vec<Arg>> {
    pairs.into_iter().map(|[a, b]| vec![a.fill(fills[0]), b.fill(fills[1])]).collect()
}

pub fn elementwise() -> Vec<Problem> {
    let mut problems = Vec::new();
    for op in ["Add", "Sub", "Mul"] {
        problems.extend(filled(pairs(), [Fill::Normal; 2]).into_iter().map(|args| Problem::new(op, args)));
    }
    let divisors = filled(pairs(), [Fill::Normal, Fill::OffZero]);
    problems.extend(divisors.into_iter().map(|args| Problem::new("Div", args)));
    // Both inputs come from one shuffled grid, so that no element of one is near one of the other.
    for op in ["Max", "Min"] {
        problems.extend(filled(pairs(), [Fill::Apart; 2]).into_iter().map(|args| Problem::new(op, args)));
        problems.push(Problem::new(op, vec![x(&[4]).fill(Fill::Apart)]));
        let three = [&[2, 3][..], &[3], &[2, 1]].map(|dims| x(dims).fill(Fill::Apart));
        problems.push(Problem::new(op, three.to_vec()));
    }
    problems.push(Problem::new("Sum", vec![x(&[2, 3])]));
    problems.push(Problem::new("Sum", vec![batch(&[2, 3]), x(&[3]), x(&[])]));

    for (op, fill) in [
        ("Neg", Fill::Normal),
        ("Sqrt", Fill::Positive),
        ("Exp", Fill::Normal),
        ("Log", Fill::Positive),
        ("Relu", Fill::OffZero),
        ("Sigmoid", Fill::Normal),
        ("Tanh", Fill::Normal),
        ("Identity", Fill::Normal),
        ("Dropout", Fill::Normal),
    ] {
        for arg in [x(&[]), x(&[2, 3]), batch(&[1, 2, 3])] {
            problems.push(Problem::new(op, vec![arg.clone().fill(fill)]));
        }
    }
    problems.push(Problem::new("Relu", vec![batch(&[2, 3, 4, 4]).fill(Fill::OffZero)]).f32());
    problems
        .push(Problem::new("Dropout", vec![batch(&[2, 3]), float(0.5), mask(&[], &[1])]).outputs(2, &[1]));
    for to in [1_i64, 11] {
        problems.push(Problem::new("Cast", vec![batch(&[2, 3])]).attr("to", to).f32());
    }

    let like = Arg::Const(Tensor::zeros(DataType::F64, &[1]));
    problems.push(Problem::new("CastLike", vec![batch(&[2, 3]), like]).f32());

    for exponent in [2.0, 3.0, 0.5, -1.0] {
        problems.push(Problem::new("Pow", vec![batch(&[2, 3]).fill(Fill::Positive), float(exponent)]));
    }
    problems.push(Problem::new("Pow", vec![x(&[2, 3]).fill(Fill::OffZero), int(3)]));
    problems.push(Problem::new("Pow", vec![x(&[2, 3]).fill(Fill::OffZero), ints(&[2])]));
    problems.push(Problem::new("Pow", vec![x(&[2, 3]), Arg::Floats(vec![3], vec![1.0, 2.0, 3.0])]));
    problems.push(Problem::new("Pow", vec![x(&[2, 3]).fill(Fill::Positive), x(&[3])]));

    let grid = batch(&[4, 5]).fill(Fill::Apart);
    problems.push(Problem::new("Clip", vec![grid.clone(), float(-1.9), float(2.1)]));
    problems.push(Problem::new("Clip", vec![grid.clone(), Arg::Absent, float(0.1)]));
    problems.push(Problem::new("Clip", vec![grid]));

    problems.push(Problem::new("Where", vec![mask(&[2, 3], &[1, 0, 1, 0, 0, 1]), x(&[2, 3]), x(&[3])]));
    problems.push(Problem::new("Where", vec![mask(&[3], &[1, 0, 1]), x(&[]), batch(&[2, 3])]));
    problems.push(Problem::new("Where", vec![mask(&[2, 1], &[0, 1]), float(0.5), x(&[2, 3])]));
    problems
}

pub fn products() -> Vec<Problem> {
    let mut problems = Vec::new();
    let shapes: [(&[usize], &[usize]); 11] = [
        (&[2, 3], &[3, 4]),
        (&[1, 3], &[3, 1]),
        (&[3], &[3]),
        (&[3], &[3, 4]),
        (&[2, 3], &[3]),
        (&[5, 2, 3], &[3, 4]),
        (&[5, 2, 3], &[5, 3, 4]),
        (&[2, 3], &[5, 3, 4]),
        (&[2, 1, 2, 3], &[5, 3, 4]),
        (&[3], &[5, 3, 4]),
        (&[5, 2, 3], &[3]),
    ];
    for (a, b) in shapes {
        problems.push(Problem::new("MatMul", vec![x(a), x(b)]));
    }
    problems.push(Problem::new("MatMul", vec![batch(&[4, 3]), x(&[3, 2])]));
    problems.push(Problem::new("MatMul", vec![batch(&[4, 2, 3]), x(&[3, 2])]));
    problems.push(Problem::new("MatMul", vec![batch(&[4, 2, 3]), batch(&[4, 3, 2])]));
    problems.push(Problem::new("MatMul", vec![batch(&[4, 2, 3]), x(&[1, 3, 2])]));
    problems.push(Problem::new("MatMul", vec![batch(&[4, 3]), x(&[3])]));

    for (trans_a, trans_b) in [(0_i64, 0_i64), (0, 1), (1, 0), (1, 1)] {
        let a: &[usize] = if trans_a == 0 { &[2, 3] } else { &[3, 2] };
        let b: &[usize] = if trans_b == 0 { &[3, 4] } else { &[4, 3] };
        let gemm = |args| Problem::new("Gemm", args).attr("transA", trans_a).attr("transB", trans_b);
        problems.push(gemm(vec![x(a), x(b)]));
        for c in [&[2, 4][..], &[4], &[2, 1], &[1, 1], &[]] {
            problems.push(gemm(vec![x(a), x(b), x(c)]).attr("alpha", 0.5_f32).attr("beta", -2.0_f32));
        }
    }
    problems.push(Problem::new("Gemm", vec![batch(&[5, 3]), x(&[4, 3]), x(&[4])]).attr("transB", 1_i64));
    problems.push(Problem::new("Gemm", vec![batch(&[1, 3]), x(&[3, 4]), x(&[1, 4])]));
    problems
}

pub fn reductions() -> Vec<Problem> {
    let mut problems = Vec::new();
    let axes: [&[i64]; 5] = [&[1], &[0, 2], &[-1], &[0, 1, 2], &[]];
    for op in ["ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin"] {
        let fill = if op.ends_with('m') || op.ends_with("an") { Fill::Normal } else { Fill::Apart };
        let all = batch(&[2, 3, 4]).fill(fill);
        for keepdims in [0_i64, 1] {
            for axes in axes {
                let input = x(&[2, 3, 4]).fill(fill);
                for input in [input, all.clone()] {
                    let by_input =
                        Problem::new(op, vec![input.clone(), ints(axes)]).attr("keepdims", keepdims);
                    let by_attribute =
                        Problem::new(op, vec![input]).attr("keepdims", keepdims).ints("axes", axes);
                    problems.push(if op == "ReduceSum" { by_input } else { by_input.opsets(&[18, 21]) });
                    if op != "ReduceSum" && !axes.is_empty() {
                        problems.push(by_attribute.opsets(&[17]));
                    }
                }
            }
            problems.push(Problem::new(op, vec![all.clone()]).attr("keepdims", keepdims));
        }
        let no_op = Problem::new(op, vec![all]).attr("noop_with_empty_axes", 1_i64);
        problems.push(no_op.opsets(if op == "ReduceSum" { &[17, 21] } else { &[18, 21] }));
    }
    for op in ["Softmax", "LogSoftmax"] {
        problems.push(Problem::new(op, vec![x(&[3])]));
        problems.push(Problem::new(op, vec![batch(&[2, 5])]).attr("axis", 1_i64));
        problems.push(Problem::new(op, vec![x(&[2, 1])]));
        problems.push(Problem::new(op, vec![batch(&[2, 3, 4])]).attr("axis", 1_i64));
        problems.push(Problem::new(op, vec![batch(&[2, 3, 4])]).attr("axis", -2_i64));
        problems.push(Problem::new(op, vec![x(&[2, 3])]).attr("axis", 0_i64));
    }
    problems
}

pub fn movements() -> Vec<Problem> {
    let most = i64::MAX;
    let mut problems = vec![
        Problem::new("Reshape", vec![x(&[2, 6]), ints(&[3, 4])]),
        Problem::new("Reshape", vec![batch(&[2, 3, 2]), ints(&[-1, 6])]),
        Problem::new("Reshape", vec![batch(&[2, 3, 2]), ints(&[0, -1])]),
        Problem::new("Reshape", vec![batch(&[2, 3, 2]), ints(&[-1])]),
        Problem::new("Reshape", vec![x(&[]), ints(&[1, 1])]),
        Problem::new("Flatten", vec![batch(&[2, 3, 2])]),
        Problem::new("Flatten", vec![x(&[2, 3, 2])]).attr("axis", -1_i64),
        Problem::new("Flatten", vec![x(&[2, 3])]).attr("axis", 0_i64),
        Problem::new("OneHot", vec![ints(&[1, -3, 5]), int(4), x(&[2])]).f32(),
        Problem::new("OneHot", vec![ints(&[1, 0]), int(3), x(&[2])]).attr("axis", 0_i64).f32(),
        Problem::new("Range", vec![x(&[]), float(9.3), x(&[]).fill(Fill::Positive)]),
        Problem::new("Squeeze", vec![batch(&[2, 1, 3, 1]), ints(&[1, -1])]),
        Problem::new("Squeeze", vec![x(&[1, 3, 1])]),
        Problem::new("Unsqueeze", vec![batch(&[2, 3]), ints(&[0, -1])]),
        Problem::new("Unsqueeze", vec![x(&[]), ints(&[0])]),
        Problem::new("Transpose", vec![x(&[2, 3, 4])]),
        Problem::new("Transpose", vec![batch(&[2, 3, 4])]).ints("perm", &[1, 2, 0]),
        Problem::new("Concat", vec![batch(&[2, 3]), batch(&[2, 1]), batch(&[2, 2])]).attr("axis", 1_i64),
        Problem::new("Concat", vec![x(&[1, 3]), x(&[2, 3])]).attr("axis", -2_i64),
        Problem::new("Concat", vec![x(&[2, 3]), Arg::Floats(vec![2, 1], vec![1.0, 2.0])]).attr("axis", 1_i64),
        Problem::new("Concat", vec![batch(&[2, 3]), x(&[1, 3])]).attr("axis", 0_i64),
        Problem::new("Split", vec![batch(&[2, 6]), ints(&[1, 2, 3])]).attr("axis", 1_i64).outputs(3, &[]),
        Problem::new("Split", vec![batch(&[2, 6]), ints(&[1, 2, 3])]).attr("axis", -1_i64).outputs(3, &[1]),
        Problem::new("Split", vec![x(&[4, 3])]).outputs(2, &[]).opsets(&[17]),
        Problem::new("Split", vec![x(&[5, 3])]).attr("num_outputs", 2_i64).outputs(2, &[0]).opsets(&[18, 21]),
        Problem::new("Slice", vec![x(&[6]), ints(&[1]), ints(&[4])]),
        Problem::new("Slice", vec![batch(&[2, 6]), ints(&[-3]), ints(&[most]), ints(&[1])]),
        Problem::new(
            "Slice",
            vec![batch(&[2, 6, 5]), ints(&[1, 0]), ints(&[6, 9]), ints(&[-2, 2]), ints(&[2, 3])],
        ),
        Problem::new("Slice", vec![batch(&[2, 6]), ints(&[-1]), ints(&[i64::MIN]), ints(&[1]), ints(&[-1])]),
        Problem::new("Slice", vec![x(&[6, 2]), ints(&[4]), ints(&[0]), ints(&[0]), ints(&[-2])]),
        Problem::new("Slice", vec![batch(&[3, 2]), ints(&[1]), ints(&[most]), ints(&[0])]),
        Problem::new("Pad", vec![batch(&[2, 3]), ints(&[0, 1, 0, 2])]),
        Problem::new("Pad", vec![x(&[2, 3]), ints(&[1, -1, 0, 2]), float(3.0)]),
        Problem::new("Pad", vec![batch(&[2, 3]), ints(&[2, 1]), Arg::Absent, ints(&[-1])]).opsets(&[18, 21]),
        Problem::new("Expand", vec![x(&[3, 1]), ints(&[2, 3, 4])]),
        Problem::new("Expand", vec![x(&[]), ints(&[2, 3])]),
        Problem::new("Expand", vec![batch(&[2, 1]), ints(&[1, 3])]),
        Problem::new("Expand", vec![x(&[2, 3]), ints(&[3])]),
    ];
    for (axis, index) in [(0_i64, ints(&[2, 0, 2])), (1, ints(&[1, -1, 1])), (-1, int(0)), (1, int(-1))] {
        problems.push(Problem::new("Gather", vec![x(&[3, 4, 2]), index.clone()]).attr("axis", axis));
        if axis != 0 {
            problems.push(Problem::new("Gather", vec![batch(&[3, 4, 2]), index]).attr("axis", axis));
        }
    }
    let table = Arg::Const(Tensor::from_i64(&[2, 2], &[0, 3, 3, 1]));
    problems.push(Problem::new("Gather", vec![x(&[4, 2]), table.clone()]));
    problems.push(Problem::new("Gather", vec![batch(&[2, 4, 3]), table]).attr("axis", 1_i64));
    problems
}
