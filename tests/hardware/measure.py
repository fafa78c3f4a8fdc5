#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only OR MIT
"""Death, holds and gates on a real GPU, and who owns its channels.

    measure.py PART... [--programs FOLDER] [--out FOLDER] [--seconds S] [--repeat N]
    measure.py results TOPIC FILE...       figures of several runs, the later of two of a name, as results/

Parts: channels, refused, death, exits, before, watch, hundred, terminate, blocked, many, reuse, waiting. Each prints
a table and writes figures to FOLDER/PART.json; each row ends by itself. Needs what `tests/hardware/run build`
built, an H100 or H200 that nobody else uses, and the programs of MPS, which it starts with directories of its
own.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback

from channels import Channels
from deaths import Deaths
from machine import Beside, KernelLog, Program
from waits import Waits

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))


class Run(Channels, Deaths, Waits):
    """One call of this program: where things are, what was measured, and until when."""

    def __init__(self, arguments):
        self.arguments = arguments
        self.folder = tempfile.mkdtemp(prefix="gates", dir="/dev/shm")  # the driver pins no file of a disk
        self.probe = arguments.programs + "/probe"
        self.kernel_log = KernelLog()
        self.figures = []
        self.command = ""
        self.end = time.monotonic() + arguments.seconds
        gpu = subprocess.run(["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"],
                             capture_output=True, text=True).stdout.split("\n")[0]
        self.device, self.driver = [part.strip() for part in gpu.split(",")]
        self.beside = Beside(self)

    def program(self, *words, env=None, pass_fds=()):
        return Program([self.probe, *map(str, words)], env, pass_fds)

    def late(self):
        return time.monotonic() > self.end

    def figure(self, name, value, unit, target="measured", met=None):
        self.figures.append({"figure": name, "value": None if value is None else round(value, 3), "unit": unit,
                             "target": target, "met": value is not None if met is None else met,
                             "command": self.command})


def results(topic, files):
    """One file of results from those of several runs; rows that a run had no time for are left out."""
    made = None
    for path in files:
        with open(path) as file:
            found = json.load(file)
        if made and (made["device"], made["driver"]) != (found["device"], found["driver"]):
            sys.exit(f"{path} is of another device or driver")
        kept = [each for each in (made["figures"] if made else [])
                if each["figure"] not in {new["figure"] for new in found["figures"]}]
        made = {**found, "figures": kept + [each for each in found["figures"] if each["value"] is not None]}
    kind = next((kind for kind in ("H100", "H200") if kind in made["device"]), "other").lower()
    path = f"{ROOT}/results/{kind}/{topic}.json"
    with open(path, "w") as file:
        file.write(json.dumps(made, indent=2) + "\n")
    print(f"written to {path}")


def main():
    if sys.argv[1:2] == ["results"]:
        return results(sys.argv[2], sys.argv[3:])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", nargs="+")
    parser.add_argument("--programs", default=ROOT + "/.carry/hardware")
    parser.add_argument("--out", help="default: out in the folder of the programs")
    parser.add_argument("--seconds", type=float, default=3600, help="of all parts")
    parser.add_argument("--repeat", type=int, default=10)
    parser.add_argument("--hold", type=int, default=60, help="seconds of the longest hold")
    parser.add_argument("--settle", type=int, default=300, help="ms to go on after a death")
    parser.add_argument("--turns", type=int, default=2, help="of waiting")
    parser.add_argument("--each", type=float, default=1.5, help="seconds of each row of waiting")
    parser.add_argument("--states", nargs="*", help="for death, exits, before and waiting: only these rows")
    parser.add_argument("--times", nargs="*", help="for before: only these, in microseconds")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    arguments = parser.parse_args()
    arguments.out = arguments.out or arguments.programs + "/out"
    os.makedirs(arguments.out, exist_ok=True)
    run = Run(arguments)
    commit = arguments.programs + "/commit"
    commit = open(commit).read().strip() if os.path.exists(commit) else "unknown"
    print(run.device, run.driver, commit, flush=True)
    for part in arguments.part:
        run.command, run.figures = f"tests/hardware/run {part}", []
        begin = time.monotonic()
        print(f"== {part}", flush=True)
        try:
            getattr(run, "part_" + part)()
        except Exception as error:  # The other parts are measured all the same.
            traceback.print_exc(file=sys.stdout)
            print("PROBLEM", part, error)
            run.beside.stop()
        print(f"   {part}: {time.monotonic() - begin:.0f} s", flush=True)
        with open(f"{arguments.out}/{part}.json", "w") as file:
            json.dump({"device": run.device, "driver": run.driver, "commit": commit, "figures": run.figures},
                      file, indent=1)
    run.beside.stop()
    shutil.rmtree(run.folder, ignore_errors=True)


if __name__ == "__main__":
    main()
