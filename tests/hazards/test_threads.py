"""Threads of the user's program, references that die at any moment, and calls that nobody waits for."""

import ctypes
import gc
import os
import pickle
import random
import signal
import threading
import time
import weakref

import pytest

import ray
from support import wait_for

pytestmark = [pytest.mark.runtime(num_cpus=2), pytest.mark.limit(60)]


@ray.remote
def double(x):
    return 2 * x


@ray.remote
def fail(x):
    raise KeyError(x)


@ray.remote
class Counter:
    def __init__(self):
        self.count = 0

    def add(self):
        self.count += 1
        return self.count


def in_threads(count, work):
    """Run `work(index)` in `count` threads that start together; raise what the first failing one raised."""
    failures, barrier = [], threading.Barrier(count)

    def run(index):
        try:
            barrier.wait()
            work(index)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(index,)) for index in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


@pytest.mark.parametrize("seed", [1, 2])
def test_32_threads_mixing_every_call_each_get_their_own_results(seed):
    """get, wait, put, remote, actor calls, errors, timeouts and futures from 32 threads at once: every value goes to who asked."""
    counter = Counter.remote()
    shared = [double.remote(i) for i in range(50)]
    added = []

    def work(index):
        dice = random.Random(seed * 1000 + index)

        def own_call():
            x = dice.randrange(10**6)
            assert ray.get(double.remote(x)) == 2 * x

        def own_put():
            value = dice.randbytes(dice.choice([10, 1000, 150_000]))
            assert ray.get(ray.put(value)) == value

        def shared_get():
            at = dice.sample(range(50), 5)
            assert ray.get([shared[i] for i in at]) == [2 * i for i in at]

        def own_wait():
            refs = [double.remote(i) for i in range(6)]
            while refs:
                ready, refs = ray.wait(refs, num_returns=min(2, len(refs)), timeout=20)
                assert ready

        def shared_actor():
            added.append(ray.get(counter.add.remote()))

        def own_error():
            with pytest.raises(KeyError):
                ray.get(fail.remote(index))

        def own_future():
            assert double.remote(index).future().result(20) == 2 * index

        def argument():
            assert ray.get(double.remote(ray.put(index))) == 2 * index

        steps = [own_call, own_put, shared_get, own_wait, shared_actor, own_error, own_future, argument]
        for _ in range(12):
            dice.choice(steps)()

    in_threads(32, work)
    assert sorted(added) == list(range(1, len(added) + 1))


def test_actor_calls_of_32_threads_keep_each_threads_order():
    """Calls that one thread sends to an actor run in the order sent, whatever the others send."""

    @ray.remote
    class Journal:
        def __init__(self):
            self.lines = []

        def write(self, index, n):
            self.lines.append((index, n))

        def read(self):
            return self.lines

    journal = Journal.remote()
    in_threads(32, lambda index: ray.get([journal.write.remote(index, n) for n in range(20)]))
    lines = ray.get(journal.read.remote())
    for index in range(32):
        assert [n for who, n in lines if who == index] == list(range(20))


def test_threads_that_end_leave_their_calls_to_others():
    """What a thread started is there for others after its end."""
    refs = {}
    in_threads(8, lambda index: refs.update({index: double.remote(index)}))
    assert ray.get([refs[index] for index in range(8)]) == [2 * index for index in range(8)]


def table_is_back_to(before):
    from ray._core import session

    def is_back():
        gc.collect()
        return all(now <= then for now, then in zip(session.core.table_sizes()[:2], before[:2], strict=True))

    return is_back


