//! What strategies against forgetting add to a dual-head network's step, on ONNX Runtime.

#![allow(clippy::unwrap_used)]

#[path = "../onnx-grad/tests/support/mod.rs"]
mod support;

use std::collections::BTreeMap;

use dkt_models::step::{Distillation, Retention, StepOptions, TrainingStep, derive_classifier};
use dkt_models::zoo::{self, BuildOptions};
use dkt_models::{CL_LOGITS, DualHead, FEATURES, ModelError, ST_LOGITS};
use glob::Pattern;
use onnx_grad::graph::{DataType, Graph, Tensor};
use onnx_grad::{Builder, Optimizer, StateRole};

const N: usize = 4;
const K: usize = 10;
const SGD: Optimizer = Optimizer::Sgd { momentum: 0.0, nesterov: false, weight_decay: 0.0 };
const LEARNING_RATE: f32 = 0.1;

fn network(name: &str) -> DualHead {
    let network = zoo::find(name).unwrap();
    let options = BuildOptions { seed: 0, classes: network.classes, input: network.input };
    DualHead::from_graph(zoo::build(name, &options).unwrap()).unwrap()
}

/// Plain descent, so that a parameter moves by its gradient.
fn plain() -> StepOptions {
    StepOptions { optimizer: SGD, clip: None, ..StepOptions::default() }
}

fn derive(options: &StepOptions) -> TrainingStep {
    TrainingStep::derive(&network("digits-cnn"), options).unwrap()
}

fn numbers(n: usize, salt: usize) -> Vec<f32> {
    (0..n).map(|i| ((i * 7919 + salt * 31) % 97) as f32 / 48.5 - 1.0).collect()
}

fn scalar(value: f32) -> Tensor {
    Tensor::from_f32(&[], &[value])
}

/// 1 for the classes of two experiences, 0 for the last two classes.
fn groups() -> Vec<f32> {
    let group =
        |classes: std::ops::Range<usize>| (0..K).map(move |k| f32::from(u8::from(classes.contains(&k))));
    group(0..5).chain(group(5..8)).collect()
}

type Feeds = BTreeMap<String, Tensor>;

/// All that any step here is fed, state included; without what is said otherwise, extra terms weigh nothing.
fn feeds(step: &TrainingStep) -> Feeds {
    let [c, h, w] = step.input_dims;
    let per_class = |salt| Tensor::from_f32(&[N, K], &numbers(N * K, salt));
    let mut labels = vec![0.0; N * K];
    (0..N).for_each(|row| labels[row * K + row] = 1.0);
    let fed = [
        ("input", Tensor::from_f32(&[N, c, h, w], &numbers(N * c * h * w, 1))),
        ("labels", Tensor::from_f32(&[N, K], &labels)),
        ("teacher_logits", per_class(2)),
        ("teacher_weight", Tensor::from_f32(&[N], &[1.0; N])),
        ("past_logits", per_class(3)),
        ("past_weight", Tensor::from_f32(&[N], &[1.0, 0.0, 0.5, 2.0])),
        ("past_groups", Tensor::from_f32(&[2, K], &groups())),
        ("class_mask", Tensor::from_f32(&[N, K], &groups()[..K].repeat(N))),
        ("distill_weight", scalar(0.5)),
        ("temperature", scalar(2.0)),
        ("retention_weight", scalar(0.0)),
        ("retention_temperature", scalar(2.0)),
        ("penalty_weight", scalar(0.0)),
        ("learning_rate", scalar(LEARNING_RATE)),
        ("step", scalar(1.0)),
    ];
    let state = step.state.iter().map(|s| (s.name.clone(), s.init.clone()));
    fed.into_iter().map(|(name, tensor)| (name.to_owned(), tensor)).chain(state).collect()
}

fn run(graph: &Graph, feeds: &Feeds) -> Feeds {
    let feeds: Vec<(&str, Tensor)> = feeds.iter().map(|(name, t)| (name.as_str(), t.clone())).collect();
    support::run(graph, &feeds)
}

