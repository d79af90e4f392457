"""Objects: put, get, arguments and results of some size. usage: objects.py [--only a,b] [--skip a,b]

Bytes per second are given against what the machine does in the same run: `pwrite` into a fresh memfd for memory that nobody has
touched, memcpy into touched memory for a store that reuses what was freed.
"""

import os
import time
from typing import Any

import numpy as np

import harness

GIB = 1 << 30
MIB = 1 << 20


def large() -> None:
    ray = harness.connect()
    source = np.random.default_rng(0).integers(0, 255, GIB, dtype=np.uint8)
    copy_s, pwrite_s = memcpy_s(source), harness.seconds(lambda: pwrite(source), 3)
    harness.emit("reference_memcpy", GIB / copy_s / 1e9, "GB/s", better="higher")
    harness.emit("reference_pwrite", GIB / pwrite_s / 1e9, "GB/s", better="higher")

    started = time.perf_counter()
    ref = ray.put(source)
    first_s = time.perf_counter() - started
    harness.emit("put_1gib_first", GIB / first_s / 1e9, "GB/s", better="higher")
    harness.emit("put_1gib_first_of_pwrite", 100 * pwrite_s / first_s, "%", better="higher")

    taken = []
    for _ in range(5):
        del ref
        time.sleep(0.4)  # Ray frees in the background; ours needs no pause
        started = time.perf_counter()
        ref = ray.put(source)
        taken.append(time.perf_counter() - started)
    repeated_s = sorted(taken)[len(taken) // 2]
    harness.emit("put_1gib_repeated", GIB / repeated_s / 1e9, "GB/s", better="higher")
    harness.emit("put_1gib_repeated_of_memcpy", 100 * copy_s / repeated_s, "%", better="higher")
    get_large(ray, ref, int(source[-1]))


def memcpy_s(source: Any) -> float:
    target = np.zeros_like(source)
    target[:] = 1
    return harness.seconds(lambda: np.copyto(target, source), 3)


def pwrite(source: Any) -> None:
    fd = os.memfd_create("reference")
    try:
        os.ftruncate(fd, GIB)
        view = memoryview(source)
        written = 0
        while written < GIB:
            written += os.pwrite(fd, view[written:], written)
    finally:
        os.close(fd)


def get_large(ray: Any, ref: Any, last: int) -> None:
    def read() -> None:
        value = ray.get(ref)
        assert value[-1] == last

    harness.emit("get_1gib", 1e3 * harness.seconds(read, 20), "ms", better="lower")

    @ray.remote
    def timed(refs: list[Any]) -> tuple[float, bool]:
        started = time.perf_counter()
        value = ray.get(refs[0])
        taken = time.perf_counter() - started
        return taken, not value.flags.owndata and not value.flags.writeable

    answers = [ray.get(timed.remote([ref])) for _ in range(5)]
    harness.emit("get_1gib_elsewhere", 1e3 * sorted(answers)[2][0], "ms", better="lower", zero_copy=all(copied for _, copied in answers))


def small() -> None:
    ray = harness.connect()
    ray.get(ray.put(0))
    harness.emit("put_small", harness.rate(lambda: ray.put(0)), "puts/s", better="higher")
    ref = ray.put(0)
    harness.emit("get_small", harness.rate(lambda: ray.get(ref)), "gets/s", better="higher")
    listed = ray.put([0])
    assert ray.get(listed) is not ray.get(listed)
    harness.emit("get_small_list", harness.rate(lambda: ray.get(listed)), "gets/s", better="higher")


def megabytes() -> None:
    ray = harness.connect()
    array = np.ones(MIB, np.uint8)

    @ray.remote
    def size_of(value: Any) -> int:
        return value.nbytes

    @ray.remote
    def make() -> Any:
        return np.ones(MIB, np.uint8)

    ray.get([size_of.remote(array) for _ in range(4)])
    harness.emit("put_1mb", harness.rate(lambda: ray.put(array)), "puts/s", better="higher")
    harness.emit("task_1mb_argument_sync", harness.rate(lambda: ray.get(size_of.remote(array))), "tasks/s", better="higher")
    hundred = harness.rate(lambda: ray.get([size_of.remote(array) for _ in range(100)]), 100)
    harness.emit("task_1mb_argument_async", hundred, "tasks/s", better="higher")
    harness.emit("task_1mb_result_async", harness.rate(lambda: ray.get([make.remote() for _ in range(100)]), 100), "tasks/s", better="higher")


def nested_refs() -> None:
    ray = harness.connect()

    @ray.remote
    def make() -> list[Any]:
        return [ray.put(1) for _ in range(10_000)]

    ref = make.remote()
    ray.wait([ref], timeout=60)
    ray.get(ref)
    harness.emit("get_object_with_10k_refs", 1e3 * harness.seconds(lambda: ray.get(ref), 7), "ms", better="lower")


if __name__ == "__main__":
    harness.sections({"large": large, "small": small, "megabytes": megabytes, "nested_refs": nested_refs})
