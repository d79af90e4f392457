"""Spilling: putting more than the store holds, and reading it back. usage: spilling.py [--only a,b] [--skip a,b]

The same bytes are written to and read from a plain file on the same disk in the same run. Written bytes are not synced, by either. Reading is measured from
the page cache, and from the disk where this program may drop the cache (as root).
"""

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

import harness

MIB = 1 << 20
PART = 64 * MIB
STORE = 512 * MIB
PARTS = 40
"""2.5 GiB: two gibibytes more than the store."""

DROP_CACHES = Path("/proc/sys/vm/drop_caches")


@contextmanager
def disk() -> Iterator[str]:
    """A folder for what is spilled, beside the one where Ray would put it."""
    folder = tempfile.mkdtemp(prefix="bench-spilling-")
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def part(number: int) -> Any:
    return np.full(PART, number % 251, np.uint8)


def raw(folder: str, source: Any) -> dict[str, float]:
    """MB/s of a plain file of as many bytes as are spilled."""
    count = PARTS - STORE // PART
    path, rates = os.path.join(folder, "raw"), {}
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        started = time.perf_counter()
        for number in range(count):
            written = os.pwrite(fd, source, number * PART)
            assert written == PART
        rates["write"] = count * PART / (time.perf_counter() - started) / 1e6
        rates["read"] = raw_read(fd, count)
        if drop_cache():
            rates["read_disk"] = raw_read(fd, count)
    finally:
        os.close(fd)
        os.unlink(path)
    return rates


def raw_read(fd: int, count: int) -> float:
    target = bytearray(PART)
    started = time.perf_counter()
    for number in range(count):
        done = os.preadv(fd, [target], number * PART)
        assert done == PART
    return count * PART / (time.perf_counter() - started) / 1e6


def drop_cache() -> bool:
    """Write everything to disk and forget it. False: not allowed."""
    os.sync()
    try:
        DROP_CACHES.write_text("1")
    except OSError:
        return False
    return True


def spill() -> None:
    with disk() as folder:
        rates = raw(folder, part(7))
        ray = harness.connect(object_store_memory=STORE, object_spilling_directory=folder, num_cpus=2)
        for name, value in rates.items():
            harness.emit(f"reference_disk_{name}", value, "MB/s", better="higher")
        values = [part(number) for number in range(8)]
        started = time.perf_counter()
        refs = [ray.put(values[number % 8]) for number in range(PARTS)]
        taken_s = time.perf_counter() - started
        spilled = PARTS * PART - STORE
        harness.emit("spill", spilled / taken_s / 1e6, "MB/s", better="higher")
        harness.emit("spill_of_raw", 100 * spilled / taken_s / 1e6 / rates["write"], "%", better="higher")
        # The oldest are on disk by now, whatever the order of spilling.
        old = list(enumerate(refs[: (PARTS - STORE // PART) // 2]))
        # Before anything is mapped: mapped pages stay in the cache.
        if "read_disk" in rates and drop_cache():
            rate = restore(ray, old)
            harness.emit("restore_disk", rate, "MB/s", better="higher")
            harness.emit("restore_disk_of_raw", 100 * rate / rates["read_disk"], "%", better="higher")
        harness.emit("restore_cached", restore(ray, old), "MB/s", better="higher")
        del refs, old
        ray.shutdown()


def restore(ray: Any, refs: list[tuple[int, Any]]) -> float:
    """MB/s of getting each object and reading a byte of each page of it, one object at a time."""
    started = time.perf_counter()
    for number, ref in refs:
        value = ray.get(ref)
        assert int(value[::4096].max()) == number % 8
        del value
    return len(refs) * PART / (time.perf_counter() - started) / 1e6


if __name__ == "__main__":
    harness.sections({"spill": spill})