fn values(tensors: &Feeds, name: &str) -> Vec<f64> {
    tensors[name].to_f32().unwrap().into_iter().map(f64::from).collect()
}

fn value(tensors: &Feeds, name: &str) -> f64 {
    values(tensors, name)[0]
}

fn assert_close(found: &[f64], expected: &[f64], tolerance: f64, what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let size = expected.iter().fold(0.0_f64, |m, v| m.max(v.abs()));
    assert!(size > 0.0, "{what}: nothing to compare");
    for (f, e) in found.iter().zip(expected) {
        assert!((f - e).abs() <= tolerance * size, "{what}: {f} where {e} is expected");
    }
}

/// The gradient by which the step moved a parameter.
fn gradient(before: &Feeds, after: &Feeds, name: &str) -> Vec<f64> {
    let moved = values(before, name).into_iter().zip(values(after, &format!("{name}.next")));
    moved.map(|(before, after)| (before - after) / f64::from(LEARNING_RATE)).collect()
}

/// log softmax over the classes that `mask` keeps.
fn log_softmax(logits: &[f64], mask: &[f32], temperature: f64) -> Vec<f64> {
    let kept = || logits.iter().zip(mask).filter(|(_, m)| **m == 1.0);
    let sum: f64 = kept().map(|(l, _)| (l / temperature).exp()).sum();
    logits.iter().map(|l| l / temperature - sum.ln()).collect()
}

#[test]
fn graphs_without_strategies_have_the_bytes_they_always_had() {
    let accumulated = StepOptions { distill: Distillation::kl(), accumulate: true, ..StepOptions::default() };
    for (name, options, train, evaluate) in [
        ("digits-cnn", StepOptions::default(), 0x5575_6338_36ac_7a76, 0xc708_f42c_3213_214d),
        ("digits-cnn", accumulated.clone(), 0xe746_b61a_f39e_6de6, 0xc708_f42c_3213_214d),
        ("vit-lite", StepOptions::default(), 0x4d60_463c_c213_e89a, 0xce16_7d17_8736_ebeb),
        ("vit-lite", accumulated, 0x7717_7dd4_1e45_c800, 0xce16_7d17_8736_ebeb),
    ] {
        let step = TrainingStep::derive(&network(name), &options).unwrap();
        let fnv1a = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        let digest = |graph: &Graph| graph.encode().iter().fold(0xcbf2_9ce4_8422_2325, fnv1a);
        let found = (digest(&step.train), digest(&step.evaluate));
        assert_eq!(found, (train, evaluate), "{name}: found {found:#018x?}");
        assert_eq!(step.importance, None);
    }
}

#[test]
fn retention_is_a_weighed_term_of_the_loss() {
    for retention in [Retention::Distill, Retention::Logits] {
        let step = derive(&StepOptions { retention: Some(retention), ..plain() });
        let mut feeds = feeds(&step);
        let without = run(&step.train, &feeds);
        let (now, past) = (values(&without, CL_LOGITS), values(&feeds, "past_logits"));
        let weight = values(&feeds, "past_weight");
        let of_row = |n: usize| {
            let (now, past) = (&now[n * K..(n + 1) * K], &past[n * K..(n + 1) * K]);
            match retention {
                Retention::Logits => {
                    now.iter().zip(past).map(|(a, b)| (a - b).powi(2)).sum::<f64>() / K as f64
                }
                Retention::Distill => groups()
                    .chunks(K)
                    .map(|group| {
                        let (p, q) = (log_softmax(past, group, 2.0), log_softmax(now, group, 2.0));
                        let terms = p.iter().zip(q).zip(group);
                        terms.map(|((p, q), g)| f64::from(*g) * p.exp() * (p - q)).sum::<f64>()
                    })
                    .sum(),
            }
        };
        let expected = (0..N).map(|n| weight[n] * of_row(n)).sum::<f64>() / N as f64;
        assert_close(&[value(&without, "loss.retention")], &[expected], 1e-5, "loss.retention");
        let of_heads = value(&without, "loss.cl") + 0.5 * value(&without, "loss.st");
        assert_close(&[value(&without, "loss")], &[of_heads], 1e-6, "weight 0");
        feeds.insert("retention_weight".to_owned(), scalar(3.0));
        let with = run(&step.train, &feeds);
        assert_close(&[value(&with, "loss")], &[of_heads + 3.0 * expected], 1e-5, "weight 3");
        let head = |outputs: &Feeds, name: &str| gradient(&feeds, outputs, name);
        assert_ne!(head(&with, "cl_head.weight"), head(&without, "cl_head.weight"), "{retention:?}");
        assert_eq!(
            head(&with, "student_head.weight"),
            head(&without, "student_head.weight"),
            "{retention:?}"
        );
    }
}

