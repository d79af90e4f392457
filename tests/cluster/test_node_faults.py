"""Faults F48 to F50 and what else can befall a second node whose cable is whole: it is killed or stopped, its workers die, its connections are reset.

F51 and F52 cut the cable, which needs machines: test_namespaced_hosts.py. F37 and who lives twice: test_actors_over_nodes.py.
"""

import os
import re
import shutil
import signal
import subprocess
import time

import numpy as np
import pytest

import ray
from ray.exceptions import NodeDiedError, ObjectLostError, WorkerCrashedError
from support import is_alive, wait_for
from support.clusters import DEATH_S, address_of, alive, daemon_pid, here, near, on, stopped, wait_until_dead, wait_until_free

pytestmark = pytest.mark.limit(20)

LEASE_S = 4.5
LARGE = 500_000  # of eight bytes


@ray.remote
def hold(gate):
    gate.pass_through()
    return here()


@ray.remote(num_cpus=0)
def numbers(seed, tally):
    tally.add(here())
    return np.random.default_rng(seed).integers(0, 1 << 60, LARGE)


@ray.remote(num_cpus=0)
def note(tally, word):
    tally.add(word)
    return word


@ray.remote(num_cpus=0)
class Counter:
    def __init__(self):
        self.value = 0

    def add(self):
        self.value += 1
        return self.value

    def pid(self):
        return os.getpid()


def kill(pid):
    os.kill(pid, signal.SIGKILL)


def made_on(node, tally, **options):
    """The reference to a large result whose only copy is on this node."""
    ref = near(numbers, node, **options).remote(7, tally)
    assert ray.wait([ref], timeout=10, fetch_local=False)[0]
    assert tally.words() == [node.id]
    return ref


def test_f48_only_copy_of_a_result_is_made_again(nodes, n2, tally):
    """The node with the only copy of a result is killed: the value is made again elsewhere, once, and is right."""
    ref = made_on(n2, tally)
    nodes.kill(n2)
    value = ray.get(ref, timeout=3 * DEATH_S)
    assert np.array_equal(value, np.random.default_rng(7).integers(0, 1 << 60, LARGE))
    assert tally.words() == [n2.id, nodes.head_id]
    del value, ref
    wait_until_free()


def test_f49_put_object_on_a_dead_node_is_lost_and_says_where(nodes, n2):
    """The only copy of a `ray.put` by a task of the node: ObjectLostError names the node and the object."""

    @ray.remote(num_cpus=0)
    def put():
        return [ray.put(np.ones(LARGE))]

    (ref,) = ray.get(on(put, n2).remote())
    nodes.kill(n2)
    with pytest.raises(ObjectLostError) as caught:
        ray.get(ref, timeout=3 * DEATH_S)
    assert ref.hex() in str(caught.value) and n2.id in str(caught.value), str(caught.value)


def test_f49_result_without_retries_is_lost_and_says_where(nodes, n2, tally):
    """The only copy of a result of `max_retries=0`: ObjectLostError names the node and the object; nothing is run again."""
    ref = made_on(n2, tally, max_retries=0)
    nodes.kill(n2)
    with pytest.raises(ObjectLostError) as caught:
        ray.get(ref, timeout=3 * DEATH_S)
    assert ref.hex() in str(caught.value) and n2.id in str(caught.value), str(caught.value)
    assert tally.count() == 1


def test_killed_node_is_dead_within_five_seconds_with_its_processes(nodes, n2, gate):
    """SIGKILL of a daemon: `ray.nodes()` says so within five seconds, its workers are gone within two, the head's don't notice."""
    ref = on(hold, n2, max_retries=0).remote(gate)
    (worker,) = wait_for(gate.pids)
    killed = nodes.kill(n2)
    wait_until_dead(n2)
    assert time.monotonic() - killed < DEATH_S
    wait_for(lambda: not is_alive(worker), 2.0)
    assert alive() == {nodes.head_id}
    assert ray.get(on(note, "head").remote(gate.arrivals, "x"), timeout=5) == "x"
    assert ray.wait([ref], timeout=5)[0] == [ref]


