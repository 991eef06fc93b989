//! Depthwise, three-dimensional and transposed convolution, and pooling beyond two dimensions.

use crate::problem::{Arg, Fill, Problem, batch, x};

pub fn depthwise() -> Vec<Problem> {
    let conv = |input, weight: &[usize], groups: i64| {
        Problem::new("Conv", vec![input, x(weight)]).f32().attr("group", groups)
    };
    let image = || batch(&[2, 3, 7, 6]);
    let line = |n| batch(&[2, 3, n]);
    vec![
        conv(image(), &[3, 1, 3, 3], 3).ints("pads", &[1, 1, 1, 1]),
        conv(image(), &[3, 1, 3, 3], 3).ints("pads", &[1, 1, 1, 1]).ints("strides", &[2, 2]),
        conv(image(), &[3, 1, 2, 3], 3).ints("pads", &[0, 2, 1, 1]).ints("strides", &[3, 2]),
        conv(image(), &[3, 1, 3, 2], 3).ints("dilations", &[2, 3]).ints("pads", &[2, 0, 1, 0]),
        conv(image(), &[6, 1, 3, 3], 3).ints("strides", &[2, 1]),
        conv(image(), &[6, 1, 3, 2], 3).ints("dilations", &[2, 2]).ints("pads", &[1, 0, 3, 2]),
        conv(batch(&[1, 3, 4, 4]), &[6, 1, 3, 3], 3).ints("pads", &[1, 1, 1, 1]),
        conv(image(), &[3, 1, 5, 4], 3).attr("auto_pad", "SAME_UPPER").ints("strides", &[2, 2]),
        conv(image(), &[6, 1, 3, 4], 3).attr("auto_pad", "SAME_LOWER"),
        // The last axis has one weight; both have.
        conv(image(), &[3, 1, 3, 1], 3),
        conv(image(), &[6, 1, 1, 1], 3).ints("strides", &[2, 2]),
        conv(image(), &[3, 1, 1, 1], 3),
        // Strides that leave input behind the last window, and more padding than the kernel covers.
        conv(image(), &[3, 1, 2, 2], 3).ints("strides", &[4, 4]),
        conv(image(), &[3, 1, 2, 2], 3).ints("pads", &[3, 2, 2, 3]),
        conv(line(9), &[3, 1, 3], 3).ints("pads", &[1, 1]),
        conv(line(9), &[6, 1, 2], 3).ints("strides", &[2]),
        // Too long for products of rows.
        conv(line(150), &[3, 1, 3], 3).ints("pads", &[1, 1]),
        conv(line(301), &[6, 1, 3], 3).ints("strides", &[2]).ints("dilations", &[2]),
        conv(batch(&[2, 2, 4, 3, 5]), &[2, 1, 3, 2, 3], 2).ints("pads", &[1, 0, 1, 1, 1, 1]),
        conv(batch(&[2, 2, 4, 3, 5]), &[4, 1, 2, 2, 2], 2).ints("strides", &[2, 1, 2]),
    ]
}

pub fn volumes() -> Vec<Problem> {
    let conv = |args| Problem::new("Conv", args).f32();
    let small = || batch(&[2, 2, 4, 3, 5]);
    let large = || batch(&[2, 2, 5, 6, 7]);
    let grouped = vec![batch(&[2, 4, 4, 3, 5]), x(&[4, 2, 2, 2, 2])];
    vec![
        conv(vec![small(), x(&[3, 2, 2, 3, 3]), x(&[3])]).ints("pads", &[1, 1, 1, 1, 1, 1]),
        conv(vec![large(), x(&[3, 2, 3, 3, 3])]).ints("pads", &[1, 1, 1, 1, 1, 1]),
        conv(vec![large(), x(&[3, 2, 2, 1, 3])]).ints("strides", &[2, 1, 3]),
        conv(vec![small(), x(&[3, 2, 2, 2, 2])]).ints("dilations", &[2, 1, 3]),
        conv(grouped).attr("group", 2_i64).ints("strides", &[1, 2, 2]),
        conv(vec![x(&[1, 1, 1, 1, 1]), x(&[1, 1, 1, 1, 1])]),
    ]
}

