"""Fault F46: the daemon is stopped for a while, and goes on."""

import os
import signal
import time

import pytest

import ray
from support import init, of_role, tree_pids, wait_for

pytestmark = [pytest.mark.usefixtures("no_runtime"), pytest.mark.limit(40)]


@ray.remote
def double(x):
    return 2 * x


@ray.remote
class Counter:
    def __init__(self):
        self.count = 0

    def add(self):
        self.count += 1
        return self.count


@pytest.fixture
def daemon():
    """A session with an actor that has counted to one; gives the daemon's pid and the actor."""
    init(num_cpus=2)
    counter = Counter.remote()
    assert ray.get([counter.add.remote(), double.remote(1)]) == [1, 2]
    (found,) = of_role("daemon")
    yield found.pid, counter
    if of_role("daemon"):
        os.kill(found.pid, signal.SIGCONT)


def stop(pid):
    os.kill(pid, signal.SIGSTOP)
    wait_for(lambda: of_role("daemon")[0].state == "T")


@pytest.mark.parametrize("seconds", [0.5, pytest.param(8.0, marks=pytest.mark.slow)])
def test_f46_stopped_daemon_continues_and_so_does_all(daemon, seconds):
    """The idle daemon gets SIGSTOP and later SIGCONT: what was known is known, and new tasks, actors and objects work."""
    pid, counter = daemon
    kept = ray.put(b"x" * 2_000_000)
    stop(pid)
    assert ray.wait([double.options(num_cpus=1.5).remote(1)], timeout=seconds)[0] == []  # the stop lasts while this waits
    assert ray.get(counter.add.remote()) == 2  # two processes that know each other need no daemon
    os.kill(pid, signal.SIGCONT)
    assert ray.get(counter.add.remote()) == 3
    assert ray.get([double.remote(i) for i in range(100)]) == [2 * i for i in range(100)]
    assert ray.get(Counter.remote().add.remote()) == 1
    assert len(ray.get(kept)) == 2_000_000
    assert of_role("daemon")[0].pid == pid


def test_f46_calls_made_while_the_daemon_is_stopped_are_answered_after_it(daemon):
    """What needs the daemon waits for it, and none of it is lost or done twice."""
    pid, counter = daemon
    stop(pid)
    late = Counter.remote()
    refs = [late.add.remote() for _ in range(50)] + [double.options(num_cpus=2).remote(i) for i in range(50)]
    assert ray.wait(refs, timeout=0.3)[0] == []
    os.kill(pid, signal.SIGCONT)
    assert ray.get(refs) == list(range(1, 51)) + [2 * i for i in range(50)]


def test_f46_shutdown_while_the_daemon_is_stopped_ends_everything(daemon):
    """`shutdown` lets a stopped daemon run again, so that it ends what it started, and itself."""
    pid, _ = daemon
    stop(pid)
    processes = tree_pids()
    start = time.monotonic()
    ray.shutdown()
    assert time.monotonic() - start < 6
    assert not processes & tree_pids()
