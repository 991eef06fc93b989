//! What a training step can do beside the plain one: groups, accumulation, recomputation, tied weights.

use onnx_grad::graph::{DataType, Graph, Tensor};
use onnx_grad::{
    APPLIED, Builder, Clip, Dropout, FINITE_STEPS, GRAD_NORM, GradError, LOSS_SCALE, LossScale, Optimizer,
    ParameterGroup, Precision, Recompute, SEED, StateRole, StateTensor, TrainSpec, TrainingGraph, derive,
};

use crate::net::{SGD, Trainer, assert_close, dropout, network, numbers, plain, rows, scalar, spec, value};

#[test]
fn micro_batches_add_up_to_the_whole_batch() {
    let graph = plain();
    let adam = spec(&graph, Optimizer::ADAM);
    let mut whole = Trainer::new(&derive(&graph, &adam).unwrap());
    let accumulating = TrainSpec { accumulate: true, clip: Some(Clip::Norm(0.05)), ..adam.clone() };
    let mut parts = Trainer::new(&derive(&graph, &accumulating).unwrap());
    let mut clipped = Trainer::new(&derive(&graph, &TrainSpec { clip: accumulating.clip, ..adam }).unwrap());
    for _ in 0..3 {
        whole.step(&rows(0, 16));
        let norm = value(&clipped.step(&rows(0, 16)), GRAD_NORM);
        let before = parts.values("w2");
        for (from, to) in [(0, 7), (7, 14), (14, 16)] {
            let mut feeds = rows(from, to);
            feeds.push(("micro_batch_weight", scalar((to - from) as f32 / 16.0)));
            feeds.push(("micro_batch_last", scalar(if to == 16 { 1.0 } else { 0.0 })));
            let outputs = parts.step(&feeds);
            if to < 16 {
                assert_eq!(parts.values("w2"), before, "parameters wait for the last micro-batch");
                assert_eq!(value(&outputs, APPLIED), 0.0);
                parts.step -= 1.0;
            } else {
                assert_eq!(value(&outputs, APPLIED), 1.0);
                assert_close(&[value(&outputs, GRAD_NORM)], &[norm], 1e-5, "norm of the whole gradient");
                assert_eq!(parts.values("w2.accumulated"), vec![0.0; 25], "the next sum starts from zero");
            }
        }
    }
    for name in ["w1", "w2", "w3", "b3", "w2.m", "w2.v"] {
        assert_close(&parts.values(name), &clipped.values(name), 1e-4, name);
    }
    assert_ne!(whole.values("w2.m"), clipped.values("w2.m"), "the bound was in force");
}

#[test]
fn groups_have_constants_of_their_own() {
    let graph = plain();
    let decayed = Optimizer::AdamW { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.5 };
    let group = |parameters: &[&str], learning_rate_factor, weight_decay| ParameterGroup {
        parameters: parameters.iter().map(|&p| p.to_owned()).collect(),
        learning_rate_factor,
        weight_decay,
    };
    let groups = vec![group(&["w2"], 0.0, None), group(&["b3", "w2"], 1.0, Some(0.0))];
    let grouped = TrainSpec { groups, ..spec(&graph, decayed) };
    let mut grouped = Trainer::new(&derive(&graph, &grouped).unwrap());
    let mut all = Trainer::new(&derive(&graph, &spec(&graph, decayed)).unwrap());
    let (start, feeds) = (grouped.state.clone(), rows(0, 16));
    grouped.step(&feeds);
    all.step(&feeds);
    assert_eq!(grouped.state["w2"], start["w2"], "no learning rate");
    assert_eq!(grouped.state["w1"], all.state["w1"], "in no group: as without groups");
    let decay: Vec<f32> = start["b3"].to_f32().unwrap().iter().map(|p| 0.1 * 0.5 * p).collect();
    let difference: Vec<f32> =
        grouped.values("b3").iter().zip(all.values("b3")).map(|(g, a)| g - a).collect();
    assert_close(&difference, &decay, 1e-4, "only the bias was spared");
}

