//! Operators that pad, slice, repeat, interleave or select, and Einsum.

use onnx_grad::graph::Tensor;

use crate::problem::{Arg, Fill, Problem, batch, int, ints, x};

pub fn pads() -> Vec<Problem> {
    let padded = |mode: &'static str, args: Vec<Arg>| Problem::new("Pad", args).attr("mode", mode);
    let mut problems = vec![
        padded("constant", vec![batch(&[2, 3]), ints(&[0, 1, 0, 2]), x(&[])]),
        padded("constant", vec![x(&[2, 3]), ints(&[1, -1, 0, 2]), x(&[])]),
        padded("constant", vec![batch(&[2, 3]), ints(&[1, 0, 0, -1])]),
        padded("constant", vec![x(&[1]), ints(&[0, 0])]),
        padded("constant", vec![x(&[4]), ints(&[-1, -2])]),
        padded("constant", vec![batch(&[2, 3]), ints(&[2, 1]), x(&[]), ints(&[-1])]).opsets(&[18, 21]),
    ];
    for mode in ["reflect", "edge", "wrap"] {
        let opsets: &[u32] = if mode == "wrap" { &[19, 21] } else { &[17, 21] };
        problems.push(padded(mode, vec![x(&[4]), ints(&[2, 3])]).opsets(opsets));
        problems.push(padded(mode, vec![batch(&[2, 3]), ints(&[0, 2, 0, 1])]).opsets(opsets));
        problems
            .push(padded(mode, vec![batch(&[2, 2, 3, 4]), ints(&[0, 0, 1, 2, 0, 0, 2, 0])]).opsets(opsets));
        problems
            .push(padded(mode, vec![batch(&[2, 3, 2, 2]), ints(&[0, 1, 0, 0, 0, 1, 0, 0])]).opsets(opsets));
        let some = vec![batch(&[2, 3, 4]), ints(&[1, 2]), Arg::Absent, ints(&[-1])];
        problems.push(padded(mode, some).opsets(&[19, 21]));
    }
    for mode in ["reflect", "edge"] {
        problems.push(padded(mode, vec![x(&[2, 4]), ints(&[0, -1, 0, 2])]));
        problems.push(padded(mode, vec![x(&[2, 4]), ints(&[0, 2, 0, -1])]));
    }
    problems
}

pub fn slices() -> Vec<Problem> {
    let (most, least) = (i64::MAX, i64::MIN);
    // Along an axis whose size is known, and one whose size is not.
    let mut problems = Vec::new();
    for (start, end, step) in [
        (0, 3, 1),
        (1, most, 1),
        (2, -1, 1),
        (-3, most, 1),
        (-3, -1, 1),
        (-99, 2, 1),
        (9, most, 1),
        (0, most, 2),
        (1, 4, 2),
        (-1, least, -1),
        (3, 0, -2),
        (most, least, -2),
    ] {
        let bounds = [ints(&[start]), ints(&[end]), ints(&[0]), ints(&[step])];
        for input in [x(&[5]), batch(&[5]), batch(&[5, 2])] {
            problems.push(Problem::new("Slice", [&[input], &bounds[..]].concat()));
        }
    }
    let both = [ints(&[1, -2]), ints(&[most, most]), ints(&[0, -1]), ints(&[1, 1])];
    problems.push(Problem::new("Slice", [&[batch(&[3, 2, 4])], &both[..]].concat()));
    let both = [ints(&[-1, 0]), ints(&[-9, 3]), ints(&[0, -1]), ints(&[-1, 2])];
    problems.push(Problem::new("Slice", [&[batch(&[3, 2, 4])], &both[..]].concat()));
    problems.push(Problem::new("Slice", vec![x(&[3, 1]), ints(&[0, 0]), ints(&[2, 1])]));
    // Bounds that are computed: 2 and 3 of 5, and of an unknown number.
    let computed = vec![x(&[2, 5]), ints(&[2]), Arg::ShapeOf(vec![4]), ints(&[1])];
    problems.push(Problem::new("Slice", computed));
    let computed = vec![batch(&[5]), ints(&[1]), Arg::ShapeOf(vec![4]), ints(&[0]), ints(&[2])];
    problems.push(Problem::new("Slice", computed));
    problems
}

