# SPDX-License-Identifier: GPL-2.0-only OR MIT
"""PyTorch as a tenant: three workloads, a hash of what each computes, and how many SMs it ran on.

Seeds are fixed and only deterministic algorithms are used, so the hashes are the same on every run on
the same kind of GPU. The SMs are counted by a small kernel that is launched into the same process
through the driver, before and after each workload: blocks that take a whole SM each, twice as many as
there are SMs. Prints one JSON object.

Usage: confine.py WORK_PTX
"""

import ctypes
import hashlib
import json
import os
import sys
import time

# Read by cuBLAS when it starts: without it, it may choose among several algorithms.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import torch
import torchvision

OPT_IN_SHARED_BYTES = 97  # CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN
MAX_DYNAMIC_SHARED_BYTES = 8  # CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
ITERATIONS = 20_000


class SmCounter:
    """Counts the SMs that a launch of this process runs on."""

    def __init__(self, ptx):
        self.cuda = ctypes.CDLL("libcuda.so.1")
        self.device_sms = torch.cuda.get_device_properties(0).multi_processor_count
        self.sms = torch.zeros(32, dtype=torch.int32, device="cuda")
        self.blocks = torch.zeros(1, dtype=torch.int64, device="cuda")
        module = ctypes.c_void_p()
        self.function = ctypes.c_void_p()
        shared = ctypes.c_int()
        self.call("cuModuleLoadData", ctypes.byref(module), ctypes.c_char_p(ptx))
        self.call("cuModuleGetFunction", ctypes.byref(self.function), module, b"work")
        self.call("cuDeviceGetAttribute", ctypes.byref(shared), OPT_IN_SHARED_BYTES, 0)
        self.call("cuFuncSetAttribute", self.function, MAX_DYNAMIC_SHARED_BYTES, shared)
        self.shared = shared.value

    def call(self, name, *arguments):
        result = getattr(self.cuda, name)(*arguments)
        if result != 0:
            raise RuntimeError(f"{name} returned {result}")

    def count(self):
        self.sms.zero_()
        self.blocks.zero_()
        arguments = [
            ctypes.c_uint64(self.sms.data_ptr()),
            ctypes.c_uint64(self.blocks.data_ptr()),
            ctypes.c_uint32(ITERATIONS),
        ]
        pointers = (ctypes.c_void_p * len(arguments))(
            *[ctypes.addressof(argument) for argument in arguments]
        )
        blocks = 2 * self.device_sms
        stream = ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)
        self.call(
            "cuLaunchKernel", self.function, blocks, 1, 1, 32, 1, 1, self.shared, stream, pointers, None
        )
        torch.cuda.synchronize()
        assert self.blocks.item() == blocks, f"{self.blocks.item()} of {blocks} blocks ran"
        return sum((word & 0xFFFFFFFF).bit_count() for word in self.sms.tolist())


def digest(*tensors):
    """A hash of the bits of some tensors."""
    hasher = hashlib.sha256()
    for tensor in tensors:
        data = tensor.detach().contiguous().cpu().reshape(-1).view(torch.uint8)
        hasher.update(data.numpy().tobytes())
    return hasher.hexdigest()[:32]


def seeded_resnet():
    torch.manual_seed(7)
    return torchvision.models.resnet50(weights=None).cuda()


def inference():
    model = seeded_resnet().eval()
    images = torch.randn(16, 3, 224, 224, device="cuda")
    with torch.inference_mode():
        for _ in range(3):
            output = model(images)
    return digest(output)


def training():
    model = seeded_resnet().train()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    images = torch.randn(16, 3, 224, 224, device="cuda")
    labels = torch.randint(0, 1000, (16,), device="cuda")
    for _ in range(2):
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(model(images), labels).backward()
        optimiser.step()
    return digest(*model.parameters())


def matmul():
    torch.manual_seed(7)
    a = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    b = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    for _ in range(3):
        c = a @ b
    return digest(c)


def main():
    with open(sys.argv[1], "rb") as file:
        ptx = file.read()
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    counter = SmCounter(ptx)
    report = {"device": torch.cuda.get_device_name(0), "device_sms": counter.device_sms}
    sms = [counter.count()]
    for workload in (inference, training, matmul):
        start = time.monotonic()
        report[workload.__name__] = workload()
        torch.cuda.synchronize()
        report[workload.__name__ + "_s"] = round(time.monotonic() - start, 3)
        sms.append(counter.count())
    report["sms"] = sms
    print(json.dumps(report), flush=True)


main()