def test_running_task_of_a_dead_node_runs_again_elsewhere(nodes, n2, gate):
    """A task with retries whose node is killed runs on another node, and gives its result."""
    ref = near(hold, n2, max_retries=1).remote(gate)
    wait_for(gate.pids)
    nodes.kill(n2)
    wait_for(lambda: len(gate.pids()) == 2, 2 * DEATH_S)
    gate.open()
    assert ray.get(ref, timeout=5) == nodes.head_id


def test_running_task_of_a_dead_node_without_retries_names_the_node(nodes, n2, gate):
    """A task with `max_retries=0` whose node is killed fails within five seconds, and the error names the node."""
    ref = near(hold, n2, max_retries=0).remote(gate)
    wait_for(gate.pids)
    killed = nodes.kill(n2)
    with pytest.raises((NodeDiedError, WorkerCrashedError)) as caught:
        ray.get(ref, timeout=2 * DEATH_S)
    assert time.monotonic() - killed < DEATH_S
    assert n2.id in str(caught.value), str(caught.value)
    assert len(gate.pids()) == 1


def test_queued_tasks_of_a_dead_node_run_elsewhere_once(nodes, n2, gate, tally):
    """Tasks that wait for the killed node's CPU run on another node, each once."""
    blocker = on(hold, n2, max_retries=0).remote(gate)
    wait_for(gate.pids)
    refs = [near(note, n2, num_cpus=1).remote(tally, i) for i in range(20)]
    nodes.kill(n2)
    assert ray.get(refs, timeout=2 * DEATH_S) == list(range(20))
    assert sorted(map(int, tally.words())) == list(range(20))
    del blocker


def test_remote_worker_death_is_told_at_once_with_evidence(n2, gate):
    """SIGKILL of a worker on another node: its owner learns signal and pid within half a second; the node lives on."""
    ref = on(hold, n2, max_retries=0).remote(gate)
    (pid,) = wait_for(gate.pids)
    kill(pid)
    killed = time.monotonic()
    with pytest.raises(WorkerCrashedError) as caught:
        ray.get(ref, timeout=10)
    assert time.monotonic() - killed < 0.5
    text = str(caught.value)
    assert re.search(r"signal 9|SIGKILL", text) and str(pid) in text, text
    gate.open()
    assert ray.get(on(hold, n2).remote(gate), timeout=5) == n2.id


def test_remote_worker_that_exits_is_told_with_its_code(n2):
    """`os._exit(3)` on another node gives WorkerCrashedError with the code."""
    with pytest.raises(WorkerCrashedError, match=r"(code|status)\D{0,3}3\b"):
        ray.get(on(ray.remote(max_retries=0)(lambda: os._exit(3)), n2).remote(), timeout=10)


@pytest.mark.slow
def test_stopped_remote_worker_goes_on_when_resumed(n2, gate, tally):
    """A worker on another node that is stopped for six seconds is not dead: its task ends with the right result, run once."""

    @ray.remote(max_retries=0)
    def slow():
        tally.add(gate.pass_through())
        return here()

    ref = on(slow, n2).remote()
    (pid,) = wait_for(gate.pids)
    with stopped(pid, 6.0):
        gate.open()
        assert ray.wait([ref], timeout=5.5)[0] == []
    assert ray.get(ref, timeout=5) == n2.id
    assert tally.words() == [str(pid)]


def test_daemon_stopped_within_its_lease_is_not_dead(nodes, n2, tally):
    """SIGSTOP of a daemon for 2.5 s: nobody declares it dead, and calls in flight and meanwhile run once each."""
    counter = on(Counter, n2).remote()
    assert ray.get(counter.add.remote()) == 1
    refs = [on(note, n2).remote(tally, i) for i in range(50)]
    with stopped(n2.pid, 2.5):
        refs += [on(note, n2).remote(tally, i) for i in range(50, 100)]
        calls = [counter.add.remote() for _ in range(20)]
        assert alive() == {nodes.head_id, n2.id}
    assert ray.get(refs, timeout=10) == list(range(100))
    assert ray.get(calls, timeout=5) == list(range(2, 22))
    assert sorted(map(int, tally.words())) == list(range(100))
    assert alive() == {nodes.head_id, n2.id}