pub fn rearrangements() -> Vec<Problem> {
    let mut problems = vec![
        Problem::new("Tile", vec![x(&[3]), ints(&[2])]),
        Problem::new("Tile", vec![x(&[1, 3]), ints(&[4, 1])]),
        Problem::new("Tile", vec![x(&[2, 3]), ints(&[3, 2])]),
        Problem::new("Tile", vec![batch(&[2, 3]), ints(&[1, 2])]),
        Problem::new("Tile", vec![batch(&[2, 3]), ints(&[2, 1])]),
        Problem::new("Tile", vec![batch(&[2, 3, 1]), ints(&[2, 2, 3])]),
        Problem::new("Tile", vec![batch(&[2, 3]), ints(&[1, 1])]),
        Problem::new("Tile", vec![x(&[1, 3]), Arg::ShapeOf(vec![4, 1])]),
        Problem::new("Tile", vec![x(&[2, 3]), Arg::ShapeOf(vec![4, 2])]),
        Problem::new("Tile", vec![batch(&[2, 3]), Arg::ShapeOf(vec![4, 2])]),
        Problem::new("Expand", vec![x(&[1, 3]), Arg::ShapeOf(vec![4, 3])]),
        Problem::new("Expand", vec![x(&[]), Arg::ShapeOf(vec![4, 3])]),
        Problem::new("Expand", vec![x(&[3]), Arg::ShapeOf(vec![4, 3])]),
        Problem::new("Expand", vec![x(&[1]), ints(&[1])]),
        Problem::new("Reshape", vec![x(&[2, 3]), ints(&[3, 2])]).attr("allowzero", 1_i64),
        Problem::new("Reshape", vec![x(&[1]), ints(&[])]),
        Problem::new("Reshape", vec![x(&[1, 1]), ints(&[])]),
        Problem::new("Squeeze", vec![x(&[1])]),
        Problem::new("Squeeze", vec![x(&[1, 1]), ints(&[-1, -2])]),
        Problem::new("Squeeze", vec![batch(&[2, 1]), ints(&[-1])]),
        Problem::new("Unsqueeze", vec![x(&[]), ints(&[-1, 0])]),
        Problem::new("Unsqueeze", vec![batch(&[2]), ints(&[-1, -3])]),
        Problem::new("Flatten", vec![x(&[])]).attr("axis", 0_i64),
        Problem::new("Flatten", vec![x(&[3])]),
        Problem::new("Flatten", vec![batch(&[2, 3, 2])]).attr("axis", 2_i64),
        Problem::new("Flatten", vec![batch(&[2, 3, 2])]).attr("axis", 3_i64),
        Problem::new("Flatten", vec![batch(&[2, 3, 2])]).attr("axis", 0_i64),
        Problem::new("Concat", vec![batch(&[2, 3]), batch(&[2, 3])]).attr("axis", 0_i64),
        Problem::new("Concat", vec![batch(&[2]), x(&[1]), x(&[3])]).attr("axis", -1_i64),
        Problem::new("Concat", vec![x(&[1])]).attr("axis", 0_i64),
        Problem::new("Split", vec![batch(&[4, 3])]).outputs(2, &[1]).opsets(&[17]),
        Problem::new("Split", vec![batch(&[5, 3])])
            .attr("num_outputs", 3_i64)
            .outputs(3, &[1])
            .opsets(&[18, 21]),
        Problem::new("Split", vec![x(&[7])]).attr("num_outputs", 3_i64).outputs(3, &[]).opsets(&[18, 21]),
        Problem::new("Split", vec![batch(&[2, 3]), ints(&[3])]).attr("axis", 1_i64),
        Problem::new("SpaceToDepth", vec![batch(&[2, 3, 4, 2])]).attr("blocksize", 2_i64),
        Problem::new("SpaceToDepth", vec![x(&[1, 1, 3, 3])]).attr("blocksize", 3_i64),
        Problem::new("ReverseSequence", vec![x(&[4, 3]), ints(&[1, 4, 3])]),
    ];
    let lengths = ints(&[1, 3, 2]);
    let by_batch = Problem::new("ReverseSequence", vec![batch(&[3, 3, 2]), lengths]);
    problems.push(by_batch.attr("batch_axis", 0_i64).attr("time_axis", 1_i64));
    for mode in ["DCR", "CRD"] {
        for input in [batch(&[2, 8, 2, 3]), x(&[1, 4, 1, 1])] {
            problems
                .push(Problem::new("DepthToSpace", vec![input]).attr("blocksize", 2_i64).attr("mode", mode));
        }
    }
    problems
}

