//! What is wrong with a file itself.

use onnx_grad::graph::{DataType, Graph, Tensor};
use onnx_grad::limits::{MAX_NAME_BYTES, MAX_NODES};
use onnx_grad::{Builder, GradError, ReadError};

use crate::any;
use crate::file::{Message, graph, model, node, opset, tensor, value};

fn decode(graph: &Message) -> Result<Graph, ReadError> {
    Graph::decode(&model(graph).into_bytes())
}

fn refusal(graph: &Message) -> ReadError {
    decode(graph).unwrap_err()
}

/// y = relu(x) and its bytes.
fn relu() -> Message {
    graph(&[node("Relu", "relu", &["x"], &["y"])])
}

/// A small network with everything that a file can hold.
fn small() -> Vec<u8> {
    let mut b = Builder::new("small", 17);
    b.input("x", DataType::F32, vec!["batch".into(), 1.into(), 4.into(), 4.into()]).unwrap();
    b.initializer("conv", Tensor::from_f32(&[2, 1, 3, 3], &[0.5; 18])).unwrap();
    b.initializer("fc", Tensor::from_f32(&[8, 2], &[0.25; 16])).unwrap();
    let y = b.op("Conv", &["x", "conv"], &[("pads", vec![1, 1, 1, 1].into())]).unwrap();
    let y = b.op("Relu", &[&y], &[]).unwrap();
    let window = [("kernel_shape", vec![2, 2].into()), ("strides", vec![2, 2].into())];
    let y = b.op("MaxPool", &[&y], &window).unwrap();
    let y = b.op("Flatten", &[&y], &[]).unwrap();
    let y = b.op("MatMul", &[&y, "fc"], &[]).unwrap();
    b.output(&y).unwrap();
    b.finish().encode()
}

#[test]
fn a_file_cut_anywhere_is_an_error_or_a_graph() {
    let bytes = small();
    assert!(any::derive_all(&Graph::decode(&bytes).unwrap()) > 0);
    for n in 0..bytes.len() {
        if let Ok(graph) = Graph::decode(&bytes[..n]) {
            any::derive_all(&graph);
        }
    }
}

#[test]
fn a_file_with_any_byte_changed_is_an_error_or_a_graph() {
    let bytes = small();
    for i in 0..bytes.len() {
        for change in [0x01, 0x80, 0xff] {
            let mut bytes = bytes.clone();
            bytes[i] ^= change;
            if let Ok(graph) = Graph::decode(&bytes) {
                any::derive_all(&graph);
            }
        }
    }
}

#[test]
fn nothing_and_noise_are_no_graph() {
    assert!(matches!(Graph::decode(&[]), Err(ReadError::NoGraph)));
    assert!(matches!(Graph::decode(b"PK\x03\x04 not a model"), Err(ReadError::Protobuf(_))));
    let deep = (0..1000).fold(Message::new(), |graph, _| {
        let attribute = Message::new().text(1, "body").message(6, &graph).int(20, 5);
        Message::new().message(1, &Message::new().text(4, "Loop").message(5, &attribute))
    });
    let bytes = model(&deep).into_bytes();
    assert!(matches!(Graph::decode(&bytes), Err(ReadError::Protobuf(_))), "no stack overflow");
}

#[test]
fn nodes_in_a_circle_are_named() {
    let nodes = [node("Add", "a", &["x", "c_out"], &["a_out"]), node("Relu", "b", &["a_out"], &["y"])];
    let mut nodes = nodes.to_vec();
    nodes.push(node("Relu", "c", &["y"], &["c_out"]));
    let ReadError::Cycle { nodes } = refusal(&graph(&nodes)) else { panic!("a circle") };
    assert_eq!(nodes, ["a", "c", "b"]);
    let itself = graph(&[node("Add", "self", &["x", "y"], &["y"])]);
    assert!(matches!(refusal(&itself), ReadError::Cycle { nodes } if nodes == ["self"]));
}

