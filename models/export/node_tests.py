"""Writes ONNX's own node tests as folders that `onnx-grad`'s example `node_tests` reads.

    python node_tests.py FOLDER

Each test becomes FOLDER/<operator>/<test>/: `model.onnx`, and `inputs.onnx` and `expected.onnx` with the tensors that the
test feeds and expects, as initialisers under the names of the model's inputs and outputs. FOLDER/version.txt holds ONNX's
version.

A test model is of the opset in which its operator last changed, from 1 to the newest. Where the same model means the same
in an opset that onnx-grad reads, it is given that opset: the older one always if no node's definition changed in between,
the newer one if the node has only what the definition of that opset has too. That the meaning is indeed the same is for
the test's expected outputs to prove.
"""

import argparse
import pathlib
import warnings

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.backend.test.case.node import collect_testcases
from onnx.defs import get_schema

FIRST, LAST = 13, 21
STANDARD = ("", "ai.onnx")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=pathlib.Path)
    folder = parser.parse_args().folder
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        cases = collect_testcases(None)
    operators = {case.name: case.model.graph.node[0] for case in cases if "_expanded" not in case.name}
    for case in cases:
        # `<test>_expanded…` is the same test with the operator written as the body of its function.
        node = operators.get(case.name.split("_expanded")[0])
        if node is None or node.domain not in STANDARD:
            continue
        model = in_range(case.model)
        # onnx-grad reads every model as one for inference.
        training = [a.i for a in node.attribute if a.name == "training_mode"] == [1]
        if training or (node.op_type == "Dropout" and len(node.input) > 2):
            helper.set_model_props(model, {"training": "1"})
        (inputs, outputs), *_ = case.data_sets
        into = folder / node.op_type / case.name
        into.mkdir(parents=True, exist_ok=True)
        (into / "model.onnx").write_bytes(model.SerializeToString())
        (into / "inputs.onnx").write_bytes(values(model.graph.input, inputs))
        (into / "expected.onnx").write_bytes(values(model.graph.output, outputs))
    (folder / "version.txt").write_text(onnx.__version__)


def in_range(model):
    """The model in an opset from FIRST to LAST, if it can be; else as it is."""
    version = next((o.version for o in model.opset_import if o.domain in STANDARD), None)
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    nodes = [node for node in model.graph.node if node.domain in STANDARD]
    if version is None or FIRST <= version <= LAST:
        return changed
    if version < FIRST:
        target = FIRST
        same = all(get_schema(n.op_type, FIRST).since_version <= version for n in nodes)
    else:
        target = LAST
        same = all(expressible(node) for node in nodes)
    if same:
        for opset in changed.opset_import:
            if opset.domain in STANDARD:
                opset.version = target
    return changed


def expressible(node):
    """Whether the node has only attributes, inputs and outputs that its definition in opset LAST has too."""
    try:
        schema = get_schema(node.op_type, LAST)
    except onnx.defs.SchemaError:
        return False
    return (
        all(a.name in schema.attributes for a in node.attribute)
        and len(node.input) <= schema.max_input
        and len(node.output) <= schema.max_output
    )


def values(infos, arrays):
    """A model without nodes that holds the tensors; sequences and the like are left out."""
    tensors = []
    for info, array in zip(infos, arrays):
        if isinstance(array, TensorProto):
            tensor = TensorProto()
            tensor.CopyFrom(array)
            tensor.name = info.name
        elif isinstance(array, (np.ndarray, np.generic)):
            tensor = numpy_helper.from_array(np.asarray(array), info.name)
        else:
            continue
        tensors.append(tensor)
    graph = helper.make_graph([], "values", [], [], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", FIRST)]).SerializeToString()


if __name__ == "__main__":
    main()
