"""After `shutdown` the process is as it was before `init`."""

import gc
import threading

import numpy as np  # before any snapshot: it starts threads of its own
import pytest

import ray
from support import Snapshot, init, is_own, tree_pids, wait_for

pytestmark = pytest.mark.limit(30)


@ray.remote
def double(x):
    return 2 * x


@ray.remote
class Actor:
    def size(self, data):
        return len(data)


def session():
    init(num_cpus=2)
    actor = Actor.remote()
    refs = [double.remote(i) for i in range(10)]
    assert ray.get(refs) == [2 * i for i in range(10)]
    assert ray.get(actor.size.remote(ray.put(b"x" * 2_000_000))) == 2_000_000
    ray.shutdown()


def test_leaks_after_one_session_are_none(no_leak: Snapshot):
    """Descriptors, threads, children, shared memory and maps are those from before."""
    session()


def test_leaks_after_twenty_sessions_are_none(no_leak: Snapshot):
    """Twenty sessions leave no more than one."""
    session()
    after_one = Snapshot.take()
    for _ in range(19):
        session()
    gc.collect()
    after_one.check()


def test_leaks_of_a_session_ended_with_everything_in_flight_are_none(no_leak: Snapshot):
    """Running tasks, queued calls, unread results and living views at shutdown leave nothing behind."""
    init(num_cpus=2)

    @ray.remote
    def forever():
        threading.Event().wait()

    actor = Actor.remote()
    refs = [forever.remote() for _ in range(10)] + [actor.size.remote(b"x") for _ in range(100)]
    view = ray.get(ray.put(np.ones(1_000_000)))
    ray.wait(refs[:1], timeout=0.2)
    processes = tree_pids()
    ray.shutdown()
    assert view[-1] == 1
    wait_for(lambda: not processes & tree_pids(), 5)
    del view, refs, actor
    gc.collect()


def test_leaks_of_refs_and_handles_kept_over_shutdown_are_none(no_leak: Snapshot):
    """Refs, handles and futures that outlive their session can be dropped later without harm."""
    init(num_cpus=1)
    kept = [ray.put(1), double.remote(1), Actor.remote(), double.remote(2).future()]
    ray.get(kept[1])
    ray.shutdown()
    init(num_cpus=1)
    del kept
    gc.collect()
    assert ray.get(double.remote(3)) == 6


def test_refs_of_an_ended_session_are_refused_as_arguments(no_runtime: None):
    """Alone, in a container, in a put: an error at once. Its id may name another object in the new session."""
    init(num_cpus=1)
    old = ray.put(1)
    ray.shutdown()
    init(num_cpus=1)
    new = ray.put(2)
    for use in (lambda: double.remote(old), lambda: double.remote([old]), lambda: ray.put({"ref": old}), lambda: ray.get(old)):
        with pytest.raises((ValueError, TypeError), match="ended"):
            use()
    assert ray.get(double.remote(new)) == 4


def test_leaks_while_refs_are_still_held_are_none(no_runtime: None):
    """Refs, handles, futures and errors held over `shutdown` hold nothing of the operating system."""

    @ray.remote
    def fail():
        raise ValueError("kept")

    before = Snapshot.take()
    init(num_cpus=1)
    actor, future = Actor.remote(), fail.remote().future()
    kept = [ray.put(b"x" * 2_000_000), double.remote(1), actor, actor.size, double.remote(2).future(), future, future.exception(10)]
    ray.get(kept[1])
    ray.shutdown()
    if is_own():
        before.check()
    del kept


def test_leaks_of_a_failed_init_are_none(no_leak: Snapshot):
    """An `init` that was refused leaves nothing."""
    for options in ({"num_cpus": -1}, {"num_cpu": 1}, {"object_store_memory": 1}):
        with pytest.raises((ValueError, RuntimeError)):
            init(**options)


def test_leaks_within_a_session_do_not_grow(no_runtime: None):
    """Thousands of calls and puts leave the driver's descriptors and threads as they were after the first ones."""
    init(num_cpus=2)
    actor = Actor.remote()

    def work(times):
        for i in range(times):
            assert ray.get(double.remote(i)) == 2 * i
            assert ray.get(actor.size.remote(b"x" * 200_000)) == 200_000
            assert len(ray.get(ray.put(b"x" * 200_000))) == 200_000

    work(50)
    gc.collect()
    before = Snapshot.take()
    work(200)
    gc.collect()
    wait_for(lambda: len(Snapshot.take().fds) <= len(before.fds) + 2, 3)
    assert not Snapshot.take().threads - before.threads
