//! Operators that read or write at given indices.

use onnx_grad::graph::Tensor;

use crate::problem::{Arg, Problem, batch, int, ints, mask, x};

fn table(dims: &[usize], values: &[i64]) -> Arg {
    Arg::Const(Tensor::from_i64(dims, values))
}

pub fn indices() -> Vec<Problem> {
    let mut problems = gathers();
    problems.extend(scatters());
    problems
}

fn gathers() -> Vec<Problem> {
    let mut problems = Vec::new();
    // Each element once: a run, a permutation, some of them; then with repetitions.
    let indices = [
        int(0),
        int(-1),
        ints(&[1, 2]),
        ints(&[0, 1, 2, 3]),
        ints(&[3, 1, 0, 2]),
        ints(&[-1, 1]),
        ints(&[2]),
        table(&[2, 2], &[3, 1, 0, 2]),
        table(&[1, 2], &[1, -4]),
        ints(&[2, 0, 2]),
        ints(&[-1, 3]),
        table(&[2, 2], &[0, 3, 3, 1]),
    ];
    for index in indices {
        problems.push(Problem::new("Gather", vec![x(&[4]), index.clone()]));
        problems.push(Problem::new("Gather", vec![x(&[4, 2]), index.clone()]));
        problems.push(Problem::new("Gather", vec![batch(&[2, 4, 3]), index.clone()]).attr("axis", 1_i64));
        problems.push(Problem::new("Gather", vec![batch(&[2, 3, 4]), index]).attr("axis", -1_i64));
    }
    // An axis of unknown size.
    problems.push(Problem::new("Gather", vec![batch(&[3, 2]), int(0)]));
    problems.push(Problem::new("Gather", vec![batch(&[3, 2]), ints(&[-1, 0, 2])]));
    problems.push(Problem::new("Gather", vec![batch(&[3, 2]), table(&[2, 1], &[1, 1])]));
    problems.push(Problem::new("Gather", vec![x(&[4, 2]), Arg::ShapeOf(vec![3, 2])]));

    let elements = |axis: i64, data: Arg, index: Arg| {
        Problem::new("GatherElements", vec![data, index]).attr("axis", axis)
    };
    problems.push(elements(0, x(&[4]), ints(&[2, 2, -4])));
    problems.push(elements(0, x(&[3, 2]), table(&[2, 2], &[0, 2, 0, 1])));
    problems.push(elements(1, batch(&[2, 3]), table(&[2, 2], &[2, -3, 1, 1])));
    problems.push(elements(-1, x(&[2, 1, 3]), table(&[2, 1, 1], &[1, 0])));

    let tuples = |n_batch: i64, data: Arg, index: Arg| {
        Problem::new("GatherND", vec![data, index]).attr("batch_dims", n_batch)
    };
    problems.push(tuples(0, x(&[3]), table(&[4, 1], &[0, 2, 2, -3])));
    problems.push(tuples(0, x(&[2, 3]), ints(&[1])));
    problems.push(tuples(0, x(&[2, 3]), table(&[2, 2], &[0, 2, -1, -1])));
    problems.push(tuples(0, x(&[2, 3, 2]), table(&[1, 3, 2], &[0, 2, 1, 1, 0, 2])));
    problems.push(tuples(0, batch(&[2, 3, 2]), table(&[3, 2], &[0, -1, 1, 0, 0, 2])));
    problems.push(tuples(0, batch(&[2, 3, 2]), table(&[2, 1], &[-1, -1])));
    problems.push(tuples(1, x(&[2, 3]), table(&[2, 1], &[2, 0])));
    problems.push(tuples(1, batch(&[2, 3, 2]), table(&[2, 1], &[-1, 0])));
    problems.push(tuples(1, x(&[2, 3, 2]), table(&[2, 2, 1], &[1, 1, 0, 2])));
    problems.push(tuples(2, x(&[2, 2, 3, 2]), table(&[2, 2, 2], &[1, 1, 0, 0, 2, 1, 2, 0])));

    problems
        .push(Problem::new("Compress", vec![batch(&[2, 4]), mask(&[4], &[0, 1, 0, 1])]).attr("axis", 1_i64));
    problems.push(Problem::new("Compress", vec![x(&[2, 4]), mask(&[3], &[0, 1, 1])]).attr("axis", -1_i64));
    problems.push(Problem::new("Compress", vec![x(&[2, 2]), mask(&[4], &[1, 0, 0, 1])]));
    problems
}

fn scatters() -> Vec<Problem> {
    let mut problems = Vec::new();
    for reduction in [None, Some("none"), Some("add")] {
        let with = |problem: Problem| match reduction {
            Some(reduction) => problem.attr("reduction", reduction),
            None => problem,
        };
        let elements = |axis: i64, args: [Arg; 3]| {
            with(Problem::new("ScatterElements", args.to_vec()).attr("axis", axis))
        };
        problems.push(elements(0, [x(&[4]), ints(&[2, -4]), x(&[2])]));
        problems.push(elements(1, [batch(&[2, 3]), table(&[2, 2], &[2, -3, 1, 0]), batch(&[2, 2])]));
        problems.push(elements(-1, [x(&[2, 3]), table(&[1, 1], &[1]), x(&[1, 1])]));
        problems.push(elements(0, [Arg::Floats(vec![3], vec![1.0, 2.0, 3.0]), ints(&[1]), x(&[1])]));
        problems.push(elements(0, [x(&[3]), ints(&[1]), Arg::Floats(vec![1], vec![2.0])]));

        let tuples = |args: [Arg; 3]| with(Problem::new("ScatterND", args.to_vec()));
        problems.push(tuples([x(&[4]), table(&[2, 1], &[2, -4]), x(&[2])]));
        problems.push(tuples([x(&[3, 2]), table(&[1, 1], &[1]), x(&[1, 2])]));
        problems.push(tuples([batch(&[2, 3]), table(&[2, 2], &[0, 2, 1, -3]), x(&[2])]));
        problems.push(tuples([batch(&[2, 3, 2]), table(&[1, 1, 1], &[1]), x(&[1, 1, 3, 2])]));
        problems.push(tuples([Arg::Floats(vec![2], vec![1.0, 2.0]), table(&[1, 1], &[1]), x(&[1])]));
    }
    let repeated = vec![x(&[3]), ints(&[1, 1, 0]), x(&[3])];
    problems.push(Problem::new("ScatterElements", repeated).attr("reduction", "add"));
    let repeated = vec![x(&[3, 2]), table(&[3, 1], &[1, 1, 0]), x(&[3, 2])];
    problems.push(Problem::new("ScatterND", repeated).attr("reduction", "add"));
    problems
}