pub fn transposed() -> Vec<Problem> {
    let conv = |args| Problem::new("ConvTranspose", args).f32();
    let image = || batch(&[2, 4, 4, 3]);
    let line = || batch(&[2, 4, 5]);
    vec![
        conv(vec![image(), x(&[4, 3, 3, 3]), x(&[3])]),
        conv(vec![image(), x(&[4, 3, 2, 2])]).ints("strides", &[2, 2]),
        conv(vec![image(), x(&[4, 3, 3, 3]), x(&[3])])
            .ints("strides", &[2, 2])
            .ints("pads", &[1, 1, 1, 1])
            .ints("output_padding", &[1, 1]),
        conv(vec![image(), x(&[4, 3, 3, 4])])
            .ints("strides", &[3, 2])
            .ints("pads", &[0, 2, 1, 1])
            .ints("output_padding", &[2, 0]),
        conv(vec![image(), x(&[4, 3, 2, 3])]).ints("dilations", &[3, 2]).ints("pads", &[1, 0, 0, 2]),
        conv(vec![image(), x(&[4, 3, 3, 3]), x(&[6])]).attr("group", 2_i64).ints("strides", &[2, 1]),
        // Depthwise, with and without a multiplier.
        conv(vec![image(), x(&[4, 1, 3, 3])]).attr("group", 4_i64).ints("pads", &[1, 1, 1, 1]),
        conv(vec![image(), x(&[4, 2, 2, 3])]).attr("group", 4_i64).ints("strides", &[2, 2]),
        conv(vec![image(), x(&[4, 3, 1, 1])]),
        conv(vec![image(), x(&[4, 3, 1, 1])]).ints("strides", &[2, 3]),
        conv(vec![line(), x(&[4, 3, 3]), x(&[3])]).ints("strides", &[2]).ints("pads", &[1, 0]),
        conv(vec![line(), x(&[4, 2, 4])]).attr("group", 2_i64).ints("dilations", &[2]),
        conv(vec![x(&[1, 1, 1]), x(&[1, 1, 1]), x(&[1])]),
        conv(vec![batch(&[2, 2, 3, 2, 3]), x(&[2, 3, 2, 2, 3])]).ints("strides", &[2, 1, 2]),
        // Padding that follows from the output's size: uneven, so that it matters which end gets the rest.
        conv(vec![image(), x(&[4, 3, 4, 4])]).attr("auto_pad", "SAME_UPPER").ints("strides", &[1, 3]),
        conv(vec![image(), x(&[4, 3, 4, 4])]).attr("auto_pad", "SAME_LOWER").ints("strides", &[1, 3]),
        conv(vec![image(), x(&[4, 3, 3, 3])]).attr("auto_pad", "VALID").ints("strides", &[2, 2]),
        conv(vec![image(), x(&[4, 3, 3, 3])]).ints("output_shape", &[8, 6]).ints("strides", &[2, 2]),
        // Only the weight is trained.
        conv(vec![Arg::Floats(vec![1, 1, 2, 2], vec![1.0, -2.0, 3.0, 0.5]), x(&[1, 2, 2, 2])]),
    ]
}

