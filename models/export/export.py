"""Exports a small PyTorch network for 8x8 digits as an ONNX file that `dkt` trains; put your own in its place.

    python export.py OUT.onnx                two heads: ready for `model.network = "OUT.onnx"`
    python export.py OUT.onnx --classifier   one head, as most networks have: `dkt model attach-heads` makes it two
    python export.py OUT.onnx --dynamo       by the exporter on torch.export instead of the one on TorchScript
"""

import argparse

import torch
from torch import nn

INPUT, CLASSES, FEATURES = (1, 8, 8), 10, 32


def features():
    """Images [N, 1, 8, 8] to features [N, 32]."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    )


class DualHead(nn.Module):
    """Both heads read the same features and give raw logits, without softmax."""

    def __init__(self):
        super().__init__()
        self.features = features()
        self.cl_head, self.student_head = nn.Linear(FEATURES, CLASSES), nn.Linear(FEATURES, CLASSES)

    def forward(self, x):
        x = self.features(x)
        return self.cl_head(x), self.student_head(x)


def export_torchscript(model, path, outputs):
    """PRESERVE keeps BatchNormalization; by default the exporter folds it into the convolution before it."""
    torch.onnx.export(
        model, (torch.zeros(2, *INPUT),), path, dynamo=False, opset_version=17, input_names=["input"],
        output_names=outputs, training=torch.onnx.TrainingMode.PRESERVE, do_constant_folding=False,
        dynamic_axes={name: {0: "batch"} for name in ["input", *outputs]},  # any number of rows
    )


def export_dynamo(model, path, outputs):
    """This exporter folds BatchNormalization when it optimises, so only what is constant is folded, afterwards."""
    from onnxscript import optimizer

    program = torch.onnx.export(
        model, (torch.zeros(2, *INPUT),), dynamo=True, opset_version=18, optimize=False,
        input_names=["input"], output_names=outputs, dynamic_shapes=({0: torch.export.Dim("batch")},),
    )
    # What is computed from a parameter is no constant: folded, it would lose the parameter's name.
    learns = {name for name, _ in model.named_parameters()}
    spare = lambda node: False if any(i is not None and i.name in learns for i in node.inputs) else None
    optimizer.fold_constants(program.model, should_fold=spare)
    # Every convolution without a bias was given one of zeros, which would be trained like any other.
    for node in program.model.graph:
        if node.op_type == "Conv" and len(node.inputs) == 3 and node.inputs[2].name not in model.state_dict():
            node.resize_inputs(2)
        node.metadata_props.clear()  # stack traces, with paths of this machine
    optimizer.remove_unused_nodes(program.model)
    program.save(path, external_data=False)  # one file


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out")
    for option in ["--classifier", "--dynamo"]:
        parser.add_argument(option, action="store_true")
    args = parser.parse_args()
    torch.manual_seed(0)
    model = nn.Sequential(features(), nn.Linear(FEATURES, CLASSES)) if args.classifier else DualHead()
    export = export_dynamo if args.dynamo else export_torchscript
    # In training mode the tracing itself would move the running statistics.
    export(model.eval(), args.out, ["logits"] if args.classifier else ["cl_logits", "st_logits"])


if __name__ == "__main__":
    main()
