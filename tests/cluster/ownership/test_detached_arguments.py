"""References in the constructor's arguments of a detached actor outlive the driver that created it."""

import signal

import pytest

import ray
from support import start_script, wait_for

pytestmark = pytest.mark.limit(40)

CREATE = """
import os, signal
import numpy as np
import ray
ray.init(address=os.environ["ADDRESS"], namespace="shared", log_to_driver=False)

@ray.remote(num_cpus=0)
class Keeper:
    def __init__(self, top, nested):
        self.top, self.nested = top, nested
    def read(self):
        return self.top, ray.get(self.nested["small"]), ray.get(ray.get(self.nested["outer"])[0]), float(ray.get(self.nested["large"]).sum())
    def lend(self):
        return [self.nested["small"]]
    def pid(self):
        return os.getpid()

@ray.remote(num_cpus=0)
def slow():
    return "from a task"

nested = {"small": ray.put("small"), "outer": ray.put([slow.remote()]), "large": ray.put(np.ones(300_000))}
keeper = Keeper.options(name="keeper", lifetime="detached", max_restarts=3).remote(ray.put("top"), nested)
print("made", ray.get(keeper.pid.remote()), flush=True)
signal.pause()
"""


@pytest.fixture
def keeper(nodes, tmp_path):
    """A detached actor whose driver is dead."""
    with start_script(CREATE, cwd=tmp_path, env={"ADDRESS": nodes.address}) as script:
        script.wait_for_output("made ", 20.0)
        pid = int(script.stdout.split("made ")[1].split()[0])
        found = ray.get_actor("keeper", namespace="shared")
        script.signal(signal.SIGKILL)
        script.popen.wait(5)
        job_over = lambda: all(job["ended_ms"] for job in jobs() if job["namespace"] == "shared")  # noqa: E731
        wait_for(job_over, 10.0)
    yield found, pid
    ray.kill(found)


def jobs():
    from ray._core import session

    return session.core.jobs()


def test_references_given_to_a_detached_actor_outlive_its_driver(keeper):
    """Small and large values, one inside another and one made by a task: all are readable after the driver was killed."""
    found, _ = keeper
    assert ray.get(found.read.remote(), timeout=10) == ("top", "small", "from a task", 300_000.0)


def test_reference_of_a_detached_actor_may_be_passed_on(keeper):
    """What the actor took over is its own: it can be lent to others."""
    found, _ = keeper
    (ref,) = ray.get(found.lend.remote(), timeout=10)
    assert ray.get(ref, timeout=10) == "small"


def test_small_values_given_to_a_detached_actor_outlive_its_process_too(nodes, tmp_path):
    """A restart after the driver's end constructs the actor from the same small values."""
    code = CREATE.replace('"large": ray.put(np.ones(300_000))', '"large": ray.put(np.ones(3))')
    with start_script(code, cwd=tmp_path, env={"ADDRESS": nodes.address}) as script:
        script.wait_for_output("made ", 20.0)
        pid = int(script.stdout.split("made ")[1].split()[0])
    found = ray.get_actor("keeper", namespace="shared")
    ray.kill(found, no_restart=False)

    def pid_now():
        try:
            return ray.get(found.pid.remote(), timeout=10)
        except ray.exceptions.RayActorError:
            return None

    wait_for(lambda: pid_now() not in (None, pid), 15.0)
    assert ray.get(found.read.remote(), timeout=10) == ("top", "small", "from a task", 3.0)
    ray.kill(found)
