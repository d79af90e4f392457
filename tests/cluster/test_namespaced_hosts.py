"""Three machines with their own addresses, started by `ray start`; faults F51 and F52: cables that are cut for a while or for good."""

import json
import re
import time

import pytest

from support import Gate, is_alive, let_pass, netns, wait_for
from support.netns import Hosts
from support.started import REPOSITORY, StartedCluster, command, join, readme_commands, start_head, started, without_token

pytestmark = [pytest.mark.limit(60), pytest.mark.skipif(bool(netns.available()), reason=netns.available() or "machines can be made")]

DEATH_S = 10.0

# Calls, tasks and large results over three hosts until the gate opens; then everything is compared, and what the nodes were is printed.
TRAFFIC = """
import json, os, sys, time
import numpy as np
import ray
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
words = ray.get(notes, timeout=30)
assert sorted(words) == sorted(tally.words()), "tasks were lost or doubled"
for host, refs in calls.items():
    assert ray.get(refs, timeout=20) == list(range(2, len(refs) + 2)), "calls were lost, doubled or overtook each other"
for seed, ref in sums:
    assert ray.get(ref, timeout=20) == int(np.random.default_rng(seed).integers(0, 1 << 60, 30_000).sum(dtype=object))
assert {node["NodeID"] for node in ray.nodes() if node["Alive"]} == ids, "a node was declared dead"
print("all right", len(notes), flush=True)
"""


@pytest.fixture
def three():
    with started(3) as cluster:
        yield cluster


@pytest.fixture
def traffic(three, tmp_path):
    """The program, when it runs; gives a function that ends it and checks what it found."""
    stop, tally = tmp_path / "stop", tmp_path / "tally"
    with three.driver(TRAFFIC, tmp_path, args=[str(tally), str(stop)]) as script:
        script.wait_for_output("running")

        def finish():
            stop.touch()
            done = script.finish(50)
            assert done.rc == 0 and "all right" in done.stdout, done
            assert int(re.search(r"all right (\d+)", done.stdout)[1]) > 50

        yield finish


def seen_by(three, host, tmp_path):
    """What a driver on this host reads of `ray.nodes()`."""
    code = "import json, ray; ray.init(address='auto', log_to_driver=False); print('nodes', json.dumps(ray.nodes()))"
    with three.driver(code, tmp_path, host) as script:
        done = script.finish(20)
    assert done.rc == 0, done
    return json.loads(done.stdout.split("nodes ")[1])


def test_hosts_join_under_their_own_addresses(three, tmp_path):
    """Each host sees the same three nodes, with three addresses; `ray status` counts them."""
    views = [seen_by(three, host, tmp_path) for host in three.hosts]
    addresses = [{node["NodeManagerAddress"] for node in view if node["Alive"]} for view in views]
    assert addresses == [{host.address for host in three.hosts}] * 3
    status = command(three.hosts[1], "status", f"--address={three.address}")
    assert status.returncode == 0 and "3" in status.stdout


def test_two_terminals_of_the_readme_make_a_cluster(tmp_path):
    """The commands in README, each typed on its host, and a program that counts the nodes."""
    heads, joins = readme_commands("ray start --head"), readme_commands("ray start --address")
    assert heads and joins, "README shows how two machines become a cluster"
    with Hosts(2) as hosts:
        cluster = StartedCluster(hosts)
        first = command(hosts[0], *heads[0].split()[1:])
        assert first.returncode == 0, first
        cluster.address = re.search(rf"{re.escape(hosts[0].address)}:\d+", first.stdout)[0]
        second = command(hosts[1], *[f"--address={cluster.address}" if word.startswith("--address") else word for word in joins[0].split()[1:]])
        assert second.returncode == 0, second
        assert len(seen_by(cluster, hosts[0], tmp_path)) == len(seen_by(cluster, hosts[1], tmp_path)) == 2


def test_stop_ends_only_the_hosts_own_node(three, tmp_path):
    """`ray stop` on one of three hosts that share their processes' table: that node leaves, nothing of it stays, the others go on."""
    others = {host.name: three.daemon(host) for host in (three.hosts[0], three.hosts[2])}
    done = command(three.hosts[1], "stop")
    assert done.returncode == 0, done
    wait_for(lambda: three.hosts[1].pids() == [], 5.0)
    assert all(is_alive(pid) for pid in others.values())
    living = wait_for(lambda: len(found := [one for one in seen_by(three, three.hosts[0], tmp_path) if one["Alive"]]) == 2 and found, 15.0)
    assert three.hosts[1].address not in {node["NodeManagerAddress"] for node in living}


@pytest.mark.slow
@pytest.mark.limit(180)
def test_first_real_job_runs_unchanged_on_three_hosts(three, tmp_path):
    """examples/first_job.py with RAY_ADDRESS: ends with its comparison and its picture."""
    picture = tmp_path / "job.png"
    with three.driver((REPOSITORY / "examples" / "first_job.py").read_text(), tmp_path, args=["--out", str(picture)]) as script:
        done = script.finish(170)
    assert done.rc == 0, done
    assert picture.stat().st_size > 5000


