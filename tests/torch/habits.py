# SPDX-License-Identifier: GPL-2.0-only OR MIT
"""What PyTorch programs do around launches: data loaders that fork, os._exit, timers, thousands of
streams, captured graphs.

Seeds are fixed and only deterministic algorithms are used, so every hash is the same on every run on the
same kind of GPU. Prints one JSON object with a hash of each habit, waits for the end of its input while
all of it is alive, and leaves by os._exit.
"""

import hashlib
import json
import os
import signal
import sys
import time

# Read by cuBLAS when it starts: without it, it may choose among several algorithms.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import torch
from torch.utils.data import DataLoader, Dataset

SAMPLES = 256
WIDTH = 64
# Interval of the timer.
TIMER_S = 0.001
SIGNALS = 1000
STREAMS = 2000
# A step takes well below a second: this is for a machine that hangs.
PATIENCE_S = 120


class Samples(Dataset):
    """Samples that a worker can make by itself; the worker that makes `deadly` leaves."""

    def __init__(self, deadly=None):
        self.deadly = deadly

    def __len__(self):
        return SAMPLES

    def __getitem__(self, index):
        if index == self.deadly:
            os._exit(3)
        generator = torch.Generator().manual_seed(index)
        return torch.randn(WIDTH, generator=generator), index % 8


def loader(**arguments):
    return DataLoader(
        Samples(**arguments), batch_size=32, num_workers=2, multiprocessing_context="fork"
    )


def digest(*tensors):
    """A hash of the bits of some tensors."""
    hasher = hashlib.sha256()
    for tensor in tensors:
        data = tensor.detach().contiguous().cpu().reshape(-1).view(torch.uint8)
        hasher.update(data.numpy().tobytes())
    return hasher.hexdigest()[:32]


class Training:
    """A small model, and steps of its training."""

    def __init__(self):
        torch.manual_seed(7)
        layers = [torch.nn.Linear(WIDTH, 256), torch.nn.ReLU(), torch.nn.Linear(256, 8)]
        self.model = torch.nn.Sequential(*layers).cuda()
        self.optimiser = torch.optim.SGD(self.model.parameters(), lr=0.05, momentum=0.9)

    def step(self, samples, labels):
        self.optimiser.zero_grad()
        output = self.model(samples)
        torch.nn.functional.cross_entropy(output, labels).backward()
        self.optimiser.step()

    def digest(self):
        return digest(*self.model.parameters())


def forked_workers():
    """Two epochs, with workers that are forked anew for each while CUDA is in use."""
    training = Training()
    for _ in range(2):
        for samples, labels in loader():
            training.step(samples.cuda(), labels.cuda())
    return training.digest()


def worker_that_leaves():
    """A worker that leaves by os._exit ends its epoch and nothing else."""
    training = Training()
    failed = False
    try:
        for samples, _ in loader(deadly=SAMPLES - 1):
            samples.cuda()
    except RuntimeError as error:
        failed = "exited unexpectedly" in str(error)
    assert failed, "the loader did not miss its worker"
    for samples, labels in loader():
        training.step(samples.cuda(), labels.cuda())
    return training.digest()


def timer():
    """Steps of training under a timer; every so many signals a step counts, so that all runs are alike."""
    handled = 0

    def on_signal(*_):
        nonlocal handled
        handled += 1

    samples = torch.stack([Samples()[index][0] for index in range(32)]).cuda()
    labels = (torch.arange(32) % 8).cuda()
    training = Training()
    deadline = time.monotonic() + PATIENCE_S
    before = signal.signal(signal.SIGALRM, on_signal)
    signal.setitimer(signal.ITIMER_REAL, TIMER_S, TIMER_S)
    try:
        # A new beginning whenever a number of steps is done, until there were enough signals.
        steps = 0
        while handled < SIGNALS or steps % 100 != 0:
            assert time.monotonic() < deadline, f"{handled} signals in {PATIENCE_S} s"
            if steps % 100 == 0:
                training = Training()
            training.step(samples, labels)
            steps += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    return training.digest()


def streams():
    """A sum on each of many streams, all of which are alive until the end."""
    ones = torch.ones(256, device="cuda")
    sums = torch.zeros(STREAMS, device="cuda")
    torch.cuda.synchronize()
    alive = [torch.cuda.Stream() for _ in range(STREAMS)]
    for index, stream in enumerate(alive):
        with torch.cuda.stream(stream):
            sums[index] = ones.sum() + index
    torch.cuda.synchronize()
    expected = torch.arange(STREAMS, dtype=torch.float32) + 256
    assert torch.equal(sums.cpu(), expected)
    return digest(sums)


def graph():
    """A captured step of inference, replayed with other input."""
    torch.manual_seed(7)
    model = Training().model.eval()
    still = torch.zeros(32, WIDTH, device="cuda")
    beside = torch.cuda.Stream()
    beside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(beside), torch.no_grad():
        for _ in range(3):
            model(still)
    torch.cuda.current_stream().wait_stream(beside)
    captured = torch.cuda.CUDAGraph()
    with torch.cuda.graph(captured), torch.no_grad():
        output = model(still)
    outputs = []
    for index in range(20):
        still.copy_(torch.full((32, WIDTH), float(index)))
        captured.replay()
        outputs.append(output.clone())
    torch.cuda.synchronize()
    return digest(*outputs)


def main():
    torch.use_deterministic_algorithms(True)
    torch.backends.cuda.matmul.allow_tf32 = False
    habits = [forked_workers, worker_that_leaves, timer, streams, graph]
    report = {habit.__name__: habit() for habit in habits}
    torch.cuda.synchronize()
    print(json.dumps(report), flush=True)
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    main()
