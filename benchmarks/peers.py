"""The standard library's pools, one task per message. usage: peers.py [--only a,b] [--skip a,b]"""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import numpy as np

import harness

BATCH = 1000
ARRAY = np.ones(1 << 20, np.uint8)


def nothing(*_: object) -> bytes:
    return b"ok"


def size_of(value: Any) -> int:
    return value.nbytes


def executor() -> None:
    with ProcessPoolExecutor(2) as pool:

        def many(call: Any, count: int, *args: object) -> None:
            for future in [pool.submit(call, *args) for _ in range(count)]:
                future.result()

        emit("ProcessPoolExecutor.sync", harness.rate(lambda: pool.submit(nothing).result()))
        emit("ProcessPoolExecutor.async", harness.rate(lambda: many(nothing, BATCH), BATCH))
        emit("ProcessPoolExecutor.1mb_argument", harness.rate(lambda: many(size_of, 100, ARRAY), 100))


def pool() -> None:
    with multiprocessing.Pool(2) as workers:

        def many(call: Any, count: int, *args: object) -> None:
            for answer in [workers.apply_async(call, args) for _ in range(count)]:
                answer.get()

        emit("multiprocessing.Pool.sync", harness.rate(lambda: workers.apply(nothing)))
        emit("multiprocessing.Pool.async", harness.rate(lambda: many(nothing, BATCH), BATCH))
        emit("multiprocessing.Pool.map", harness.rate(lambda: workers.map(nothing, range(BATCH), chunksize=1), BATCH))
        emit("multiprocessing.Pool.1mb_argument", harness.rate(lambda: many(size_of, 100, ARRAY), 100))


def emit(name: str, rate: float) -> None:
    harness.emit(name, rate, "tasks/s", better="higher")


if __name__ == "__main__":
    harness.sections({"executor": executor, "pool": pool})
