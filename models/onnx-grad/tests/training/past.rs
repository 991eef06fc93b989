//! The losses that keep what was learned, and their gradients, against their definitions in float64.

use std::collections::BTreeMap;

use onnx_grad::graph::{DataType, Tensor};
use onnx_grad::loss::{self, Anchored};
use onnx_grad::{BatchNorm, Builder, GradError, check};

const N: usize = 4;
const K: usize = 5;
const NOW: [f32; N * K] = [
    0.5, -1.0, 2.0, 0.1, 0.4, 30.0, -30.0, 0.0, 1.0, 7.0, -0.3, 0.2, 0.7, -2.0, 0.0, 1.0, 2.0, 3.0, 4.0, 5.0,
];
const PAST: [f32; N * K] =
    [1.5, 0.0, -2.0, 0.3, 0.9, 20.0, -40.0, 5.0, 1.0, 2.0, 0.0, 0.0, 0.0, 0.0, 9.0, 5.0, 4.0, 3.0, 2.0, 1.0];
/// The third row has no past.
const WEIGHT: [f32; N] = [1.0, 0.5, 0.0, 2.0];
/// Two experiences; the last class is in none.
const GROUPS: [f32; 2 * K] = [1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 0.0];
const TEMPERATURE: f32 = 2.0;

struct Feeds {
    weight: [f32; N],
    groups: Vec<f32>,
    class_mask: Vec<f32>,
    labels: Vec<f32>,
}

impl Default for Feeds {
    fn default() -> Self {
        Feeds {
            weight: WEIGHT,
            groups: GROUPS.to_vec(),
            class_mask: vec![1.0; N * K],
            labels: vec![0.0; N * K],
        }
    }
}

/// The loss that `append` writes and its gradient with respect to the logits now, on a batch and a number of groups
/// that are not known when it is written.
fn run(feeds: &Feeds, append: impl Fn(&mut Builder) -> Result<String, GradError>) -> (f64, Vec<f64>) {
    let mut b = Builder::new("loss", 17);
    let rows = vec!["batch".into(), K.into()];
    for name in ["now", "past", "labels", "class_mask"] {
        b.input(name, DataType::F32, rows.clone()).unwrap();
    }
    b.input("groups", DataType::F32, vec!["groups".into(), K.into()]).unwrap();
    b.input("weight", DataType::F32, rows[..1].to_vec()).unwrap();
    b.input("temperature", DataType::F32, Vec::new()).unwrap();
    let loss = append(&mut b).unwrap();
    assert!(b.shape(&loss).unwrap().is_empty(), "a scalar");
    b.output(&loss).unwrap();
    let derived = check::gradients(&b.finish(), &loss, &["now"], BatchNorm::Train).unwrap();
    let per_class = |values: &[f32]| Tensor::from_f32(&[values.len() / K, K], values);
    let results = crate::support::run(
        &derived,
        &[
            ("now", per_class(&NOW)),
            ("past", per_class(&PAST)),
            ("labels", per_class(&feeds.labels)),
            ("class_mask", per_class(&feeds.class_mask)),
            ("groups", per_class(&feeds.groups)),
            ("weight", Tensor::from_f32(&[N], &feeds.weight)),
            ("temperature", Tensor::from_f32(&[], &[TEMPERATURE])),
        ],
    );
    let values = |name: &str| results[name].to_f32().unwrap().into_iter().map(f64::from).collect::<Vec<_>>();
    (values(&loss)[0], values("now.grad"))
}

fn row(values: &[f32], n: usize) -> Vec<f64> {
    values[n * K..(n + 1) * K].iter().map(|&v| v.into()).collect()
}

/// Probabilities over the classes of `group`; 0 at the others.
fn softmax(logits: &[f64], group: &[f32], temperature: f64) -> Vec<f64> {
    let largest = logits.iter().copied().fold(f64::MIN, f64::max);
    let powers: Vec<f64> = logits
        .iter()
        .zip(group)
        .map(|(l, &g)| if g == 1.0 { ((l - largest) / temperature).exp() } else { 0.0 })
        .collect();
    let sum: f64 = powers.iter().sum();
    powers.iter().map(|p| p / sum).collect()
}

fn assert_close(found: &[f64], expected: &[f64], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let size = expected.iter().fold(0.0_f64, |m, v| m.max(v.abs()));
    for (f, e) in found.iter().zip(expected) {
        assert!((f - e).abs() <= 1e-5 * size, "{what}: {found:?} where {expected:?} is expected");
    }
}

fn distilled(feeds: &Feeds) -> (f64, Vec<f64>) {
    run(feeds, |b| loss::kl_within_groups(b, "now", "past", "weight", "groups", "temperature"))
}

