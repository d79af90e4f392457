"""Faults F17 and F18, and their kin: a generator loses its worker, its actor, its reader or the reader's process half-way."""

import os
import re
import signal
import time

import pytest

import ray
from ray.exceptions import ActorDiedError, StreamingGeneratorReplayInconsistentError, WorkerCrashedError
from support import Tally, is_alive, run_script, wait_for

STORE_BYTES = 96 * 1024 * 1024
PART_BYTES = 4 * 1024 * 1024
pytestmark = [pytest.mark.runtime(num_cpus=4, object_store_memory=STORE_BYTES), pytest.mark.limit(15)]


def kill(pid):
    os.kill(pid, signal.SIGKILL)


def values(generator):
    return [ray.get(ref) for ref in generator]


@ray.remote
def held(gate, tally, before, after):
    """Yields (attempt, i): `before` items, then more once the gate is open."""
    attempt = tally.add()
    for i in range(before):
        yield attempt, i
    gate.pass_through()
    for i in range(before, before + after):
        yield attempt, i


def kill_half_way(generator, gate, consumed):
    """Take `consumed` items (all that it yields before the gate, or they may be lost with it), wait until the generator stands there, kill its worker."""
    items = [ray.get(next(generator)) for _ in range(consumed)]
    (pid,) = wait_for(gate.pids)
    kill(pid)
    return items, pid


def test_f17_generator_killed_half_way_goes_on_where_it_was(gate, tally):
    """With retries the remaining items arrive once, in order: the second attempt skips what the first has delivered."""
    generator = held.options(max_retries=3).remote(gate, tally, 5, 3)
    items, _ = kill_half_way(generator, gate, 2)
    wait_for(lambda: len(gate.pids()) == 2)
    gate.open()
    items += values(generator)
    assert [i for _, i in items] == list(range(8))
    attempts = [attempt for attempt, _ in items]
    assert attempts == sorted(attempts), "an item of the first attempt behind one of the second"
    assert attempts[:2] == [1, 1]
    assert attempts[5:] == [2, 2, 2]
    assert ray.get(generator.completed()) is None


def test_f17_generator_killed_again_and_again_gives_each_item_once(tally):
    """Three deaths between items neither lose nor repeat one."""

    @ray.remote(max_retries=3)
    def dies(tally):
        attempt = tally.add()
        for i in range(40):
            yield i
            if attempt <= 3 and i == 10 * attempt:
                time.sleep(0.01)  # what was yielded may be on its way or not
                kill(os.getpid())

    assert values(dies.remote(tally)) == list(range(40))
    assert tally.count() == 4


def test_f17_generator_of_large_items_killed_half_way_leaks_nothing(tmp_path):
    """Items in shared memory that the first attempt made are delivered or given back: many such deaths fit into a small store."""

    @ray.remote(max_retries=1)
    def parts(tally):
        attempt = tally.add()
        for i in range(30):
            yield bytes([i]) * PART_BYTES
            if attempt == 1 and i == 15:
                kill(os.getpid())

    for turn in range(6):
        generator = parts.options(_generator_backpressure_num_objects=6).remote(Tally(tmp_path / f"attempts-{turn}"))
        assert [ray.get(ref)[0] for ref in generator] == list(range(30))


def test_f17_generator_that_yields_less_the_second_time_says_so(gate, tally):
    """A retry that ends before what was delivered is an error of its own kind."""

    @ray.remote(max_retries=1)
    def shrinks(gate, tally):
        if tally.add() == 1:
            yield from (1, 2, 3)
            gate.pass_through()
        else:
            yield 1

    generator = shrinks.remote(gate, tally)
    items, _ = kill_half_way(generator, gate, 3)
    refs = list(generator)
    assert (items, len(refs)) == ([1, 2, 3], 1)
    with pytest.raises(StreamingGeneratorReplayInconsistentError, match=r"(?s)shrinks.*1 items.*3.*hint:"):
        ray.get(refs[0])


def test_f18_generator_killed_half_way_without_retries_keeps_items_then_fails(gate, tally):
    """What was delivered stays; then comes a reference that raises with the evidence, and the end."""
    generator = held.options(max_retries=0).remote(gate, tally, 3, 3)
    taken = [next(generator), next(generator)]
    assert ray.wait([generator], timeout=10)[0] == [generator]  # the third has arrived, and is not read
    _, pid = kill_half_way(generator, gate, 0)
    taken += list(generator)
    assert ray.get(taken[:3]) == [(1, 0), (1, 1), (1, 2)]
    assert len(taken) == 4
    with pytest.raises(WorkerCrashedError) as caught:
        ray.get(taken[3])
    assert re.search(rf"{pid}.*signal 9", str(caught.value)), str(caught.value)
    with pytest.raises(WorkerCrashedError):
        ray.get(generator.completed())
    with pytest.raises(StopIteration):
        next(generator)


def test_f18_reader_that_waits_for_an_item_learns_of_the_death(gate, tally):
    """A blocked `ray.wait` returns when the producer dies."""
    generator = held.options(max_retries=0).remote(gate, tally, 0, 1)
    (pid,) = wait_for(gate.pids)
    assert ray.wait([generator], timeout=0)[0] == []
    kill(pid)
    assert ray.wait([generator], timeout=10)[0] == [generator]
    with pytest.raises(WorkerCrashedError):
        ray.get(next(generator))


@ray.remote
class Source:
    def items(self, gate, tally, before, after):
        attempt = tally.add()
        for i in range(before):
            yield attempt, i
        gate.pass_through()
        for i in range(before, before + after):
            yield attempt, i

    async def ping(self):
        return "pong"


@ray.remote
class PlainSource:
    def items(self, gate, tally, before, after):
        attempt = tally.add()
        for i in range(before):
            yield attempt, i
        gate.pass_through()
        for i in range(before, before + after):
            yield attempt, i


