# SPDX-License-Identifier: GPL-2.0-only OR MIT
"""A tenant dies beside neighbours under MPS, in many states and ways: what do they notice of it?"""

import json
import re
import signal
import time

from machine import now


class Deaths:
    """Parts of a Run."""

    def death(self, state, how, action="none", us="0", watcher=None, first=False):
        """One victim dies; what its neighbours notice of it."""
        beside = self.beside
        victim = beside.victim()
        watch = None
        if watcher:
            kind, _, which = watcher.partition("-")
            fd = victim.pipes.get(which, -1)
            watch = self.program("watch", victim.arena, kind, action, victim.pid, fd,
                                 env=beside.mps.env, pass_fds=(fd,) if fd >= 0 else ())
            watch.line("up")
        victim.tell(state)
        outcome = {"left": None}
        if victim.line("in", 10) is None:
            raise RuntimeError(f"not {state}: {victim.heard}, neighbours {beside.dead()}")
        if error := beside.dead():
            raise RuntimeError(f"neighbours died of {error} before the death")
        servers = beside.mps.servers()
        self.kernel_log.xids()
        if how == "terminate":
            start = now()
            if action != "none":
                self.program("kill", victim.arena, -1, 0, action, "0", env=beside.mps.env).line("killed")
            beside.mps.ask(f"terminate_client {servers[0]} {victim.pid}")
            outcome["terminate_ms"] = (now() - start) / 1e6
            how, action = "KILL", "none"
        else:
            start = now()
        if how in ("KILL", "TERM"):
            signal_number = int(getattr(signal, "SIG" + how))
            # A watcher does what is to be done; otherwise the killer does.
            killer = self.program("kill", victim.arena, victim.pid, signal_number,
                                  "none" if watch else action, us, env=beside.mps.env)
            said = killer.line("killed") or {}
            killed = said.get("killed", now())
            outcome["left"] = said.get("left")
            killer.ended(5)
        else:
            if action != "none":
                self.program("kill", victim.arena, -1, 0, action, us, env=beside.mps.env).line("killed")
            killed = now()
            victim.tell(how)
        code = victim.ended(4)
        outcome["died_ms"] = (now() - killed) / 1e6 if code is not None else None
        if code is None:
            outcome["stuck"] = True
        if watch:
            said = watch.line("noticed", 4) or {}
            if said:
                outcome["noticed_us"] = (said["noticed"] - killed) / 1e3
                outcome["acted_us"] = (said["acted"] - killed) / 1e3
                outcome["drained_us"] = (said["drained"] - killed) / 1e3 if said.get("drained") else None
                outcome["left"] = said["left"]
            watch.kill()
        # Both must go on, or have died.
        counts, until = [log.count for log in beside.logs], now() + 5 * 10**9
        least = now() + self.arguments.settle * (3 if first else 1) * 10**6
        while now() < until:
            moving = all(log.count > count + 50 for log, count in zip(beside.logs, counts))
            if beside.dead() or (moving and now() > least):
                break
            time.sleep(0.005)
        time.sleep(0.02)
        outcome["stalled"] = not beside.dead() and not moving
        outcome["errors"] = beside.dead()
        outcome["gap_ms"] = beside.logs[0].gap_ms(min(start, killed))
        outcome["server"] = "same" if beside.mps.servers() == servers else "other"
        outcome["xids"] = [line for line in self.kernel_log.xids() if "Xid" in line]
        if code is None:
            victim.kill()
            outcome["gap_ms"] = beside.logs[0].gap_ms(min(start, killed))
            outcome["errors"] = beside.dead()
        if outcome["errors"] or outcome["stalled"]:
            beside.forget(victim)
            if first:
                outcome["next_client_ms"] = beside.next_client_ms()
            beside.stop()
        else:
            beside.forget(victim)
        return outcome

    def deaths(self, name, state, how, repeat, **options):
        """A row of the table: several such deaths."""
        outcomes, trouble = [], []
        for i in range(repeat):
            if self.late():
                trouble.append("out of time")
                break
            try:
                outcomes.append(self.death(state, how, first=i == 0, **options))
            except RuntimeError as error:
                trouble.append(str(error)[:300])
                self.beside.stop()
                if len(trouble) > 1:
                    break
            fatal = sum(1 for each in outcomes if each["errors"] or each["stalled"])
            if fatal >= 3 and fatal == len(outcomes):
                break
        fatal = sum(1 for each in outcomes if each["errors"] or each["stalled"])
        errors = sorted({error for each in outcomes for error in each["errors"]})
        gaps = sorted(each["gap_ms"] for each in outcomes)
        xids = sorted({found for each in outcomes for line in each["xids"]
                       for found in re.findall(r"Xid \([^)]*\): (\d+)", line)})
        died = [each["died_ms"] for each in outcomes if each["died_ms"] is not None]
        left = [each["left"] for each in outcomes if each["left"] is not None]
        row = f"{name:44} {fatal:2}/{len(outcomes):<2} "
        row += f"gap {gaps[len(gaps) // 2]:7.1f} max {gaps[-1]:7.1f} ms " if gaps else "nothing "
        row += f"died {max(died):7.1f} ms " if died else "died  never "
        if left:
            row += f"left {max(left)} "
        for word in ("noticed_us", "acted_us", "drained_us", "terminate_ms", "next_client_ms"):
            values = sorted(each[word] for each in outcomes if each.get(word) is not None)
            if values:
                row += f"{word} {values[0]:.0f}..{values[-1]:.0f} "
        if any(each.get("stuck") for each in outcomes):
            row += f"stuck {sum(1 for each in outcomes if each.get('stuck'))} "
        row += f"errors {errors} xid {','.join(xids) or '-'} "
        row += f"server {sorted({each['server'] for each in outcomes})} "
        print(row, *trouble, flush=True)
        with open(self.arguments.out + "/deaths.jsonl", "a") as file:
            for each in outcomes:
                file.write(json.dumps({"name": name, **each}) + "\n")
        target = "measured" if not options.get("action") and state != "idle" else "0"
        count = len(outcomes)
        self.figure(f"{name}: deaths that killed or stalled the neighbours, of {count}",
                    fatal if count else None, "deaths", target, count > 0 and (target != "0" or fatal == 0))
        self.figure(f"{name}: longest pause of the latency-critical neighbour",
                    gaps[-1] if gaps else None, "ms")

    STATES = ["idle", "short", "waves", "plain-10ms", "plain-100ms", "plain-2000ms",
              "open", "open-2s", "squeezed", "held",
              *(f"ends-{ms}ms" for ms in (1, 10, 20, 30, 40, 50, 60, 100, 200))]

    def part_death(self):
        for state in self.arguments.states or self.STATES:
            most = 4 if state.startswith("ends") else 1000
            self.deaths(f"SIGKILL, {state}", state, "KILL", min(most, self.arguments.repeat))

    def part_exits(self):
        for state in self.arguments.states or ("idle", "short", "plain-2000ms", "open", "squeezed", "held"):
            for how, most in (("exit", 3), ("_exit", 2), ("TERM", 2)):
                self.deaths(f"{how}, {state}", state, how, min(most, self.arguments.repeat))
        for action in ("open", "halt", "void"):
            self.deaths(f"exit, held, {action} just before", "held", "exit", min(4, self.arguments.repeat),
                        action=action)
        for state in ("squeezed", "open"):
            self.deaths(f"exit, {state}, halt just before", state, "exit", min(4, self.arguments.repeat),
                        action="halt")

    def part_before(self):
        """What an action on the gates changes, so many microseconds before the signal, or after it."""
        after = [f"-{ms}000" for ms in (200, 100, 50, 40, 30, 20, 10, 5, 2)] + ["-1"]
        before = ["0", "100", "1000", "10000", "100000", "drained"]
        plan = [("held", "halt", after + ["0"]), ("held", "open", after + before),
                ("held", "void", ["-1", "0", "drained"]),
                *((state, "halt", ["-50000", "-1", "0", "1000"]) for state in ("open", "squeezed", "open-2s"))]
        for state, action, times in plan:
            if self.arguments.states and state not in self.arguments.states:
                continue
            for us in self.arguments.times or times:
                when = us if us == "drained" else f"{us} us before" if us[0] != "-" else f"{us[1:]} us after"
                self.deaths(f"SIGKILL, {state}, {action} {when}", state, "KILL", min(5, self.arguments.repeat),
                            action=action, us=us)

    def part_watch(self):
        """Who learns of a death in time."""
        for action in ("halt", "open"):
            for watcher in ("robust", "pipe-high", "pipe-low", "pidfd"):
                self.deaths(f"SIGKILL, held, {action} by {watcher}", "held", "KILL",
                            min(6, self.arguments.repeat), action=action, watcher=watcher)
        for state in ("open-2s", "open", "squeezed"):
            self.deaths(f"SIGKILL, {state}, halt by pipe-low", state, "KILL", min(5, self.arguments.repeat),
                        action="halt", watcher="pipe-low")

    def part_hundred(self):
        """Many kills, with the watchers that are in time, and with the one that only seems to be."""
        for state, watcher in (("held", "robust"), ("held", "pipe-high"), ("squeezed", "robust"),
                               ("open", "robust"), ("held", "pipe-low"), ("squeezed", "pipe-low")):
            self.deaths(f"SIGKILL, {state}, halt by {watcher}, many times", state, "KILL",
                        self.arguments.repeat * 5 // 2, action="halt", watcher=watcher)

    def part_terminate(self):
        for state in ("plain-2000ms", "short", "open", "squeezed", "held"):
            self.deaths(f"terminate_client, {state}", state, "terminate", min(5, self.arguments.repeat))
            if state in ("open", "squeezed", "held"):
                self.deaths(f"terminate_client, {state}, halt before", state, "terminate",
                            min(5, self.arguments.repeat), action="halt")
