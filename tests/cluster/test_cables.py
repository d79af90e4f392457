"""Faults F51 and F52 and other trouble with the cables of three machines: cut for a while or for good, resetting, lossy, slow, while work goes over them."""

import re
import time

import pytest

from support import Gate, is_alive, let_pass, netns, wait_for
from support.clusters import stopped
from support.started import join

pytestmark = [pytest.mark.limit(60), pytest.mark.skipif(bool(netns.available()), reason=netns.available() or "machines can be made")]

DEATH_S = 10.0

# Calls, tasks and large results over three hosts until the gate opens; then everything is compared, and what the nodes were is printed.
TRAFFIC = """
import json, os, sys, time
import numpy as np
import ray
import ray.util.state
from support.gates import Tally

ray.init(address="auto", log_to_driver=False)
tally = Tally(sys.argv[1])
stop = sys.argv[2]

@ray.remote(num_cpus=0)
def note(word):
    tally.add(word)
    return word

@ray.remote(num_cpus=0)
def numbers(seed):
    return np.random.default_rng(seed).integers(0, 1 << 60, 30_000)

@ray.remote(num_cpus=0)
def total(array):
    return int(array.sum(dtype=object))

@ray.remote(num_cpus=0)
class Counter:
    def __init__(self):
        self.value = 0
    def add(self):
        self.value += 1
        return self.value

def on(what, host):
    return what.options(resources={host: 0.001})

ids = {node["NodeID"] for node in ray.nodes()}
counters = {host: on(Counter, host).remote() for host in ("h2", "h3")}
ray.get([counter.add.remote() for counter in counters.values()])
calls, notes, sums, seed = {"h2": [], "h3": []}, [], [], 0
print("running", flush=True)
while not os.path.exists(stop):
    for host, counter in counters.items():
        calls[host] += [counter.add.remote() for _ in range(10)]
        notes += [on(note, host).remote(f"{host} {seed} {i}") for i in range(5)]
    sums.append((seed, on(total, "h3").remote(on(numbers, "h2").remote(seed))))
    seed += 1
    ray.wait(notes[-10:], num_returns=10, timeout=0.05)
ready, missing = ray.wait(notes, num_returns=len(notes), timeout=30)
if missing:
    alive = [node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]]
    sys.exit(f"{len(missing)} of {len(notes)} tasks have not finished; alive: {alive}; the first: {ray.util.state.explain(missing[0])}")
words = ray.get(notes)
assert sorted(words) == sorted(tally.words()), "tasks were lost or doubled"
for host, refs in calls.items():
    assert ray.get(refs, timeout=20) == list(range(2, len(refs) + 2)), "calls were lost, doubled or overtook each other"
for seed, ref in sums:
    assert ray.get(ref, timeout=20) == int(np.random.default_rng(seed).integers(0, 1 << 60, 30_000).sum(dtype=object))
assert {node["NodeID"] for node in ray.nodes() if node["Alive"]} == ids, "a node was declared dead"
print("all right", len(notes), flush=True)
"""


@pytest.fixture
def traffic(three, tmp_path):
    """The program, when it runs; gives a function that ends it and checks what it found."""
    stop, tally = tmp_path / "stop", tmp_path / "tally"
    with three.driver(TRAFFIC, tmp_path, args=[str(tally), str(stop)]) as script:
        script.wait_for_output("running")

        def finish():
            stop.touch()
            done = script.finish(50)
            assert done.rc == 0 and "all right" in done.stdout, f"{done.stdout}\n{done.stderr}"
            assert int(re.search(r"all right (\d+)", done.stdout)[1]) > 50

        yield finish


def test_f51_cable_cut_for_two_seconds_loses_and_doubles_nothing(three, traffic):
    """The second host's cable is pulled for two seconds in mid-traffic: no death, every task and call once, in order."""
    three.hosts.cut_all(three.hosts[1])
    let_pass(2.0)
    three.hosts.heal_all()
    traffic()