/// Loss and gradient with respect to the logits, by the definition.
fn distilled_by_definition(groups: &[f32]) -> (f64, Vec<f64>) {
    let temperature = f64::from(TEMPERATURE);
    let (mut loss, mut gradient) = (0.0, vec![0.0; N * K]);
    for group in groups.chunks(K).filter(|g| g.contains(&1.0)) {
        for n in 0..N {
            let share = f64::from(WEIGHT[n]) / N as f64;
            let p = softmax(&row(&PAST, n), group, temperature);
            let q = softmax(&row(&NOW, n), group, temperature);
            for k in (0..K).filter(|&k| group[k] == 1.0) {
                loss += share * p[k] * (p[k].ln() - q[k].ln());
                gradient[n * K + k] += share * (q[k] - p[k]) / temperature;
            }
        }
    }
    (loss, gradient)
}

#[test]
fn distillation_compares_within_each_group_of_classes() {
    let all = [1.0; K];
    let with_empty = [GROUPS.as_slice(), &[0.0; K]].concat();
    for groups in [GROUPS.as_slice(), &GROUPS[..K], &all, &with_empty] {
        let (loss, gradient) = distilled(&Feeds { groups: groups.to_vec(), ..Feeds::default() });
        let expected = distilled_by_definition(groups);
        assert!(expected.0 > 0.01);
        assert_close(&[loss], &[expected.0], "loss");
        assert_close(&gradient, &expected.1, "gradient");
    }
    let (_, gradient) = distilled(&Feeds::default());
    assert!((0..N).all(|n| gradient[n * K + 4] == 0.0), "a class in no group");
    assert!((0..K).all(|k| gradient[2 * K + k] == 0.0), "a row without a past");
}

#[test]
fn distillation_without_a_past_is_nothing_at_all() {
    for groups in [vec![0.0; K], GROUPS.to_vec()] {
        let (loss, gradient) = distilled(&Feeds { weight: [0.0; N], groups, ..Feeds::default() });
        assert_eq!((loss, gradient), (0.0, vec![0.0; N * K]));
    }
    // No group, whatever the rows weigh.
    let (loss, gradient) = distilled(&Feeds { groups: vec![0.0; K], ..Feeds::default() });
    assert_eq!((loss, gradient), (0.0, vec![0.0; N * K]));
}

#[test]
fn past_logits_are_compared_as_they_are() {
    let (loss, gradient) = run(&Feeds::default(), |b| loss::mse(b, "now", "past", "weight"));
    let difference = |n: usize, k: usize| f64::from(NOW[n * K + k]) - f64::from(PAST[n * K + k]);
    let cells: Vec<(usize, usize)> = (0..N).flat_map(|n| (0..K).map(move |k| (n, k))).collect();
    let share = |n: usize| f64::from(WEIGHT[n]) / (N * K) as f64;
    let expected: f64 = cells.iter().map(|&(n, k)| share(n) * difference(n, k).powi(2)).sum();
    assert_close(&[loss], &[expected], "loss");
    let expected: Vec<f64> = cells.iter().map(|&(n, k)| 2.0 * share(n) * difference(n, k)).collect();
    assert_close(&gradient, &expected, "gradient");
}

#[test]
fn a_mask_leaves_the_softmax_to_its_classes() {
    let class_mask: Vec<f32> =
        [[1.0, 1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 1.0, 1.0, 1.0], [0.0; K], [1.0; K]].concat();
    let labels: Vec<f32> = [
        [0.0, 1.0, 0.0, 0.0, 0.0],
        [0.0, 0.0, 0.5, 0.0, 0.5],
        [0.0, 0.0, 0.0, 1.0, 0.0],
        [0.0, 0.0, 0.0, 3.0, 0.0],
    ]
    .concat();
    let feeds = Feeds { class_mask: class_mask.clone(), labels: labels.clone(), ..Feeds::default() };
    let (loss, gradient) = run(&feeds, |b| {
        let masked = loss::masked(b, "now", "class_mask")?;
        loss::cross_entropy(b, &masked, "labels")
    });
    let (mut expected, mut slope) = (0.0, Vec::new());
    for n in 0..N {
        // A row of zeros masks nothing; a label of 3 is one of weight 3.
        let mask = &class_mask[n * K..(n + 1) * K];
        let mask = if mask.contains(&1.0) { mask } else { &[1.0; K] };
        let (q, target) = (softmax(&row(&NOW, n), mask, 1.0), row(&labels, n));
        let weight: f64 = target.iter().sum();
        expected -= target.iter().zip(&q).filter(|(t, _)| **t > 0.0).map(|(t, q)| t * q.ln()).sum::<f64>();
        slope.extend(target.iter().zip(&q).map(|(t, q)| (weight * q - t) / N as f64));
    }
    // 1e4 above the logits, float32 has three digits after the point.
    assert!((loss - expected / N as f64).abs() < 1e-3, "{loss} {}", expected / N as f64);
    gradient.iter().zip(&slope).for_each(|(g, s)| assert!((g - s).abs() < 1e-3, "{gradient:?} {slope:?}"));
    let masked_out = (0..N * K).filter(|&i| class_mask[i] == 0.0 && i / K != 2);
    masked_out.for_each(|i| assert_eq!(gradient[i], 0.0, "{i}"));
}

