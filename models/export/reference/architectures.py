"""Makes the fixtures of models/onnx-grad/tests/reference/architectures.rs: small members of the families that people train.

    python architectures.py [NET ...]   needs torch, torchvision, timm, onnx, onnxscript; writes to architectures/

The definitions are those of torchvision and timm, narrow and shallow; no weights are downloaded. All read 3x32x32.
`batches.safetensors` holds {x,labels}.S, S = 0..4, one mini-batch per step, for all networks. Per network NET:
    NET.EXPORTER.onnx    forward graph; its parameters and running statistics lie in NET.weights
    NET.weights          raw float32, one tensor after the other
    NET.safetensors      loss and grad.PARAM, of step 1; after1.NAME: running statistics;
                         CASE.after5.NAME: parameters and running statistics
where CASE is sgd or adamw. Parameters after step 1 follow from the gradient in closed form, and are left out.
PyTorch runs in float64 from the float32 weights, so that all the difference is ours.
"""

import pathlib
import sys
from functools import partial

import onnx_ir
import torch
from timm.models.deit import VisionTransformerDistilled
from timm.models.mlp_mixer import MlpMixer
from torch import nn
from torch.nn import functional as F
from torchvision.models import convnext, densenet, efficientnet, mnasnet, mobilenetv2, mobilenetv3, regnet
from torchvision.models import resnet, shufflenetv2, squeezenet, swin_transformer, vgg, vision_transformer
from torchvision.models.googlenet import BasicConv2d, Inception

import make

HERE = pathlib.Path(__file__).parent / "architectures"
K, N_STEPS, BATCH, LAST_BATCH, INPUT = 5, 5, 5, 4, (3, 32, 32)
PRESERVE = torch.onnx.TrainingMode.PRESERVE
EXPORTERS = {
    "script13": dict(dynamo=False, opset_version=13, training=PRESERVE),
    "script17": dict(dynamo=False, opset_version=17, training=PRESERVE),
    "dynamo18": dict(dynamo=True, opset_version=18, optimize=False),
    "dynamo21": dict(dynamo=True, opset_version=21, optimize=False),
}
# Also for some: the last opset of the TorchScript exporter, and the first that has Gelu.
MORE_EXPORTERS = {
    "script20": dict(dynamo=False, opset_version=20, training=PRESERVE),
    "dynamo20": dict(dynamo=True, opset_version=20, optimize=False),
}