@pytest.mark.slow
def test_f51_link_of_two_hosts_cut_while_both_reach_the_head(three, traffic):
    """Only the second and the third host don't hear each other for three seconds: what they exchange waits, and comes."""
    three.hosts.cut(three.hosts[1], three.hosts[2])
    let_pass(3.0)
    three.hosts.heal_all()
    traffic()


def test_cable_that_comes_and_goes_loses_nothing(three, traffic):
    """Ten cuts of 0.2 s, of the head and of others: every task and call once."""
    for number in range(10):
        three.hosts.cut_all(three.hosts[number % 3])
        let_pass(0.2)
        three.hosts.heal_all()
        let_pass(0.1)
    traffic()


def test_connections_that_break_for_a_second_lose_nothing(three, traffic):
    """For a second every connection between two hosts is reset as soon as it is used, then all of the head's at once: nothing is lost."""
    three.hosts.break_connections(three.hosts[0], three.hosts[1])
    let_pass(1.0)
    three.hosts.heal_all()
    let_pass(0.3)
    assert three.hosts.reset(three.hosts[0]) > 0
    traffic()


@pytest.mark.slow
def test_packets_refused_for_a_second_lose_nothing(three, traffic):
    """A firewall answers every packet between two hosts with a reset for a second, new connections too: that alone is no proof of a death."""
    three.hosts.refuse(three.hosts[0], three.hosts[1])
    let_pass(1.0)
    three.hosts.heal_all()
    traffic()


@pytest.mark.slow
def test_lossy_and_slow_cables_only_cost_time(three, traffic):
    """Three of a hundred packets lost, and 50 Mbit/s: no node dies, everything is right."""
    three.hosts.loss(3)
    for host in three.hosts:
        three.hosts.bandwidth(host, 50)
    let_pass(4.0)
    three.hosts.loss(0)
    for host in three.hosts:
        three.hosts.bandwidth(host, None)
    traffic()


@pytest.mark.slow
def test_stopped_node_within_its_lease_loses_nothing(three, traffic):
    """A daemon on another host is stopped for 2.5 s: not dead, nothing lost."""
    with stopped(three.daemon(three.hosts[2]), 2.5):
        pass
    traffic()


BIG_TRANSFER = """
import time
import numpy as np
import ray
ray.init(address="auto", log_to_driver=False)
make = ray.remote(num_cpus=0)(lambda: np.random.default_rng(5).bytes(20_000_000)).options(resources={"h2": 0.001})
warm = ray.get(make.remote(), timeout=30)
print("warm", flush=True)
input()
ref = make.remote()
ray.wait([ref], fetch_local=False)
print("made", flush=True)
started = time.monotonic()
assert ray.get(ref, timeout=30) == warm
print("seconds", time.monotonic() - started, flush=True)
"""


def test_broken_transfer_goes_on_where_it_stopped(three, tmp_path):
    """20 MB over a cable of 80 Mbit/s take two seconds; all connections are reset four times meanwhile: right bytes, and not much later."""
    code = BIG_TRANSFER.replace("input()", f"import fcntl\nfcntl.flock(open({str(tmp_path / 'gate')!r}), fcntl.LOCK_SH)")
    gate = Gate(tmp_path / "gate")
    with three.driver(code, tmp_path) as script:
        script.wait_for_output("warm")
        three.hosts.bandwidth(three.hosts[1], 80)
        gate.open()
        script.wait_for_output("made")
        for _ in range(4):
            let_pass(0.4)
            three.hosts.reset(three.hosts[1])
        done = script.finish(30)
    assert done.rc == 0, done
    assert 1.5 < float(done.stdout.split("seconds ")[1]) < 4.0