/// The slope of the loss along one parameter's gradient, by differences, is the square of its length.
#[test]
fn gradients_of_all_terms_together_agree_with_differences_of_the_loss() {
    let all = StepOptions { penalty: true, class_mask: true, ..plain() };
    for retention in [Retention::Distill, Retention::Logits] {
        let step = derive(&StepOptions { retention: Some(retention), ..all.clone() });
        let mut feeds = feeds(&step);
        feeds.insert("retention_weight".to_owned(), scalar(2.0));
        feeds.insert("penalty_weight".to_owned(), scalar(0.3));
        for held in step.state.iter().filter(|s| s.role == StateRole::Held) {
            let values = numbers(held.init.n_elements(), held.name.len());
            let is_anchor = held.name.ends_with(".anchor");
            let values: Vec<f32> =
                values.iter().map(|v| if is_anchor { *v } else { 0.01 * v.abs() }).collect();
            feeds.insert(held.name.clone(), Tensor::from_f32(&held.init.dims, &values));
        }
        let outputs = run(&step.train, &feeds);
        for name in ["cl_head.weight", "cl_head.bias", "student_head.weight", "conv2.weight"] {
            let Some(start) = feeds.get(name) else { panic!("no parameter `{name}`") };
            let slope = gradient(&feeds, &outputs, name);
            let square: f64 = slope.iter().map(|g| g * g).sum();
            let loss_at = |by: f64| {
                let moved = start.to_f32().unwrap().into_iter().zip(&slope);
                let moved: Vec<f32> = moved.map(|(p, g)| p + (by * g) as f32).collect();
                let mut feeds = feeds.clone();
                feeds.insert(name.to_owned(), Tensor::from_f32(&start.dims, &moved));
                value(&run(&step.train, &feeds), "loss")
            };
            let by = 1e-2 / square.sqrt();
            let difference = (loss_at(by) - loss_at(-by)) / (2.0 * by);
            assert!((difference - square).abs() < 0.02 * square, "{name}: {difference} and {square}");
        }
    }
}

