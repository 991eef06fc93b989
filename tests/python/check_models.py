"""Checks training graphs, and those that go with them, as the specification's own tools see them:
`python check_models.py TRAIN.onnx...`

Each file must pass onnx.checker and strict shape inference, use standard operators only, and keep the rule of
docs/training-graph.md: an output `<name>.next` is of the type and shape of the input `<name>`. So is `<name>.grad`.
"""

import sys

import onnx


def tensor_type(value):
    tensor = value.type.tensor_type
    return tensor.elem_type, [d.dim_param or d.dim_value for d in tensor.shape.dim]


def check(path):
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    domains = {node.domain for node in model.graph.node} | {o.domain for o in model.opset_import}
    assert domains <= {"", "ai.onnx"}, domains
    names = [node.name for node in model.graph.node]
    assert len(names) == len(set(names)), "two nodes of one name, which ONNX Runtime refuses"
    inputs = {i.name: tensor_type(i) for i in model.graph.input}
    state = [o for o in model.graph.output if o.name.endswith(".next")]
    assert state or "learning_rate" not in inputs, "no state"
    for output in state + [o for o in model.graph.output if o.name.endswith(".grad")]:
        assert tensor_type(output) == inputs[output.name.rpartition(".")[0]], output.name
    print(f"{path}: {len(model.graph.node)} nodes, {len(state)} state tensors")


for argument in sys.argv[1:]:
    try:
        check(argument)
    except Exception as error:
        sys.exit(f"{argument}: {error}")