#[test]
fn a_long_circle_does_not_take_the_stack() {
    let nodes: Vec<Message> = (0..20_000)
        .map(|i| node("Relu", "", &[&format!("v{}", (i + 1) % 20_000)], &[&format!("v{i}")]))
        .collect();
    let ReadError::Cycle { nodes } = refusal(&graph(&nodes)) else { panic!("a circle") };
    assert_eq!(nodes.len(), 20_000);
    assert!(
        ReadError::Cycle { nodes }
            .to_string()
            .ends_with("and 19992 more read each other's outputs in a circle")
    );
}

#[test]
fn nodes_out_of_order_are_told_from_a_circle() {
    let nodes = [node("Relu", "second", &["between"], &["y"]), node("Relu", "first", &["x"], &["between"])];
    let error = refusal(&graph(&nodes));
    assert!(
        matches!(&error, ReadError::Order { node, value, giver, .. } if (&**node, &**value, &**giver) == ("second", "between", "first")),
        "{error}"
    );
    assert!(error.to_string().contains("topological"));
}

#[test]
fn values_that_nobody_gives_are_named() {
    let error = refusal(&graph(&[node("Add", "add", &["x", "nowhere"], &["y"])]));
    assert!(matches!(error, ReadError::UnknownValue { value, .. } if value == "nowhere"));
    assert!(matches!(refusal(&graph(&[])), ReadError::UnknownOutput { name } if name == "y"));
}

#[test]
fn a_name_is_given_once() {
    let twice = graph(&[node("Relu", "a", &["x"], &["y"]), node("Relu", "b", &["x"], &["y"])]);
    let ReadError::Redefined { value: named, first, second } = refusal(&twice) else { panic!("given twice") };
    assert_eq!([named, first, second], ["y", "node `a`", "node `b`"]);
    let within = graph(&[node("Split", "a", &["x"], &["y", "y"])]);
    assert!(matches!(refusal(&within), ReadError::Redefined { .. }));
    let input = graph(&[node("Relu", "a", &["x"], &["x"])]);
    assert!(matches!(refusal(&input), ReadError::Redefined { value, .. } if value == "x"));
    let inputs = relu().message(11, &value("x", &[2]));
    assert!(matches!(refusal(&inputs), ReadError::Redefined { value, .. } if value == "x"));
    let initializers = relu().message(5, &tensor("w", &[1], 4)).message(5, &tensor("w", &[1], 4));
    assert!(matches!(refusal(&initializers), ReadError::DuplicateInitializer { name } if name == "w"));
    let outputs = relu().message(12, &value("y", &[2]));
    assert!(matches!(refusal(&outputs), ReadError::DuplicateOutput { name } if name == "y"));
    let tied = graph(&[node("Identity", "tie", &["w"], &["x"]), node("Relu", "r", &["x"], &["y"])])
        .message(5, &tensor("w", &[2], 8));
    assert!(matches!(refusal(&tied), ReadError::Redefined { value, .. } if value == "x"));
    let attribute = Message::new().text(1, "axis").int(3, 1).int(20, 2);
    let attributes =
        graph(&[node("Softmax", "s", &["x"], &["y"]).message(5, &attribute).message(5, &attribute)]);
    assert!(matches!(refusal(&attributes), ReadError::DuplicateAttribute { name, .. } if name == "axis"));
}

#[test]
fn equal_names_of_nodes_are_told_apart_in_little_time() {
    let mut nodes: Vec<Message> =
        (0..30_000).map(|i| node("Relu", "n", &["x"], &[&format!("v{i}")])).collect();
    nodes.push(node("Relu", "n_1", &["x"], &["y"]));
    let names: std::collections::BTreeSet<String> =
        decode(&graph(&nodes)).unwrap().nodes.into_iter().map(|n| n.name).collect();
    assert_eq!(names.len(), 30_001);
}