@pytest.mark.slow
def test_stopped_head_declares_nobody_dead(nodes, n2, tally):
    """SIGSTOP of the head's daemon for six seconds: afterwards the other node is a member as before, and its actor remembers."""
    counter = on(Counter, n2).remote()
    before = ray.get([counter.add.remote(), counter.pid.remote()])
    with stopped(daemon_pid(nodes.cluster.head_node), LEASE_S + 1.5):
        pass
    assert ray.get(on(note, n2).remote(tally, "x"), timeout=10) == "x"
    assert alive() == {nodes.head_id, n2.id}
    assert ray.get([counter.add.remote(), counter.pid.remote()], timeout=5) == [2, before[1]]


def reset_connections(ports):
    """Reset every TCP connection of these ports at both ends, at once; how many ends there were."""
    condition = " or ".join(f"sport = :{port} or dport = :{port}" for port in ports)
    done = subprocess.run(["ss", "-H", "-t", "-n", "-K", f"( {condition} )"], capture_output=True, text=True, check=False)
    return len(done.stdout.splitlines())


def test_reset_links_in_mid_traffic_lose_and_double_nothing(nodes, n2, tally):
    """All connections between two nodes are reset twenty times while calls, large arguments and results travel: each runs once, in order."""
    if os.geteuid() != 0 or shutil.which("ss") is None:
        pytest.skip("resetting connections needs root and `ss`: apt-get install iproute2")
    ports = [address_of(node_id)[1] for node_id in (nodes.head_id, n2.id)]
    counter = on(Counter, n2).remote()
    ray.get(counter.add.remote())
    source = ray.put(np.arange(LARGE))
    total = on(ray.remote(num_cpus=0)(lambda array: int(array.sum())), n2)
    broken, calls, notes, sums, results = 0, [], [], [], []
    for part in range(20):
        calls += [counter.add.remote() for _ in range(50)]
        notes += [on(note, n2).remote(tally, f"{part}.{i}") for i in range(20)]
        sums.append(total.remote(source if part % 4 else ray.put(np.arange(LARGE))))
        results.append(on(ray.remote(num_cpus=0)(lambda length: np.arange(length)), n2).remote(LARGE // 4))
        broken += reset_connections(ports)
        ray.wait(notes[-20:], num_returns=10, timeout=10)
    assert ray.get(calls, timeout=10) == list(range(2, 1002))
    words = ray.get(notes, timeout=10)
    assert sorted(tally.words()) == sorted(words) and len(set(words)) == 400
    assert ray.get(sums, timeout=10) == [LARGE * (LARGE - 1) // 2] * 20
    assert all(np.array_equal(value, np.arange(LARGE // 4)) for value in ray.get(results, timeout=10))
    assert broken > 0 and alive() == {nodes.head_id, n2.id}


def test_node_killed_in_mid_transfer_does_not_hang_the_reader(nodes, n2, tally):
    """The node is killed while 50 MB come from it: the reader gets the right value from the repeated task."""
    big = near(ray.remote(num_cpus=0)(lambda: np.full(50_000_000, 7, np.uint8)), n2).remote()
    ray.wait([big], timeout=10, fetch_local=False)
    ray.wait([big], timeout=0)  # the transfer starts
    nodes.kill(n2)
    value = ray.get(big, timeout=3 * DEATH_S)
    assert value.nbytes == 50_000_000 and int(value.sum(dtype=np.int64)) == 350_000_000


def test_killed_node_can_be_replaced_by_one_with_the_same_resources(nodes, tally):
    """Three times: a node is killed and another joins with its resource; tasks that need it wait for the new one and run."""
    waiting = []
    for attempt in range(3):
        node = nodes.add("n2")
        assert ray.get(waiting, timeout=10) == [f"waits {attempt - 1}" for _ in waiting]
        assert ray.get(on(note, node).remote(tally, attempt), timeout=10) == attempt
        nodes.kill(node)
        wait_until_dead(node)
        waiting = [on(note, "n2").remote(tally, f"waits {attempt}")]
    assert ray.wait(waiting, timeout=0.3)[0] == []
    nodes.add("n2")
    assert ray.get(waiting, timeout=10) == ["waits 2"]
    assert tally.count() == 6