def narrow(model, divisor):
    """Divides the channels of a network whose definition fixes them; images and classes keep theirs.

    Two are left at least: a weight between single channels has no gradient before batch normalisation.
    """

    def part(n):
        return n if n in (1, INPUT[0], K) else max(2, -(-n // divisor))

    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Conv2d):
                small = nn.Conv2d(
                    part(child.in_channels), part(child.out_channels), child.kernel_size, child.stride,
                    child.padding, child.dilation, part(child.groups), child.bias is not None,
                )
            elif isinstance(child, nn.BatchNorm2d):
                small = nn.BatchNorm2d(part(child.num_features), child.eps, child.momentum)
            elif isinstance(child, nn.Linear):
                small = nn.Linear(part(child.in_features), part(child.out_features))
            else:
                continue
            setattr(parent, name, small)
    return model


def resnet_of(block):
    model = narrow(resnet.ResNet(block, [1, 1, 1, 1], K), 48)
    model.conv1.stride = (1, 1)  # or the last stage would see single pixels, and its batch statistics few values
    return model


def vgg_of(batch_norm):
    features = vgg.make_layers([6, "M", 8, "M", 12, 12, "M"], batch_norm)
    classifier = [nn.Linear(48, 24), nn.ReLU(True), nn.Dropout(0.0), nn.Linear(24, K)]
    return nn.Sequential(features, nn.AdaptiveAvgPool2d(2), nn.Flatten(), *classifier)


def squeezenet_1_1():
    return narrow(squeezenet.SqueezeNet("1_1", K, dropout=0.0), 16)


def mobilenet_v2():
    stages = [[1, 16, 1, 1], [6, 24, 2, 2], [6, 32, 2, 2]]
    return narrow(mobilenetv2.MobileNetV2(K, inverted_residual_setting=stages, dropout=0.0), 8)


def mobilenet_v3():
    block = partial(mobilenetv3.InvertedResidualConfig, dilation=1, width_mult=1.0)
    blocks = [
        block(8, 3, 8, 8, True, "RE", 2),
        block(8, 3, 24, 8, False, "RE", 1),
        block(8, 5, 16, 8, True, "HS", 2),
    ]
    return mobilenetv3.MobileNetV3(blocks, 16, K, dropout=0.0)


def efficientnet_v2():
    """Both kinds of block: those of V1, and the fused ones that V2 begins with."""
    blocks = [
        efficientnet.FusedMBConvConfig(1, 3, 1, 8, 8, 1),
        efficientnet.FusedMBConvConfig(2, 3, 2, 8, 8, 1),
        efficientnet.MBConvConfig(2, 5, 2, 8, 8, 2),
    ]
    return efficientnet.EfficientNet(blocks, 0.0, 0.0, K, last_channel=24)


def shufflenet_v2():
    return shufflenetv2.ShuffleNetV2([2, 2, 1], [6, 8, 16, 24, 32], K)


def densenet_bc():
    model = densenet.DenseNet(4, (2, 3, 2), 8, bn_size=2, num_classes=K)
    model.features.conv0.stride = (1, 1)
    return model


def regnet_y():
    stages = regnet.BlockParams([1, 2], [8, 16], [4, 8], [1.0, 1.0], [2, 2], se_ratio=0.25)
    return regnet.RegNet(stages, K, stem_width=8)


def googlenet():
    pool = partial(nn.MaxPool2d, stride=2, ceil_mode=True)
    return nn.Sequential(
        BasicConv2d(3, 8, kernel_size=7, stride=2, padding=3), pool(3),
        BasicConv2d(8, 8, kernel_size=1), BasicConv2d(8, 12, kernel_size=3, padding=1), pool(3),
        Inception(12, 4, 6, 8, 2, 4, 4), Inception(20, 6, 6, 8, 3, 4, 6), pool(3),
        Inception(24, 6, 8, 10, 3, 5, 4), pool(2),
        nn.AdaptiveAvgPool2d((1, 1)), nn.Flatten(), nn.Linear(25, K),
    )


def mnasnet_b1():
    model = mnasnet.MNASNet(1.0, K, dropout=0.0)
    for stack in model.layers:
        if isinstance(stack, nn.Sequential):
            del stack[2 if stack[0].layers[0].out_channels < 100 else 1 :]
    # Batch statistics of few values would make five steps a test of rounding.
    for conv in [model.layers[0], model.layers[10][0].layers[3], model.layers[12][0].layers[3]]:
        conv.stride = (1, 1)
    return narrow(model, 32)


def convnext_of_two_stages():
    stages = [convnext.CNBlockConfig(6, 8, 2), convnext.CNBlockConfig(8, None, 1)]
    return convnext.ConvNeXt(stages, stochastic_depth_prob=0.0, num_classes=K)


def vit():
    return vision_transformer.VisionTransformer(32, 8, 2, 2, 8, 16, num_classes=K)


def deit():
    """The distilled transformer: two tokens and two heads, whose mean counts."""
    return VisionTransformerDistilled(
        img_size=32, patch_size=8, num_classes=K, embed_dim=8, depth=2, num_heads=2, mlp_ratio=2
    )


def swin():
    return swin_transformer.SwinTransformer([4, 4], 6, [2, 1], [2, 3], [4, 4], 2.0, 0.0, 0.0, 0.0, K)


def swin_v2():
    model = swin_transformer.SwinTransformer(
        [4, 4], 6, [2, 1], [2, 2], [4, 4], 2.0, 0.0, 0.0, 0.0, K,
        block=swin_transformer.SwinTransformerBlockV2, downsample_layer=swin_transformer.PatchMergingV2,
    )
    for module in model.modules():
        if isinstance(module, swin_transformer.ShiftedWindowAttentionV2):
            module.cpb_mlp = nn.Sequential(nn.Linear(2, 16), nn.ReLU(True), nn.Linear(16, 2, bias=False))
    return model


def mlp_mixer():
    return MlpMixer(num_classes=K, img_size=32, patch_size=8, num_blocks=2, embed_dim=8)


NETWORKS = {
    "resnet_basic": partial(resnet_of, resnet.BasicBlock),
    "resnet_bottleneck": partial(resnet_of, resnet.Bottleneck),
    "vgg": partial(vgg_of, batch_norm=False),
    "vgg_bn": partial(vgg_of, batch_norm=True),
    "squeezenet": squeezenet_1_1,
    "mobilenet_v2": mobilenet_v2,
    "mobilenet_v3": mobilenet_v3,
    "efficientnet": efficientnet_v2,
    "shufflenet_v2": shufflenet_v2,
    "densenet": densenet_bc,
    "regnet": regnet_y,
    "googlenet": googlenet,
    "mnasnet": mnasnet_b1,
    "convnext": convnext_of_two_stages,
    "vit": vit,
    "deit": deit,
    "swin": swin,
    "swin_v2": swin_v2,
    "mlp_mixer": mlp_mixer,
}
WITH_MORE_EXPORTERS = ["convnext", "mobilenet_v3", "vit"]


def draw(model):
    """All parameters and statistics at random: large enough to matter, and no two tensors equal.

    The TorchScript exporter ties equal initialisers, and the libraries begin with zeros in places (the head of
    a ViT) where nothing behind them would have a gradient.
    """
    for name, tensor in model.named_parameters():
        if tensor.dim() > 1:
            nn.init.normal_(tensor, std=(1.5 / tensor[0].numel()) ** 0.5)
        elif name.endswith("weight"):
            nn.init.uniform_(tensor, 0.5, 1.5)
        else:
            nn.init.normal_(tensor, std=0.3)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 1.5)


