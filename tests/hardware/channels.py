# SPDX-License-Identifier: GPL-2.0-only OR MIT
"""Which process allocates GPU channels, groups of them and doorbells, and when: programs under channels.so."""

import glob
import json
import os
import subprocess
import sys
import tempfile

from machine import Mps, Program


class Channels:
    """Parts of a Run."""

    TORCH = """
import ctypes
libc = ctypes.CDLL(None)
mark = lambda text: libc.ioctl(-1, ctypes.c_ulong(0x4c4f4721), text)
mark(b'import'); import torch
mark(b'first tensor'); x = torch.ones(512, 512, device='cuda')
mark(b'matmul'); y = x @ x
mark(b'stream'); s = torch.cuda.Stream()
with torch.cuda.stream(s): z = x * 2
torch.cuda.synchronize()
mark(b'convolution')
torch.nn.functional.conv2d(torch.ones(1, 3, 64, 64, device='cuda'), torch.ones(8, 3, 3, 3, device='cuda'))
torch.cuda.synchronize()
mark(b'exit')
"""

    # Ends with the results of cuInit and of the making of a context.
    FIRST_STEPS = """
import ctypes, json
cuda, context = ctypes.CDLL('libcuda.so.1'), ctypes.c_void_p()
mark = lambda text: ctypes.CDLL(None).ioctl(-1, ctypes.c_ulong(0x4c4f4721), text)
mark(b'cuInit'); said = [cuda.cuInit(0)]
if said == [0]:
    mark(b'context'); said.append(cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0))
print(json.dumps(said))
"""

    def part_refused(self):
        """What a program sees whose channels are refused, and when the driver loads an injected library."""
        library = self.arguments.programs + "/channels.so"
        for what, classes, expected in (("nothing", "", [0, 0]), ("doorbells", "c361,c461,c561,c661", [100]),
                                        ("groups of channels", "a06c", [0, 800]), ("channels", "6f", [0, 800])):
            folder = tempfile.mkdtemp(dir=self.folder)
            env = dict(os.environ, LD_PRELOAD=library, CHANNELS_LOG=folder, CUDA_INJECTION64_PATH=library,
                       CHANNELS_REFUSE=classes)
            done = subprocess.run([sys.executable, "-c", self.FIRST_STEPS], env=env, capture_output=True,
                                  text=True, timeout=60)
            said = json.loads(done.stdout.split("\n")[-2])
            (this,) = summary(folder)["processes"]
            print(f"refused: {what}; cuInit and context: {said}; {json.dumps(this['stages'])}")
            if what == "nothing":
                before = sum(this["stages"].get("cuInit", {}).values())
                self.figure("allocations of doorbells, groups and channels before the driver calls an injected "
                            "library", before, "allocations", "0", before == 0)
            step = "cuInit" if len(expected) == 1 else "the making of a context"
            self.figure(f"result of {step} where {what} {'is' if what == 'nothing' else 'are'} refused", said[-1],
                        "CUresult", str(expected[-1]), said == expected)

    def part_channels(self):
        report = {"device": self.device, "driver": self.driver, "kernel": os.uname().release, "symbols": {}}
        with open("/proc/kallsyms") as symbols:
            lines = [line.split() for line in symbols if "[nvidia" in line]
        for name in ("rm_ioctl", "rm_cleanup_file_private", "nvidia_unlocked_ioctl", "nvidia_close",
                     "nvidia_ioctl",
                     "nvidia_frontend_unlocked_ioctl", "uvm_release", "uvm_va_space_destroy"):
            report["symbols"][name] = [f"{line[1]} {line[3]}" for line in lines if line[2] == name]
        report["programs"] = {}

        def traced(name, command):
            folder = tempfile.mkdtemp(dir=self.folder)
            preload = {"LD_PRELOAD": self.arguments.programs + "/channels.so", "CHANNELS_LOG": folder}
            done = subprocess.run(command, env=dict(os.environ, **preload), capture_output=True, text=True,
                                  timeout=120)
            report["programs"][name] = summary(folder)
            if done.returncode:
                report["programs"][name]["status"] = [done.returncode, (done.stdout + done.stderr)[-300:]]

        stages = [self.probe, "stages"]
        traced("nvidia-smi", ["nvidia-smi"])
        traced("plain", stages)
        traced("PyTorch", [sys.executable, "-c", self.TORCH])
        folder = tempfile.mkdtemp(dir=self.folder)
        preload = {"LD_PRELOAD": self.arguments.programs + "/channels.so", "CHANNELS_LOG": folder}
        mps = Mps(self.folder, preload)
        env = dict(mps.env, **preload)
        for clients in (1, 2):
            programs = [Program(stages, env) for _ in range(clients)]
            for program in programs:
                program.ended(30)
        # A client that is PyTorch.
        Program([sys.executable, "-c", self.TORCH], env).ended(90)
        mps.stop()
        report["programs"]["MPS: server, one client, two clients, PyTorch"] = summary(folder)
        with open(self.arguments.out + "/channels-report.json", "w") as file:
            json.dump(report, file, indent=1)
        print(json.dumps(report["symbols"]))
        for name, found in report["programs"].items():
            print(name)
            for each in found.get("processes", []):
                print("  ", json.dumps(each))
            if "status" in found:
                print("  ", found["status"])
        for name in ("plain", "PyTorch", "nvidia-smi"):
            total = sum(each["channels"] for each in report["programs"][name]["processes"])
            target, met = ("0", total == 0) if name == "nvidia-smi" else ("measured", None)
            self.figure(f"GPU channels that {name} allocates itself", total, "channels", target, met)
        found = report["programs"]["MPS: server, one client, two clients, PyTorch"]["processes"]
        for comm, name in (("nvidia-cuda-mps", "an MPS server"), ("probe", "an MPS client")):
            of = [each["channels"] for each in found if each["comm"].startswith(comm)]
            self.figure(f"GPU channels that {name} allocates", max(of) if of else None, "channels")