def test_references_that_die_at_any_moment_free_their_objects():
    """References dropped in other threads, by the collector in the middle of calls, in weakref callbacks, signal handlers and `__del__`: none is lost or hangs."""
    from ray._core import session

    ray.get(double.remote(0))
    before = session.core.table_sizes()

    class Keeper:
        def __init__(self):
            self.ref, self.me = ray.put("small"), self  # a cycle: only the collector ends it

        def __del__(self):
            ray.put("from __del__")
            double.remote(1)
            pickle.dumps(ray.get(self.ref))

    class Plain:
        pass

    def on_alarm(*_):
        Keeper()
        gc.collect()

    threshold, handler = gc.get_threshold(), signal.signal(signal.SIGUSR1, on_alarm)
    gc.set_threshold(5, 2, 2)
    try:
        stop = threading.Event()

        def interrupt():
            while not stop.wait(0.002):
                os.kill(os.getpid(), signal.SIGUSR1)

        interrupter = threading.Thread(target=interrupt)
        interrupter.start()

        def work(index):
            for n in range(15):
                Keeper()
                thing = Plain()
                thing.ref = ray.put([index, n])
                weakref.finalize(thing, ray.put, thing.ref.hex())
                assert ray.get(double.remote(n)) == 2 * n
                assert ray.get(thing.ref) == [index, n]

        try:
            in_threads(6, work)
        finally:
            stop.set()
            interrupter.join()
    finally:
        signal.signal(signal.SIGUSR1, handler)
        gc.set_threshold(*threshold)
    wait_for(table_is_back_to(before), 10, f"the objects and calls of before: {before}, now {session.core.table_sizes()}")


def test_reference_dropped_while_its_value_is_pickled_or_read_keeps_the_value():
    """A value whose own `__reduce__` or `__setstate__` drops the last other reference arrives whole."""
    box = {}

    class Treacherous:
        def __init__(self, ref):
            self.ref = ref

        def __reduce__(self):
            box.clear()
            gc.collect()
            return Treacherous, (self.ref,)

    inner = ray.put("inner")
    box["only"] = inner
    outer = ray.put(Treacherous(inner))
    del inner
    gc.collect()
    assert ray.get(ray.get(outer).ref) == "inner"


HOLD_THE_GIL = ctypes.PyDLL(None)  # calls through it keep the GIL, as C code of an extension does


@ray.remote
def stamp(path):
    with open(path, "w") as file:
        file.write(str(time.monotonic()))


@ray.remote
class Stamper:
    def stamp(self, path):
        with open(path, "w") as file:
            file.write(str(time.monotonic()))


class NotedPath:
    def __init__(self, path):
        self.path = str(path)

    def read(self):
        return float(open(self.path).read())

    def there(self):
        return os.path.exists(self.path) and os.path.getsize(self.path) > 0


@pytest.mark.parametrize("kind", ["task", "actor", "burst"])
@pytest.mark.parametrize("wait", ["sleep", "C code with the GIL"])
def test_fire_and_forget_calls_leave_at_once(kind, wait, tmp_path):
    """A call whose reference is thrown away runs while its caller sleeps or sits in C code."""
    actor = Stamper.remote()
    ray.get(actor.stamp.remote(str(tmp_path / "warm")))
    ray.get(stamp.remote(str(tmp_path / "warm")))
    paths = [NotedPath(tmp_path / f"at-{n}") for n in range(30 if kind == "burst" else 1)]
    for path in paths:
        (actor.stamp if kind == "actor" else stamp).remote(path.path)
    if wait == "sleep":
        time.sleep(0.5)
    else:
        HOLD_THE_GIL.usleep(500_000)
    ended = time.monotonic()
    for path in paths:
        wait_for(path.there, 10)
    assert [path.read() < ended for path in paths] == [True] * len(paths)


def test_fire_and_forget_first_calls_leave_at_once(tmp_path):
    """So does the first call of a process, and a new actor's, for which workers have to be found first."""
    from ray._core import session

    session.shutdown()
    ray.init(num_cpus=2, include_dashboard=False)
    paths = [NotedPath(tmp_path / "task"), NotedPath(tmp_path / "actor")]
    stamp.remote(paths[0].path)
    actor = Stamper.remote()
    actor.stamp.remote(paths[1].path)
    HOLD_THE_GIL.usleep(2_000_000)
    ended = time.monotonic()
    for path in paths:
        wait_for(path.there, 10)
    assert [path.read() < ended for path in paths] == [True, True]
