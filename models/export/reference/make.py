"""Makes the fixtures of models/onnx-grad/tests/reference/pytorch.rs: forward ONNX files and what PyTorch computes with them.

    python make.py        needs torch, onnx, onnxscript; writes beside itself

Per network NET: NET.EXPORTER.onnx (forward graph, parameters inside) and NET.safetensors with
    batch.S.{x,labels,teacher_logits,teacher_weight}          S = 0..4, one mini-batch per step; the last is smaller
    CASE.loss, CASE.loss.cl, CASE.loss.st, CASE.grad_norm     [5], per step
    CASE.grad.PARAM                                           of the first step, before clipping
    CASE.after1.NAME, CASE.after5.NAME                        parameters and running statistics
where CASE is LOSS.OPTIMISER. PyTorch runs in float64 from the float32 weights, so that all the difference is ours.
"""

import io
import json
import pathlib
import struct

import onnx
import onnx_ir
import onnxscript.optimizer
import torch
from torch import nn
from torch.nn import functional as F

HERE = pathlib.Path(__file__).parent
K, N_STEPS, BATCH, LAST_BATCH = 5, 5, 12, 7
KD_WEIGHT, TEMPERATURE, CLIP = 0.5, 2.0, 5.0
CASES = ["mse.sgd", "mse.adam", "kl.adamw"]
# Both exporters of torch.onnx; `train17` writes BatchNormalization and Dropout in training mode.
EXPORTERS = {
    "script17": dict(dynamo=False, opset_version=17, training=torch.onnx.TrainingMode.PRESERVE),
    "train17": dict(dynamo=False, opset_version=17, training=torch.onnx.TrainingMode.TRAINING),
    "dynamo18": dict(dynamo=True, opset_version=18, optimize=False),
    "dynamo20": dict(dynamo=True, opset_version=20, optimize=False),
}


class DualHead(nn.Module):
    def __init__(self, features, n_features):
        super().__init__()
        self.features, self.cl, self.st = features, nn.Linear(n_features, K), nn.Linear(n_features, K)

    def forward(self, x):
        features = self.features(x)
        return self.cl(features), self.st(features)


def mlp():
    return DualHead(nn.Sequential(nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, 16), nn.Tanh()), 16)


def digits_cnn():
    """8x8 grey images: strided, padded, grouped, depthwise and dilated convolutions, both kinds of pooling."""
    return DualHead(
        nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
            nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.Conv2d(8, 12, 1), nn.ReLU(), nn.MaxPool2d(3, 2, 1),
            nn.Conv2d(12, 16, 3, padding=2, dilation=2, groups=4, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
            nn.Conv2d(16, 16, 2, stride=2), nn.Sigmoid(), nn.AvgPool2d(2), nn.Dropout(0.5), nn.Flatten(),
        ),
        16,
    )


class Block(nn.Module):
    def __init__(self, c_in, c_out, stride):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False), nn.BatchNorm2d(c_out)
        self.conv2, self.bn2 = nn.Conv2d(c_out, c_out, 3, 1, 1, bias=False), nn.BatchNorm2d(c_out)
        self.shortcut = nn.Sequential()
        if stride != 1:
            self.shortcut = nn.Sequential(nn.Conv2d(c_in, c_out, 1, stride, bias=False), nn.BatchNorm2d(c_out))

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


def resnet():
    """A CIFAR ResNet of one block per stage, 4-8-16 channels, on 8x8 images."""
    stem = [nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU()]
    stages = [Block(4, 4, 1), Block(4, 8, 2), Block(8, 16, 2)]
    return DualHead(nn.Sequential(*stem, *stages, nn.AdaptiveAvgPool2d(1), nn.Flatten()), 16)


NETWORKS = {"mlp": (mlp, (20,)), "digits_cnn": (digits_cnn, (1, 8, 8)), "resnet": (resnet, (3, 8, 8))}


def batches(shape, generator):
    def normal(*dims):
        return torch.randn(*dims, generator=generator)

    for step in range(N_STEPS):
        n = LAST_BATCH if step == N_STEPS - 1 else BATCH
        mixed = F.one_hot(torch.randint(K, (2, n), generator=generator), K).float()
        share = torch.rand(n, 1, generator=generator)
        yield {
            "x": normal(n, *shape),
            "labels": share * mixed[0] + (1 - share) * mixed[1],
            "teacher_logits": 3 * normal(n, K),
            "teacher_weight": (torch.rand(n, generator=generator) < 0.7).float(),
        }


def losses(kind, model, batch):
    cl_logits, st_logits = model(batch["x"])
    loss_cl = F.cross_entropy(cl_logits, batch["labels"])
    if kind == "mse":
        elements = F.mse_loss(st_logits, batch["teacher_logits"], reduction="none")
    else:
        log_probs = F.log_softmax(st_logits / TEMPERATURE, 1)
        teacher_probs = F.softmax(batch["teacher_logits"] / TEMPERATURE, 1)
        elements = F.kl_div(log_probs, teacher_probs, reduction="none")
    loss_st = (elements * batch["teacher_weight"][:, None]).mean()
    return loss_cl, loss_st, loss_cl + KD_WEIGHT * loss_st