pub fn selections() -> Vec<Problem> {
    let grid = |dims: &[usize]| batch(dims).fill(Fill::Apart);
    let mut problems = vec![
        Problem::new("TopK", vec![grid(&[2, 5]), ints(&[2])]).outputs(2, &[1]),
        Problem::new("TopK", vec![grid(&[2, 5]), ints(&[1])]).outputs(2, &[1]),
        Problem::new("TopK", vec![grid(&[2, 4, 3]), ints(&[3])]).attr("axis", 1_i64).outputs(2, &[1]),
        Problem::new("TopK", vec![grid(&[2, 5]), ints(&[5])]).attr("largest", 0_i64).outputs(2, &[1]),
        Problem::new("TopK", vec![grid(&[3]), ints(&[2])])
            .attr("axis", -1_i64)
            .attr("sorted", 0_i64)
            .outputs(2, &[1]),
        Problem::new("Trilu", vec![x(&[3, 4])]),
        Problem::new("Trilu", vec![x(&[3, 3])]).attr("upper", 0_i64),
        Problem::new("Trilu", vec![batch(&[2, 3, 4]), int(1)]).attr("upper", 1_i64),
        Problem::new("Trilu", vec![batch(&[2, 4, 3]), int(-1)]).attr("upper", 0_i64),
        Problem::new("Trilu", vec![batch(&[2, 1]), int(0)]),
    ];
    for exclusive in [0_i64, 1] {
        for reverse in [0_i64, 1] {
            for (input, axis) in [(x(&[4]), 0), (batch(&[2, 3, 2]), 1), (batch(&[2, 3]), -1), (x(&[1, 3]), 0)]
            {
                let sum = Problem::new("CumSum", vec![input, int(axis)]);
                problems.push(sum.attr("exclusive", exclusive).attr("reverse", reverse));
            }
        }
    }
    let axis = Arg::Const(Tensor::from_i64(&[1], &[1]));
    problems.push(Problem::new("CumSum", vec![batch(&[2, 3]), axis]));
    problems
}

pub fn einsums() -> Vec<Problem> {
    let product =
        |equation: &'static str, args: Vec<Arg>| Problem::new("Einsum", args).attr("equation", equation);
    vec![
        product("ij->ji", vec![batch(&[2, 3])]),
        product("ij->i", vec![batch(&[2, 3])]),
        product("ij->j", vec![batch(&[2, 3])]),
        product("ijk->", vec![batch(&[2, 3, 2])]),
        product("ba", vec![x(&[2, 3])]),
        product("i,i->", vec![x(&[3]), x(&[3])]),
        product("i,j->ij", vec![x(&[3]), x(&[2])]),
        product("ij,jk->ik", vec![batch(&[2, 3]), x(&[3, 4])]),
        product(" i j , j k ", vec![batch(&[2, 3]), x(&[3, 4])]),
        product("ij,ij->ij", vec![batch(&[2, 3]), batch(&[2, 3])]),
        product("bhid,bhjd->bhij", vec![batch(&[2, 2, 3, 2]), batch(&[2, 2, 4, 2])]),
        product("bij,bkj->bk", vec![batch(&[2, 3, 2]), batch(&[2, 4, 2])]),
        product("bchw,oc->bohw", vec![batch(&[2, 3, 2, 2]), x(&[4, 3])]),
        product("nctkv,kvw->nctw", vec![batch(&[2, 3, 2, 2, 3]), x(&[2, 3, 3])]),
        product("ab,bc,cd->ad", vec![batch(&[2, 3]), x(&[3, 2]), x(&[2, 4])]),
        product("ab,b,a->a", vec![batch(&[2, 3]), x(&[3]), batch(&[2])]),
        product("...ij,...jk->...ik", vec![batch(&[2, 2, 3]), batch(&[2, 3, 2])]),
        product("...ij,jk->...ik", vec![batch(&[2, 4, 2, 3]), x(&[3, 2])]),
        product("...ij,...jk", vec![batch(&[2, 4, 2, 3]), x(&[1, 4, 3, 2])]),
        product("...d,fd->...f", vec![batch(&[2, 4, 3]), x(&[2, 3])]),
        product("i...j,kj->k...i", vec![batch(&[2, 2, 3]), x(&[4, 3])]),
        product("i...,i...->...", vec![x(&[2, 3]), x(&[2, 3])]),
        product("...i->...", vec![batch(&[2, 3])]),
        product("aB->Ba", vec![x(&[2, 3])]),
        product("ij,kj->ik", vec![x(&[1, 3]), x(&[1, 3])]),
        // Axes of size 1 that meet longer ones.
        product("ij,kj->ik", vec![x(&[2, 3]), x(&[4, 1])]),
        product("bi,bi->bi", vec![x(&[2, 3]), x(&[1, 3])]),
    ]
}
