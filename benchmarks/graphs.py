"""Tasks that depend on each other, waiting, and generators. usage: graphs.py [--only a,b] [--skip a,b]"""

import numpy as np

import harness

STEPS = 1000
MIB = 1 << 20


def chain() -> None:
    ray = harness.connect()

    @ray.remote
    def increment(number: int) -> int:
        return number + 1

    def run() -> None:
        ref = increment.remote(0)
        for _ in range(STEPS - 1):
            ref = increment.remote(ref)
        assert ray.get(ref) == STEPS

    run()
    harness.emit("chain_1000", 1e6 * harness.seconds(run, 3) / STEPS, "us/step", better="lower")


def tree() -> None:
    ray = harness.connect()

    @ray.remote
    def add(left: int, right: int) -> int:
        return left + right

    def run() -> None:
        level = [add.remote(0, 1) for _ in range(STEPS)]
        while len(level) > 1:
            odd = level[-1:] if len(level) % 2 else []
            level = [add.remote(left, right) for left, right in zip(level[::2], level[1::2], strict=False)] + odd
        assert ray.get(level[0]) == STEPS

    run()
    harness.emit("tree_reduce_1000", 1e3 * harness.seconds(run, 3), "ms", better="lower")


def wait() -> None:
    ray = harness.connect()

    @ray.remote
    def nothing() -> None:
        return None

    def one_by_one(pending: list[object]) -> None:
        while pending:
            _, pending = ray.wait(pending)

    one_by_one([nothing.remote() for _ in range(STEPS)])
    submitted = harness.seconds(lambda: one_by_one([nothing.remote() for _ in range(STEPS)]), 3)
    harness.emit("submit_and_wait_1000_one_by_one", 1e3 * submitted, "ms", better="lower")
    finished = [nothing.remote() for _ in range(STEPS)]
    ray.get(finished)
    harness.emit("wait_1000_finished_one_by_one", 1e3 * harness.seconds(lambda: one_by_one(finished), 3), "ms", better="lower")
    harness.emit("wait_1000_finished_at_once", 1e3 * harness.seconds(lambda: ray.wait(finished, num_returns=STEPS), 10), "ms", better="lower")


def fan_out() -> None:
    ray = harness.connect()

    @ray.remote
    def size_of(value: np.ndarray) -> int:
        return value.nbytes

    shared = ray.put(np.ones(10 * MIB, np.uint8))

    def run() -> None:
        ray.get([size_of.remote(shared) for _ in range(200)])

    run()
    harness.emit("fan_out_10mb_to_200_tasks", 1e3 * harness.seconds(run, 3), "ms", better="lower")


def streaming() -> None:
    ray = harness.connect()

    @ray.remote
    def numbers(n: int) -> object:
        for number in range(n):  # noqa: UP028  Ray refuses `yield from` a plain iterator
            yield number

    @ray.remote
    def megabytes(n: int) -> object:
        for _ in range(n):
            yield np.ones(MIB, np.uint8)

    def run(n: int) -> None:
        assert sum(ray.get(ref) for ref in numbers.remote(n)) == n * (n - 1) // 2

    def run_megabytes(n: int) -> None:
        for ref in megabytes.remote(n):
            ray.get(ref)

    run(200)
    harness.emit("generator_task", 2000 / harness.seconds(lambda: run(2000), 3), "items/s", better="higher")
    run_megabytes(20)
    harness.emit("generator_1mb_items", 200 / harness.seconds(lambda: run_megabytes(200), 3), "items/s", better="higher")


if __name__ == "__main__":
    harness.sections({"chain": chain, "tree": tree, "wait": wait, "fan_out": fan_out, "streaming": streaming})
