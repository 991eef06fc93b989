//! What is taken where a derivative does not exist. The numbers are PyTorch's.

use onnx_grad::graph::{Attribute, DataType, Tensor};
use onnx_grad::{BatchNorm, Builder, check};

use crate::support;

/// Gradients of Σ op(x, others) with respect to x and to those of `others` that learn, named `o…`.
fn gradients(
    op: &str,
    x: &[f32],
    others: &[(&str, Tensor)],
    attributes: &[(&str, Attribute)],
) -> Vec<Vec<f32>> {
    let mut b = Builder::new(op, 21);
    b.input("x", DataType::F32, vec![x.len().into()]).unwrap();
    for (name, tensor) in others {
        b.initializer(name, tensor.clone()).unwrap();
    }
    let names: Vec<&str> = std::iter::once("x").chain(others.iter().map(|(name, _)| *name)).collect();
    b.op_named(op, &names, attributes, "y").unwrap();
    b.op_named("ReduceSum", &["y"], &[("keepdims", 0_i64.into())], "loss").unwrap();
    b.output("loss").unwrap();
    let learning: Vec<&str> = names.into_iter().filter(|n| *n == "x" || n.starts_with('o')).collect();
    let derived = check::gradients(&b.finish(), "loss", &learning, BatchNorm::Train).unwrap();
    let results = support::run(&derived, &[("x", Tensor::from_f32(&[x.len()], x))]);
    learning.iter().map(|name| results[&format!("{name}.grad")].to_f32().unwrap()).collect()
}

fn scalar(value: f32) -> Tensor {
    Tensor::from_f32(&[], &[value])
}

#[test]
fn functions_of_one_variable_at_their_kinks() {
    let alpha = |value: f32| [("alpha", Attribute::from(value))];
    let sixth = [("alpha", (1.0_f32 / 6.0).into()), ("beta", 0.5_f32.into())];
    let check = |op: &str, attributes: &[(&str, Attribute)], x: &[f32], expected: &[f32]| {
        let found = gradients(op, x, &[], attributes).remove(0);
        let near = found.iter().zip(expected).all(|(f, e)| (f - e).abs() <= 1e-6);
        assert!(near, "{op} at {x:?}: expected {expected:?}, found {found:?}");
    };
    check("Abs", &[], &[0.0, -0.0], &[0.0, 0.0]);
    check("Relu", &[], &[0.0, -0.0], &[0.0, 0.0]);
    check("LeakyRelu", &alpha(0.1), &[0.0, -0.0], &[0.1, 0.1]);
    check("LeakyRelu", &alpha(-0.1), &[0.0, -0.0], &[-0.1, -0.1]);
    check("ThresholdedRelu", &alpha(1.0), &[1.0], &[0.0]);
    check("HardSwish", &[], &[-3.0, 0.0, 3.0], &[0.0, 0.5, 1.0]);
    check("HardSigmoid", &sixth, &[-3.0, 0.0, 3.0], &[0.0, 1.0 / 6.0, 0.0]);
    check("Elu", &alpha(2.0), &[0.0], &[2.0]);
    check("Celu", &alpha(2.0), &[0.0], &[1.0]);
    check("Selu", &[], &[0.0], &[1.758_099_3]);
    check("Softsign", &[], &[0.0], &[1.0]);
}

/// Smooth, but made of powers that overflow.
#[test]
fn functions_of_one_variable_far_from_zero() {
    for op in ["Gelu", "Mish", "Softplus", "Elu", "Selu", "Celu", "HardSwish"] {
        let approximate = [("approximate", Attribute::from("tanh"))];
        let both: &[&[(&str, Attribute)]] = if op == "Gelu" { &[&[], &approximate] } else { &[&[]] };
        for attributes in both {
            let found = gradients(op, &[-1000.0, -100.0, 100.0, 1000.0], &[], attributes).remove(0);
            let above = if op == "Selu" { 1.050_701 } else { 1.0 };
            let expected = [0.0, 0.0, above, above];
            let near = found.iter().zip(expected).all(|(f, e)| (f - e).abs() <= 1e-6);
            assert!(near, "{op} {attributes:?}: {found:?}");
        }
    }
}