@pytest.mark.parametrize("cls", [Source, PlainSource], ids=["async", "plain"])
def test_generator_of_a_dying_actor_keeps_items_then_fails(cls, gate, tally):
    """Without restarts: the items so far, then ActorDiedError."""
    source = cls.remote()
    generator = source.items.remote(gate, tally, 3, 3)
    items, _ = kill_half_way(generator, gate, 3)
    refs = list(generator)
    assert [i for _, i in items] == [0, 1, 2]
    assert len(refs) == 1
    with pytest.raises(ActorDiedError):
        ray.get(refs[0])


@pytest.mark.parametrize("cls", [Source, PlainSource], ids=["async", "plain"])
def test_generator_of_a_restarted_actor_goes_on_where_it_was(cls, gate, tally):
    """With a restart and retries the next incarnation goes on behind what was delivered."""
    source = cls.options(max_restarts=1, max_task_retries=1).remote()
    generator = source.items.remote(gate, tally, 4, 2)
    items, _ = kill_half_way(generator, gate, 4)
    wait_for(lambda: len(gate.pids()) == 2)
    gate.open()
    items += values(generator)
    assert items == [(1, 0), (1, 1), (1, 2), (1, 3), (2, 4), (2, 5)]


def test_dropped_generator_frees_what_nobody_has_read(tally):
    """A reader that goes away early gives the store back: half of it is filled and dropped, many times."""

    @ray.remote
    def parts(tally, n):
        for i in range(n):
            yield bytes([i % 256]) * PART_BYTES
        tally.add()

    for turn in range(6):
        generator = parts.remote(tally, STORE_BYTES // PART_BYTES // 2)
        ray.get(generator.completed())
        assert tally.count() == turn + 1
        next(generator)
        del generator


def test_dropped_generator_stops_a_producer_that_waits_for_credit(tally):
    """A producer at the end of its window learns of the drop as well, and its CPU is free again."""

    @ray.remote(num_cpus=4)
    def endless(tally):
        try:
            while True:
                yield 1
        finally:
            tally.add("cleanup")

    generator = endless.options(_generator_backpressure_num_objects=2).remote(tally)
    next(generator)
    del generator
    wait_for(lambda: tally.words() == ["cleanup"])
    wait_for(lambda: ray.available_resources().get("CPU") == 4)


def test_dropped_generator_is_not_tried_again(gate, tally):
    """Retries are for readers: a generator that nobody reads is not run again when its worker dies."""
    generator = held.options(max_retries=-1).remote(gate, tally, 1, 1)
    _, _ = wait_for(gate.pids), generator
    (pid,) = gate.pids()
    del generator, _
    kill(pid)
    wait_for(lambda: ray.available_resources().get("CPU") == 4)
    assert tally.count() == 1


def test_slow_reader_of_large_items_is_bounded_by_its_window():
    """Ten times the store goes through a window of a few items."""

    @ray.remote
    def parts(n):
        for i in range(n):
            yield bytes([i % 256]) * PART_BYTES

    n = 10 * STORE_BYTES // PART_BYTES
    seen = 0
    for i, ref in enumerate(parts.options(_generator_backpressure_num_objects=3).remote(n)):
        assert ray.get(ref)[0] == i % 256
        seen += 1
        del ref
    assert seen == n


@ray.remote(max_retries=0)
def reader(gate, generator_of, *args):
    generator = generator_of(*args)
    next(generator)
    gate.pass_through()


def read_and_die(gate, generator_of, *args):
    """A task begins to read a generator, and dies."""
    ref = reader.remote(gate, generator_of, *args)
    (pid,) = wait_for(gate.pids)
    kill(pid)
    with pytest.raises(WorkerCrashedError):
        ray.get(ref)


def test_generator_task_whose_reader_is_killed_ends_with_it(gate, tally):
    """A generator that runs for a dead process is ended, and its CPU is free again."""

    @ray.remote
    def endless(tally):
        tally.add(os.getpid())
        while True:
            time.sleep(0.005)
            yield 1

    read_and_die(gate, endless.remote, tally)
    wait_for(lambda: not is_alive(int(tally.words()[0])))
    wait_for(lambda: ray.available_resources().get("CPU") == 4)


@pytest.mark.parametrize("window", [-1, 2])
@pytest.mark.parametrize("kind", ["plain", "async"])
def test_generator_method_whose_reader_is_killed_stops(gate, tally, kind, window):
    """A method that runs for a dead process gets GeneratorExit, also while it waits for credit; its actor goes on."""

    class Endless:
        def items(self, tally):
            try:
                while True:
                    time.sleep(0.005)
                    yield 1
            finally:
                tally.add("cleanup")

        def ping(self):
            return "pong"

    class AsyncEndless(Endless):
        async def ping(self):
            return "pong"

    actor = ray.remote(AsyncEndless if kind == "async" else Endless).remote()
    read_and_die(gate, actor.items.options(_generator_backpressure_num_objects=window).remote, tally)
    wait_for(lambda: tally.words() == ["cleanup"])
    assert ray.get(actor.ping.remote()) == "pong"


def test_shutdown_while_a_generator_is_read_leaves_nothing():
    """The end of a program with generators at work: blocked for credit, running, and half read."""
    code = """
import ray
ray.init(num_cpus=4, include_dashboard=False)

@ray.remote
def endless():
    while True:
        yield bytes(200_000)

windowed = endless.options(_generator_backpressure_num_objects=2).remote()
running = endless.options(_generator_backpressure_num_objects=50).remote()
for generator in (windowed, running):
    ray.get(next(generator))
print("read", flush=True)
"""
    done = run_script(code)
    assert (done.rc, "read" in done.stdout) == (0, True), done.output