#[test]
fn inputs_and_initialisers_have_names() {
    assert!(matches!(refusal(&relu().message(11, &value("", &[2]))), ReadError::NoName { what: "an input" }));
    let unnamed = relu().message(5, &tensor("", &[1], 4));
    assert!(matches!(refusal(&unnamed), ReadError::NoName { what: "an initialiser" }));
}

#[test]
fn names_are_not_endless() {
    let name = "n".repeat(3_000_000);
    let expected = |error: ReadError| {
        let ReadError::Limit { found, limit, name, .. } = &error else { panic!("{error}") };
        assert_eq!((*found, *limit, *name), (3_000_000, MAX_NAME_BYTES as u64, "MAX_NAME_BYTES"));
        assert!(error.to_string().len() < 200, "{error}");
    };
    expected(refusal(&graph(&[node("Relu", &name, &["x"], &["y"])])));
    expected(refusal(&graph(&[node("Relu", "r", &["x"], &[&name])])));
    expected(refusal(&relu().message(11, &value(&name, &[2]))));
    let shape = Message::new().message(1, &Message::new().text(2, &name));
    let info = Message::new().message(1, &Message::new().int(1, 1).message(2, &shape));
    expected(refusal(&relu().message(11, &Message::new().text(1, "z").message(2, &info))));
}

#[test]
fn nodes_are_not_endless() {
    // Empty messages: two bytes each.
    let nodes = (0..=MAX_NODES).fold(Message::new(), |graph, _| graph.message(1, &Message::new()));
    assert!(matches!(refusal(&nodes), ReadError::Limit { name: "MAX_NODES", .. }));
}

#[test]
fn tied_initialisers_do_not_multiply_without_end() {
    let nodes: Vec<Message> = (0..3000).map(|i| node("Identity", "", &["w"], &[&format!("w{i}")])).collect();
    let graph = graph(&nodes)
        .message(1, &node("Relu", "r", &["x"], &["y"]))
        .message(5, &tensor("w", &[65536], 262144));
    assert!(matches!(refusal(&graph), ReadError::Limit { name: "MAX_UNTIED_BYTES", .. }));
}

/// Found by fuzzing: reading takes training mode back, and with it what the statistics become.
#[test]
fn moved_statistics_are_not_read() {
    let inputs = ["x", "w", "w", "w", "w"];
    let normalisation = node("BatchNormalization", "n", &inputs, &["a", "mean", "var"]);
    let graph = |last: Message| graph(&[normalisation.clone(), last]).message(5, &tensor("w", &[1], 4));
    let read = refusal(&graph(node("Add", "add", &["a", "mean"], &["y"])));
    assert!(
        matches!(read, ReadError::MovedStatistic { value, reader } if (&*value, &*reader) == ("mean", "add"))
    );
    let put_out = graph(node("Relu", "r", &["a"], &["y"])).message(12, &value("var", &[1]));
    assert!(matches!(refusal(&put_out), ReadError::MovedStatistic { value, .. } if value == "var"));
    let again = node("BatchNormalization", "again", &["a", "w", "w", "mean", "var"], &["y"]);
    assert_eq!(decode(&graph(again)).unwrap().nodes[1].inputs, ["a", "w", "w", "w", "w"]);
}

#[test]
fn unnamed_dimensions_take_no_name_of_the_file() {
    let dims = |dims: &[Message]| {
        let shape = dims.iter().fold(Message::new(), |shape, dim| shape.message(1, dim));
        Message::new().message(1, &Message::new().int(1, 1).message(2, &shape))
    };
    let info = dims(&[Message::new(), Message::new().text(2, "unnamed_0"), Message::new()]);
    let graph = decode(&relu().message(11, &Message::new().text(1, "z").message(2, &info))).unwrap();
    let shape: Vec<String> = graph.inputs[1].shape.iter().map(ToString::to_string).collect();
    assert_eq!(shape, ["unnamed_1", "unnamed_0", "unnamed_2"]);
}

