# SPDX-License-Identifier: GPL-2.0-only OR MIT
"""Gates that stay shut: what their owner can do meanwhile, what others can, and what it costs them."""

import os
import time

from machine import Log, Mps, now, pick


def verdict(right):
    return "right" if right else "WRONG"


class Waits:
    """Parts of a Run."""

    WHAT = ["free", "malloc", "register", "load", "module", "queue", "queue of another stream", "stream",
            "legacy stream", "stream destroy", "context", "new context", "context destroy"]

    def part_blocked(self):
        beside = self.beside
        for what in self.WHAT:
            if self.late():
                return print("out of time")
            if beside.mps is None or beside.dead():
                beside.start()
            arena = f"{self.folder}/blocked"
            program = self.program("blocked", arena, what, env=beside.mps.env)
            shut = program.line("shut", 15) or {}
            # A process that comes while the gates are shut.
            begin = now()
            fresh = self.program("stages", env=beside.mps.env)
            came = fresh.ended(8)
            took = (now() - begin) / 1e6
            fresh.kill()
            lc = sorted(t / 1e3 for _, t in beside.logs[0].records(shut.get("shut", begin)))
            program.tell("open")
            said = program.line("opened", 10) or {}
            code = program.ended(5)
            program.kill()
            time.sleep(0.1)
            right = code == 0 and came == 0 and not beside.dead()
            print(f"{what:24} {verdict(right)} waits {shut.get('waits')} others {shut.get('others')} "
                  f"then {said} code {code}; new process {came} {took:.0f} ms; LC p50 {pick(lc, 50):.0f} p99 "
                  f"{pick(lc, 99):.0f} max {pick(lc, 100):.0f} us n {len(lc)}; {beside.dead()} "
                  f"{'' if right else program.heard + fresh.heard} {self.kernel_log.xids()[:2]}", flush=True)
            self.figure(f"held while a thread is in {what}: goes on after opening, other processes meanwhile",
                        int(right), "yes", "1", right)
            os.unlink(arena)
            if not right:
                beside.stop()

    def part_many(self):
        beside = self.beside
        for contexts, streams, seconds in ((1, 8, 2), (3, 4, 2), (4, 4, self.arguments.hold)):
            if beside.mps is None or beside.dead():
                beside.start()
            arena = f"{self.folder}/many"
            program = self.program("many", arena, contexts, streams, 1, env=beside.mps.env)
            held = program.line("held", 15) or {}
            begin = now()
            time.sleep(seconds)
            lc = sorted(t / 1e3 for _, t in beside.logs[0].records(begin))
            program.tell("open")
            said = program.line("completed", 10) or {}
            code = program.ended(5)
            program.kill()
            os.unlink(arena)
            right = code == 0 and not beside.dead()
            print(f"{contexts} contexts of {streams} streams held for {seconds} s: {verdict(right)} "
                  f"{held} {said} code {code} {beside.dead()} LC p50 {pick(lc, 50):.0f} p99 "
                  f"{pick(lc, 99):.0f} max {pick(lc, 100):.0f} us "
                  f"{'' if right else program.heard} {self.kernel_log.xids()[:2]}", flush=True)
            self.figure(f"{contexts} contexts of {streams} suspended streams for {seconds} s: every block once",
                        int(right), "yes", "1", right)
            if not right:
                beside.stop()

    def part_reuse(self):
        beside = self.beside
        beside.start()
        for slots in (4, 8, 32, 100):
            arena = f"{self.folder}/reuse"
            program = self.program("reuse", arena, 20000, slots, env=beside.mps.env)
            said = program.line("chains", 60) or {}
            code = program.ended(5)
            program.kill()
            os.unlink(arena)
            right = code == 0
            print(f"reuse of {slots} chains' descriptors: {verdict(right)} {said} "
                  f"{'' if right else program.heard} {beside.dead()} {self.kernel_log.xids()[:2]}", flush=True)
            self.figure(f"blocks that ran not once, or after their successor, with {slots} chains' "
                        f"descriptors reused while others are queued, 20000 chains",
                        said.get("wrong"), "blocks", "0", right)

    def part_waiting(self):
        """What waiting gates, and open, squeezed and plain tenants, cost the latency-critical neighbour."""
        beside = self.beside
        beside.stop()
        mps = Mps(self.folder)
        log = Log(f"{self.folder}/lc.log")
        lc = self.program("neighbour", f"{self.folder}/lc.log", "lc", 900, env=mps.env)
        lc.line("up", 20)
        took = {}
        rounds = [("0 gates", None), ("1 gate", (1, 1, 1)), ("4 gates", (1, 4, 1)), ("8 gates", (1, 8, 1)),
                  ("16 gates", (1, 16, 1)), ("16 gates, no stamps", (1, 16, 0)), ("64 gates", (4, 16, 1)),
                  ("idle tenant", "idle"), ("open", "open"), ("squeezed", "squeezed"), ("waves", "waves")]
        rounds = [each for each in rounds if each[0] in (self.arguments.states or each)]
        for turn in range(self.arguments.turns):
            for name, what in rounds:
                program = None
                note = {}
                if isinstance(what, tuple):
                    program = self.program("many", f"{self.folder}/many", *what, env=mps.env)
                    note = program.line("held", 15) or {"problem": program.heard}
                elif what:
                    program = self.program("victim", f"{self.folder}/many", env=mps.env)
                    program.line("up", 15)
                    program.tell(what)
                    program.line("in", 15)
                time.sleep(0.2)
                begin = now()
                time.sleep(self.arguments.each)
                found = [t / 1e3 for _, t in log.records(begin)]
                took.setdefault(name, []).extend(found)
                if program:
                    program.tell("open")
                    try:
                        program.process.stdin.close()
                    except BrokenPipeError:
                        pass
                    program.ended(10)
                    program.kill()
                    os.unlink(f"{self.folder}/many")
                print(f"   {turn} {name:22} n {len(found):5} p50 {pick(sorted(found), 50):7.1f} p99 "
                      f"{pick(sorted(found), 99):7.1f} {note} {self.kernel_log.xids()[:2]}", flush=True)
        base = sorted(took["0 gates"])
        for name, values in took.items():
            values = sorted(values)
            for percent in (50, 99):
                ratio = pick(values, percent) / pick(base, percent)
                self.figure(f"p{percent} of a latency-critical neighbour beside {name}, to none", ratio,
                            "ratio")
            print(f"{name:22} p50 {pick(values, 50):7.1f} ({pick(values, 50) / pick(base, 50):.3f}) p99 "
                  f"{pick(values, 99):7.1f} ({pick(values, 99) / pick(base, 99):.3f}) us", flush=True)
        lc.kill()
        mps.stop()