def gradients(build, state, batch, dtype):
    model = build().to(dtype)
    model.load_state_dict(state)
    model.train()
    loss = F.cross_entropy(model(batch["x"].to(dtype)), batch["labels"].to(dtype))
    return torch.autograd.grad(loss, list(model.parameters()))


def well_conditioned(build, state, batch):
    """Whether float32 can tell the gradients well at all, with PyTorch's own as the measure.

    Nearly all of the gradient of a scale cancels where everything behind it is normalised again.
    """
    exact = gradients(build, state, batch, torch.float64)
    rounded = gradients(build, state, batch, torch.float32)
    largest = max(g.abs().max() for g in exact)
    errors = [(r - e).abs().max() / e.abs().max() for r, e in zip(rounded, exact) if e.abs().max() > 1e-12 * largest]
    return max(errors) < 2e-5


def drawn(build, seed, batch):
    """A network at random, of the first seed that serves."""
    while True:
        torch.manual_seed(seed)
        model = build()
        draw(model)
        if well_conditioned(build, model.state_dict(), batch):
            return model
        seed += len(NETWORKS)


def batches(generator):
    for step in range(N_STEPS):
        n = LAST_BATCH if step == N_STEPS - 1 else BATCH
        labels = F.one_hot(torch.randint(K, (n,), generator=generator), K).float()
        yield {"x": torch.randn(n, *INPUT, generator=generator), "labels": labels}


def optimiser(case, parameters):
    if case == "sgd":
        return torch.optim.SGD(parameters, lr=0.01, momentum=0.9)
    # The gradient of some parameters is 0, as of a bias before batch normalisation or of the keys' bias in
    # attention; the usual eps of 1e-8 makes whole steps of its rounding errors.
    return torch.optim.AdamW(parameters, lr=0.001, eps=1e-4, weight_decay=0.01)


