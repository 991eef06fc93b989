//! Reductions by norms, logarithms and products.

use crate::problem::{Arg, Fill, Problem, batch, ints, x};

pub fn norms_and_products() -> Vec<Problem> {
    let mut problems = Vec::new();
    for (op, fill) in [
        ("ReduceL1", Fill::OffZero),
        ("ReduceL2", Fill::OffZero),
        ("ReduceLogSum", Fill::Positive),
        ("ReduceLogSumExp", Fill::Normal),
        ("ReduceProd", Fill::OffZero),
        ("ReduceSumSquare", Fill::Normal),
    ] {
        for keepdims in [0_i64, 1] {
            for axes in [&[1_i64][..], &[0, 2], &[-1], &[0, 1, 2]] {
                for input in [x(&[2, 3, 1]), batch(&[2, 3, 4])] {
                    let input = input.fill(fill);
                    let by_input = Problem::new(op, vec![input.clone(), ints(axes)]);
                    problems.push(by_input.attr("keepdims", keepdims).opsets(&[18, 21]));
                    let by_attribute = Problem::new(op, vec![input]).ints("axes", axes);
                    problems.push(by_attribute.attr("keepdims", keepdims).opsets(&[17]));
                }
            }
            for input in [batch(&[2, 3]), x(&[3]), x(&[])] {
                problems.push(Problem::new(op, vec![input.fill(fill)]).attr("keepdims", keepdims));
            }
            let none = vec![batch(&[2, 3]).fill(fill), Arg::Absent];
            problems.push(Problem::new(op, none).attr("keepdims", keepdims).opsets(&[18, 21]));
        }
    }
    // One and two zeros among the factors; norms of the zero vector.
    for (op, fill) in [("ReduceProd", Fill::SomeZeros), ("ReduceL1", Fill::Zero), ("ReduceL2", Fill::Zero)] {
        problems.push(Problem::new(op, vec![x(&[4, 4]).fill(fill), ints(&[1])]).opsets(&[18, 21]));
        problems.push(Problem::new(op, vec![batch(&[4, 4]).fill(fill)]).ints("axes", &[-1]).opsets(&[17]));
        problems.push(Problem::new(op, vec![x(&[2]).fill(fill)]));
        problems.push(Problem::new(op, vec![x(&[]).fill(fill)]));
    }
    problems.push(Problem::new("ReduceL2", vec![batch(&[4, 4]).fill(Fill::SomeZeros)]));
    for op in ["ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin"] {
        for keepdims in [0_i64, 1] {
            problems.push(Problem::new(op, vec![x(&[])]).attr("keepdims", keepdims));
            problems.push(Problem::new(op, vec![x(&[1, 1])]).attr("keepdims", keepdims));
        }
    }
    let no_op = Problem::new("ReduceProd", vec![batch(&[2, 3])]).attr("noop_with_empty_axes", 1_i64);
    problems.push(no_op.opsets(&[18, 21]));
    problems
}
