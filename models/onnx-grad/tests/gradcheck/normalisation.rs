//! Normalisation, as single nodes and as the patterns that exporters write.

use onnx_grad::graph::{DataType, Tensor};
use onnx_grad::{Builder, GradError};

use crate::problem::{Arg, Fill, Problem, batch, x};

pub fn single() -> Vec<Problem> {
    let layers = layer_norms();
    let (instances, groups) = (instance_norms(), group_norms());
    [layers, instances, groups, batch_norms(), local_norms()].into_iter().flatten().collect()
}

fn layer_norms() -> Vec<Problem> {
    let norm = |args| Problem::new("LayerNormalization", args);
    let mut problems = vec![
        norm(vec![batch(&[3, 4, 5]), x(&[5]), x(&[5])]),
        norm(vec![batch(&[3, 4, 5]), x(&[5])]).attr("epsilon", 0.1_f32),
        norm(vec![batch(&[3, 4, 5]), x(&[4, 5]), x(&[4, 5])]).attr("axis", 1_i64),
        norm(vec![batch(&[2, 3, 2, 4]), x(&[2, 4]), x(&[2, 4])]).attr("axis", -2_i64),
        norm(vec![batch(&[2, 3, 2, 4]), x(&[3, 2, 4]), x(&[3, 2, 4])]).attr("axis", -3_i64),
        norm(vec![batch(&[1, 3, 2]), x(&[3, 2]), x(&[3, 2])]).attr("axis", 1_i64),
        norm(vec![batch(&[6, 7]), x(&[7]), x(&[7])]),
        norm(vec![x(&[2, 3]), x(&[2, 3]), x(&[2, 3])]).attr("axis", 0_i64),
        norm(vec![x(&[5]), x(&[5]), x(&[5])]),
        norm(vec![x(&[3, 1]), x(&[1]), x(&[1])]),
        // Only scale and bias are trained; only the input is.
        norm(vec![Arg::Floats(vec![2, 3], vec![1.0, -2.0, 0.5, 3.0, 0.0, 1.0]), x(&[3]), x(&[3])]),
        norm(vec![batch(&[3, 4]), Arg::Floats(vec![4], vec![1.0, 2.0, -1.0, 0.5])]),
        norm(vec![batch(&[3, 4]), Arg::Floats(vec![4], vec![1.0; 4])]),
    ];
    // In float32 the node's own statistics are saved, and the step of 0.1 must be small beside the spread.
    for opset in [17, 21] {
        let wide = |dims: &[usize]| batch(dims).fill(Fill::Apart);
        problems.push(norm(vec![wide(&[4, 32]), x(&[32]), x(&[32])]).f32().opsets(&[opset]));
        problems.push(norm(vec![wide(&[3, 4, 8]), x(&[4, 8])]).f32().attr("axis", 1_i64).opsets(&[opset]));
    }
    problems
}

/// ONNX Runtime runs InstanceNormalization in float32 only. Values far apart keep it close to linear in a step.
fn instance_norms() -> Vec<Problem> {
    let norm = |args| Problem::new("InstanceNormalization", args).curved();
    vec![
        norm(vec![batch(&[2, 3, 4, 5]).fill(Fill::Apart), x(&[3]), x(&[3])]),
        norm(vec![batch(&[2, 3, 12]).fill(Fill::Apart), x(&[3]), x(&[3])]).attr("epsilon", 0.1_f32),
        norm(vec![x(&[1, 2, 3, 4, 2]).fill(Fill::Apart), x(&[2]), x(&[2])]),
    ]
}

fn group_norms() -> Vec<Problem> {
    let norm = |opset, n_scales: usize, input, n_groups: i64| {
        Problem::new("GroupNormalization", vec![input, x(&[n_scales]), x(&[n_scales])])
            .attr("num_groups", n_groups)
            .attr("epsilon", 1e-3_f32)
            .opsets(&[opset])
    };
    // Scale and bias are per group until opset 20, per channel from 21 on.
    vec![
        norm(18, 2, batch(&[2, 6, 3, 2]), 2),
        norm(18, 4, batch(&[2, 4, 5]), 4),
        norm(20, 1, x(&[1, 4, 2, 2]), 1),
        norm(21, 6, batch(&[2, 6, 3, 2]), 2),
        norm(21, 6, batch(&[2, 6, 3, 2]), 3),
        norm(21, 4, batch(&[3, 4, 5]), 1),
        norm(21, 4, x(&[2, 4, 2, 2, 2]), 2),
        norm(21, 4, batch(&[3, 4]), 2),
    ]
}

fn batch_norms() -> Vec<Problem> {
    let statistics = |values: [f64; 2]| Arg::Floats(vec![2], values.to_vec());
    let mut problems = Vec::new();
    for input in [batch(&[3, 2, 2, 1, 3]), batch(&[3, 2, 1, 1]), batch(&[7, 2])] {
        let args = vec![input, x(&[2]), x(&[2]), statistics([0.1, -0.2]), statistics([0.5, 2.0])];
        let norm = || Problem::new("BatchNormalization", args.clone());
        problems.push(norm().attr("momentum", 0.3_f32).attr("epsilon", 0.01_f32));
        problems.push(norm().frozen());
    }
    problems
}

