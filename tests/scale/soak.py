"""A soak: mixed calls for as long as wanted, then rest; every counter must be back where it was. usage: soak.py [--calls N] [--seed N]

It prints a table, before and after, and ends with 1 if something is not at its baseline. The first rounds are a warm-up: the baseline is taken at rest
after them, so that what is loaded or started once is in it.
"""

import argparse
import gc
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import ray
from ray._core import session
from support import descendants, of_role, wait_for

LARGE_BYTES = 300_000
REST_S = 60.0
WARM_UP_CALLS = 30_000
# Counters that may end a little above their baseline: allocators keep some of what they had.
SLACK: dict[str, float] = {
    "RSS of the driver, MiB": 24,
    "RSS of the daemon, MiB": 8,
    "RSS of the template, MiB": 4,
    "maps of the driver": 24,
    "maps of the daemon": 8,
    "descriptors of the driver": 2,  # the links to the two workers that are kept ready, if it has called them
}


@ray.remote
def nothing() -> None:
    return None


@ray.remote
def length(value: Any, *_: Any, **__: Any) -> int:
    return len(value)


@ray.remote
def make(size: int) -> bytes:
    return b"r" * size


@ray.remote
def nest(count: int) -> int:
    return sum(ray.get([length.remote(b"n" * i) for i in range(count)]))


@ray.remote
def read_nested(box: list[Any]) -> list[Any]:
    return [ray.get(ref) for ref in box]


@ray.remote
def make_refs(count: int) -> list[Any]:
    return [ray.put(i) for i in range(count)]


@ray.remote(max_retries=0)
def fail() -> None:
    raise ValueError("as intended")


@ray.remote(max_retries=2)
def die_once(mark: str) -> int:
    """The worker is killed under the first attempt."""
    if not Path(mark).exists():
        Path(mark).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return 1


@ray.remote(num_cpus=0)
class Counter:
    def __init__(self) -> None:
        self.kept: Any = None

    def add(self, value: int) -> int:
        return value + 1

    def keep(self, box: list[Any]) -> int:
        self.kept = box
        return len(box)

    def pid(self) -> int:
        return os.getpid()


@ray.remote(num_cpus=0)
class AsyncCounter:
    async def add(self, value: int) -> int:
        return value + 1


