# SPDX-License-Identifier: GPL-2.0-only OR MIT
"""PyTorch as a tenant whose long kernels may be split: five workloads, a hash of what each computes, and
how long it took.

Seeds are fixed and only deterministic algorithms are used, so the hashes are the same in every round on
the same kind of GPU. For each line of input it computes everything once and prints one JSON object.
"""

import hashlib
import json
import os
import sys
import time

# Read by cuBLAS when it starts: without it, it may choose among several algorithms.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import torch
import torchvision


def digest(*tensors):
    """A hash of the bits of some tensors."""
    hasher = hashlib.sha256()
    for tensor in tensors:
        data = tensor.detach().contiguous().cpu().reshape(-1).view(torch.uint8)
        hasher.update(data.numpy().tobytes())
    return hasher.hexdigest()[:32]


def random(*shape, **options):
    generator = torch.Generator("cuda").manual_seed(7)
    return torch.randn(*shape, device="cuda", generator=generator, **options)


class ResNet:
    """Inference, and training from the same weights every time."""

    def __init__(self):
        torch.manual_seed(7)
        self.model = torchvision.models.resnet50(weights=None).cuda().train()
        self.images = random(64, 3, 224, 224)
        self.labels = torch.arange(64, device="cuda") % 1000
        self.weights = {name: value.clone() for name, value in self.model.state_dict().items()}

    def run(self):
        self.model.load_state_dict(self.weights)
        optimiser = torch.optim.SGD(self.model.parameters(), lr=0.01, momentum=0.9)
        for _ in range(3):
            optimiser.zero_grad()
            torch.nn.functional.cross_entropy(self.model(self.images), self.labels).backward()
            optimiser.step()
        return [*self.model.parameters()]


class Transformer:
    """Training from the same weights every time."""

    def __init__(self):
        torch.manual_seed(7)
        layer = torch.nn.TransformerEncoderLayer(1024, 16, 4096, dropout=0.0, batch_first=True)
        self.model = torch.nn.TransformerEncoder(layer, 4).cuda().train()
        self.tokens = random(32, 512, 1024)
        self.weights = {name: value.clone() for name, value in self.model.state_dict().items()}

    def run(self):
        self.model.load_state_dict(self.weights)
        optimiser = torch.optim.SGD(self.model.parameters(), lr=0.01)
        for _ in range(3):
            optimiser.zero_grad()
            self.model(self.tokens).square().mean().backward()
            optimiser.step()
        return [*self.model.parameters()]


class Sort:
    def __init__(self):
        self.keys = random(1 << 27)

    def run(self):
        values, order = torch.sort(self.keys, stable=True)
        return [values[:: 1 << 7], order[:: 1 << 7]]


class CumSum:
    """Of integers: sums of floats have no deterministic algorithm here."""

    def __init__(self):
        self.numbers = (random(1 << 28) * 1000).to(torch.int32)

    def run(self):
        for _ in range(8):
            sums = torch.cumsum(self.numbers, 0, dtype=torch.int64)
        return [sums[:: 1 << 7]]


class MatMul:
    def __init__(self):
        self.a, self.b = random(8192, 8192), random(8192, 8192)

    def run(self):
        for _ in range(4):
            product = self.a @ self.b
        return [product]


def main():
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    torch.backends.cuda.matmul.allow_tf32 = True
    workloads = {
        "resnet": ResNet(),
        "transformer": Transformer(),
        "sort": Sort(),
        "cumsum": CumSum(),
        "matmul": MatMul(),
    }
    for _ in sys.stdin:
        report = {}
        for name, workload in workloads.items():
            torch.cuda.synchronize()
            start = time.monotonic()
            results = workload.run()
            torch.cuda.synchronize()
            report[name + "_s"] = time.monotonic() - start
            report[name] = digest(*results)
            del results
        print(json.dumps(report), flush=True)


main()
