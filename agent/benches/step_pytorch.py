"""The training step of benches/step.rs in PyTorch, for comparison in the same run.

Arguments: network, batch, threads, layout. Says `ready`, then answers every number of steps it is sent with the
milliseconds of one step; at the end its CPU time of a step and its peak resident size, after the import and at last.
"""

import resource
import sys
import time

import torch
from torch import nn
from torch.nn import functional as F


class Block(nn.Module):
    def __init__(self, inputs: int, planes: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, planes, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != planes:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, planes, 1, stride, bias=False), nn.BatchNorm2d(planes)
            )

    def forward(self, x):
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + self.shortcut(x))


def slim_resnet18() -> nn.Module:
    layers = [nn.Conv2d(3, 20, 3, 1, 1, bias=False), nn.BatchNorm2d(20), nn.ReLU()]
    inputs = 20
    for planes, stride in [(20, 1), (40, 2), (80, 2), (160, 2)]:
        layers += [Block(inputs, planes, stride), Block(planes, planes, 1)]
        inputs = planes
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def digits_cnn() -> nn.Module:
    def unit(inputs, outputs, stride):
        return [nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]

    return nn.Sequential(
        *unit(1, 16, 1), *unit(16, 32, 2), *unit(32, 64, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )


class InvertedResidual(nn.Module):
    def __init__(self, inputs: int, outputs: int, expansion: int, stride: int):
        super().__init__()
        hidden = inputs * expansion
        layers = [nn.Conv2d(inputs, hidden, 1, bias=False), nn.BatchNorm2d(hidden), nn.ReLU6()]
        self.layers = nn.Sequential(
            *(layers if expansion > 1 else []),
            nn.Conv2d(hidden, hidden, 3, stride, 1, groups=hidden, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU6(),
            nn.Conv2d(hidden, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x):
        return x + self.layers(x) if self.residual else self.layers(x)


def mobilenet_v2() -> nn.Module:
    stages = [(1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)]
    layers = [nn.Conv2d(3, 32, 3, 1, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU6()]
    inputs = 32
    for expansion, width, n_blocks, stride in stages:
        for i in range(n_blocks):
            layers.append(InvertedResidual(inputs, width, expansion, stride if i == 0 else 1))
            inputs = width
    layers += [nn.Conv2d(inputs, 1280, 1, bias=False), nn.BatchNorm2d(1280), nn.ReLU6()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


class Encoder(nn.Module):
    def __init__(self, width: int, heads: int, hidden: int):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width, 1e-6), nn.LayerNorm(width, 1e-6)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

    def forward(self, x):
        n, tokens, width = x.shape
        qkv = self.qkv(self.norm1(x)).view(n, tokens, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, tokens, width)
        x = x + self.proj(y)
        return x + self.mlp(self.norm2(x))


class VitLite(nn.Module):
    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 256, 4, 4)
        self.positions = nn.Parameter(0.02 * torch.randn(64, 256))
        self.encoders = nn.Sequential(*(Encoder(256, 4, 512) for _ in range(6)))
        self.norm = nn.LayerNorm(256, 1e-6)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2) + self.positions
        return self.norm(self.encoders(x)).mean(1)


# Constructor, features, input, classes.
NETWORKS = {
    "digits-cnn": (digits_cnn, 64, (1, 8, 8), 10),
    "slim-resnet18": (slim_resnet18, 160, (3, 32, 32), 100),
    "mobilenet-v2": (mobilenet_v2, 1280, (3, 32, 32), 100),
    "vit-lite": (VitLite, 256, (3, 32, 32), 100),
}


def peak_kib() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main() -> None:
    name, batch, threads, layout = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    start = peak_kib()
    torch.set_num_threads(threads)
    build, features, shape, classes = NETWORKS[name]
    memory_format = torch.channels_last if layout == "channels_last" else torch.contiguous_format
    backbone = build().to(memory_format=memory_format)
    cl_head, student_head = nn.Linear(features, classes), nn.Linear(features, classes)
    parameters = [p for m in (backbone, cl_head, student_head) for p in m.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=1e-3)
    x = torch.randn(batch, *shape).to(memory_format=memory_format)
    labels = F.one_hot(torch.arange(batch) % classes, classes).float()
    teacher = torch.full((batch, classes), 0.5)

    def train(steps: int) -> None:
        for _ in range(steps):
            optimizer.zero_grad()
            z = backbone(x)
            loss = F.cross_entropy(cl_head(z), labels) + 0.5 * F.mse_loss(student_head(z), teacher)
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, 5.0)
            optimizer.step()
            loss.item()

    train(2)
    print("ready", flush=True)
    cpu, n_steps = time.process_time(), 0
    for line in sys.stdin:
        steps = int(line)
        began = time.perf_counter()
        train(steps)
        print((time.perf_counter() - began) * 1e3 / steps, flush=True)
        n_steps += steps
    print((time.process_time() - cpu) * 1e3 / max(n_steps, 1), start, peak_kib(), flush=True)


main()
