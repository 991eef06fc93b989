//! Convolution, pooling and normalisation.

use crate::problem::{Arg, Fill, Problem, batch, x};

/// On images small enough for the lowering to a matrix product, and on larger ones.
pub fn convolutions() -> Vec<Problem> {
    [convolutions_of(7, 6), convolutions_of(20, 19)].into_iter().flatten().collect()
}

fn convolutions_of(height: usize, width: usize) -> Vec<Problem> {
    let conv = |args| Problem::new("Conv", args).f32();
    let image = || batch(&[2, 4, height, width]);
    let line = || batch(&[2, 4, height * width]);
    vec![
        conv(vec![image(), x(&[3, 4, 3, 3])]),
        conv(vec![image(), x(&[3, 4, 3, 3]), x(&[3])]).ints("pads", &[1, 1, 1, 1]),
        conv(vec![x(&[1, 1, 1, 1]), x(&[1, 1, 1, 1]), x(&[1])]),
        // 1x1, with and without stride and padding.
        conv(vec![image(), x(&[3, 4, 1, 1]), x(&[3])]),
        conv(vec![image(), x(&[3, 4, 1, 1])]).ints("strides", &[2, 2]),
        conv(vec![image(), x(&[3, 4, 1, 1])]).ints("pads", &[1, 0, 0, 1]),
        // Strides that leave input behind the last window, uneven kernels and padding.
        conv(vec![image(), x(&[3, 4, 3, 3])]).ints("strides", &[2, 2]).ints("pads", &[1, 1, 1, 1]),
        conv(vec![image(), x(&[3, 4, 2, 3])]).ints("strides", &[3, 2]).ints("pads", &[0, 2, 1, 1]),
        conv(vec![image(), x(&[3, 4, 3, 1])]).ints("strides", &[1, 2]).ints("pads", &[2, 0, 0, 0]),
        // More padding than the kernel covers.
        conv(vec![image(), x(&[2, 4, 2, 2])]).ints("pads", &[3, 2, 2, 3]),
        conv(vec![image(), x(&[3, 4, 3, 3])]).ints("dilations", &[2, 1]).ints("pads", &[2, 1, 2, 1]),
        conv(vec![image(), x(&[3, 4, 3, 2])])
            .ints("dilations", &[2, 1])
            .ints("strides", &[1, 2])
            .ints("pads", &[1, 0, 3, 1]),
        conv(vec![image(), x(&[3, 4, 2, 2])]).ints("dilations", &[2, 3]).ints("strides", &[2, 1]),
        conv(vec![image(), x(&[3, 4, 3, 2])]).attr("auto_pad", "SAME_UPPER").ints("strides", &[2, 2]),
        conv(vec![image(), x(&[3, 4, 2, 4])]).attr("auto_pad", "SAME_LOWER"),
        conv(vec![image(), x(&[3, 4, 2, 2])]).attr("auto_pad", "VALID"),
        // Stride 1 with padding of four sizes, and one image at a time, of known and of unknown number.
        conv(vec![image(), x(&[3, 4, 3, 2])]).ints("pads", &[2, 0, 1, 1]),
        conv(vec![image(), x(&[3, 4, 3, 3])]).ints("pads", &[0, 1, 2, 0]),
        conv(vec![batch(&[1, 4, height, width]), x(&[3, 4, 3, 3])]).ints("pads", &[1, 1, 1, 1]),
        conv(vec![x(&[1, 4, height, width]), x(&[3, 4, 3, 3]), x(&[3])]).ints("pads", &[1, 0, 0, 2]),
        conv(vec![x(&[2, 4, height, width]), x(&[3, 4, 2, 3])]).ints("strides", &[1, 2]),
        // Groups, depthwise, depthwise with a multiplier.
        conv(vec![image(), x(&[6, 2, 3, 3]), x(&[6])]).attr("group", 2_i64).ints("pads", &[1, 1, 1, 1]),
        conv(vec![image(), x(&[6, 2, 3, 3])]).attr("group", 2_i64).ints("strides", &[2, 2]),
        conv(vec![image(), x(&[4, 2, 3, 2])])
            .attr("group", 2_i64)
            .ints("dilations", &[2, 3])
            .ints("pads", &[1, 0, 2, 3]),
        conv(vec![image(), x(&[4, 1, 3, 3])]).attr("group", 4_i64).ints("pads", &[1, 1, 1, 1]),
        conv(vec![image(), x(&[8, 1, 2, 3])]).attr("group", 4_i64).ints("strides", &[2, 1]),
        conv(vec![image(), x(&[4, 1, 1, 1])]).attr("group", 4_i64),
        conv(vec![image(), x(&[4, 2, 1, 1])]).attr("group", 2_i64),
        // One dimension.
        conv(vec![line(), x(&[3, 4, 3]), x(&[3])]).ints("pads", &[1, 1]),
        conv(vec![line(), x(&[6, 2, 2])]).attr("group", 2_i64).ints("strides", &[2]),
        conv(vec![x(&[1, 2, 9]), x(&[3, 2, 3])]).ints("dilations", &[3]).ints("pads", &[0, 2]),
        // Only the weight or only the bias is differentiated.
        conv(vec![Arg::Floats(vec![1, 1, 2, 2], vec![1.0, -2.0, 3.0, 0.5]), x(&[2, 1, 2, 2]), x(&[2])]),
    ]
}

