//! Mixed precision and its loss scale.

use std::collections::BTreeSet;

use onnx_grad::graph::{DataType, Node, Tensor};
use onnx_grad::{
    APPLIED, Builder, FINITE_STEPS, GRAD_NORM, LOSS_SCALE, LossScale, Optimizer, Precision, TrainSpec,
    derive, loss,
};

use crate::net::{SGD, Trainer, assert_close, network, numbers, plain, rows, spec, value};

#[test]
fn half_precision_computes_products_low_and_keeps_masters_in_f32() {
    let graph = plain();
    let precision = Precision::Float16(LossScale { init: 1024.0, growth_interval: 2 });
    let training = derive(&graph, &TrainSpec { precision, ..spec(&graph, SGD) }).unwrap();
    assert!(training.state.iter().all(|s| s.init.dtype == DataType::F32));
    let mut half = Trainer::new(&training);
    let mut full = Trainer::new(&derive(&graph, &spec(&graph, SGD)).unwrap());
    let mut scales = Vec::new();
    for _ in 0..4 {
        let (h, f) = (half.step(&rows(0, 16)), full.step(&rows(0, 16)));
        assert_eq!(value(&h, APPLIED), 1.0);
        assert_close(&[value(&h, "loss")], &[value(&f, "loss")], 2e-3, "loss");
        assert_close(&[value(&h, GRAD_NORM)], &[value(&f, GRAD_NORM)], 5e-3, "norm, unscaled");
        scales.push(half.values(LOSS_SCALE)[0]);
    }
    assert_eq!(scales, [1024.0, 2048.0, 2048.0, 4096.0], "doubles after two finite steps");
    for name in ["w1", "w2", "w3", "b3"] {
        assert_close(&half.values(name), &full.values(name), 5e-3, name);
    }
    assert_ne!(half.values("w2"), full.values("w2"), "products were not rounded");
}

#[test]
fn bfloat16_leaves_operators_alone_that_onnx_does_not_have_in_it() {
    let mut b = Builder::new("network", 17);
    b.input("x", DataType::F32, vec!["batch".into(), 1.into(), 4.into(), 4.into()]).unwrap();
    b.input("labels", DataType::F32, vec!["batch".into(), 3.into()]).unwrap();
    b.initializer("w1", Tensor::from_f32(&[2, 1, 3, 3], &numbers(18, 1))).unwrap();
    b.initializer("w2", Tensor::from_f32(&[8, 3], &numbers(24, 2))).unwrap();
    let h = b.op("Conv", &["x", "w1"], &[]).unwrap();
    let h = b.op("Tanh", &[&h], &[]).unwrap();
    let h = b.op("Flatten", &[&h], &[]).unwrap();
    let logits = b.op("MatMul", &[&h, "w2"], &[]).unwrap();
    let loss = loss::cross_entropy(&mut b, &logits, "labels").unwrap();
    b.op_named("Identity", &[&loss], &[], "loss").unwrap();
    let graph = b.finish();
    let training =
        derive(&graph, &TrainSpec { precision: Precision::BFloat16, ..spec(&graph, SGD) }).unwrap();
    // The inference of shapes knows every value's type, as ONNX Runtime would find it.
    let typed = Builder::from_graph(training.graph.clone()).unwrap();
    let is_low = |node: &&Node| typed.value(&node.outputs[0]).unwrap().dtype == DataType::BF16;
    let low: BTreeSet<&str> = training.graph.nodes.iter().filter(is_low).map(|n| n.op.as_str()).collect();
    let have_it = BTreeSet::from(["Cast", "Gemm", "MatMul", "Reshape", "Transpose"]);
    assert!(low.contains("MatMul") && low.is_subset(&have_it), "{low:?}");
    let products = training.graph.nodes.iter().filter(|n| ["Gemm", "MatMul"].contains(&n.op.as_str()));
    let (low, high): (Vec<&Node>, Vec<&Node>) = products.partition(is_low);
    assert!(low.len() >= 2 && !high.is_empty(), "the convolution's products stay: {low:?} {high:?}");
}

#[test]
fn a_step_that_overflows_is_skipped_and_halves_the_scale() {
    let graph = plain();
    let precision = Precision::Float16(LossScale { init: 3e38, growth_interval: 100 });
    let mut half =
        Trainer::new(&derive(&graph, &TrainSpec { precision, ..spec(&graph, Optimizer::ADAM) }).unwrap());
    // ONNX Runtime computes float16 graphs in float32 on the CPU, so it takes this much to overflow.
    let mut feeds = rows(0, 16);
    let labels: Vec<f32> = feeds[1].1.to_f32().unwrap().iter().map(|v| v * 100.0).collect();
    feeds[1].1 = Tensor::from_f32(&[16, 3], &labels);
    let before = half.state.clone();
    let outputs = half.step(&feeds);
    assert_eq!(value(&outputs, APPLIED), 0.0);
    assert!(!value(&outputs, GRAD_NORM).is_finite());
    assert!(value(&outputs, "loss").is_finite());
    assert_eq!(half.values(LOSS_SCALE), [1.5e38]);
    assert_eq!(half.values(FINITE_STEPS), [0.0]);
    for (name, tensor) in before.iter().filter(|(name, _)| !name.starts_with(LOSS_SCALE)) {
        assert_eq!(&half.state[name], tensor, "{name} moved");
    }
    let skipped = (0..40).take_while(|_| value(&half.step(&feeds), APPLIED) == 0.0).count();
    assert!((1..39).contains(&skipped), "{skipped} more steps until the scale fits");
    assert_ne!(half.state["w1"], before["w1"]);
}

#[test]
fn the_loss_scale_stays_finite() {
    let graph = plain();
    let precision = Precision::Float16(LossScale { init: 2.0_f32.powi(126), growth_interval: 1 });
    let mut half = Trainer::new(&derive(&graph, &TrainSpec { precision, ..spec(&graph, SGD) }).unwrap());
    // So small a loss that its gradient is finite at any scale.
    let mut feeds = rows(0, 16);
    let labels: Vec<f32> = feeds[1].1.to_f32().unwrap().iter().map(|v| v * 1e-34).collect();
    feeds[1].1 = Tensor::from_f32(&[16, 3], &labels);
    for _ in 0..4 {
        assert_eq!(value(&half.step(&feeds), APPLIED), 1.0);
        assert_eq!(half.values(LOSS_SCALE), [2.0_f32.powi(127)]);
    }
}

#[test]
fn a_shape_of_a_low_value_keeps_its_name() {
    let graph = network(|b, h| {
        let y = b.op("MatMul", &[h, "w2"], &[]).unwrap();
        // As exporters do: the node is called as what it gives.
        let shape = b.op_named("Shape", &[&y], &[], "shape").unwrap();
        let flat = b.ints(&[-1]).unwrap();
        let flat = b.op("Reshape", &[&y, &flat], &[]).unwrap();
        b.op("Reshape", &[&flat, &shape], &[]).unwrap()
    });
    let precision = Precision::Float16(LossScale::default());
    let mut half = Trainer::new(&derive(&graph, &TrainSpec { precision, ..spec(&graph, SGD) }).unwrap());
    assert_eq!(value(&half.step(&rows(0, 16)), APPLIED), 1.0);
}
