# SPDX-License-Identifier: GPL-2.0-only OR MIT
"""Processes on a GPU: programs that talk in lines, MPS, neighbours and how they fare, the driver's Xids."""

import atexit
import glob
import mmap
import os
import queue
import re
import signal
import struct
import subprocess
import tempfile
import threading
import time


def now():
    return time.monotonic_ns()


class Program:
    """A process that talks in lines."""

    def __init__(self, command, env=None, pass_fds=()):
        self.process = subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=subprocess.STDOUT, text=True, pass_fds=pass_fds)
        self.pid, self.lines, self.heard = self.process.pid, queue.Queue(), []
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in self.process.stdout:
            self.heard.append(line.rstrip())
            self.lines.put(line.rstrip())
        self.lines.put(None)

    def line(self, wanted, seconds=10):
        """The next line that begins so, as pairs of a word and a number; None if it does not come."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            try:
                line = self.lines.get(timeout=left)
            except queue.Empty:
                return None
            if line is None:
                self.lines.put(None)
                return None
            if line.startswith(wanted):
                numbers = re.findall(r"([a-z]+) (-?[\d.]+)", line)
                return {word: float(number) if "." in number else int(number) for word, number in numbers}
        return None

    def tell(self, text):
        try:
            self.process.stdin.write(text + "\n")
            self.process.stdin.flush()
        except (BrokenPipeError, OSError, ValueError):
            pass

    def ended(self, seconds):
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
        self.ended(10)


class KernelLog:
    """The driver's Xids since they were last asked for."""

    def __init__(self):
        self.fd = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)
        os.lseek(self.fd, 0, os.SEEK_END)

    def xids(self):
        """Lines of the driver that were not returned yet."""
        found = []
        while True:
            try:
                text = os.read(self.fd, 8192).decode(errors="replace")
            except BlockingIOError:
                return found
            except OSError:
                continue
            if "NVRM" in text:
                found.append(text.split(";", 1)[-1].split("\n")[0])


class Log:
    """How a neighbour fares (the same layout as in probe.cu)."""

    SIZE = 16 + (1 << 16) * 16

    def __init__(self, path):
        with open(path, "w+b") as file:
            file.truncate(self.SIZE)
            self.map = mmap.mmap(file.fileno(), self.SIZE)

    @property
    def count(self):
        return struct.unpack_from("Q", self.map, 0)[0]

    @property
    def error(self):
        return struct.unpack_from("Q", self.map, 8)[0]

    def records(self, since, until=None):
        count, found = self.count, []
        for i in range(count - 1, max(-1, count - (1 << 16)), -1):
            end, took = struct.unpack_from("qq", self.map, 16 + i % (1 << 16) * 16)
            if end < since:
                break
            if until is None or end <= until:
                found.append((end, took))
        return found[::-1]

    def gap_ms(self, since):
        """The longest time since then without an iteration that ended."""
        ends = [since] + [end for end, _ in self.records(since)] + [now()]
        return max(b - a for a, b in zip(ends, ends[1:])) / 1e6