pub fn pools() -> Vec<Problem> {
    let mut problems = Vec::new();
    for (op, fill) in [("MaxPool", Fill::Apart), ("AveragePool", Fill::Normal), ("LpPool", Fill::Far)] {
        let volume = || batch(&[2, 2, 5, 4, 6]).fill(fill);
        let pool = |input, kernel: &[i64]| Problem::new(op, vec![input]).f32().ints("kernel_shape", kernel);
        let mut of_op = vec![
            pool(volume(), &[2, 2, 2]).ints("strides", &[2, 2, 2]),
            pool(volume(), &[2, 1, 1]),
            pool(volume(), &[3, 2, 3]).ints("strides", &[2, 1, 3]).ints("pads", &[1, 0, 1, 1, 1, 0]),
            pool(x(&[1, 1, 1, 1, 1]).fill(fill), &[1, 1, 1]),
        ];
        if op != "LpPool" {
            let image = || batch(&[2, 2, 7, 6]).fill(fill);
            let line = || batch(&[2, 3, 9]).fill(fill);
            let up = |problem: Problem| problem.attr("ceil_mode", 1_i64);
            of_op.extend([
                up(pool(volume(), &[2, 3, 2]).ints("strides", &[2, 2, 3])),
                up(pool(image(), &[3, 2]).ints("strides", &[3, 4]).ints("pads", &[1, 0, 1, 1])),
                up(pool(line(), &[2]).ints("strides", &[4]).ints("pads", &[0, 1])),
                up(pool(image(), &[3, 2]).ints("strides", &[2, 4])),
                up(pool(image(), &[2, 2]).ints("strides", &[2, 5])),
                up(pool(line(), &[3]).ints("strides", &[4]).ints("pads", &[1, 1])),
                pool(line(), &[4]).ints("strides", &[3]).attr("auto_pad", "SAME_UPPER"),
                pool(line(), &[4]).ints("strides", &[3]).attr("auto_pad", "VALID"),
            ]);
        }
        let dilated = pool(batch(&[2, 3, 9]).fill(fill), &[3]).ints("dilations", &[2]).ints("strides", &[3]);
        of_op.push(match op {
            "AveragePool" => dilated.opsets(&[19, 21]),
            "LpPool" => dilated.opsets(&[18, 21]),
            _ => dilated,
        });
        problems.extend(of_op);
    }
    let counted = |input, kernel: &[i64], pads: &[i64]| {
        Problem::new("AveragePool", vec![input])
            .f32()
            .ints("kernel_shape", kernel)
            .ints("pads", pads)
            .attr("count_include_pad", 1_i64)
    };
    // Windows that hang over the end padding.
    problems.extend([
        counted(batch(&[2, 3, 9]), &[4], &[1, 1]).ints("strides", &[3]).attr("ceil_mode", 1_i64),
        counted(batch(&[2, 3, 8]), &[3], &[0, 1]).ints("strides", &[3]).attr("ceil_mode", 1_i64),
        counted(batch(&[2, 2, 5, 4, 6]), &[3, 2, 2], &[1, 1, 0, 1, 0, 1]).ints("strides", &[2, 2, 3]),
        counted(batch(&[2, 3, 9]), &[3], &[1, 2]).ints("dilations", &[2]).opsets(&[19, 21]),
    ]);
    for (p, fill) in [(1_i64, Fill::OffZero), (2, Fill::Far), (3, Fill::Far)] {
        let large = |dims: &[usize]| batch(dims).fill(fill);
        problems.push(Problem::new("GlobalLpPool", vec![large(&[2, 3, 4, 5])]).f32().attr("p", p));
        problems.push(
            Problem::new("LpPool", vec![large(&[2, 2, 5, 4])])
                .f32()
                .ints("kernel_shape", &[3, 2])
                .ints("strides", &[2, 1])
                .ints("pads", &[1, 1, 0, 1])
                .attr("p", p),
        );
    }
    // Norms of nothing but zeros, between which a difference is as large to either side.
    for p in [2_i64, 3] {
        let zeros = || batch(&[2, 2, 3, 3]).fill(Fill::Zero);
        problems.push(Problem::new("GlobalLpPool", vec![zeros()]).f32().attr("p", p));
        problems.push(Problem::new("LpPool", vec![zeros()]).f32().ints("kernel_shape", &[2, 2]).attr("p", p));
    }
    problems
}