pub fn pools() -> Vec<Problem> {
    let mut problems = Vec::new();
    for (op, fill) in [("MaxPool", Fill::Apart), ("AveragePool", Fill::Normal)] {
        let image = || batch(&[2, 2, 7, 6]).fill(fill);
        let line = || batch(&[2, 3, 9]).fill(fill);
        let pool = |input, kernel: &[i64]| Problem::new(op, vec![input]).f32().ints("kernel_shape", kernel);
        problems.extend([
            pool(image(), &[2, 2]).ints("strides", &[2, 2]),
            pool(image(), &[3, 3]).ints("strides", &[2, 2]).ints("pads", &[1, 1, 1, 1]),
            pool(image(), &[3, 2]),
            pool(image(), &[2, 3]).ints("strides", &[3, 2]).ints("pads", &[1, 0, 0, 2]),
            pool(image(), &[2, 2]).ints("strides", &[2, 2]).attr("ceil_mode", 1_i64),
            pool(image(), &[3, 3]).ints("strides", &[2, 2]).attr("ceil_mode", 1_i64),
            pool(image(), &[3, 3]).ints("strides", &[3, 3]).attr("auto_pad", "SAME_UPPER"),
            pool(image(), &[2, 2]).attr("auto_pad", "SAME_LOWER"),
            pool(image(), &[7, 6]),
            pool(image(), &[2, 1]),
            pool(image(), &[1, 3]),
            pool(x(&[1, 1, 1, 1]).fill(fill), &[1, 1]),
            pool(line(), &[2]).ints("strides", &[2]),
            pool(line(), &[3]).ints("strides", &[2]).ints("pads", &[1, 1]),
            pool(line(), &[4]).ints("strides", &[3]).attr("ceil_mode", 1_i64),
        ]);
        let dilated = pool(image(), &[2, 2]).ints("dilations", &[2, 3]).ints("strides", &[2, 1]);
        problems.push(if op == "MaxPool" { dilated } else { dilated.opsets(&[19, 21]) });
    }
    let image = |fill| batch(&[2, 2, 7, 6]).fill(fill);
    problems.push(
        Problem::new("MaxPool", vec![image(Fill::Apart)])
            .f32()
            .ints("kernel_shape", &[2, 2])
            .outputs(2, &[1]),
    );
    let padded = |kernel: &[i64], pads: &[i64]| {
        Problem::new("AveragePool", vec![image(Fill::Normal)])
            .f32()
            .ints("kernel_shape", kernel)
            .ints("pads", pads)
            .attr("count_include_pad", 1_i64)
    };
    problems.extend([
        padded(&[3, 3], &[1, 1, 1, 1]),
        padded(&[3, 3], &[1, 1, 1, 1]).ints("strides", &[2, 2]),
        padded(&[3, 2], &[0, 1, 1, 0]).ints("strides", &[2, 3]),
        padded(&[3, 3], &[1, 1, 1, 1]).ints("strides", &[3, 3]).attr("ceil_mode", 1_i64),
        padded(&[2, 2], &[1, 1, 0, 0]).ints("strides", &[2, 2]).attr("ceil_mode", 1_i64),
    ]);
    for (op, fill) in [("GlobalMaxPool", Fill::Apart), ("GlobalAveragePool", Fill::Normal)] {
        for input in [image(fill), batch(&[2, 3, 9]).fill(fill), x(&[1, 2, 1, 1]).fill(fill)] {
            problems.push(Problem::new(op, vec![input]).f32());
        }
    }
    problems
}

pub fn normalisations() -> Vec<Problem> {
    let mut problems = Vec::new();
    for input in [batch(&[4, 3, 2, 2]), x(&[2, 3, 5]), batch(&[5, 3]), x(&[1, 3, 2, 2])] {
        let statistics = |values: [f64; 3]| Arg::Floats(vec![3], values.to_vec());
        let args = vec![input, x(&[3]), x(&[3]), statistics([0.1, -0.2, 0.3]), statistics([0.5, 1.0, 2.0])];
        let norm = || Problem::new("BatchNormalization", args.clone()).attr("epsilon", 1e-3_f32);
        problems.push(norm());
        problems.push(norm().frozen());
    }
    problems
}