def optimiser(name, parameters):
    if name == "sgd":
        return torch.optim.SGD(parameters, lr=0.05, momentum=0.9, nesterov=True, weight_decay=5e-4)
    if name == "adam":
        return torch.optim.Adam(parameters, lr=0.001)
    return torch.optim.AdamW(parameters, lr=0.001, weight_decay=0.01)


def trained(model):
    """What a step changes: parameters and running statistics."""
    names = {name for name, _ in model.named_parameters()}
    state = model.state_dict()
    return {k: v for k, v in state.items() if k in names or k.endswith(("running_mean", "running_var"))}


def train(case, model, data):
    """Yields the named results of five steps."""
    kind, optimiser_name = case.split(".")
    model.train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.eval()
    step_optimiser = optimiser(optimiser_name, model.parameters())
    traces = {"loss.cl": [], "loss.st": [], "loss": [], "grad_norm": []}
    for step, batch in enumerate(data):
        step_optimiser.zero_grad()
        values = losses(kind, model, {k: v.double() for k, v in batch.items()})
        values[2].backward()
        if step == 0:
            for name, parameter in model.named_parameters():
                yield f"{case}.grad.{name}", parameter.grad.clone()
        norm = nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        step_optimiser.step()
        for name, value in zip(traces, [*values, norm]):
            traces[name].append(value.detach())
        if step in (0, N_STEPS - 1):
            for name, tensor in trained(model).items():
                yield f"{case}.after{step + 1}.{name}", tensor.clone()
    for name, trace in traces.items():
        yield f"{case}.{name}", torch.stack(trace)


def export(model, weights, x, outputs, options):
    """A forward graph that can still be trained: no BatchNormalization folded into a convolution.

    PRESERVE and TRAINING avoid that in the TorchScript exporter. The other one folds when it optimises, so it
    must not; its constants are folded here instead, but nothing that is computed from a parameter.
    """
    model.train(options.get("training") == torch.onnx.TrainingMode.TRAINING)
    if options["dynamo"]:
        options = options | dict(external_data=False, dynamic_shapes=({0: torch.export.Dim("batch")},))
    else:
        dynamic_axes = {name: {0: "batch"} for name in ["input", *outputs]}
        options = options | dict(dynamic_axes=dynamic_axes, do_constant_folding=False)
    file = io.BytesIO()
    torch.onnx.export(model, (x,), file, input_names=["input"], output_names=outputs, **options)
    graph = onnx_ir.from_proto(onnx.load_from_string(file.getvalue()))
    if options["dynamo"]:
        learns = {name for name, _ in model.named_parameters()}

        def fold(node):
            return False if any(i is not None and i.name in learns for i in node.inputs) else None

        onnxscript.optimizer.fold_constants(graph, should_fold=fold)
        onnxscript.optimizer.remove_unused_nodes(graph)
    # Paths and stack traces of the exporting machine.
    for node in graph.graph:
        node.doc_string = None
        node.metadata_props.clear()
    # Tracing in training mode moves the running statistics.
    for name, value in graph.graph.initializers.items():
        value.metadata_props.clear()
        if name in weights:
            value.const_value = onnx_ir.tensor(weights[name].numpy(), name=name)
    return graph


def save(path, tensors):
    """safetensors, written by hand: no dependency for five lines."""
    header, blobs, offset = {}, [], 0
    for name, tensor in sorted(tensors.items()):
        blobs.append(tensor.detach().float().contiguous().numpy().astype("<f4").tobytes())
        end = offset + len(blobs[-1])
        header[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(blobs))


def main():
    for seed, (name, (build, shape)) in enumerate(NETWORKS.items()):
        torch.manual_seed(seed)
        model = build()
        # Large first gradients, so that clipping acts in some cases and not in others.
        nn.init.normal_(model.st.weight, std=0.9)
        # The TorchScript exporter ties initialisers of equal value, as those of fresh BatchNorms are.
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                for tensor in [module.weight, module.bias, module.running_mean, module.running_var]:
                    nn.init.uniform_(tensor, 0.5, 1.5)
        weights = {k: v.clone() for k, v in model.state_dict().items()}
        data = list(batches(shape, torch.Generator().manual_seed(100 + seed)))
        tensors = {f"batch.{s}.{k}": v for s, batch in enumerate(data) for k, v in batch.items()}
        for exporter, options in EXPORTERS.items():
            graph = export(model, weights, data[0]["x"], ["cl_logits", "st_logits"], options)
            onnx_ir.save(graph, HERE / f"{name}.{exporter}.onnx")
        for case in CASES:
            model = build().double()
            model.load_state_dict(weights)
            tensors |= dict(train(case, model, data))
            print(name, case, "grad_norm", [round(float(n), 2) for n in tensors[f"{case}.grad_norm"]])
        save(HERE / f"{name}.safetensors", tensors)


if __name__ == "__main__":
    main()
