"""Faults F37 and F50: actors whose node or driver dies. One incarnation at a time, whatever happened to the one before."""

import os
import signal
import threading
import time

import pytest

import ray
from ray.exceptions import ActorDiedError, ActorUnavailableError
from support import is_alive, start_script, wait_for
from support.clusters import DEATH_S, alive, here, near, on, stopped, wait_until_dead

pytestmark = pytest.mark.limit(25)

BEAT_S = 0.005


@ray.remote(num_cpus=0)
class Beating:
    """Writes its pid every few milliseconds as long as it lives."""

    def __init__(self, tally):
        self.calls = 0
        self.tally = tally
        self.tally.add(f"born {os.getpid()}")
        threading.Thread(target=self.beat, daemon=True).start()

    def beat(self):
        with open(self.tally.path, "ab", buffering=0) as file:
            while True:
                file.write(f"beat {os.getpid()}\n".encode())
                time.sleep(BEAT_S)

    def where(self):
        return here(), os.getpid()

    def call(self):
        self.calls += 1
        return self.calls


def lives(tally):
    """The pids in the order of their lines, a pid once for each unbroken run of lines."""
    pids = [word.split()[1] for word in tally.words()]
    return [int(pid) for i, pid in enumerate(pids) if i == 0 or pids[i - 1] != pid]


def beats_of(tally, pid):
    return tally.words().count(f"beat {pid}")


def where_next(actor, first):
    """(node, pid) of the incarnation after `first`."""

    def moved():
        node, pid = ray.get(actor.where.remote(), timeout=2 * DEATH_S)
        return pid != first and (node, pid)

    return wait_for(moved, 2 * DEATH_S, f"another incarnation than {first}")


def check_never_two(tally, first, second):
    """Two incarnations, one after the other, and the second goes on alone."""
    seen = beats_of(tally, second)
    wait_for(lambda: beats_of(tally, second) > seen + 50, 10.0)
    assert lives(tally) == [first, second]
    assert not is_alive(first)


def test_f50_restartable_actor_of_a_killed_node_restarts_elsewhere(nodes, n2, tally):
    """The actor is up on another node within the time of a death's detection; calls are repeated as allowed; never two at once."""
    actor = near(Beating, n2, max_restarts=1, max_task_retries=-1).remote(tally)
    node, first = ray.get(actor.where.remote())
    assert node == n2.id
    killed = nodes.kill(n2)
    node, second = where_next(actor, first)
    assert node == nodes.head_id and time.monotonic() - killed < DEATH_S + 1
    check_never_two(tally, first, second)


@pytest.mark.slow
def test_f50_actor_of_a_daemon_stopped_for_long_never_lives_twice(nodes, n2, tally):
    """A daemon that is stopped far beyond its lease is declared dead and its actor restarted; the old one does not go on beside it, then or later."""
    actor = near(Beating, n2, max_restarts=1, max_task_retries=-1).remote(tally)
    _, first = ray.get(actor.where.remote())
    with stopped(n2.pid, 9.0):
        wait_until_dead(n2)
        node, second = where_next(actor, first)
        assert node == nodes.head_id
    check_never_two(tally, first, second)
    wait_for(lambda: not is_alive(n2.pid), 5.0, "the stopped daemon, resumed, ends itself")
    assert alive() == {nodes.head_id}


def test_actor_without_restarts_dies_with_its_node_and_says_so(nodes, n2, tally):
    """Calls in flight and later ones fail within five seconds; the error names the actor's node."""
    actor = on(Beating, n2).remote(tally)
    ray.get(actor.where.remote())
    killed = nodes.kill(n2)

    def death():
        try:
            ray.get(actor.call.remote(), timeout=2 * DEATH_S)
        except ActorUnavailableError:
            return None  # not known yet
        except ActorDiedError as error:
            return str(error)

    text = wait_for(death, 2 * DEATH_S)
    assert time.monotonic() - killed < DEATH_S
    assert n2.id in text, text


def test_actor_that_moves_keeps_the_order_of_its_callers(nodes, n2, tally):
    """Two hundred calls are sent, the node is killed, two hundred more follow: those of the new incarnation count from one in order."""
    actor = near(Beating, n2, max_restarts=1, max_task_retries=-1).remote(tally)
    ray.get(actor.where.remote())
    refs = [actor.call.remote() for _ in range(200)]
    nodes.kill(n2)
    refs += [actor.call.remote() for _ in range(200)]
    counts = ray.get(refs, timeout=2 * DEATH_S)
    start = next((i for i in range(1, 400) if counts[i] != counts[i - 1] + 1), 0)
    assert counts[:start] == list(range(1, start + 1)) and counts[start:] == list(range(1, 401 - start)), counts


def test_actor_of_another_node_is_restarted_there_when_only_its_worker_dies(n2, tally):
    """SIGKILL of the worker: a new incarnation on the same node, quickly, and never two."""
    actor = on(Beating, n2, max_restarts=1, max_task_retries=-1).remote(tally)
    _, first = ray.get(actor.where.remote())
    os.kill(first, signal.SIGKILL)
    node, second = where_next(actor, first)
    assert node == n2.id
    check_never_two(tally, first, second)


def test_named_actor_is_found_from_every_node(n2, n3, tally):
    """A named actor on one node answers to tasks of the others that know only its name."""
    actor = on(Beating, n2, name="known to all").remote(tally)
    home = ray.get(actor.where.remote())

    @ray.remote(num_cpus=0)
    def ask():
        return ray.get(ray.get_actor("known to all").where.remote())

    assert ray.get([on(ask, tag).remote() for tag in ("head", n2, n3)], timeout=10) == [home] * 3
    with pytest.raises(ValueError, match="known to all"):
        on(Beating, n3, name="known to all").remote(tally)


DETACHED = """
import os, ray
ray.init(address=os.environ["ADDRESS"], namespace="kept")

@ray.remote(num_cpus=0)
class Store:
    def __init__(self):
        self.value = None

    def keep(self, value):
        self.value = value
        return os.getpid(), ray.get_runtime_context().get_node_id()

    def read(self):
        return self.value

@ray.remote(num_cpus=0)
def forever():
    import threading
    threading.Event().wait()

store = Store.options(name="store", lifetime="detached", resources={"n2": 0.001}).remote()
plain = Store.options(name="plain", resources={"n2": 0.001}).remote()
pid, node = ray.get(store.keep.remote(b"kept" * 100_000))
other, _ = ray.get(plain.keep.remote(1))
ref = forever.options(resources={"n2": 0.001}).remote()
print("ready", pid, node, other, flush=True)
ray.get(ref)
"""


def test_f37_detached_actor_survives_the_kill_of_its_driver(nodes, n2, tmp_path):
    """SIGKILL of a driver: its detached actor lives on with its state, found by name; its other actor and its task end within two seconds."""
    with start_script(DETACHED, cwd=tmp_path, env={"ADDRESS": nodes.address}) as script:
        script.wait_for_output("ready")
        pid, node, other = script.stdout.split("ready ")[1].split()
        assert node == n2.id
        script.signal(signal.SIGKILL)
        script.popen.wait(5)
        wait_for(lambda: not is_alive(int(other)), 2.0)
        store = ray.get_actor("store", namespace="kept")
        assert ray.get(store.read.remote(), timeout=5) == b"kept" * 100_000
        assert is_alive(int(pid))
        with pytest.raises(ValueError, match="plain"):
            ray.get_actor("plain", namespace="kept")
        ray.kill(store)
        wait_for(lambda: not is_alive(int(pid)), 5.0)