#[test]
fn tensors_are_as_large_as_they_say() {
    let refused = |dims: &[i64], n_bytes| refusal(&relu().message(5, &tensor("w", dims, n_bytes)));
    assert!(matches!(refused(&[2], 7), ReadError::TensorSize { expected: 8, found: 7, .. }));
    assert!(matches!(refused(&[1 << 28], 8), ReadError::TensorSize { found: 8, .. }));
    for dims in [&[-1][..], &[1 << 40], &[i64::MAX, i64::MAX], &[1 << 62, 4], &[0, i64::MAX], &[i64::MIN]] {
        assert!(matches!(refused(dims, 0), ReadError::Dimensions { .. }), "{dims:?}");
    }
    assert!(decode(&relu().message(5, &tensor("w", &[0, 3], 0))).is_ok());
}

#[test]
fn what_is_no_dense_tensor_of_numbers_is_refused_by_name() {
    let text = Message::new().int(1, 1).int(2, 8).text(8, "w").text(6, "word");
    assert!(matches!(refusal(&relu().message(5, &text)), ReadError::ElementType { code: 8, .. }));
    let sparse = Message::new().message(1, &tensor("w", &[1], 4));
    assert!(matches!(refusal(&relu().message(15, &sparse)), ReadError::SparseInitializer));
    // Sequence, map, sparse tensor, optional: the alternatives of TypeProto.
    for tag in [4, 5, 8, 9] {
        let info = Message::new().text(1, "z").message(2, &Message::new().message(tag, &Message::new()));
        assert!(matches!(refusal(&relu().message(11, &info)), ReadError::NotATensor { name } if name == "z"));
    }
    let untyped = Message::new().text(1, "z");
    assert!(matches!(refusal(&relu().message(11, &untyped)), ReadError::NotATensor { name } if name == "z"));
    let type_only =
        Message::new().text(1, "z").message(2, &Message::new().message(1, &Message::new().int(1, 1)));
    assert!(matches!(refusal(&relu().message(11, &type_only)), ReadError::NoShape { name } if name == "z"));
}

#[test]
fn attributes_that_no_operator_here_has_are_told_apart() {
    let subgraph = Message::new().text(1, "then_branch").message(6, &relu()).int(20, 5);
    let cases = [
        ("If", subgraph, "a subgraph (control flow)"),
        (
            "Scan",
            Message::new().text(1, "bodies").message(11, &relu()).int(20, 10),
            "a subgraph (control flow)",
        ),
        ("Constant", Message::new().text(1, "sparse_value").int(20, 11), "a sparse tensor"),
        ("Relu", Message::new().text(1, "a").int(3, 1), "a value of undefined type"),
        ("Relu", Message::new().text(1, "a").int(20, 99), "an attribute type that no supported operator has"),
        ("Relu", Message::new().text(1, "a").int(20, 4), "no tensor"),
        ("Relu", Message::new().text(1, "a").bytes(4, b"\xff").int(20, 3), "bytes that are not UTF-8"),
        (
            "Relu",
            Message::new().text(1, "a").text(21, "b").int(20, 2),
            "a reference to a function's attribute",
        ),
    ];
    for (op, attribute, expected) in cases {
        let error = refusal(&graph(&[node(op, "n", &["x"], &["y"]).message(5, &attribute)]));
        assert!(
            matches!(&error, ReadError::Attribute { found, .. } if *found == expected),
            "{expected}: {error}"
        );
    }
}