class Mix:
    """The calls of a soak, in rounds of random parts. Every part checks its results and says how many calls it made."""

    def __init__(self, seed: int, folder: str) -> None:
        self.random = random.Random(seed)
        self.folder = folder
        self.rounds = 0
        self.counter: Any = Counter.remote()
        self.async_counter: Any = AsyncCounter.remote()

    def round(self) -> int:
        self.rounds += 1
        parts: list[Callable[[int], int]] = [self.tasks, self.arguments, self.methods, self.async_methods, self.puts, self.references, self.one_by_one]
        made = sum(part(self.random.randint(20, 200)) for part in parts)
        if self.rounds % 10 == 0:
            made += self.errors() + self.lives()
        if self.rounds % 100 == 0:
            made += self.deaths()
        return made

    def tasks(self, count: int) -> int:
        ray.get([nothing.remote() for _ in range(10 * count)])
        [nothing.remote() for _ in range(count)]  # nobody asks for these
        return 11 * count

    def arguments(self, count: int) -> int:
        shared, pending = ray.put(b"s" * LARGE_BYTES), make.remote(LARGE_BYTES)
        refs = [length.remote(b"a" * i, i, key=str(i)) for i in range(count)]
        refs += [length.remote(shared), length.remote(pending), length.remote(b"d" * LARGE_BYTES)]
        assert ray.get(refs) == [*range(count), LARGE_BYTES, LARGE_BYTES, LARGE_BYTES]
        return count + 4

    def methods(self, count: int) -> int:
        assert ray.get([self.counter.add.remote(i) for i in range(5 * count)]) == list(range(1, 5 * count + 1))
        assert all(ray.get(self.counter.add.remote(i)) == i + 1 for i in range(10))
        return 5 * count + 10

    def async_methods(self, count: int) -> int:
        assert ray.get([self.async_counter.add.remote(i) for i in range(2 * count)]) == list(range(1, 2 * count + 1))
        return 2 * count

    def puts(self, count: int) -> int:
        refs = [ray.put(i) for i in range(10 * count)] + [ray.put(b"p" * (LARGE_BYTES + i)) for i in range(count // 10)]
        self.random.shuffle(refs)
        del refs[::2]
        ray.get(refs)
        return 10 * count + count // 10

    def references(self, count: int) -> int:
        """Nested in arguments and results, kept by an actor and let go again, made by a worker."""
        box = [ray.put(i) for i in range(count)]
        assert ray.get(read_nested.remote(box)) == list(range(count))
        assert ray.get(self.counter.keep.remote([*box, make.remote(LARGE_BYTES)])) == count + 1
        theirs = ray.get(make_refs.remote(count))
        assert ray.get(theirs) == list(range(count))
        assert ray.get(self.counter.keep.remote([])) == 0
        return 2 * count + 5

    def one_by_one(self, count: int) -> int:
        pending = [length.remote(b"w") for _ in range(count // 4)]
        while pending:
            ready, pending = ray.wait(pending, num_returns=min(8, len(pending)), timeout=30)
            assert ready
        assert ray.get(nest.remote(4)) == 6
        return count // 4 + 5

    def errors(self) -> int:
        for ref in [fail.remote(), length.remote(fail.remote())]:
            try:
                ray.get(ref)
            except ValueError:
                continue
            raise AssertionError("a call that fails did not")
        return 3

    def lives(self) -> int:
        """Actors come, and go in each of the three ways."""
        dropped, killed, crashed = (Counter.remote() for _ in range(3))
        pids = ray.get([actor.pid.remote() for actor in (dropped, killed, crashed)])
        ray.kill(killed)
        os.kill(pids[2], signal.SIGKILL)
        for actor in (killed, crashed):
            try:
                while True:  # a call may still have been answered before the end
                    ray.get(actor.add.remote(1), timeout=30)
            except ray.exceptions.RayActorError:
                continue
        return 10

    def deaths(self) -> int:
        assert ray.get(die_once.remote(f"{self.folder}/died-{self.rounds}"), timeout=60) == 1
        return 1


def counters() -> dict[str, float]:
    """What is in use now, of every kind."""
    core: Any = session.core
    objects, tasks, leases, waits = core.table_sizes()
    daemon, template = (one[0].pid if (one := of_role(role)) else 0 for role in ("daemon", "template"))
    total, free = ray.cluster_resources(), ray.available_resources()
    found: dict[str, float] = {
        "objects": objects,
        "calls": tasks,
        "leases": leases,
        "waits": waits,
        "bytes of extents": total["object_store_memory"] - free.get("object_store_memory", 0),
        "CPUs in use": total["CPU"] - free.get("CPU", 0),
        "processes": len(descendants()),
        "/dev/shm entries": len(os.listdir("/dev/shm")),
    }
    for name, pid in (("driver", os.getpid()), ("daemon", daemon), ("template", template)):
        proc = Path(f"/proc/{pid}")
        maps = (proc / "maps").read_text(errors="replace").splitlines()
        found[f"descriptors of the {name}"] = len(os.listdir(proc / "fd"))
        found[f"threads of the {name}"] = len(os.listdir(proc / "task"))
        found[f"maps of the {name}"] = len(maps)
        found[f"memfd maps of the {name}"] = sum("memfd:" in line for line in maps)
        found[f"RSS of the {name}, MiB"] = int((proc / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    return found


def above(baseline: dict[str, float], now: dict[str, float]) -> list[str]:
    return [name for name, value in now.items() if value > baseline[name] + SLACK.get(name, 0)]


def rest() -> dict[str, float]:
    """The counters once calls, leases, extents and surplus workers are gone."""
    gc.collect()

    def at_rest() -> bool:
        now = counters()
        return not any(now[name] for name in ("objects", "calls", "leases", "waits", "bytes of extents", "CPUs in use")) and now["processes"] <= 4

    wait_for(at_rest, REST_S, "everything at rest")
    return counters()


def soak(calls: int, seed: int, folder: str) -> Iterator[int]:
    """Make `calls` calls; yields how many were made after each round."""
    mix = Mix(seed, folder)
    made = 0
    while made < calls:
        made += mix.round()
        yield made


def run(calls: int, seed: int, folder: str) -> int:
    for _ in soak(WARM_UP_CALLS, seed, folder):
        pass
    baseline = rest()
    started, next_note = time.monotonic(), 0
    for made in soak(calls, seed + 1, folder):
        if made >= next_note:
            next_note += max(calls // 20, 1)
            print(f"{made:>10} calls, {time.monotonic() - started:7.1f} s, {counters()['RSS of the driver, MiB']:.0f} MiB", file=sys.stderr, flush=True)
    elapsed_s = time.monotonic() - started
    try:
        wait_for(lambda: not above(baseline, rest()), REST_S)
    except AssertionError:
        pass  # the table says what
    now = counters()
    failed = above(baseline, now)
    print(f"{'counter':32}{'before':>14}{'after':>14}")
    for name, value in now.items():
        print(f"{name:32}{baseline[name]:>14.0f}{value:>14.0f}{'   NOT AT THE BASELINE' if name in failed else ''}")
    print(f"{made} calls in {elapsed_s:.1f} s: {made / elapsed_s:.0f} calls/s; seed {seed}")
    return 1 if failed else 0


def main() -> int:
    import tempfile

    parser = argparse.ArgumentParser()
    parser.add_argument("--calls", type=int, default=10_000_000)
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args()
    ray.init(num_cpus=2, log_to_driver=False, logging_level="ERROR")
    with tempfile.TemporaryDirectory() as folder:
        return run(chosen.calls, chosen.seed, folder)


if __name__ == "__main__":
    sys.exit(main())
