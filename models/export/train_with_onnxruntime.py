"""Trains a derived training graph with plain ONNX Runtime: the contract of docs/training-graph.md in use.

    dkt model build digits-cnn -o model.onnx
    dkt model derive model.onnx -o train.onnx --state state.safetensors
    python train_with_onnxruntime.py model.onnx train.onnx state.safetensors trained.onnx

Needs numpy, onnx and onnxruntime. Takes a dual-head network or any other classifier of digits, derived with any
options but --accumulate. Trains on the digits of this repository; no teacher takes part.
"""

import json
import os
import pathlib
import sys

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # read when the library is loaded

import numpy as np
import onnx
import onnxruntime as ort
from onnx import numpy_helper

EPOCHS, BATCH = 10, 32
DIGITS = pathlib.Path(__file__).resolve().parents[2] / "agent" / "data" / "digits"


def digits():
    """Training and test images [n, 1, 8, 8], normalised, and their labels: every fifth of a class is for testing."""
    images = np.fromfile(DIGITS / "images-idx3-ubyte", np.uint8, offset=16).reshape(-1, 1, 8, 8)
    labels = np.fromfile(DIGITS / "labels-idx1-ubyte", np.uint8, offset=8)
    test = np.zeros(len(labels), bool)
    for digit in range(10):
        test[np.flatnonzero(labels == digit)[::5]] = True
    x = (images.astype(np.float32) - images[~test].mean()) / images[~test].std()
    return x[~test].astype(np.float32), labels[~test], x[test].astype(np.float32), labels[test]


def initial_state(path):
    """The tensors of a safetensors file: the header's length, a JSON header, then the data."""
    data = pathlib.Path(path).read_bytes()
    begin = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:begin])
    header.pop("__metadata__", None)
    values = {name: data[begin:][slice(*tensor["data_offsets"])] for name, tensor in header.items()}
    return {name: np.frombuffer(values[name], "<f4").reshape(header[name]["shape"]) for name in header}


def with_state(model, state):
    """The forward file with trained parameters and running statistics."""
    used = {name for node in model.graph.node for name in node.input}
    nodes = [node for node in model.graph.node if node.output[0] not in state]
    tensors = [t for t in model.graph.initializer if t.name not in state]
    tensors += [numpy_helper.from_array(value, name) for name, value in state.items() if name in used]
    del model.graph.node[:], model.graph.initializer[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(tensors)
    return model


def main(model_path, train_path, state_path, out_path):
    model, session = onnx.load(model_path), ort.InferenceSession(train_path)
    version = session.get_modelmeta().custom_metadata_map.get("onnx-grad.contract")
    if version != "2":
        sys.exit(f"{train_path}: expected a training graph of contract 2, found {version}")
    inputs = [i.name for i in session.get_inputs()]
    outputs = [o.name for o in session.get_outputs()]
    input_name = model.graph.input[0].name
    state = initial_state(state_path)
    x, labels, x_test, labels_test = digits()
    scalars = {"learning_rate": 0.001, "distill_weight": 0.5, "temperature": 2.0}
    step, run, order = 1, 0, np.random.default_rng(0)
    for epoch in range(EPOCHS):
        shuffled = order.permutation(len(labels))
        for rows in [shuffled[i : i + BATCH] for i in range(0, len(labels), BATCH)]:
            run += 1
            feeds = {
                input_name: x[rows],
                "labels": np.eye(10, dtype=np.float32)[labels[rows]],
                "teacher_logits": np.zeros((len(rows), 10), np.float32),
                "teacher_weight": np.zeros(len(rows), np.float32),  # 0: no teacher for that row
                **{name: np.array(value, np.float32) for name, value in {**scalars, "step": step}.items()},
                "seed": np.array(run, np.int64),  # of dropout
                **state,
            }
            results = dict(zip(outputs, session.run(None, {name: feeds[name] for name in inputs})))
            skips = "loss_scale" in state  # float16: a gradient that overflows moves nothing
            if not skips and not (np.isfinite(results["loss"]) and np.isfinite(results["grad_norm"])):
                sys.exit(f"step {step}: the loss is {results['loss']}; the state is as before the step")
            state = {name: results[f"{name}.next"] for name in state}
            step += int(results.get("applied", 1))
        print(f"epoch {epoch + 1}: loss {results['loss']:.4f}, gradient norm {results['grad_norm']:.3f}")
    onnx.save(with_state(model, state), out_path)
    logits = ort.InferenceSession(out_path).run(None, {input_name: x_test})[0]
    print(f"{out_path}: {(logits.argmax(1) == labels_test).mean():.1%} of {len(labels_test)} test images are right")


if __name__ == "__main__":
    if len(sys.argv) != 5:
        sys.exit(__doc__)
    main(*sys.argv[1:])