def test_f51_cable_cut_for_two_seconds_loses_and_doubles_nothing(three, traffic):
    """The second host's cable is pulled for two seconds in mid-traffic: no death, every task and call once, in order."""
    three.hosts.cut_all(three.hosts[1])
    let_pass(2.0)
    three.hosts.heal_all()
    traffic()


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


def test_refused_and_reset_connections_lose_nothing(three, traffic):
    """For a second every packet between two hosts is answered with a reset, then all connections of the head are reset at once: nothing is lost."""
    three.hosts.refuse(three.hosts[0], three.hosts[1])
    let_pass(1.0)
    three.hosts.heal_all()
    let_pass(0.3)
    assert three.hosts.reset(three.hosts[0]) > 0
    traffic()


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


def test_stopped_node_within_its_lease_loses_nothing(three, traffic):
    """A daemon on another host is stopped for 2.5 s: not dead, nothing lost."""
    from support.clusters import stopped

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
    living = [node for node in seen_by(three, three.hosts[0], tmp_path) if node["Alive"]]
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


@pytest.mark.parametrize("credentials", ["wrong", "none"])
def test_node_without_the_right_token_is_refused_in_clear_words(tmp_path, credentials):
    """The command ends with an error that names the token and how to give it; nothing of it stays; the head goes on."""
    with Hosts(2) as hosts:
        cluster = StartedCluster(hosts)
        cluster.address = start_head(hosts[0])
        env = {"RAY_AUTH_TOKEN": "0" * 48} if credentials == "wrong" else without_token(tmp_path)
        began = time.monotonic()
        done = command(hosts[1], "start", f"--address={cluster.address}", f"--node-ip-address={hosts[1].address}", env=env)
        assert done.returncode != 0 and time.monotonic() - began < 10
        said = done.stdout + done.stderr
        assert "token" in said.lower() and "RAY_AUTH_TOKEN" in said and "Traceback" not in said, said
        assert cluster.token not in said
        wait_for(lambda: hosts[1].pids() == [], 5.0)
        assert len(seen_by(cluster, hosts[0], tmp_path)) == 1


def test_driver_with_a_wrong_token_is_refused_in_clear_words(three, tmp_path):
    """`ray.init(address=...)` with another token: AuthenticationError or ConnectionError within ten seconds, which names the token."""
    code = """
import os, ray
try:
    ray.init(address=os.environ["RAY_ADDRESS"])
except Exception as error:
    print(type(error).__name__, str(error))
"""
    with three.driver(code, tmp_path, RAY_AUTH_TOKEN="1" * 48) as script:
        done = script.finish(15)
    assert re.search(r"AuthenticationError|ConnectionError", done.stdout) and "token" in done.stdout.lower(), done


def test_nobody_at_the_address_is_said_within_seconds(tmp_path):
    """Joining an address where nothing listens, or that nobody has, ends with an error that names the address."""
    with Hosts(2) as hosts:
        StartedCluster(hosts)
        for address in (f"{hosts[0].address}:6399", f"{hosts.subnet}.99:6399"):
            done = command(hosts[1], "start", f"--address={address}", f"--node-ip-address={hosts[1].address}", timeout_s=40)
            said = done.stdout + done.stderr
            assert done.returncode != 0 and address in said and "Traceback" not in said, said
            wait_for(lambda: hosts[1].pids() == [], 5.0)


def test_two_clusters_of_the_same_machines_are_not_confused(tmp_path):
    """Two heads on one machine, a node of each on two others, one token: everybody sees only its own, and one that ends leaves the other alone."""
    with Hosts(3) as hosts:
        first, second = StartedCluster(hosts), StartedCluster(hosts)
        first.address = start_head(hosts[0])
        hosts[0].environment["RAY_TMPDIR"] = str(tmp_path / "second")
        second.address = start_head(hosts[0])
        assert first.address != second.address
        join(hosts[1], first.address)
        join(hosts[2], second.address)
        for cluster, host, other in ((first, hosts[1], hosts[2]), (second, hosts[2], hosts[1])):
            addresses = {node["NodeManagerAddress"] for node in seen_by(cluster, host, tmp_path)}
            assert addresses == {hosts[0].address, host.address} and other.address not in addresses
        assert command(hosts[2], "stop").returncode == 0
        wait_for(lambda: hosts[2].pids() == [], 5.0)
        assert len([node for node in seen_by(first, hosts[1], tmp_path) if node["Alive"]]) == 2


def test_delayed_connections_only_cost_time(tmp_path):
    """The second host's connections are 30 ms late in each direction: it joins, works, and is not declared dead."""
    with Hosts(2) as hosts:
        cluster = StartedCluster(hosts)
        cluster.address = start_head(hosts[0])
        hosts.delay(hosts[1], 0.03)
        join(hosts[1], cluster.address)
        code = """
import ray
ray.init(address="auto", log_to_driver=False)
f = ray.remote(num_cpus=0)(lambda x: x + 1).options(resources={"h2": 0.001})
assert ray.get([f.remote(i) for i in range(200)], timeout=30) == list(range(1, 201))
value = 0
for _ in range(10):
    value = ray.get(f.remote(value), timeout=10)
print("late but right", value, sum(node["Alive"] for node in ray.nodes()))
"""
        with cluster.driver(code, tmp_path) as script:
            done = script.finish(40)
    assert "late but right 10 2" in done.stdout, done
