"""A memory bomb: many innocent tasks and actors, and one culprit after another that grows. usage: memory_bomb.py [--minutes N] [--seed N]

The workers' private memory has a limit of its own (`memory_limit_bytes`), far below the machine's, and no culprit grows beyond a ceiling: the machine is
never in danger. Innocent tasks have no retries and innocent actors no restarts, so one that was ended in a culprit's stead is seen as an error. Prints what
happened; ends with 1 if an innocent was lost, a culprit was not ended or not named, or a process of the runtime was.
"""

import argparse
import os
import random
import select
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import ray
from ray.exceptions import OutOfMemoryError, RayError
from support import of_role

MIB = 1 << 20
LIMIT_MIB = 400
CEILING_MIB = 1_500
INNOCENT_TASKS = 4
INNOCENT_ACTORS = 3
CULPRITS = ("task", "steps", "actor", "child")


def pause() -> None:
    """The monitor looks every 20 ms: without a pause the machine's speed would decide how far a bomb gets."""
    select.select([], [], [], 0.002)


def grow(step_mib: int) -> int:
    """Touch more and more memory. Gives up at the ceiling: then the monitor has failed."""
    kept = []
    for _ in range(0, CEILING_MIB, step_mib):
        kept.append(b"x" * (step_mib * MIB))
        pause()
    return len(kept)


@ray.remote(max_retries=0, num_cpus=0)
def growing_task() -> int:
    return grow(1)


@ray.remote(max_retries=0, num_cpus=0)
def growing_in_steps() -> int:
    return grow(16)


@ray.remote(max_retries=0, num_cpus=0)
def growing_child() -> int:
    """The memory is a subprocess's."""
    import subprocess

    code = f"import select\nkept = []\nwhile len(kept) < {CEILING_MIB}:\n    kept.append(b'x' * {MIB})\n    select.select([], [], [], 0.002)"
    return subprocess.run([sys.executable, "-c", code], check=False).returncode


@ray.remote(num_cpus=0)
class GrowingActor:
    def grow(self) -> int:
        return grow(1)


@ray.remote(max_retries=0, num_cpus=0)
def innocent_task(number: int) -> int:
    """Some megabytes for a moment, as most tasks."""
    block = bytearray(4 * MIB)
    for _ in range(5):
        block[number % len(block)] = 1
        pause()
    return number + len(block)


@ray.remote(num_cpus=0)
class InnocentActor:
    def __init__(self) -> None:
        self.kept = b"y" * (10 * MIB)
        self.calls = 0

    def add(self) -> tuple[int, int]:
        self.calls += 1
        return self.calls, os.getpid()


def start_culprit(kind: str) -> tuple[Any, str]:
    """The reference of its call, and how an error must name it."""
    if kind == "actor":
        return GrowingActor.remote().grow.remote(), "GrowingActor"
    function = {"task": growing_task, "steps": growing_in_steps, "child": growing_child}[kind]
    return function.remote(), function.__name__


class Run:
    """Counts, and what went wrong."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.actors: list[Any] = [InnocentActor.remote() for _ in range(INNOCENT_ACTORS)]
        self.pids = [pid for _, pid in ray.get([actor.add.remote() for actor in self.actors])]
        self.runtime = runtime_pids()
        self.kernel_kills = kernel_kills()
        self.tasks = self.calls = 0
        self.ended: dict[str, int] = dict.fromkeys(CULPRITS, 0)
        self.troubles: list[str] = []

    def round(self) -> None:
        """One culprit grows; innocents work until it has ended."""
        kind = self.random.choice(CULPRITS)
        ref, name = start_culprit(kind)
        while not ray.wait([ref], timeout=0)[0]:
            self.work()
        try:
            grown = ray.get(ref)
        except OutOfMemoryError as error:
            self.ended[kind] += 1
            text = str(error)
            if name not in text or "Workers by size" not in text:
                self.troubles.append(f"the end of {name} does not say who, how much and what else ran: {text}")
        except RayError as error:
            self.troubles.append(f"{name} ended otherwise: {error}")
        else:
            self.troubles.append(f"{name} grew to its ceiling, {grown}: nobody stopped it")

    def work(self) -> None:
        numbers = [self.random.randrange(1000) for _ in range(INNOCENT_TASKS)]
        refs = [innocent_task.remote(number) for number in numbers]
        calls = [actor.add.remote() for actor in self.actors]
        for number, ref in zip(numbers, refs, strict=True):
            self.innocent(ref, number + 4 * MIB)
            self.tasks += 1
        self.calls += 1
        for pid, call in zip(self.pids, calls, strict=True):
            self.innocent(call, (self.calls + 1, pid))

    def innocent(self, ref: Any, expected: Any) -> None:
        try:
            found = ray.get(ref, timeout=60)
        except RayError as error:
            self.troubles.append(f"an innocent was lost: {error}")
        else:
            if found != expected:
                self.troubles.append(f"an innocent gave {found}, not {expected}")

    def finish(self) -> None:
        runtime = runtime_pids()
        if runtime != self.runtime:
            self.troubles.append(f"the processes of the runtime were {self.runtime} and are {runtime}")
        self.kernel_kills = kernel_kills() - self.kernel_kills


def runtime_pids() -> dict[str, list[int]]:
    return {role: [process.pid for process in of_role(role)] for role in ("daemon", "template")}


def kernel_kills() -> int:
    """Processes that the kernel killed for want of memory, on this machine since it started."""
    lines = Path("/proc/vmstat").read_text().splitlines()
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    settings = {"memory_limit_bytes": LIMIT_MIB * MIB, "memory_monitor_refresh_ms": 20}
    ray.init(address="local", num_cpus=2, include_dashboard=False, object_store_memory=100 * MIB, log_to_driver=False, _system_config=settings)
    run = Run(options.seed)
    end_s = time.monotonic() + options.minutes * 60
    while time.monotonic() < end_s and len(run.troubles) < 10:
        run.round()
    run.finish()
    ray.shutdown()
    print(f"culprits ended: {', '.join(f'{count} {kind}' for kind, count in run.ended.items())}")
    print(f"innocent tasks: {run.tasks}, calls of innocent actors: {run.calls * INNOCENT_ACTORS}")
    print(f"processes that the kernel killed for want of memory meanwhile, of whatever program: {run.kernel_kills}")
    for trouble in run.troubles:
        print(f"TROUBLE: {trouble}")
    return 1 if run.troubles else 0


if __name__ == "__main__":
    raise SystemExit(main())