CUT_FOR_GOOD = """
import os, time
import ray
ray.init(address="auto", log_to_driver=False)
ids = {node["NodeManagerAddress"]: node["NodeID"] for node in ray.nodes()}

@ray.remote(num_cpus=0, max_restarts=1, max_task_retries=-1)
class Moving:
    def where(self):
        return ray.get_runtime_context().get_node_id()

@ray.remote(num_cpus=0, max_retries=1)
def held():
    import time
    if ray.get_runtime_context().get_node_id() == victim:
        time.sleep(1000)
    return "again"

@ray.remote(num_cpus=0, max_retries=0)
def lost():
    import time
    time.sleep(1000)

from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
victim = ids[os.environ["VICTIM"]]
there = NodeAffinitySchedulingStrategy(victim, soft=True)
actor = Moving.options(scheduling_strategy=there).remote()
assert ray.get(actor.where.remote()) == victim
again, gone = held.options(scheduling_strategy=there).remote(), lost.options(scheduling_strategy=there).remote()
ray.wait([again], timeout=0.5)
print("running", flush=True)
while any(node["Alive"] for node in ray.nodes() if node["NodeID"] == victim):
    time.sleep(0.02)
print("dead", flush=True)
assert ray.get(again, timeout=10) == "again"
assert ray.get(actor.where.remote(), timeout=10) != victim
try:
    ray.get(gone, timeout=10)
except ray.exceptions.RayError as error:
    assert victim in str(error), error
    print("told", type(error).__name__, flush=True)
"""


def test_f52_cable_cut_for_good_is_a_death_on_both_sides(three, tmp_path):
    """The head declares the host dead within ten seconds and moves its work; the cut side ends itself, and does not come back when the cable does."""
    victim = three.hosts[1]
    daemon = three.daemon(victim)
    with three.driver(CUT_FOR_GOOD, tmp_path, VICTIM=victim.address) as script:
        script.wait_for_output("running")
        assert len(victim.pids()) >= 3
        cut = time.monotonic()
        three.hosts.cut_all(victim)
        script.wait_for_output("dead", DEATH_S)
        assert time.monotonic() - cut < DEATH_S
        wait_for(lambda: victim.pids() == [], DEATH_S, "the cut side has ended by itself")
        assert not is_alive(daemon)
        done = script.finish(20)
    assert done.rc == 0 and "told" in done.stdout, done
    three.hosts.heal_all()
    join(victim, three.address)
    living = [node for node in three.nodes_seen_by(three.hosts[0], tmp_path) if node["Alive"]]
    assert sorted(node["NodeManagerAddress"] for node in living) == sorted(host.address for host in three.hosts)


BEATING = """
import ray
ray.init(address="auto", log_to_driver=False)
from support.gates import Tally
import sys, os, time, threading
tally = Tally(sys.argv[1])

@ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)
class Beating:
    def __init__(self):
        threading.Thread(target=self.beat, daemon=True).start()
    def beat(self):
        while True:
            tally.add(os.getpid())
            time.sleep(0.005)
    def pid(self):
        return os.getpid()

from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
there = next(node["NodeID"] for node in ray.nodes() if node["NodeManagerAddress"] == os.environ["VICTIM"])
actor = Beating.options(scheduling_strategy=NodeAffinitySchedulingStrategy(there, soft=True)).remote()
first = ray.get(actor.pid.remote())
print("running", first, flush=True)
while True:
    second = ray.get(actor.pid.remote(), timeout=30)
    if second != first:
        break
print("moved", second, flush=True)
"""


@pytest.mark.slow
def test_actor_behind_a_cut_cable_has_stopped_before_the_next_one_starts(three, tmp_path):
    """The cut-off actor, which knows nothing of it, has written its last line before its successor writes its first."""
    tally = tmp_path / "tally"
    with three.driver(BEATING, tmp_path, args=[str(tally)], VICTIM=three.hosts[2].address) as script:
        script.wait_for_output("running")
        three.hosts.cut_all(three.hosts[2])
        script.wait_for_output("moved", 20.0)
        done = script.finish(20)
    assert done.rc == 0, done
    first, second = (re.search(rf"{word} (\d+)", done.stdout)[1] for word in ("running", "moved"))
    lines = tally.read_text().split()
    changes = [pid for i, pid in enumerate(lines) if i == 0 or lines[i - 1] != pid]
    assert changes == [first, second]
