"""Several drivers of one cluster at once: what they share, what they don't, and what the death of one takes with it."""

import signal

import pytest

import ray
from support import is_alive, start_script, wait_for
from support.clusters import on, stored_bytes

pytestmark = pytest.mark.limit(25)

START = """
import os, signal, sys
import numpy as np
import ray
ray.init(address=os.environ["ADDRESS"], namespace=os.environ.get("SPACE") or None, log_to_driver=False)

@ray.remote(num_cpus=0)
class Kept:
    def __init__(self, value):
        self.value = value
    def read(self):
        return self.value
    def pid(self):
        return os.getpid()
"""


@pytest.fixture
def driver(nodes, tmp_path):
    """Start another driver with START and this code; every one is ended in the end."""
    running = []

    def start(code, **env):
        script = start_script(START + code, cwd=tmp_path, env={"ADDRESS": nodes.address, **env})
        running.append(script)
        return script

    yield start
    for script in running:
        script.__exit__()


def word_after(script, label):
    script.wait_for_output(f"{label} ")
    return script.stdout.split(f"{label} ")[1].split()[0]


def test_named_actors_are_seen_in_their_namespace_only(driver, n2):
    """An actor named by one driver is found by another in the same namespace, not from a third; both may use the name."""
    code = """
kept = Kept.options(name="it", resources={"n2": 0.001}).remote(os.environ["SPACE"])
print("pid", ray.get(kept.pid.remote()), flush=True)
signal.pause()
"""
    for space in ("one", "two"):
        word_after(driver(code, SPACE=space), "pid")
    assert [ray.get(ray.get_actor("it", namespace=space).read.remote(), timeout=5) for space in ("one", "two")] == ["one", "two"]
    with pytest.raises(ValueError, match="it"):
        ray.get_actor("it")


def test_death_of_a_driver_takes_only_what_is_its_own(driver, n2, tmp_path):
    """SIGKILL of one of two busy drivers: its actors, tasks and objects are gone within five seconds, the other's are as they were."""
    code = """
kept = Kept.options(resources={"n2": 0.001}).remote(np.ones(500_000))
ray.get(kept.read.remote())
forever = ray.remote(num_cpus=0)(lambda: signal.pause()).options(resources={"n2": 0.001}).remote()
held = [ray.put(np.ones(500_000)) for _ in range(5)]
print("pid", ray.get(kept.pid.remote()), flush=True)
while not os.path.exists("go"):
    assert ray.wait([forever], timeout=0.05)[0] == []
assert ray.get(kept.read.remote()).sum() == 500_000 and ray.get(held[4]).sum() == 500_000
print("unharmed", flush=True)
"""
    victim, other = driver(code), driver(code)
    pids = [int(word_after(script, "pid")) for script in (victim, other)]
    both = wait_for(lambda: stored_bytes() > 39_000_000 and stored_bytes(), 5.0, "ten objects of 4 MB")
    victim.signal(signal.SIGKILL)
    victim.popen.wait(5)
    wait_for(lambda: not is_alive(pids[0]), 5.0)
    wait_for(lambda: stored_bytes() <= both * 0.6, 12.0, "the dead driver's objects freed")
    assert is_alive(pids[1])
    (tmp_path / "go").touch()
    other.wait_for_output("unharmed")


def test_actor_of_another_driver_is_used_and_outlives_nobody(driver, n2, tmp_path):
    """Another driver's named actor is called from here; when its driver ends properly, it ends, and calls say so."""
    script = driver(
        """
kept = Kept.options(name="theirs", resources={"n2": 0.001}).remote(7)
print("pid", ray.get(kept.pid.remote()), flush=True)
import time
while not os.path.exists(os.environ["END"]):
    time.sleep(0.01)
""",
        SPACE="shared",
        END=str(tmp_path / "end"),
    )
    pid = int(word_after(script, "pid"))
    theirs = ray.get_actor("theirs", namespace="shared")
    assert ray.get(theirs.pid.remote(), timeout=10) == pid
    (tmp_path / "end").touch()
    wait_for(lambda: not is_alive(pid), 10.0)
    with pytest.raises(ray.exceptions.RayActorError):
        ray.get(theirs.read.remote(), timeout=10)
    with pytest.raises(ValueError, match="theirs"):
        ray.get_actor("theirs", namespace="shared")


def test_drivers_that_want_everything_share_the_cpus(driver, n2, tmp_path):
    """Two drivers queue five hundred tasks each for the same two CPUs: neither is starved until the other has finished."""
    code = """
import time
@ray.remote(num_cpus=1)
def work():
    until = time.perf_counter() + 0.004
    while time.perf_counter() < until:
        pass
    return time.time()

print("ready", os.getpid(), flush=True)
while not os.path.exists("start"):
    time.sleep(0.005)
times = ray.get([work.remote() for _ in range(500)])
print("span", min(times), max(times), flush=True)
"""
    first, second = driver(code), driver(code)
    for script in (first, second):
        word_after(script, "ready")
    (tmp_path / "start").touch()
    spans = []
    for script in (first, second):
        script.wait_for_output("span ", 20.0)
        spans.append([float(word) for word in script.stdout.split("span ")[1].split()[:2]])
    overlap_s = min(spans[0][1], spans[1][1]) - max(spans[0][0], spans[1][0])
    longest_s = max(end - begin for begin, end in spans)
    assert overlap_s > 0.6 * longest_s, spans


def test_nodes_are_the_same_for_every_driver(driver, nodes, n2):
    """Two drivers see the same nodes, and each knows which one is its own."""
    code = "print('ids', ','.join(sorted(node['NodeID'] for node in ray.nodes() if node['Alive'])), flush=True)"
    assert word_after(driver(code), "ids") == word_after(driver(code), "ids") == ",".join(sorted((nodes.head_id, n2.id)))
    assert ray.get(on(ray.remote(num_cpus=0)(lambda: ray.get_runtime_context().get_node_id()), n2).remote(), timeout=5) == n2.id