#[test]
fn clipping_by_value_bounds_every_element() {
    let graph = plain();
    let sgd = Optimizer::Sgd { momentum: 0.0, nesterov: false, weight_decay: 0.0 };
    let clipped = TrainSpec { clip: Some(Clip::Value(0.01)), ..spec(&graph, sgd) };
    let mut clipped = Trainer::new(&derive(&graph, &clipped).unwrap());
    let mut free = Trainer::new(&derive(&graph, &spec(&graph, sgd)).unwrap());
    let start = free.values("w3");
    let norms = [&mut clipped, &mut free].map(|t| value(&t.step(&rows(0, 16)), GRAD_NORM));
    assert_eq!(norms[0], norms[1], "the norm is that before clipping");
    let moved = |t: &Trainer| -> Vec<f32> { t.values("w3").iter().zip(&start).map(|(a, b)| a - b).collect() };
    let expected: Vec<f32> = moved(&free).iter().map(|d| d.clamp(-0.001, 0.001)).collect();
    assert!(
        expected.contains(&0.001) && expected.iter().any(|d| d.abs() < 0.001),
        "some, not all: {expected:?}"
    );
    assert_close(&moved(&clipped), &expected, 1e-3, "change of w3");
}

#[test]
fn recomputed_segments_change_nothing_but_what_is_kept() {
    let graph = network(|b, h| {
        let h = b.op_named("Exp", &[h], &[], "middle/exp").unwrap();
        b.op_named("Sigmoid", &[&h], &[], "middle/sigmoid").unwrap()
    });
    let plain = derive(&graph, &spec(&graph, SGD)).unwrap();
    let mut expected = Trainer::new(&plain);
    expected.step(&rows(0, 16));
    for recompute in [
        Recompute::Matching(vec![glob::Pattern::new("middle/*").unwrap()]),
        Recompute::Matching(["first", "middle/*", "second"].map(|p| glob::Pattern::new(p).unwrap()).to_vec()),
        Recompute::Parts(3),
    ] {
        let again = TrainSpec { recompute: recompute.clone(), ..spec(&graph, SGD) };
        let again = derive(&graph, &again).unwrap();
        let n_exp = |t: &TrainingGraph| t.graph.nodes.iter().filter(|n| n.op == "Exp").count();
        assert_eq!(n_exp(&again), n_exp(&plain) + 1, "{recompute:?}: computed twice");
        // The derivative of the sigmoid reads the second computation.
        let reads: Vec<&String> = again
            .graph
            .nodes
            .iter()
            .filter(|n| n.name.starts_with("middle/sigmoid.grad"))
            .flat_map(|n| &n.inputs)
            .collect();
        assert!(reads.iter().any(|r| *r == "middle/sigmoid.recomputed"), "{recompute:?}: {reads:?}");
        assert!(!reads.iter().any(|r| *r == "middle/sigmoid"), "{recompute:?}: {reads:?}");
        let mut trainer = Trainer::new(&again);
        trainer.step(&rows(0, 16));
        assert_eq!(trainer.state, expected.state, "{recompute:?}");
    }
    let unknown = Recompute::Matching(vec![glob::Pattern::new("layer9*").unwrap()]);
    let error = derive(&graph, &TrainSpec { recompute: unknown, ..spec(&graph, SGD) }).unwrap_err();
    assert!(error.to_string().contains("`layer9*`"), "{error}");
}

#[test]
fn gradients_are_taken_in_the_order_of_the_layers() {
    let mut b = Builder::new("names", 17);
    b.input("x", DataType::F32, vec!["batch".into(), 6.into()]).unwrap();
    let mut h = "x".to_owned();
    for name in ["stem", "middle", "head"] {
        b.initializer(name, Tensor::from_f32(&[6, 6], &numbers(36, 2))).unwrap();
        h = b.op("MatMul", &[&h, name], &[]).unwrap();
        h = b.op("Tanh", &[&h], &[]).unwrap();
    }
    b.op_named("ReduceMean", &[&h], &[("keepdims", 0_i64.into())], "loss").unwrap();
    let graph = b.finish();
    let training =
        derive(&graph, &spec(&graph, Optimizer::Sgd { momentum: 0.0, nesterov: false, weight_decay: 0.0 }));
    // The runtime goes from the last node of the norm back: it must meet the last layer's gradient first, or
    // it computes all activations again before it needs any.
    let training = training.unwrap();
    let squares = training.graph.nodes.iter().filter(|n| n.op == "ReduceSumSquare").map(|n| &n.inputs[0]);
    let made = |value: &String| training.graph.nodes.iter().position(|n| n.outputs.contains(value)).unwrap();
    let positions: Vec<usize> = squares.map(made).collect();
    assert!(positions.is_sorted_by(|a, b| a > b) && positions.len() == 3, "{positions:?}");
    let state: Vec<&str> = training.state.iter().map(|s| s.name.as_str()).collect();
    assert_eq!(state, ["stem", "middle", "head"]);
}