class Mps:
    def __init__(self, folder, preload=None):
        self.folder = tempfile.mkdtemp(dir=folder)
        self.env = dict(os.environ, CUDA_MPS_PIPE_DIRECTORY=self.folder + "/pipe",
                        CUDA_MPS_LOG_DIRECTORY=self.folder + "/log")
        for name in ("pipe", "log"):
            os.mkdir(f"{self.folder}/{name}")
        env = dict(self.env, **(preload or {}))
        self.control = subprocess.Popen(["nvidia-cuda-mps-control", "-f"], env=env,
                                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        atexit.register(self.stop)
        for _ in range(200):
            if os.path.exists(self.folder + "/pipe/control"):
                break
            time.sleep(0.01)

    def ask(self, text, seconds=10):
        try:
            return subprocess.run(["nvidia-cuda-mps-control"], input=text + "\n", env=self.env, text=True,
                                  capture_output=True, timeout=seconds).stdout.strip()
        except subprocess.TimeoutExpired:
            return "timeout"

    def servers(self):
        """Children of the control daemon, by pid."""
        found = []
        for path in glob.glob("/proc/[0-9]*/stat"):
            try:
                fields = open(path).read().rsplit(") ", 1)[1].split()
            except OSError:
                continue
            if int(fields[1]) == self.control.pid and fields[0] != "Z":
                found.append(int(path.split("/")[2]))
        return sorted(found)

    def said(self):
        return "\n".join(open(path, errors="replace").read() for path in glob.glob(self.folder + "/log/*"))

    def stop(self):
        atexit.unregister(self.stop)
        if self.control.poll() is not None:
            return
        servers = self.servers()
        threading.Thread(target=self.ask, args=("quit -t 1", 5), daemon=True).start()
        try:
            self.control.wait(2)
        except subprocess.TimeoutExpired:
            self.control.kill()
            self.control.wait(5)
        for pid in servers:
            for _ in range(50):
                if not os.path.exists(f"/proc/{pid}"):
                    break
                time.sleep(0.01)
            else:
                os.kill(pid, signal.SIGKILL)


class Beside:
    """MPS, a latency-critical neighbour, another one, and victims that are ready to be told what to be."""

    READY = 4

    def __init__(self, run):
        self.run, self.folder, self.starts = run, run.folder, 0
        self.mps, self.neighbours, self.logs, self.ready, self.made = None, [], [], [], 0

    def start(self):
        self.stop()
        self.starts += 1
        self.mps = Mps(self.folder)
        self.logs = [Log(f"{self.folder}/{name}.log") for name in ("lc", "be")]
        self.neighbours = [
            self.run.program("neighbour", f"{self.folder}/{name}.log", name, 900, env=self.mps.env)
            for name in ("lc", "be")
        ]
        for neighbour in self.neighbours:
            if neighbour.line("up", 20) is None:
                raise RuntimeError(f"a neighbour did not start: {neighbour.heard} {self.mps.said()[-600:]}")
        while min(log.count for log in self.logs) < 50 and not self.dead():
            time.sleep(0.01)

    def dead(self):
        return [log.error or -1 for log, who in zip(self.logs, self.neighbours)
                if log.error or who.process.poll() is not None]

    def victim(self):
        """A process that has a context and an arena, and the ends of two pipes."""
        if self.mps is None or self.dead():
            self.start()
        if not self.ready:
            self.ready = [self._victim() for _ in range(self.READY)]
            for victim in self.ready:
                if victim.line("up", 20) is None:
                    raise RuntimeError(f"a victim did not start: {victim.heard} {self.mps.said()[-600:]}")
        return self.ready.pop()

    def _victim(self):
        self.made += 1
        arena = f"{self.folder}/arena{self.made}"
        pipes = [os.pipe(), os.pipe()]
        writes = [write for _, write in pipes]
        victim = self.run.program("victim", arena, writes[1], env=self.mps.env, pass_fds=writes)
        for write in writes:
            os.close(write)
        victim.pipes, victim.arena = {"low": pipes[0][0], "high": pipes[1][0]}, arena
        return victim

    def forget(self, victim):
        victim.kill()
        for pipe in victim.pipes.values():
            os.close(pipe)
        if os.path.exists(victim.arena):
            os.unlink(victim.arena)

    def clear(self):
        for victim in self.ready:
            self.forget(victim)
        self.ready = []
        for neighbour in self.neighbours:
            neighbour.kill()
        self.neighbours = []

    def next_client_ms(self):
        """How long a new client of the same MPS takes to have worked, once all are gone; -1 if it fails."""
        self.clear()
        begin = now()
        while now() < begin + 4 * 10**9:
            program = self.run.program("stages", env=self.mps.env)
            code = program.ended(3)
            program.kill()
            if code == 0:
                return (now() - begin) / 1e6
        return -1

    def stop(self):
        self.clear()
        if self.mps:
            self.mps.stop()
        self.mps = None


def pick(values, percent):
    return values[min(len(values) - 1, len(values) * percent // 100)] if values else float("nan")