fn local_norms() -> Vec<Problem> {
    let lrn = |input, size: i64| {
        Problem::new("LRN", vec![input])
            .f32()
            .attr("size", size)
            .attr("alpha", 0.01_f32)
            .attr("beta", 0.5_f32)
            .attr("bias", 2.0_f32)
    };
    let lp = |input| Problem::new("LpNormalization", vec![input]);
    let moments =
        |dims: &[usize]| Problem::new("MeanVarianceNormalization", vec![batch(dims).fill(Fill::Apart)]).f32();
    vec![
        lrn(batch(&[2, 6, 3, 2]), 3),
        lrn(batch(&[2, 7, 3, 2]), 5),
        lrn(x(&[1, 2, 1, 1]), 5),
        lp(batch(&[3, 4])),
        lp(batch(&[3, 4, 2])).attr("axis", 1_i64),
        lp(batch(&[3, 4]).fill(Fill::OffZero)).attr("p", 1_i64),
        lp(x(&[3, 1]).fill(Fill::OffZero)).attr("axis", 0_i64).attr("p", 1_i64),
        moments(&[3, 2, 6, 5]),
        moments(&[3, 2, 5, 4]).ints("axes", &[0, 1, 2, 3]),
    ]
}

pub fn patterns() -> Vec<Problem> {
    let statistics = |values: [f64; 3]| Arg::Floats(vec![3], values.to_vec());
    let twice = || {
        let args = vec![
            batch(&[4, 3, 2, 2]),
            x(&[3]),
            x(&[3]),
            statistics([0.1, -0.2, 0.3]),
            statistics([0.5, 1.0, 2.0]),
        ];
        Problem::network("one BatchNormalization called twice", batch_norm_twice, args)
    };
    vec![
        Problem::network("layer norm before opset 17", layer_norm, vec![batch(&[3, 4, 5]), x(&[5]), x(&[5])]),
        Problem::network("RMS norm", rms_norm, vec![batch(&[3, 4, 5]), x(&[5])]),
        Problem::network(
            "PyTorch's group norm",
            group_norm,
            vec![batch(&[2, 4, 6, 5]).fill(Fill::Apart), x(&[4, 1, 1]), x(&[4, 1, 1])],
        )
        .f32(),
        twice(),
        twice().frozen(),
    ]
}

/// As PyTorch's exporters write LayerNorm below opset 17.
fn layer_norm(b: &mut Builder, x: &[String]) -> Result<String, GradError> {
    let mean = last_mean(b, &x[0])?;
    let centred = b.op("Sub", &[&x[0], &mean], &[])?;
    let two = b.scalar(DataType::F64, 2.0)?;
    let square = b.op("Pow", &[&centred, &two], &[])?;
    let var = last_mean(b, &square)?;
    let epsilon = b.scalar(DataType::F64, 1e-5)?;
    let shifted = b.op("Add", &[&var, &epsilon], &[])?;
    let std = b.op("Sqrt", &[&shifted], &[])?;
    let normal = b.op("Div", &[&centred, &std], &[])?;
    let scaled = b.op("Mul", &[&normal, &x[1]], &[])?;
    b.op("Add", &[&scaled, &x[2]], &[])
}

fn rms_norm(b: &mut Builder, x: &[String]) -> Result<String, GradError> {
    let two = b.scalar(DataType::F64, 2.0)?;
    let square = b.op("Pow", &[&x[0], &two], &[])?;
    let mean = last_mean(b, &square)?;
    // ONNX Runtime fuses this, and takes 1e-5 whatever a float64 constant says.
    let epsilon = b.scalar(DataType::F64, 1e-5)?;
    let shifted = b.op("Add", &[&mean, &epsilon], &[])?;
    let rms = b.op("Sqrt", &[&shifted], &[])?;
    let normal = b.op("Div", &[&x[0], &rms], &[])?;
    b.op("Mul", &[&normal, &x[1]], &[])
}

/// As PyTorch's TorchScript exporter writes GroupNorm: two groups as the channels of an InstanceNormalization.
fn group_norm(b: &mut Builder, x: &[String]) -> Result<String, GradError> {
    let groups = b.ints(&[0, 2, -1])?;
    let grouped = b.op("Reshape", &[&x[0], &groups], &[])?;
    let ones = b.constant(Tensor::from_f32(&[2], &[1.0, 1.0]))?;
    let zeros = b.constant(Tensor::zeros(DataType::F32, &[2]))?;
    let normal = b.op("InstanceNormalization", &[&grouped, &ones, &zeros], &[])?;
    let shape = b.op("Shape", &[&x[0]], &[])?;
    let normal = b.op("Reshape", &[&normal, &shape], &[])?;
    let scaled = b.op("Mul", &[&normal, &x[1]], &[])?;
    b.op("Add", &[&scaled, &x[2]], &[])
}

fn batch_norm_twice(b: &mut Builder, x: &[String]) -> Result<String, GradError> {
    let norm = |b: &mut Builder, input: &str| {
        b.op("BatchNormalization", &[input, &x[1], &x[2], &x[3], &x[4]], &[("epsilon", 1e-3_f32.into())])
    };
    let once = norm(b, &x[0])?;
    let bent = b.op("Tanh", &[&once], &[])?;
    norm(b, &bent)
}

fn last_mean(b: &mut Builder, x: &str) -> Result<String, GradError> {
    if b.opset() >= 18 {
        let axes = b.ints(&[-1])?;
        b.op("ReduceMean", &[x, &axes], &[])
    } else {
        b.op("ReduceMean", &[x], &[("axes", vec![-1].into())])
    }
}