#[test]
fn the_penalty_ties_the_parameters_of_the_cl_head_to_their_anchors() {
    let step = derive(&StepOptions { penalty: true, ..plain() });
    let held: Vec<&str> =
        step.state.iter().filter(|s| s.role == StateRole::Held).map(|s| s.name.as_str()).collect();
    let trained = step.state.iter().filter(|s| s.role == StateRole::Parameter);
    let tied: Vec<&str> =
        trained.map(|s| s.name.as_str()).filter(|name| !name.starts_with("student_head")).collect();
    assert_eq!(held.len(), 2 * tied.len());
    for name in &tied {
        for kind in ["importance", "anchor"] {
            let name = format!("{name}.{kind}");
            assert!(held.contains(&name.as_str()) && step.train.inputs.iter().any(|i| i.name == name));
        }
    }
    assert!(!step.train.outputs.iter().any(|o| held.iter().any(|h| o.name == format!("{h}.next"))));
    let mut feeds = feeds(&step);
    feeds.insert("penalty_weight".to_owned(), scalar(0.75));
    let nothing = run(&step.train, &feeds);
    assert_eq!(value(&nothing, "loss.penalty"), 0.0, "no importance at first");
    let mut expected = 0.0;
    let mut pulls = BTreeMap::new();
    for name in &tied {
        let dims = feeds[*name].dims.clone();
        let n = dims.iter().product();
        let importance: Vec<f32> = numbers(n, 5).iter().map(|v| v.abs()).collect();
        feeds.insert(format!("{name}.importance"), Tensor::from_f32(&dims, &importance));
        feeds.insert(format!("{name}.anchor"), Tensor::from_f32(&dims, &numbers(n, 6)));
        let of = |kind: &str| values(&feeds, &format!("{name}{kind}"));
        let terms = of("").into_iter().zip(of(".anchor")).zip(of(".importance"));
        let terms: Vec<(f64, f64)> = terms.map(|((p, a), i)| (p - a, i)).collect();
        expected += terms.iter().map(|(d, i)| i * d * d).sum::<f64>();
        pulls.insert(*name, terms.iter().map(|(d, i)| 0.75 * 2.0 * i * d).collect::<Vec<f64>>());
    }
    let outputs = run(&step.train, &feeds);
    assert_close(&[value(&outputs, "loss.penalty")], &[expected], 1e-5, "loss.penalty");
    let of_heads = value(&outputs, "loss.cl") + 0.5 * value(&outputs, "loss.st");
    assert_close(&[value(&outputs, "loss")], &[of_heads + 0.75 * expected], 1e-5, "loss");
    for (name, pull) in pulls {
        let with = gradient(&feeds, &outputs, name);
        let change: Vec<f64> =
            with.iter().zip(gradient(&feeds, &nothing, name)).map(|(with, without)| with - without).collect();
        assert_close(&change, &pull, 1e-3, name);
    }
}

#[test]
fn frozen_parameters_are_tied_to_nothing() {
    let freeze = vec![Pattern::new("conv1*").unwrap()];
    let options = StepOptions { penalty: true, path_integral: true, fisher: true, freeze, ..plain() };
    let step = derive(&options);
    assert!(step.state.iter().any(|s| s.name == "conv2.weight.importance"));
    assert!(!step.state.iter().any(|s| s.name.starts_with("conv1")));
    assert!(!step.importance.unwrap().outputs.iter().any(|o| o.name.starts_with("conv1")));
    // A pattern that matches a held tensor alone matches no parameter.
    let freeze = vec![Pattern::new("*.anchor").unwrap()];
    let error = TrainingStep::derive(&network("digits-cnn"), &StepOptions { freeze, ..options }).unwrap_err();
    assert!(matches!(error, ModelError::NoSuchParameter { .. }), "{error}");
}

#[test]
fn a_class_mask_restricts_the_cross_entropy_alone() {
    let step = derive(&StepOptions { class_mask: true, ..plain() });
    let feeds = feeds(&step);
    let outputs = run(&step.train, &feeds);
    let logits = values(&outputs, CL_LOGITS);
    assert!(logits.iter().all(|l| l.abs() < 100.0), "the logits that are put out are not masked");
    let rows = logits.chunks(K).enumerate();
    let expected = rows.map(|(n, row)| -log_softmax(row, &groups()[..K], 1.0)[n]).sum::<f64>() / N as f64;
    assert_close(&[value(&outputs, "loss.cl")], &[expected], 1e-5, "loss.cl");
    let bias = gradient(&feeds, &outputs, "cl_head.bias");
    assert!(bias[..5].iter().all(|g| *g != 0.0) && bias[5..].iter().all(|g| *g == 0.0), "{bias:?}");
}