#[test]
fn recomputation_leaves_frozen_layers_as_they_are() {
    let mut b = Builder::new("frozen", 17);
    b.input("x", DataType::F32, vec!["batch".into(), 6.into()]).unwrap();
    for (name, value) in [("scale", 1.0), ("shift", 0.5), ("mean", 0.25), ("var", 4.0)] {
        b.initializer(name, Tensor::from_f32(&[6], &[value; 6])).unwrap();
    }
    b.initializer("w", Tensor::from_f32(&[6, 6], &numbers(36, 2))).unwrap();
    let statistics = ["x", "scale", "shift", "mean", "var"];
    b.op_named("BatchNormalization", &statistics, &[], "part/norm").unwrap();
    b.op_named("MatMul", &["part/norm", "w"], &[], "part/product").unwrap();
    let y = b.op("Exp", &["part/product"], &[]).unwrap();
    b.op_named("ReduceMean", &[&y], &[("keepdims", 0_i64.into())], "loss").unwrap();
    let graph = b.finish();
    let plain = TrainSpec::new("loss", vec!["w".to_owned()], SGD);
    let recompute = Recompute::Matching(vec![glob::Pattern::new("part/*").unwrap()]);
    let again = TrainSpec { recompute, ..plain.clone() };
    let [kept, again] = [plain, again].map(|spec| {
        let mut trainer = Trainer::new(&derive(&graph, &spec).unwrap());
        trainer.step(&rows(0, 16));
        trainer.values("w")
    });
    assert_eq!(again, kept, "no gradient reaches the norm: it stays in inference");
}

#[test]
fn recomputation_does_not_draw_again() {
    let graph = network(|b, h| {
        let noise = b.op_named("RandomNormalLike", &[h], &[], "middle/noise").unwrap();
        b.op_named("Mul", &[h, &noise], &[], "middle/noisy").unwrap()
    });
    let recompute = Recompute::Matching(vec![glob::Pattern::new("middle/*").unwrap()]);
    let training = derive(&graph, &TrainSpec { recompute, ..spec(&graph, SGD) }).unwrap();
    let draws = training.graph.nodes.iter().filter(|n| n.op == "RandomNormalLike").count();
    assert_eq!(draws, 1);
}

#[test]
fn names_that_a_training_graph_needs_are_refused() {
    let everything = |graph: &Graph| TrainSpec {
        accumulate: true,
        dropout: Dropout::Seeded,
        gradient_noise: true,
        path_integral: true,
        precision: Precision::Float16(LossScale::default()),
        ..spec(
            graph,
            Optimizer::RmsProp { alpha: 0.99, eps: 1e-8, momentum: 0.9, centered: true, weight_decay: 0.0 },
        )
    };
    for name in [
        SEED,
        LOSS_SCALE,
        FINITE_STEPS,
        APPLIED,
        GRAD_NORM,
        "learning_rate",
        "step",
        "micro_batch_weight",
        "micro_batch_last",
        "w1.next",
        "w1.accumulated",
        "gradient_noise",
        "w1.path",
        "w1.v",
        "w1.mean",
        "w1.momentum",
    ] {
        let forward = |dtype: DataType| {
            let mut graph = network(dropout);
            let shape = Vec::new();
            graph.inputs.push(onnx_grad::graph::ValueInfo { name: name.to_owned(), dtype, shape });
            derive(&graph, &everything(&graph))
        };
        for dtype in [DataType::F32, DataType::I64] {
            let error = forward(dtype).unwrap_err();
            assert!(matches!(&error, GradError::Redefined { value } if value == name), "{name}: {error}");
        }
    }
}

