"""Many calls in the queue: time and memory of the driver. usage: queued.py [--only a,b] [--skip a,b]"""

import gc
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import harness

THOUSANDS = 100_000
MILLION = 1_000_000


def run_queue(count: int) -> tuple[float, float]:
    """(seconds until all have run, rise of the driver's memory in MB at its highest moment measured)"""
    ray = harness.connect()

    @ray.remote
    def nothing() -> None:
        return None

    ray.get([nothing.remote() for _ in range(100)])
    before_mb, started = harness.rss_mb(), time.perf_counter()
    refs = [nothing.remote() for _ in range(count)]
    submitted_mb = harness.rss_mb()
    ray.get(refs)
    return time.perf_counter() - started, max(submitted_mb, harness.rss_mb()) - before_mb


def queue_100k() -> None:
    wall_s, rise_mb = run_queue(THOUSANDS)
    harness.emit("queue_100k", wall_s, "s", better="lower")
    harness.emit("queue_100k_memory", rise_mb, "MB", better="lower")


def queue_1m() -> None:
    """Not asked of Ray."""
    harness.connect()
    if harness.own_engine():
        wall_s, rise_mb = run_queue(MILLION)
        harness.emit("queue_1m", wall_s, "s", better="lower")
        harness.emit("queue_1m_memory", rise_mb, "MB", better="lower")


def queued_task_memory() -> None:
    """What a task that waits for a CPU costs the driver, its result's reference included."""
    ray = harness.connect(num_cpus=1)

    @ray.remote
    def hold(gate: str) -> None:
        while not Path(gate).exists():
            time.sleep(0.05)

    @ray.remote
    def nothing() -> None:
        return None

    with TemporaryDirectory() as folder:
        gate = Path(folder) / "gate"
        held = hold.remote(str(gate))
        ray.wait([held], timeout=1)
        harness.emit("queued_task_bytes", bytes_each(nothing.remote, THOUSANDS), "B", better="lower")
        gate.touch()
        ray.get(held)


def object_ref_memory() -> None:
    """What a reference to an empty object costs its owner, the value included."""
    ray = harness.connect(num_cpus=1)
    ray.get(ray.put(None))
    harness.emit("object_ref_bytes", bytes_each(lambda: ray.put(None), THOUSANDS), "B", better="lower")


def bytes_each(make: Any, count: int) -> float:
    kept: list[Any] = [0] * count
    kept[:1000] = [make() for _ in range(1000)]
    gc.collect()
    before_mb = harness.rss_mb()
    for position in range(1000, count):
        kept[position] = make()
    gc.collect()
    return (harness.rss_mb() - before_mb) * 2**20 / (count - 1000)


if __name__ == "__main__":
    harness.sections({"queue_100k": queue_100k, "queue_1m": queue_1m, "queued_task_memory": queued_task_memory, "object_ref_memory": object_ref_memory})