#[test]
fn features_are_what_the_cl_head_reads() {
    let step = derive(&StepOptions { features: true, ..plain() });
    let feeds = feeds(&step);
    let outputs = run(&step.evaluate, &feeds);
    let (features, logits) = (values(&outputs, FEATURES), values(&outputs, CL_LOGITS));
    let n_features = features.len() / N;
    let (weight, bias) = (values(&feeds, "cl_head.weight"), values(&feeds, "cl_head.bias"));
    assert_eq!(weight.len(), K * n_features);
    let of_class = |n: usize, k: usize| -> f64 {
        let row = features[n * n_features..(n + 1) * n_features].iter();
        bias[k] + row.zip(&weight[k * n_features..]).map(|(f, w)| f * w).sum::<f64>()
    };
    let expected: Vec<f64> =
        (0..N).flat_map(|n| (0..K).map(move |k| (n, k))).map(|(n, k)| of_class(n, k)).collect();
    assert_close(&logits, &expected, 1e-5, "cl_logits");
    // The exported network has the outputs that it always had.
    let state = step.state.iter().map(|s| (s.name.clone(), s.init.clone())).collect();
    let exported = step.export(&state).unwrap();
    assert!(!exported.outputs.iter().any(|o| o.name == FEATURES));
}

/// Images `[N, 1, 2, 2]` -> flat -> both heads, written as `head` does.
fn written_as(head: impl Fn(&mut Builder, &str) -> String) -> DualHead {
    let mut b = Builder::new("written", 17);
    b.input("image", DataType::F32, vec!["batch".into(), 1.into(), 2.into(), 2.into()]).unwrap();
    let flat = b.op_named("Flatten", &["image"], &[], "flat").unwrap();
    for (name, weight) in [(CL_LOGITS, "w"), (ST_LOGITS, "v")] {
        b.initializer(weight, Tensor::from_f32(&[4, 3], &numbers(12, weight.len()))).unwrap();
        let product = b.op("MatMul", &[&flat, weight], &[]).unwrap();
        let logits = head(&mut b, &product);
        b.op_named("Identity", &[&logits], &[], name).unwrap();
        b.output(name).unwrap();
    }
    DualHead::from_graph(b.finish()).unwrap()
}

#[test]
fn features_are_found_before_a_product_and_nowhere_else() {
    let features = StepOptions { features: true, ..plain() };
    let one = |b: &mut Builder| b.constant(Tensor::from_f32(&[3], &[1.0, 2.0, 3.0])).unwrap();
    for model in [
        written_as(|_, product| product.to_owned()),
        written_as(|b, product| {
            let one = one(b);
            b.op("Add", &[&one, product], &[]).unwrap()
        }),
    ] {
        let step = TrainingStep::derive(&model, &features).unwrap();
        let image = [("image".to_owned(), Tensor::from_f32(&[1, 1, 2, 2], &[1.0, 2.0, 3.0, 4.0]))];
        let state = step.state.iter().map(|s| (s.name.clone(), s.init.clone()));
        let outputs = run(&step.evaluate, &state.chain(image).collect());
        assert_eq!(outputs[FEATURES], Tensor::from_f32(&[1, 4], &[1.0, 2.0, 3.0, 4.0]));
    }
    let scaled = written_as(|b, product| {
        let one = one(b);
        b.op("Mul", &[&one, product], &[]).unwrap()
    });
    let error = TrainingStep::derive(&scaled, &features).unwrap_err();
    assert!(matches!(&error, ModelError::NoFeatures { found } if found.contains("`Mul`")), "{error}");
}