DOORBELLS = {0xC361, 0xC461, 0xC561, 0xC661}


COUNTS = ("allocations", "channels", "groups", "doorbells", "failed", "freed", "dups", "dups_of_others",
          "uvm_registered", "foreign")


def summary(folder):
    """What the processes of a folder of logs did, by their own stages."""
    events = []
    for path in glob.glob(folder + "/*"):
        with open(path) as file:
            events += [json.loads(line) for line in file]
    events.sort(key=lambda event: event["ns"])
    processes, stage = {}, {}
    for event in events:
        pid = event["pid"]
        this = processes.setdefault(pid, {"comm": event["comm"], "pid": pid, **dict.fromkeys(COUNTS, 0),
                                          "roots": set(), "owned": {}, "stages": {}})
        if event["what"] == "mark":
            stage[pid] = event["text"]
            continue
        if event["what"] == "uvm register":
            this["uvm_registered"] += 1
            # By which process the channel was made.
            if event["root"] not in this["roots"]:
                this["foreign"] += 1
            continue
        if event["what"] == "dup":
            this["dups"] += 1
            this["dups_of_others"] += event["from"] not in this["roots"]
            continue
        if event["what"] == "free":
            this["freed"] += this["owned"].pop((event["root"], event["old"]), 0)
            continue
        this["allocations"] += 1
        kind = event["class"]
        if kind in (0, 1, 0x41):
            this["roots"].add(event["new"])
        name = ("channels" if kind & 0xFF == 0x6F else "groups" if kind == 0xA06C
                else "doorbells" if kind in DOORBELLS else None)
        if not name:
            continue
        if event["status"]:
            this["failed"] += 1
            continue
        this[name] += 1
        if name == "channels":
            this["owned"][(event["root"], event["new"])] = 1
        # Stages of other processes say when a server acts.
        others = sorted(f"{processes[p]['comm']}:{s}" for p, s in stage.items() if s != "exit")
        at = stage.get(pid) or "/".join(others)
        counts = this["stages"].setdefault(at, {})
        key = f"{name} {kind:#x}"
        counts[key] = counts.get(key, 0) + 1
    for this in processes.values():
        this["roots"] = len(this["roots"])
        del this["owned"]
    return {"processes": list(processes.values())}
