"""Several drivers of one cluster: what they share, and what ends with whom."""

import signal
import textwrap
import uuid

import pytest

import ray
from ray.cluster_utils import Cluster
from support import wait_for
from support.processes import is_alive
from support.scripts import start_script

pytestmark = pytest.mark.limit(60)

DRIVER = """
import os
import sys
import ray

ray.init({address!r}, namespace={namespace!r})

@ray.remote(num_cpus=0)
class Keeper:
    def __init__(self):
        self.value = None
    def keep(self, value):
        self.value = value
        return os.getpid()
    def give(self):
        return self.value

"""


@pytest.fixture(scope="module")
def cluster():
    ray.shutdown()
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
    made.add_node(num_cpus=2, resources={"other": 1})
    yield made
    ray.shutdown()
    made.shutdown()


@pytest.fixture
def namespace():
    """A namespace that no other test uses."""
    return f"n-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def connected(cluster, namespace):
    ray.shutdown()
    yield ray.init(cluster.address, namespace=namespace)
    ray.shutdown()


def driver(cluster, namespace, code, folder):
    return start_script(DRIVER.format(address=cluster.address, namespace=namespace) + textwrap.dedent(code), cwd=folder)


def test_jobs_have_numbers_and_namespaces_of_their_own(cluster, connected, namespace, tmp_path):
    with driver(cluster, "elsewhere", "print(ray.get_runtime_context().get_job_id(), ray.get_runtime_context().namespace)", tmp_path) as script:
        done = script.finish()
    assert done.rc == 0, done.output
    job, space = done.stdout.split()
    assert job != ray.get_runtime_context().get_job_id()
    assert (space, ray.get_runtime_context().namespace) == ("elsewhere", namespace)


def test_namespace_is_fresh_unless_it_is_named(cluster):
    ray.shutdown()
    seen = set()
    for _ in range(2):
        with ray.init(cluster.address):
            seen.add(ray.get_runtime_context().namespace)
    assert len(seen) == 2


def test_detached_actor_outlives_its_driver_and_is_found_by_the_next(cluster, connected, namespace, tmp_path):
    code = """
    kept = Keeper.options(name="kept", lifetime="detached", resources={"other": 0.1}).remote()
    lost = Keeper.options(name="lost").remote()
    print(ray.get(kept.keep.remote(17)), ray.get(lost.keep.remote(18)))
    """
    with driver(cluster, namespace, code, tmp_path) as script:
        done = script.finish()
    assert done.rc == 0, done.output
    kept_pid, lost_pid = map(int, done.stdout.split())
    wait_for(lambda: not is_alive(lost_pid), 5.0)
    assert is_alive(kept_pid)
    kept = ray.get_actor("kept")
    assert ray.get(kept.give.remote()) == 17
    with pytest.raises(ValueError):
        ray.get_actor("lost")
    with pytest.raises(ValueError):
        ray.get_actor("kept", namespace="elsewhere")
    ray.kill(kept)
    wait_for(lambda: not is_alive(kept_pid), 5.0)


def test_named_actor_of_a_living_driver_is_shared(cluster, connected, namespace, tmp_path, gate):
    code = f"""
    from support.gates import _guest as guest
    keeper = Keeper.options(name="shared").remote()
    ray.get(keeper.keep.remote([1, "two"]))
    print("ready", flush=True)
    guest({gate.path!r}).pass_through()
    """
    with driver(cluster, namespace, code, tmp_path) as script:
        script.wait_for_output("ready")
        assert ray.get(ray.get_actor("shared").give.remote()) == [1, "two"]
        gate.open()
        assert script.finish().rc == 0


@pytest.mark.parametrize("how", ["ends", "is killed"])
def test_driver_that_goes_takes_its_own_and_nothing_else(cluster, connected, namespace, tmp_path, gate, how):
    @ray.remote(num_cpus=0)
    class Mine:
        def answer(self):
            return 42

    mine = Mine.options(resources={"other": 0.1}).remote()
    assert ray.get(mine.answer.remote()) == 42
    code = f"""
    from support.gates import _guest as guest
    keepers = [Keeper.options(resources=there).remote() for there in ({{}}, {{"other": 0.1}})]
    @ray.remote
    def wait():
        guest({gate.path!r}).pass_through()
    waiting = [wait.remote() for _ in range(2)]
    print("pids", *ray.get([keeper.keep.remote(1) for keeper in keepers]), "end", flush=True)
    guest({gate.path!r}).pass_through()
    """
    with driver(cluster, namespace, code, tmp_path) as script:
        script.wait_for_output("end")
        pids = list(map(int, script.stdout.split("pids")[1].split("end")[0].split()))
        if how == "ends":
            gate.open()
        else:
            script.signal(signal.SIGKILL)
        wait_for(lambda: not any(map(is_alive, pids)), 10.0)
        script.popen.wait(10)
    assert ray.get(mine.answer.remote()) == 42
    wait_for(lambda: ray.available_resources().get("CPU") == 4.0, 10.0)


def test_driver_that_only_disconnects_leaves_the_cluster(cluster, connected):
    assert cluster.remaining_processes_alive()
    ray.shutdown()
    assert cluster.remaining_processes_alive()
    with ray.init(cluster.address) as context:
        assert context.address_info["address"] == cluster.address
        assert context.address_info["node_id"] == cluster.head_node.node_id
        assert len(ray.nodes()) == 2


def test_output_of_workers_goes_to_their_own_driver(cluster, connected, namespace, tmp_path, capfd):
    code = """
    @ray.remote(resources={"other": 0.1})
    def speak():
        print("said by the other job's worker")
    ray.get(speak.remote())
    """
    with driver(cluster, namespace, code, tmp_path) as script:
        done = script.finish()
    assert "said by the other job's worker" in done.output
    assert "said by" not in "".join(capfd.readouterr())


def test_modules_beside_a_driver_are_found_by_its_workers_only(cluster, namespace, tmp_path):
    for number in (1, 2):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "beside.py").write_text(f"NUMBER = {number}\n")
        code = """
        @ray.remote(resources={"other": 0.1})
        def read():
            import beside
            return beside.NUMBER
        print("number", ray.get(read.remote()))
        """
        with driver(cluster, namespace, code, folder) as script:
            assert f"number {number}" in script.finish().stdout


def test_environment_of_a_job_is_its_own(cluster, tmp_path):
    ray.shutdown()

    @ray.remote
    def read():
        import os

        return os.environ.get("OF_THE_JOB")

    for value in ("one", "two"):
        with ray.init(cluster.address, runtime_env={"env_vars": {"OF_THE_JOB": value}}):
            there = ray.get([read.options(resources={"other": amount}).remote() for amount in (0, 0.1)])
            assert there == [value, value]