#[test]
fn the_importance_graph_differentiates_the_cl_head_in_evaluation_mode() {
    // A network with batch normalisation, whose running statistics are not those of the mini-batch.
    let model = network("slim-resnet18");
    let step = TrainingStep::derive(&model, &StepOptions { fisher: true, ..plain() }).unwrap();
    let importance = step.importance.as_ref().unwrap();
    let (k, [c, h, w]) = (step.n_classes, step.input_dims);
    let mut labels = vec![0.0; 2 * k];
    (labels[3], labels[k + 7]) = (1.0, 2.0);
    let mut feeds: Feeds = step.state.iter().map(|s| (s.name.clone(), s.init.clone())).collect();
    feeds.insert("input".to_owned(), Tensor::from_f32(&[2, c, h, w], &numbers(2 * c * h * w, 1)));
    feeds.insert("labels".to_owned(), Tensor::from_f32(&[2, k], &labels));
    for (i, statistic) in step.state.iter().filter(|s| s.role == StateRole::RunningStatistic).enumerate() {
        // Means are zeros at first, variances ones.
        let moved = numbers(statistic.init.n_elements(), i).into_iter().zip(statistic.init.to_f32().unwrap());
        let values: Vec<f32> = moved.map(|(by, init)| init + 0.2 * by).collect();
        feeds.insert(statistic.name.clone(), Tensor::from_f32(&statistic.init.dims, &values));
    }
    let gradients = run(importance, &feeds);
    let trained = step.state.iter().filter(|s| s.role == StateRole::Parameter);
    let expected: Vec<String> =
        trained.filter(|s| !s.name.starts_with("student_head")).map(|s| format!("{}.grad", s.name)).collect();
    assert_eq!(gradients.len(), expected.len());
    assert!(expected.iter().all(|name| gradients.contains_key(name)));
    let loss_at = |name: &str, by: f64| -> f64 {
        let start = &feeds[name];
        let moved = start.to_f32().unwrap().into_iter().zip(values(&gradients, &format!("{name}.grad")));
        let moved: Vec<f32> = moved.map(|(p, g)| p + (by * g) as f32).collect();
        let mut feeds = feeds.clone();
        feeds.insert(name.to_owned(), Tensor::from_f32(&start.dims, &moved));
        let logits = values(&run(&step.evaluate, &feeds), CL_LOGITS);
        let log_probs = logits.chunks(k).flat_map(|row| log_softmax(row, &vec![1.0; k], 1.0));
        labels.iter().zip(log_probs).map(|(t, l)| -f64::from(*t) * l).sum::<f64>() / 2.0
    };
    let weights = ["cl_head.weight", "cl_head.bias"].map(str::to_owned);
    let norm =
        expected.iter().map(|n| n.trim_end_matches(".grad").to_owned()).find(|n| feeds[n].dims.len() == 1);
    for name in weights.into_iter().chain(norm) {
        let square: f64 = values(&gradients, &format!("{name}.grad")).iter().map(|g| g * g).sum();
        let by = 1e-2 / square.sqrt();
        let difference = (loss_at(&name, by) - loss_at(&name, -by)) / (2.0 * by);
        assert!((difference - square).abs() < 0.03 * square, "{name}: {difference} and {square}");
    }
}

#[test]
fn the_importance_graph_takes_the_mask_that_the_step_takes() {
    let step = derive(&StepOptions { fisher: true, class_mask: true, ..plain() });
    let feeds = feeds(&step);
    let gradients = run(step.importance.as_ref().unwrap(), &feeds);
    let bias = values(&gradients, "cl_head.bias.grad");
    assert!(bias[..5].iter().all(|g| *g != 0.0) && bias[5..].iter().all(|g| *g == 0.0), "{bias:?}");
}

#[test]
fn a_classifier_with_one_head_keeps_its_past_too() {
    let mut graph = network("digits-cnn").graph().clone();
    graph.nodes.retain(|n| !n.outputs.iter().any(|o| o == ST_LOGITS));
    graph.outputs.retain(|o| o.name == CL_LOGITS);
    graph.initializers.retain(|name, _| !name.starts_with("student_head"));
    let options =
        StepOptions { retention: Some(Retention::Distill), penalty: true, class_mask: true, ..plain() };
    let training = derive_classifier(&graph, None, &options).unwrap();
    let dual = derive(&options);
    let mut feeds = feeds(&dual);
    feeds.insert("distill_weight".to_owned(), scalar(0.0));
    feeds.insert("retention_weight".to_owned(), scalar(2.0));
    let [single, dual] = [&training.graph, &dual.train].map(|graph| run(graph, &feeds));
    for name in ["loss", "loss.cl", "loss.retention", "loss.penalty"] {
        assert_eq!(single[name], dual[name], "{name}");
    }
    // A mask alone adds no term.
    let masked = StepOptions { class_mask: true, ..plain() };
    let training = derive_classifier(&graph, None, &masked).unwrap();
    let outputs = run(&training.graph, &feeds);
    assert_eq!(outputs["loss"], outputs["loss.cl"]);
    assert_eq!(outputs["loss"], single["loss.cl"]);
}