def train(case, model, data):
    """Yields the named results of five steps."""
    model.train()
    step_optimiser = optimiser(case, model.parameters())
    for step, batch in enumerate(data):
        step_optimiser.zero_grad()
        loss = F.cross_entropy(model(batch["x"].double()), batch["labels"].double())
        loss.backward()
        if step == 0:
            yield "loss", loss
            for name, parameter in model.named_parameters():
                yield f"grad.{name}", parameter.grad.clone()
        step_optimiser.step()
        for name, tensor in make.trained(model).items():
            if step == 0 and ".running_" in name:
                yield f"after1.{name}", tensor.clone()
            if step == N_STEPS - 1:
                yield f"{case}.after5.{name}", tensor.clone()


def attention(query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, **_):
    """softmax(q kT / sqrt(d)) v, for opset 13: the TorchScript exporter has the function itself from 14 on."""
    scores = query @ key.transpose(-2, -1) * (scale or query.shape[-1] ** -0.5)
    return scores.softmax(-1) @ value


def export(model, weights, x, options):
    function = F.scaled_dot_product_attention
    if options["opset_version"] < 14:
        F.scaled_dot_product_attention = attention
    graph = make.export(model, weights, x, ["logits"], options)
    F.scaled_dot_product_attention = function
    return graph


def shorten(graph):
    """Leaves out what is known without it, and gives short names to the values in between."""
    graph.metadata_props.clear()
    graph.graph.metadata_props.clear()
    for i, node in enumerate(graph.graph):
        node.name = None
        for k, value in enumerate(node.outputs):
            value.metadata_props.clear()
            if not value.is_graph_output():
                value.name = f"{node.op_type}_{i}" + (f"_{k}" if k else "")
                value.shape, value.type = None, None


def save(graph, path, places):
    """The graph without the tensors in `places` (name -> offset, length), which lie in the file of weights."""
    shorten(graph)
    for name, value in graph.graph.initializers.items():
        if name in places:
            offset, length = places[name]
            value.const_value = onnx_ir.ExternalTensor(
                path.name.split(".")[0] + ".weights", offset, length, value.const_value.dtype,
                shape=value.const_value.shape, name=name, base_dir=HERE,
            )
    proto = onnx_ir.to_proto(graph)
    del proto.graph.value_info[:]
    path.write_bytes(proto.SerializeToString(deterministic=True))


def main():
    HERE.mkdir(exist_ok=True)
    data = list(batches(torch.Generator().manual_seed(1)))
    make.save(HERE / "batches.safetensors", {f"{k}.{s}": v for s, batch in enumerate(data) for k, v in batch.items()})
    for seed, (name, build) in enumerate(NETWORKS.items()):
        if name not in (sys.argv[1:] or NETWORKS):
            continue
        model = drawn(build, seed, data[0])
        weights = {k: v.clone() for k, v in make.trained(model).items()}
        places, raw = {}, b""
        for key, tensor in weights.items():
            blob = tensor.contiguous().numpy().astype("<f4").tobytes()
            places[key] = (len(raw), len(blob))
            raw += blob
        (HERE / f"{name}.weights").write_bytes(raw)
        exporters = EXPORTERS | (MORE_EXPORTERS if name in WITH_MORE_EXPORTERS else {})
        for exporter, options in exporters.items():
            graph = export(model, weights, data[0]["x"], options)
            save(graph, HERE / f"{name}.{exporter}.onnx", places)
        tensors, state = {}, model.state_dict()
        state.update(weights)
        for case in ["sgd", "adamw"]:
            trained = build().double()
            trained.load_state_dict(state)
            tensors |= dict(train(case, trained, data))
        make.save(HERE / f"{name}.safetensors", tensors)
        print(name, sum(p.numel() for p in model.parameters()), "parameters, loss", round(float(tensors["loss"]), 2))


if __name__ == "__main__":
    main()