#[test]
fn rows_of_labels_may_weigh_more_or_less_than_one() {
    let weight = [0.25, 3.0, 0.0, 1.5];
    let labels = |weight: [f32; N]| -> Vec<f32> {
        (0..N).flat_map(|n| (0..K).map(move |k| if k == n { weight[n] } else { 0.0 })).collect()
    };
    let of = |labels: Vec<f32>| {
        run(&Feeds { labels, ..Feeds::default() }, |b| loss::cross_entropy(b, "now", "labels"))
    };
    let (loss, gradient) = of(labels(weight));
    let (mut expected, mut slope) = (0.0, Vec::new());
    for n in 0..N {
        let (share, q) = (f64::from(weight[n]) / N as f64, softmax(&row(&NOW, n), &[1.0; K], 1.0));
        expected -= share * q[n].ln();
        slope.extend((0..K).map(|k| share * (q[k] - f64::from(u8::from(k == n)))));
    }
    assert_close(&[loss], &[expected], "loss");
    assert_close(&gradient, &slope, "gradient");
    assert!(gradient[2 * K..3 * K].iter().all(|&g| g == 0.0), "a row of weight 0");
}

#[test]
fn the_penalty_is_a_weighted_sum_of_squares() {
    let mut b = Builder::new("penalty", 17);
    let tensors: BTreeMap<&str, ([usize; 2], Vec<f32>)> = BTreeMap::from([
        ("w", ([2, 3], vec![0.5, -1.0, 2.0, 0.0, 3.0, 1.0])),
        ("w.importance", ([2, 3], vec![1.0, 2.0, 0.0, 5.0, 0.5, 0.0])),
        ("w.anchor", ([2, 3], vec![0.0, 1.0, -2.0, 0.5, 3.0, 9.0])),
        ("v", ([1, 2], vec![1.0, 4.0])),
        ("v.importance", ([1, 2], vec![10.0, 0.1])),
        ("v.anchor", ([1, 2], vec![1.5, 4.5])),
    ]);
    for (name, (dims, _)) in &tensors {
        b.input(name, DataType::F32, dims.iter().map(|&d| d.into()).collect()).unwrap();
    }
    let anchored = ["w", "v"].map(|p| Anchored {
        parameter: p.to_owned(),
        importance: format!("{p}.importance"),
        anchor: format!("{p}.anchor"),
    });
    let loss = loss::quadratic_penalty(&mut b, &anchored).unwrap();
    b.output(&loss).unwrap();
    let derived = check::gradients(&b.finish(), &loss, &["w", "v"], BatchNorm::Train).unwrap();
    let feeds: Vec<(&str, Tensor)> =
        tensors.iter().map(|(name, (dims, values))| (*name, Tensor::from_f32(dims, values))).collect();
    let results = crate::support::run(&derived, &feeds);
    let values = |name: &str| results[name].to_f32().unwrap().into_iter().map(f64::from).collect::<Vec<_>>();
    let mut expected = 0.0;
    for p in ["w", "v"] {
        let of = |name: &str| tensors[name].1.iter().map(|&v| f64::from(v)).collect::<Vec<_>>();
        let (p_now, importance, anchor) = (of(p), of(&format!("{p}.importance")), of(&format!("{p}.anchor")));
        let terms = || p_now.iter().zip(&anchor).zip(&importance);
        expected += terms().map(|((p, a), i)| i * (p - a).powi(2)).sum::<f64>();
        let slope: Vec<f64> = terms().map(|((p, a), i)| 2.0 * i * (p - a)).collect();
        assert_close(&values(&format!("{p}.grad")), &slope, p);
    }
    assert_close(&[values(&loss)[0]], &[expected], "penalty");
}

#[test]
fn shapes_that_differ_are_named() {
    let mut b = Builder::new("loss", 17);
    for (name, shape) in [("now", ["n", "4"]), ("mask", ["n", "5"]), ("groups", ["g", "3"])] {
        let size = shape[1].parse::<usize>().unwrap();
        b.input(name, DataType::F32, vec![shape[0].into(), size.into()]).unwrap();
    }
    b.input("weight", DataType::F32, vec!["n".into()]).unwrap();
    let says = |error: GradError, words: [&str; 2]| {
        let error = error.to_string();
        assert!(words.iter().all(|w| error.contains(w)), "{error}");
    };
    says(loss::masked(&mut b, "now", "mask").unwrap_err(), ["`mask`", "[n, 5]"]);
    let error = loss::kl_within_groups(&mut b, "now", "now", "weight", "groups", "weight").unwrap_err();
    says(error, ["`groups`", "[G, 4]"]);
    let anchored = |importance: &str, anchor: &str| {
        [Anchored {
            parameter: "now".to_owned(),
            importance: importance.to_owned(),
            anchor: anchor.to_owned(),
        }]
    };
    says(loss::quadratic_penalty(&mut b, &anchored("mask", "now")).unwrap_err(), ["`mask`", "[n, 4]"]);
    says(loss::quadratic_penalty(&mut b, &anchored("now", "mask")).unwrap_err(), ["`mask`", "[n, 4]"]);
    assert!(matches!(loss::quadratic_penalty(&mut b, &[]), Err(GradError::NothingToTrain)));
}
