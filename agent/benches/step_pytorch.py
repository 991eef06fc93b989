"""The training step of benches/step.rs in PyTorch (channels_last), for comparison in the same run.

Reads a number of steps a line, answers the milliseconds of one step. Arguments: network, batch, threads.
"""

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


NETWORKS = {
    "digits-cnn": (digits_cnn, 64, (1, 8, 8), 10),
    "slim-resnet18": (slim_resnet18, 160, (3, 32, 32), 100),
}


def main() -> None:
    name, batch, threads = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(threads)
    build, features, shape, classes = NETWORKS[name]
    backbone = build().to(memory_format=torch.channels_last)
    cl_head, student_head = nn.Linear(features, classes), nn.Linear(features, classes)
    parameters = [p for m in (backbone, cl_head, student_head) for p in m.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=1e-3)
    x = torch.randn(batch, *shape).to(memory_format=torch.channels_last)
    labels = F.one_hot(torch.arange(batch) % classes, classes).float()
    teacher = torch.full((batch, classes), 0.5)
    for line in sys.stdin:
        steps = int(line)
        began = time.perf_counter()
        for _ in range(steps):
            optimizer.zero_grad()
            z = backbone(x)
            loss = F.cross_entropy(cl_head(z), labels) + 0.5 * F.mse_loss(student_head(z), teacher)
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, 5.0)
            optimizer.step()
            loss.item()
        print((time.perf_counter() - began) * 1e3 / steps, flush=True)


main()
