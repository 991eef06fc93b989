//! Operators without a derivative: a network may contain them, and their shapes are known.

use onnx_grad::graph::{Attribute, DataType, Dim, Tensor};
use onnx_grad::{BatchNorm, Builder, check};

use crate::support;

/// The declared type and shape of `op`'s output are those that ONNX Runtime gives it.
fn check_shape(
    op: &str,
    inputs: &[Tensor],
    attributes: &[(&str, Attribute)],
    dtype: DataType,
    symbols: &[usize],
) {
    let mut b = Builder::new(op, 21);
    let names: Vec<String> = (0..inputs.len()).map(|i| format!("c{i}")).collect();
    for (name, tensor) in names.iter().zip(inputs) {
        b.initializer(name, tensor.clone()).unwrap();
    }
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    b.op_named(op, &names, attributes, "y").unwrap();
    let value = b.value("y").unwrap().clone();
    assert_eq!(value.dtype, dtype, "{op}");
    // ONNX Runtime refuses a file whose output has another type than the file declares.
    b.output("y").unwrap();
    b.op_named("Cast", &["y"], &[("to", 1_i64.into())], "as_floats").unwrap();
    b.output("as_floats").unwrap();
    let mut graph = b.finish();
    graph.outputs.iter_mut().for_each(|o| {
        o.shape = (0..o.shape.len()).map(|i| Dim::Symbol(format!("d{i}"))).collect();
    });
    graph.outputs.remove(0);
    let found = &support::run(&graph, &[])["as_floats"].dims;
    assert_eq!(found.len(), value.shape.len(), "{op}: {:?} for {found:?}", value.shape);
    for (i, (declared, found)) in value.shape.iter().zip(found).enumerate() {
        let expected = if symbols.contains(&i) { None } else { Some(*found) };
        assert_eq!(declared.size(), expected, "{op} {attributes:?}: axis {i} of {found:?}");
    }
}

#[test]
fn their_shapes_are_those_of_the_specification() {
    let floats = || Tensor::from_f32(&[2, 3], &[0.0, 1.0, 2.0, 3.0, 0.5, -1.0]);
    let integers = || Tensor::from_i64(&[2, 3], &[0, 1, 2, 3, 2, 1]);
    let bytes = || Tensor { dtype: DataType::U8, dims: vec![2, 1], bytes: vec![1, 2] };
    let bools = |dims: &[usize]| Tensor {
        dtype: DataType::Bool,
        dims: dims.to_vec(),
        bytes: vec![1; dims.iter().product()],
    };
    let int = |name, value: i64| (name, Attribute::from(value));
    for op in ["ArgMax", "ArgMin"] {
        check_shape(op, &[floats()], &[], DataType::I64, &[]);
        check_shape(op, &[floats()], &[int("axis", -1), int("keepdims", 0)], DataType::I64, &[]);
    }
    for op in ["IsInf", "IsNaN"] {
        check_shape(op, &[floats()], &[], DataType::Bool, &[]);
    }
    check_shape("Round", &[floats()], &[], DataType::F32, &[]);
    check_shape("NonZero", &[floats()], &[], DataType::I64, &[1]);
    check_shape("Xor", &[bools(&[2, 1]), bools(&[3])], &[], DataType::Bool, &[]);
    check_shape("BitShift", &[bytes(), bytes()], &[("direction", "LEFT".into())], DataType::U8, &[]);
    for op in ["BitwiseAnd", "BitwiseOr", "BitwiseXor"] {
        check_shape(op, &[integers(), Tensor::from_i64(&[1], &[3])], &[], DataType::I64, &[]);
    }
    check_shape("BitwiseNot", &[integers()], &[], DataType::I64, &[]);
    check_shape("Mod", &[integers(), Tensor::from_i64(&[], &[2])], &[], DataType::I64, &[]);
    check_shape("EyeLike", &[floats()], &[int("dtype", 7)], DataType::I64, &[]);
    check_shape("EyeLike", &[floats()], &[], DataType::F32, &[]);
    for op in ["RandomNormalLike", "RandomUniformLike"] {
        check_shape(op, &[floats()], &[], DataType::F32, &[]);
        check_shape(op, &[integers()], &[int("dtype", 11)], DataType::F64, &[]);
    }
    check_shape("Bernoulli", &[floats()], &[int("dtype", 9)], DataType::Bool, &[]);
    for op in ["RandomNormal", "RandomUniform"] {
        check_shape(op, &[], &[("shape", [2_i64, 3].as_slice().into())], DataType::F32, &[]);
        check_shape(op, &[], &[("shape", [4_i64].as_slice().into()), int("dtype", 11)], DataType::F64, &[]);
    }
    let (depth, values) = (Tensor::from_i64(&[], &[4]), Tensor::from_f32(&[2], &[0.0, 1.0]));
    for axis in [-1_i64, 0, 1, -2] {
        let inputs = [integers(), depth.clone(), values.clone()];
        check_shape("OneHot", &inputs, &[int("axis", axis)], DataType::F32, &[]);
    }
}

/// y = w x, scaled by whether its largest element is the first: dw = x scale, and the choice itself gives nothing.
#[test]
fn nothing_behind_them_learns() {
    let mut b = Builder::new("choice", 21);
    b.input("x", DataType::F32, vec!["batch".into(), 2.into()]).unwrap();
    b.initializer("w", Tensor::from_f32(&[2], &[1.0, 2.0])).unwrap();
    b.initializer("depth", Tensor::from_i64(&[], &[2])).unwrap();
    b.initializer("values", Tensor::from_f32(&[2], &[0.5, 3.0])).unwrap();
    b.op_named("Mul", &["x", "w"], &[], "product").unwrap();
    b.op_named("ArgMax", &["product"], &[("axis", 1_i64.into()), ("keepdims", 0_i64.into())], "first")
        .unwrap();
    b.op_named("OneHot", &["first", "depth", "values"], &[], "scale").unwrap();
    b.op_named("Round", &["product"], &[], "rounded").unwrap();
    b.op_named("Mul", &["product", "scale"], &[], "y").unwrap();
    b.op_named("Sum", &["y", "rounded"], &[], "sum").unwrap();
    b.op_named("ReduceSum", &["sum"], &[("keepdims", 0_i64.into())], "loss").unwrap();
    b.output("loss").unwrap();
    let derived = check::gradients(&b.finish(), "loss", &["w"], BatchNorm::Train).unwrap();
    let results = support::run(&derived, &[("x", Tensor::from_f32(&[2, 2], &[5.0, 1.0, 1.0, 1.0]))]);
    assert_eq!(results["w.grad"].to_f32().unwrap(), [5.0 * 3.0 + 0.5, 0.5 + 3.0]);
}
