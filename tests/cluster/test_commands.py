"""`ray start`, `ray stop` and `ray status` as a user types them, with a home folder, a temporary folder and ports of the test's own."""

import os
import signal
import subprocess
import sys

import pytest

import ray
from ray._core.cluster import address, door
from support import wait_for
from support.processes import is_alive, tree_pids
from support.scripts import Script, run_script

pytestmark = pytest.mark.limit(60)


class Machine:
    """Runs `ray` with an environment of its own, and ends what it started."""

    def __init__(self, home):
        self.home = home
        left_out = ("RAY_ADDRESS", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE", "RAY_NAMESPACE")
        self.env = {name: value for name, value in os.environ.items() if name not in left_out}
        self.env.update(HOME=str(home), RAY_TMPDIR=str(home))

    def ray(self, *arguments, timeout_s=30, **env):
        command = [sys.executable, "-m", "ray.scripts.scripts", *arguments]
        return subprocess.run(command, env={**self.env, **env}, cwd=self.home, capture_output=True, text=True, timeout=timeout_s)

    def head(self, *arguments):
        """Start a head at a port of its own; its address."""
        port = address.free_port("127.0.0.1")
        done = self.ray("start", "--head", f"--port={port}", "--node-ip-address=127.0.0.1", "--num-cpus=2", *arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        return f"127.0.0.1:{port}"

    def doors(self, head):
        return [one for one in door.clusters() if one.head == head]


@pytest.fixture
def machine(no_runtime, tmp_path, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if door.clusters():
        pytest.skip("ray stop would end somebody's cluster on this machine")
    made = Machine(tmp_path)
    yield made
    made.ray("stop", "--force")


def test_cluster_is_started_joined_used_seen_and_stopped(machine, tmp_path):
    head = machine.head("--resources", '{"first": 1}')
    joined = machine.ray("start", f"--address={head}", "--num-cpus=3", "--labels=zone=b")
    assert joined.returncode == 0, joined.stdout + joined.stderr
    assert [one.is_head for one in machine.doors(head)] == [True, False]
    code = """
    import ray
    ray.init()
    @ray.remote
    def where():
        return ray.get_runtime_context().get_node_id()
    here = {node["NodeID"]: node for node in ray.nodes()}
    there = ray.get(where.options(label_selector={"zone": "b"}).remote())
    print(ray.get_runtime_context().gcs_address, len(here), here[there]["Resources"]["CPU"], ray.cluster_resources()["CPU"])
    """
    done = run_script(code, cwd=tmp_path, env={"HOME": str(tmp_path), "RAY_ADDRESS": ""})
    assert done.stdout.split() == [head, "2", "3.0", "5.0"], done.output
    status = machine.ray("status", "-v")
    assert status.returncode == 0, status.stderr
    for text in ("Node status", "Active:", "Resources", "Total Usage:", " 0.0/5.0 CPU", " 0.0/1.0 first", "Pending Demands:"):
        assert text in status.stdout
    assert status.stdout.count("Node: 127.0.0.1") == 2
    pids = {pid for one in machine.doors(head) for pid in (door.pid_behind(one.name), *tree_pids(door.pid_behind(one.name)))}
    stopped = machine.ray("stop")
    assert stopped.returncode == 0, stopped.stdout + stopped.stderr
    assert stopped.stdout.count("stopped:") == 2
    wait_for(lambda: not any(map(is_alive, pids)), 5.0)
    assert machine.doors(head) == []
    assert machine.ray("status").returncode == 1


def test_head_makes_the_token_that_joining_needs(machine, tmp_path):
    head = machine.head()
    secret = (tmp_path / ".ray/auth_token").read_text().strip()
    assert machine.ray("get-auth-token").stdout.strip() == secret
    stranger = tmp_path / "stranger"
    stranger.mkdir()
    without = machine.ray("start", f"--address={head}", HOME=str(stranger))
    assert without.returncode == 1
    assert "there is no token" in without.stderr
    wrong = machine.ray("start", f"--address={head}", HOME=str(stranger), RAY_AUTH_TOKEN="x" * 32)
    assert wrong.returncode == 1
    assert "token" in wrong.stderr
    assert "Traceback" not in wrong.stderr
    right = machine.ray("start", f"--address={head}", HOME=str(stranger), RAY_AUTH_TOKEN=secret)
    assert right.returncode == 0, right.stderr
    assert secret not in right.stdout + right.stderr


def test_port_that_is_asked_for_and_taken_is_an_error(machine):
    head = machine.head()
    again = machine.ray("start", "--head", f"--port={head.split(':')[1]}", "--node-ip-address=127.0.0.1")
    assert again.returncode == 1
    assert "is taken" in again.stderr
    assert "hint:" in again.stderr


def test_joining_where_nobody_listens_fails_soon_and_says_so(machine):
    machine.ray("get-auth-token", "--generate")
    done = machine.ray("start", f"--address=127.0.0.1:{address.free_port('127.0.0.1')}", timeout_s=20)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "hint:" in done.stderr


@pytest.mark.parametrize(("number", "rc"), [(signal.SIGINT, 0), (signal.SIGTERM, 0), (None, 1)])
def test_blocking_start_stays_as_long_as_its_node(machine, tmp_path, number, rc):
    port = address.free_port("127.0.0.1")
    arguments = ["-m", "ray.scripts.scripts", "start", "--head", "--block", f"--port={port}", "--node-ip-address=127.0.0.1"]
    with Script(arguments, tmp_path, {"HOME": str(tmp_path), "RAY_TMPDIR": str(tmp_path)}) as script:
        script.wait_for_output("stays until the node ends")
        (own,) = machine.doors(f"127.0.0.1:{port}")
        daemon = door.pid_behind(own.name)
        if number is None:
            os.kill(daemon, signal.SIGKILL)
        else:
            script.signal(number)
        assert script.finish().rc == rc
    assert not is_alive(daemon)


def test_stop_ends_a_node_that_does_not_answer(machine):
    head = machine.head()
    (own,) = machine.doors(head)
    daemon = door.pid_behind(own.name)
    os.kill(daemon, signal.SIGSTOP)
    done = machine.ray("stop", "--grace-period=1")
    assert done.returncode == 0, done.stderr
    assert "did not end in time" in done.stdout
    assert not is_alive(daemon)


def test_stop_leaves_sessions_of_programs_alone(machine):
    ray.init("local", num_cpus=1)
    assert machine.ray("stop", "--force").returncode == 0
    assert ray.get(ray.put(1)) == 1
    assert ray.is_initialized()


def test_commands_that_start_nodes_leave_them_to_nobody(machine):
    """The node's parent is the system, and it has a session of its own: neither a closed terminal nor Ctrl-C reaches it."""
    head = machine.head()
    (own,) = machine.doors(head)
    daemon = door.pid_behind(own.name)
    assert os.getsid(daemon) == daemon
    assert is_alive(daemon)


def test_init_refuses_node_arguments_when_a_cluster_runs(machine):
    machine.head()
    with pytest.raises(ValueError, match="can't be chosen when connecting"):
        ray.init(num_cpus=1)
    with ray.init("local", num_cpus=1) as context:
        assert context.address_info["address"] == "local"
        assert ray.cluster_resources()["CPU"] == 1.0


def test_why_asks_standing_nodes_too(machine):
    machine.head()
    listed = machine.ray("why", "--list")
    assert listed.returncode == 0
    (session,) = [one.session for one in door.clusters()]
    assert session in listed.stdout.split()
    assert machine.ray("why", "--session", session).returncode == 0