#[test]
fn clip_at_its_bounds() {
    let bounds = [("low", scalar(-1.0)), ("high", scalar(1.0))];
    let at = [-2.0, -1.0, -1.0 + f32::EPSILON, 1.0 - f32::EPSILON, 1.0, 2.0];
    assert_eq!(gradients("Clip", &at, &bounds, &[])[0], [0.0, 0.0, 1.0, 1.0, 0.0, 0.0]);
    assert_eq!(gradients("Clip", &at, &[], &[])[0], [1.0; 6]);
    assert_eq!(gradients("Clip", &at, &bounds[..1], &[])[0], [0.0, 0.0, 1.0, 1.0, 1.0, 1.0]);

    let learnt = [("o_low", scalar(-1.0)), ("o_high", scalar(1.0))];
    let found = gradients("Clip", &at, &learnt, &[]);
    assert_eq!(found, [vec![0.0, 0.0, 1.0, 1.0, 0.0, 0.0], vec![2.0], vec![2.0]]);
}

#[test]
fn prelu_at_zero() {
    let slope = [("o_slope", Tensor::from_f32(&[1], &[0.25]))];
    assert_eq!(gradients("PRelu", &[0.0, -0.0], &slope, &[]), [vec![0.25, 0.25], vec![0.0]]);
}

#[test]
fn pow_at_base_zero() {
    for (exponent, expected) in [(1.0, 1.0), (2.0, 0.0), (3.0, 0.0)] {
        let found = gradients("Pow", &[0.0], &[("o_exponent", Tensor::from_f32(&[1], &[exponent]))], &[]);
        assert_eq!(found, [vec![expected], vec![0.0]], "exponent {exponent}");
        assert_eq!(gradients("Pow", &[0.0], &[("e", scalar(exponent))], &[]), [vec![expected]]);
    }
}

#[test]
fn maximum_of_equals_is_shared() {
    for op in ["Max", "Min"] {
        let found = gradients(op, &[1.0], &[("o", Tensor::from_f32(&[1], &[1.0]))], &[]);
        assert_eq!(found, [vec![0.5], vec![0.5]], "{op}");
    }
}

/// Through float16, bfloat16 and float64 and back the gradient arrives as float32, rounded on the way.
#[test]
fn casts_there_and_back() {
    for (to, epsilon) in [(10_i64, 1e-3), (16, 8e-3), (11, 1e-7)] {
        let mut b = Builder::new("casts", 21);
        b.input("x", DataType::F32, vec!["batch".into(), 2.into()]).unwrap();
        b.initializer("w", Tensor::from_f32(&[2], &[1.1, -2.3])).unwrap();
        b.op_named("Cast", &["x"], &[("to", to.into())], "low").unwrap();
        b.op_named("Cast", &["low"], &[("to", 1_i64.into())], "back").unwrap();
        b.op_named("Mul", &["back", "w"], &[], "y").unwrap();
        b.op_named("ReduceSum", &["y"], &[("keepdims", 0_i64.into())], "loss").unwrap();
        b.output("loss").unwrap();
        let derived = check::gradients(&b.finish(), "loss", &["x", "w"], BatchNorm::Train).unwrap();
        let results = support::run(&derived, &[("x", Tensor::from_f32(&[1, 2], &[0.3, 0.7]))]);
        for (name, expected) in [("x.grad", [1.1, -2.3]), ("w.grad", [0.3, 0.7])] {
            let found = results[name].to_f32().unwrap();
            let near =
                found.iter().zip(expected).all(|(f, e): (&f32, f32)| (f - e).abs() <= epsilon * e.abs());
            assert!(near, "{name} by ONNX type {to}: {found:?}");
        }
    }
}