#[test]
fn held_tensors_are_fed_and_stay() {
    let graph = network(|b, h| {
        b.initializer("scale", Tensor::from_f32(&[5], &[1.0, 2.0, 0.5, 1.0, 0.0])).unwrap();
        b.initializer("unread", Tensor::from_f32(&[5], &[0.0; 5])).unwrap();
        b.op("Mul", &[h, "scale"], &[]).unwrap()
    });
    let mut held = spec(&graph, SGD);
    held.trainable.retain(|name| name != "scale");
    let frozen = derive(&graph, &held).unwrap();
    held.held = vec!["scale".to_owned(), "unread".to_owned()];
    let training = derive(&graph, &held).unwrap();
    let tensors: Vec<&StateTensor> = training.state.iter().filter(|s| s.role == StateRole::Held).collect();
    assert_eq!(tensors.len(), 1, "what nothing reads is no input");
    assert_eq!((&tensors[0].init, tensors[0].role.moves()), (&graph.initializers["scale"], false));
    assert!(training.graph.inputs.iter().any(|i| i.name == "scale"));
    assert!(!training.graph.outputs.iter().any(|o| o.name == "scale.next"));
    let [mut constant, mut fed] = [frozen, training].map(|t| Trainer::new(&t));
    constant.step(&rows(0, 16));
    let start = fed.state.clone();
    fed.step(&rows(0, 16));
    assert_eq!(fed.state["scale"], start["scale"]);
    // As a constant, the runtime may fold it into its neighbours.
    assert_close(&fed.values("w1"), &constant.values("w1"), 1e-6, "w1");
    fed.state = start;
    fed.state.insert("scale".to_owned(), Tensor::from_f32(&[5], &[0.0; 5]));
    let before = fed.values("w1");
    fed.step(&rows(0, 16));
    assert_eq!(fed.values("w1"), before, "nothing passes");
}

#[test]
fn what_training_changes_cannot_be_held() {
    let mut b = Builder::new("held", 17);
    b.input("x", DataType::F32, vec!["batch".into(), 6.into()]).unwrap();
    for (name, value) in [("scale", 1.0), ("shift", 0.5), ("mean", 0.25), ("var", 4.0)] {
        b.initializer(name, Tensor::from_f32(&[6], &[value; 6])).unwrap();
    }
    let y = b.op("BatchNormalization", &["x", "scale", "shift", "mean", "var"], &[]).unwrap();
    b.op_named("ReduceMean", &[&y], &[("keepdims", 0_i64.into())], "loss").unwrap();
    let graph = b.finish();
    for (name, says) in [
        ("scale", "a trained parameter"),
        ("mean", "a running statistic"),
        ("none", "no initialiser of that name"),
    ] {
        let held = TrainSpec { held: vec![name.to_owned()], ..spec(&graph, SGD) };
        let error = derive(&graph, &held).unwrap_err().to_string();
        assert!(error.contains(&format!("`{name}`")) && error.contains(says), "{error}");
    }
}

#[test]
fn tied_weights_get_the_sum_of_their_gradients() {
    let tied = |separate: bool| {
        let mut b = Builder::new("tied", 17);
        b.input("x", DataType::F32, vec!["batch".into(), 6.into()]).unwrap();
        let w = Tensor::from_f32(&[6, 6], &numbers(36, 2));
        b.initializer("w", w.clone()).unwrap();
        if separate {
            b.initializer("v", w).unwrap();
        }
        let h = b.op("MatMul", &["x", "w"], &[]).unwrap();
        let h = b.op("Tanh", &[&h], &[]).unwrap();
        let back = b.op("Transpose", &[if separate { "v" } else { "w" }], &[]).unwrap();
        let y = b.op("MatMul", &[&h, &back], &[]).unwrap();
        let y = b.op("Mul", &[&y, &y], &[]).unwrap();
        b.op_named("ReduceMean", &[&y], &[("keepdims", 0_i64.into())], "loss").unwrap();
        b.finish()
    };
    let sgd = Optimizer::Sgd { momentum: 0.0, nesterov: false, weight_decay: 0.0 };
    let moved = |graph: &Graph| {
        let mut trainer = Trainer::new(&derive(graph, &spec(graph, sgd)).unwrap());
        trainer.step(&rows(0, 16));
        trainer
    };
    let (one, two) = (moved(&tied(false)), moved(&tied(true)));
    let start = numbers(36, 2);
    let change = |values: Vec<f32>| -> Vec<f32> { values.iter().zip(&start).map(|(v, s)| v - s).collect() };
    let sum: Vec<f32> =
        change(two.values("w")).iter().zip(change(two.values("v"))).map(|(a, b)| a + b).collect();
    assert_close(&change(one.values("w")), &sum, 1e-3, "w");
}
