# SPDX-License-Identifier: GPL-2.0-only OR MIT
"""Two PyTorch programs that share a GPU: one serves ResNet-50 requests, one trains a transformer.

    pair.py serve --requests N [--rate HZ]     N requests one after another, or as they come at random times
    pair.py train                              steps until standard input ends

Requests come as a Poisson process (exponential gaps from a fixed seed), whether the last one is done
or not, and a request's latency counts from when it came. Each prints {"running": true} when it is warm, and one JSON object
when it ends. No CUDA graphs.
"""

import argparse
import json
import random
import sys
import threading
import time

import torch
import torchvision

WARM_UP = 30


def say(**words):
    print(json.dumps(words), flush=True)


def percentile(sample, percent):
    """Nearest rank, as in tests/src/latency.rs."""
    ordered = sorted(sample)
    return ordered[max(-(-percent * len(ordered) // 100), 1) - 1]


def serve(arguments):
    torch.manual_seed(7)
    model = torchvision.models.resnet50(weights=None).cuda().eval()
    # With fewer images the GPU waits for the host, and whoever shares it hardly matters.
    images = torch.randn(32, 3, 224, 224, device="cuda")
    stream = torch.cuda.Stream(priority=-1)

    def request():
        with torch.inference_mode(), torch.cuda.stream(stream):
            model(images)
        stream.synchronize()

    for _ in range(WARM_UP):
        request()
    say(running=True)
    gaps = random.Random(7)
    latencies, services = [], []
    begin = due = time.perf_counter()
    for _ in range(arguments.requests):
        if arguments.rate:
            due += gaps.expovariate(arguments.rate)
            while (left := due - time.perf_counter()) > 0:
                if left > 2e-4:
                    time.sleep(left - 1e-4)
        else:
            due = time.perf_counter()
        started = time.perf_counter()
        request()
        ended = time.perf_counter()
        latencies.append((ended - due) * 1e3)
        services.append((ended - started) * 1e3)
    say(
        requests=len(latencies),
        seconds=time.perf_counter() - begin,
        p50_ms=percentile(latencies, 50),
        p99_ms=percentile(latencies, 99),
        mean_ms=sum(latencies) / len(latencies),
        # Without the time that a request waits for the one before.
        services_ms={f"p{p}": percentile(services, p) for p in (1, 50, 99, 100)},
    )


def train(arguments):
    torch.manual_seed(7)
    layer = torch.nn.TransformerEncoderLayer(2048, 16, 8192, dropout=0.0, batch_first=True)
    model = torch.nn.TransformerEncoder(layer, 6).cuda().train()
    tokens = torch.randn(16, 1024, 2048, device="cuda")
    optimiser = torch.optim.SGD(model.parameters(), lr=0.01)

    def step():
        optimiser.zero_grad()
        with torch.autocast("cuda", dtype=torch.bfloat16):
            model(tokens).square().mean().backward()
        optimiser.step()
        torch.cuda.synchronize()

    for _ in range(WARM_UP // 3):
        step()
    say(running=True)
    ended = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
    steps, begin = 0, time.perf_counter()
    while not ended.is_set():
        step()
        steps += 1
    say(steps=steps, steps_per_s=steps / (time.perf_counter() - begin))


def main():
    parser = argparse.ArgumentParser()
    roles = parser.add_subparsers(required=True)
    serves = roles.add_parser("serve")
    serves.add_argument("--requests", type=int, required=True)
    serves.add_argument("--rate", type=float, default=0)
    serves.set_defaults(role=serve)
    roles.add_parser("train").set_defaults(role=train)
    arguments = parser.parse_args()
    arguments.role(arguments)


if __name__ == "__main__":
    main()
