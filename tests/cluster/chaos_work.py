"""The work that chaos.py disturbs: drivers that verify every result. usage: chaos_work.py shuffle|actors|chain FOLDER SEED

Each writes how many rounds it has verified to FOLDER/NAME.rounds, ends after the round in which FOLDER/stop appears, and ends with 1 at the first wrong result.
"""

import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import ray
from ray.util.state import explain
from support.gates import Tally

GET_S = 90.0
MAPS, REDUCES, PART = 6, 4, 30_000
ACTORS, CALLS = 4, 60
STEPS, WIDTH = 30, 40_000
BEAT_S = 0.02


class WrongResult(Exception):
    """What came back is not what the work gives."""


def check(right: bool, what: str) -> None:
    if not right:
        raise WrongResult(what)


def get(refs: list[Any]) -> list[Any]:
    """The values. What does not come in time is told with what it waits for."""
    try:
        return ray.get(refs, timeout=GET_S)
    except ray.exceptions.GetTimeoutError as late:
        _, missing = ray.wait(refs, num_returns=len(refs), timeout=0)
        raise WrongResult(f"{late}; {len(missing)} have not come; the first: " + "".join(str(explain(ref)) for ref in missing[:1])) from late


# --- shuffle ----------------------------------------------------------------------------------------------------------------


def keys(seed: int) -> Any:
    return np.random.default_rng(seed).integers(0, 1 << 40, PART)


@ray.remote(num_cpus=0.1, max_retries=-1, num_returns=REDUCES, scheduling_strategy="SPREAD")
def split(seed: int) -> list[Any]:
    data = keys(seed)
    return [data[data % REDUCES == part] for part in range(REDUCES)]


@ray.remote(num_cpus=0.1, max_retries=-1, scheduling_strategy="SPREAD")
def merge(*parts: Any) -> Any:
    return np.sort(np.concatenate(parts))


def shuffle(seed: int) -> Callable[[int], int]:
    def one_round(number: int) -> int:
        seeds = [seed + number * MAPS + i for i in range(MAPS)]
        split_up = [split.remote(one) for one in seeds]
        merged = get([merge.remote(*[parts[r] for parts in split_up]) for r in range(REDUCES)])
        everything = np.concatenate([keys(one) for one in seeds])
        for part, got in enumerate(merged):
            check(np.array_equal(got, np.sort(everything[everything % REDUCES == part])), f"shuffle {number}, part {part}")
        return MAPS + REDUCES

    return one_round


# --- actors -----------------------------------------------------------------------------------------------------------------


@ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1, scheduling_strategy="SPREAD")
class Member:
    """Counts its calls; writes its incarnation all the time, so that two that live at once are seen."""

    def __init__(self, tally: Tally) -> None:
        self.incarnation = f"{os.getpid()}.{time.time_ns()}"
        self.value = 0
        self.tally = tally
        threading.Thread(target=self.beat, daemon=True).start()

    def beat(self) -> None:
        while True:
            self.append()
            time.sleep(BEAT_S)

    def append(self) -> None:
        with open(self.tally.path, "ab", buffering=0) as file:
            file.write(f"{self.incarnation}\n".encode())

    def add(self, payload: Any) -> tuple[str, int, int]:
        self.value += 1
        return self.incarnation, self.value, len(payload)


def one_after_the_other(lines: list[str]) -> bool:
    """Whether each incarnation has written all its lines before the next one began."""
    runs = [line for i, line in enumerate(lines) if i == 0 or lines[i - 1] != line]
    return len(runs) == len(set(runs))


def actors(seed: int, folder: Path) -> Callable[[int], int]:
    tallies = [Tally(folder / f"member-{i}") for i in range(ACTORS)]
    members = [Member.remote(tally) for tally in tallies]
    last: list[tuple[str, int]] = [("", 0)] * ACTORS
    random = np.random.default_rng(seed)

    def one_round(number: int) -> int:
        for i in range(ACTORS):
            sizes = random.integers(0, 20_000, CALLS)
            answers = get([members[i].add.remote(b"x" * int(size)) for size in sizes])
            for (incarnation, value, length), size in zip(answers, sizes, strict=True):
                expected = last[i][1] + 1 if incarnation == last[i][0] else 1
                check((value, length) == (expected, size), f"round {number}: member {i} counted {value}, not {expected}, in {incarnation} after {last[i]}")
                last[i] = incarnation, value
            check(one_after_the_other(tallies[i].words()), f"round {number}: two incarnations of member {i} lived at once")
        return ACTORS * CALLS

    return one_round


# --- chain ------------------------------------------------------------------------------------------------------------------


def advance(array: Any, number: int) -> Any:
    return (array * 6364136223846793005 + np.uint64(number)) ^ (array >> np.uint64(7))


@ray.remote(num_cpus=0.1, max_retries=-1, scheduling_strategy="SPREAD")
def step(array: Any, number: int) -> Any:
    return advance(array, number)


def chain(seed: int) -> Callable[[int], int]:
    def one_round(number: int) -> int:
        start = np.arange(WIDTH, dtype=np.uint64) + np.uint64(seed + number)
        first = ray.put(start)  # kept for the round: nobody can make a put again
        ref, right = first, start
        for i in range(STEPS):
            ref = step.remote(ref, i)
            right = advance(right, i)
        check(np.array_equal(get([ref])[0], right), f"chain {number}")
        return STEPS

    return one_round


def main() -> int:
    kind, folder, seed = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    ray.init(address=os.environ.get("RAY_ADDRESS", "auto"), log_to_driver=False)
    one_round = {"shuffle": lambda: shuffle(seed), "actors": lambda: actors(seed, folder), "chain": lambda: chain(seed)}[kind]()
    rounds = verified = 0
    while not (folder / "stop").exists():
        verified += one_round(rounds)
        rounds += 1
        (folder / f"{kind}.new").write_text(f"{rounds} {verified}")
        (folder / f"{kind}.new").rename(folder / f"{kind}.rounds")
    ray.shutdown()
    print(f"{kind}: {rounds} rounds, {verified} results, all right")
    return 0


if __name__ == "__main__":
    sys.exit(main())