#[test]
fn opsets_are_declared_and_known() {
    let file = |opsets: &[Message]| {
        let model = Message::new().int(1, 8).message(7, &relu());
        Graph::decode(&opsets.iter().fold(model, |model, opset| model.message(8, opset)).into_bytes())
    };
    assert!(matches!(file(&[]), Err(ReadError::NoOpset)));
    assert!(matches!(file(&[opset("ai.onnx.ml", 3)]), Err(ReadError::NoOpset)));
    assert!(matches!(file(&[Message::new().text(1, "")]), Err(ReadError::Opset { found: 0, .. })));
    for version in [i64::MIN, -1, 0, 12, 22, 1 << 33, i64::MAX] {
        assert!(
            matches!(file(&[opset("", version)]), Err(ReadError::Opset { found, .. }) if found == version)
        );
    }
    assert!(matches!(
        file(&[opset("", 17), opset("ai.onnx", 18)]),
        Err(ReadError::TwoOpsets { first: 17, second: 18 })
    ));
    assert!(file(&[opset("com.microsoft", 1), opset("", 17), opset("ai.onnx", 17)]).is_ok());
}

#[test]
fn functions_of_the_model_are_refused() {
    let function = Message::new().text(1, "Gelu").text(10, "pkg");
    let bytes = model(&relu()).message(25, &function).into_bytes();
    assert!(matches!(Graph::decode(&bytes), Err(ReadError::Function { name }) if name == "Gelu"));
}

#[test]
fn operators_of_other_domains_and_of_no_name_are_listed() {
    let nodes = [
        node("FusedConv", "a", &["x"], &["a"]).text(7, "com.microsoft"),
        node("Normalizer", "b", &["a"], &["b"]).text(7, "ai.onnx.ml"),
        node("", "c", &["b"], &["y"]),
    ];
    let graph = decode(&graph(&nodes)).unwrap();
    let Err(GradError::Unsupported(nodes)) = Builder::from_graph(graph) else { panic!("unsupported") };
    let found: Vec<(&str, &str)> = nodes.iter().map(|n| (n.domain.as_str(), n.op.as_str())).collect();
    assert_eq!(found, [("", ""), ("com.microsoft", "FusedConv"), ("ai.onnx.ml", "Normalizer")]);
}

#[test]
fn nodes_have_the_inputs_and_outputs_of_their_operator() {
    let refused =
        |node: &Message| match Builder::from_graph(decode(&graph(std::slice::from_ref(node))).unwrap()) {
            Err(GradError::Arity { what, expected, found, .. }) => (what, expected, found),
            other => panic!("{:?}", other.map(|_| ())),
        };
    let mut dangling = decode(&relu()).unwrap();
    dangling.nodes[0].outputs.clear();
    assert!(matches!(Builder::from_graph(dangling), Err(GradError::Arity { what: "output", found: 0, .. })));
    let normalisation =
        graph(&[node("BatchNormalization", "n", &["x"], &[]), node("Relu", "r", &["x"], &["y"])]);
    let dangling = Builder::from_graph(decode(&normalisation).unwrap());
    assert!(matches!(dangling, Err(GradError::Arity { what: "input", found: 1, .. })));
    assert_eq!(refused(&node("Add", "n", &["x"], &["y"])), ("input", "2".to_owned(), 1));
    assert_eq!(refused(&node("Add", "n", &["x", ""], &["y"])), ("input", "2".to_owned(), 1));
    assert_eq!(refused(&node("Relu", "n", &["x", "x"], &["y"])), ("input", "1".to_owned(), 2));
    assert_eq!(refused(&node("Relu", "n", &["x"], &["y", "z"])), ("output", "1".to_owned(), 2));
    assert_eq!(refused(&node("Relu", "n", &[], &["y"])), ("input", "1".to_owned(), 0));
    assert_eq!(refused(&node("Sum", "n", &["x", "", "x"], &["y"])), ("input", "at least 3".to_owned(), 1));
    let many: Vec<String> = (0..2000).map(|i| format!("y{i}")).collect();
    let many: Vec<&str> = std::iter::once("y").chain(many.iter().map(String::as_str)).collect();
    let graph = decode(&graph(&[node("Split", "n", &["x"], &many)])).unwrap();
    assert!(matches!(Builder::from_graph(graph), Err(GradError::Limit { name: "MAX_OUTPUTS", .. })));
}
