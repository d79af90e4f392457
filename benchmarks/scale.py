"""Much of everything on one machine. usage: scale.py [--only a,b] [--skip a,b]

Whether it works is tested in tests/scale; here are the figures. Not asked of Ray. The soak has a program of its own: tests/scale/soak.py.
"""

import subprocess
import sys
import time
from typing import Any

import harness

MILLION = 1_000_000
LIST = 100_000
GIB = 1 << 30


def timed_s(call: Any) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def references() -> None:
    """A million alive; a hundred thousand in one argument and in one result."""
    ray = harness.connect()

    @ray.remote
    def count(refs: list[Any]) -> int:
        return len(refs)

    @ray.remote
    def give_back(refs: list[Any]) -> list[Any]:
        return refs

    refs = [ray.put(None) for _ in range(LIST)]
    ray.get(count.remote(refs[:10]))
    harness.emit("refs_100k_as_argument", 1e3 * timed_s(lambda: ray.get(count.remote(refs))), "ms", better="lower")
    harness.emit("refs_100k_as_argument_and_result", 1e3 * timed_s(lambda: ray.get(give_back.remote(refs))), "ms", better="lower")
    harness.emit("refs_100k_get", 1e3 * timed_s(lambda: ray.get(refs)), "ms", better="lower")
    refs.clear()
    before_mb = harness.rss_mb()
    harness.emit("refs_1m_put", timed_s(lambda: refs.extend(ray.put(None) for _ in range(MILLION))), "s", better="lower")
    harness.emit("refs_1m_memory", harness.rss_mb() - before_mb, "MB", better="lower")
    harness.emit("refs_1m_get", timed_s(lambda: ray.get(refs)), "s", better="lower")
    harness.emit("refs_1m_drop", timed_s(refs.clear), "s", better="lower")


def puts() -> None:
    """A million puts of 100 KiB, each dropped at once: the first and the last hundred thousand."""
    ray = harness.connect()
    data = b"x" * 102_400

    def some() -> None:
        for _ in range(LIST):
            ray.put(data)

    rates = [LIST / timed_s(some) for _ in range(MILLION // LIST)]
    harness.emit("puts_100kib_first", rates[0], "puts/s", better="higher")
    harness.emit("puts_100kib_last", rates[-1], "puts/s", better="higher")


def argument() -> None:
    """4 GiB in one argument: into memory never touched, and into memory freed before."""
    import numpy as np

    ray = harness.connect()

    @ray.remote
    def look(array: Any) -> int:
        return int(array[-1])

    array = np.ones(4 * GIB, np.uint8)
    harness.emit("argument_4gib_first", timed_s(lambda: ray.get(look.remote(array))), "s", better="lower")
    harness.emit("argument_4gib_again", timed_s(lambda: ray.get(look.remote(array))), "s", better="lower")


SPEAK = """
import ray, sys, time
ray.init(num_cpus=2, logging_level="ERROR")

@ray.remote
def speak(number, count):
    words = ["".join(chr(97 + i // 26**k % 26) for k in range(4)) for i in range(2000)]
    for i in range(count):
        print(f"{'ab'[number]} {words[i % 2000]} {i} " + "x" * 80)

ray.get([speak.remote(number, 0) for number in range(2)])
started = time.perf_counter()
ray.get([speak.remote(number, COUNT) for number in range(2)])
ray.shutdown()
print(time.perf_counter() - started, file=sys.stderr)
"""


def output() -> None:
    """Lines of two tasks until all are on the driver's stdout."""
    if not harness.own_engine():
        return
    count = 150_000
    done = subprocess.run([sys.executable, "-c", SPEAK.replace("COUNT", str(count))], capture_output=True, text=True, check=True)
    lines = [line for line in done.stdout.splitlines() if "xxxx" in line]
    taken_s = float(done.stderr.split()[-1])
    harness.emit("output_lines", sum(map(len, lines)) / taken_s / 1e6, "MB/s", better="higher", lines=len(lines))


def backpressure() -> None:
    """What the driver holds while it submits far more than runs."""
    ray = harness.connect(_system_config={"pending_calls_bytes": 64 << 20})

    @ray.remote
    def work(data: bytes) -> int:
        return len(data)

    before_mb = harness.rss_mb()
    rate = 50_000 / timed_s(lambda: [work.remote(b"x" * 50_000) for _ in range(50_000)] and None)
    harness.emit("submit_2_5_gb_rate", rate, "calls/s", better="higher")
    harness.emit("submit_2_5_gb_memory", harness.rss_mb() - before_mb, "MB", better="lower")


if __name__ == "__main__":
    harness.sections({"references": references, "puts": puts, "argument": argument, "output": output, "backpressure": backpressure})
