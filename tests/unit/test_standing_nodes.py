"""Starting, finding, connecting to and ending nodes, with a process in place of the daemon: it opens a door, and ends when it is asked to."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import ray
from ray import _native
from ray._core.cluster import address, door, node
from ray._core.cluster.ending import Daemon, daemon_behind, end
from ray.cluster_utils import Cluster
from ray.scripts.scripts import cli

DAEMON = """
import os, signal, socket, sys
door, stubborn = sys.argv[1], sys.argv[2] == "1"
signal.signal(signal.SIGTERM, signal.SIG_IGN if stubborn else lambda *_: os._exit(0))
listener = socket.socket(socket.AF_UNIX)
listener.bind(b"\\0" + door.encode())
listener.listen()
while True:
    signal.pause()
"""
TOKEN = "0123456789abcdef"


class Engine:
    """Stands for what the extension module does."""

    def __init__(self) -> None:
        self.configs: list[dict[str, Any]] = []
        self.processes: list[subprocess.Popen[bytes]] = []
        self.stubborn = False
        self.refuse: Callable[[dict[str, Any]], str | None] = lambda config: None

    def start_node(self, config: dict[str, Any]) -> dict[str, Any]:
        json.dumps({key: value for key, value in config.items() if key not in ("token", "cluster")})
        self.configs.append(config)
        why = self.refuse(config)
        if why:
            raise RuntimeError(why)
        process = subprocess.Popen([sys.executable, "-c", DAEMON, config["door"], str(int(self.stubborn))], start_new_session=True)
        self.processes.append(process)
        while door.pid_behind(config["door"]) != process.pid:
            assert process.poll() is None
            time.sleep(0.001)
        own = address.join(config["ip"], config["port"] or 1000 + len(self.configs))
        return {
            "pid": process.pid,
            "node_id": len(self.configs).to_bytes(28, "big"),
            "index": len(self.configs) - 1,
            "address": own,
            "head": config["head"] or own,
            "cluster": config["cluster"],
        }

    def stop_node(self, name: str, reason: str) -> None:
        assert reason
        pid = door.pid_behind(name)
        if not pid:
            raise RuntimeError("nobody is there")
        os.kill(pid, signal.SIGTERM)

    def nodes(self) -> list[dict[str, Any]]:
        return [
            {
                "index": at,
                "node_id": (at + 1).to_bytes(28, "big"),
                "address": "127.0.0.1:5000",
                "host": "h",
                "total": config["resources"],
                "available": config["resources"],
                "labels": config["labels"],
                "death": "" if self.processes[at].poll() is None else "it was killed",
                "waiting": 0,
                "store_used": 0,
            }
            for at, config in enumerate(self.configs)
        ]

    def core(self) -> type:
        engine = self

        class Core:
            node_id = (1).to_bytes(28, "big")
            connected: dict[str, Any] = {}

            @classmethod
            def connect(cls, config: dict[str, Any]) -> "Core":
                cls.connected = config
                return cls()

            @classmethod
            def observe(cls, name: str) -> "Core":
                assert door.pid_behind(name)
                return cls()

            def nodes(self) -> list[dict[str, Any]]:
                return engine.nodes()

            def shutdown(self, exiting: bool) -> None:
                pass

            def next_log(self) -> None:
                return None

        return Core


@pytest.fixture(autouse=True)
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    made = Engine()
    for name in ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_LOCAL_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.setattr(_native, "start_node", made.start_node, raising=False)
    monkeypatch.setattr(_native, "stop_node", made.stop_node, raising=False)
    monkeypatch.setattr(_native, "Core", made.core())
    # Nodes of whoever runs the tests are none of theirs.
    others = {one.name for one in door.clusters()}
    clusters = door.clusters
    monkeypatch.setattr(door, "clusters", lambda: [one for one in clusters() if one.name not in others])
    ray.shutdown()
    yield made
    ray.shutdown()
    for process in made.processes:
        process.kill()
        process.wait()


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments)


def start(**options: Any) -> node.StartedNode:
    return node.start(node.NodeOptions(**{"token": TOKEN, "num_cpus": 1, **options}))


# ray start


def test_head_is_started_with_what_was_said(engine: Engine, tmp_path: Path) -> None:
    port = address.free_port("127.0.0.1")
    done = run(
        *["start", "--head", f"--port={port}", "--node-ip-address=localhost", "--num-cpus=3", "--num-gpus=1", "--memory=1000", "--node-name=n"],
        *["--object-store-memory=100000000", '--resources={"a": 2}', "--labels=zone=b", '--system-config={"idle_worker_s": 5}', "--dashboard-port=1"],
    )
    assert done.exit_code == 0, done.output
    (config,) = engine.configs
    secret = (tmp_path / "home/.ray/auth_token").read_text().strip()
    assert config["resources"] == {
        "CPU": 3.0,
        "GPU": 1.0,
        "memory": 1000.0,
        "object_store_memory": 1e8,
        "a": 2.0,
        "node:127.0.0.1": 1.0,
        "node:__internal_head__": 1.0,
    }
    assert (config["ip"], config["port"], config["head"], config["token"]) == ("127.0.0.1", port, "", secret.encode())
    assert (config["labels"], len(config["cluster"]), config["settings"]["idle_worker_s"]) == ({"zone": "b", node.NAME_LABEL: "n"}, 28, "5")
    found = door.parse(config["door"])
    assert (found.head, found.is_head, found.is_programs_own) == (f"127.0.0.1:{port}", True, False)
    assert Path(config["log"]).parent.is_dir()
    assert Path(config["session_dir"]).stat().st_mode & 0o777 == 0o700
    assert secret not in done.output
    for text in (f"ray start --address='127.0.0.1:{port}'", "ray.init()", "ray stop", "auth_token", "without effect, there is no dashboard yet"):
        assert text in done.output


def test_default_port_is_used_if_free_and_another_if_not(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(address, "is_free", lambda ip, port: port != address.DEFAULT_PORT)
    assert run("start", "--head").exit_code == 0
    assert engine.configs[0]["port"] not in (0, address.DEFAULT_PORT)
    done = run("start", "--head", f"--port={address.DEFAULT_PORT}")
    assert done.exit_code == 1
    assert f"the port {address.DEFAULT_PORT}" in done.output
    assert len(engine.configs) == 1


def test_port_that_is_taken_meanwhile_is_chosen_again(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: set[int] = set()

    def refuse(config: dict[str, Any]) -> str | None:
        if len(engine.configs) > 2:
            return None
        taken.add(config["port"])
        return "address in use"

    engine.refuse = refuse
    monkeypatch.setattr(address, "is_free", lambda ip, port: port not in taken)
    assert start(port=address.DEFAULT_PORT).pid
    assert len({config["port"] for config in engine.configs}) == 3


def test_node_that_does_not_start_says_why_with_its_last_words_and_leaves_no_folder(engine: Engine, tmp_path: Path) -> None:
    def refuse(config: dict[str, Any]) -> str:
        Path(config["log"]).write_text("first\nlast word\n")
        return "the node did not start"

    engine.refuse = refuse
    done = run("start", "--head")
    assert done.exit_code == 1
    assert "the node did not start\nits last words:\nfirst\nlast word" in done.output
    assert list((tmp_path / "ray").iterdir()) == []


def test_node_joins_by_any_name_of_a_head_on_this_machine(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    port = address.free_port("127.0.0.1")
    assert run("start", "--head", f"--port={port}", "--node-ip-address=127.0.0.1").exit_code == 0
    for text in (f"localhost:{port}", f"127.0.0.1:{port}", "auto"):
        done = run("start", f"--address={text}")
        assert done.exit_code == 0, done.output
        config = engine.configs[-1]
        assert (config["head"], config["ip"], config["cluster"], config["port"]) == (f"127.0.0.1:{port}", "127.0.0.1", b"", 0)
        assert door.parse(config["door"])[2:] == (f"127.0.0.1:{port}", False)
        assert "node:__internal_head__" not in config["resources"]
        assert f"a part of the cluster at 127.0.0.1:{port}" in done.output


def test_joining_without_a_token_says_where_to_put_it() -> None:
    done = run("start", "--address=127.0.0.1:1")
    assert done.exit_code == 1
    assert "there is no token" in done.output
    assert "~/.ray/auth_token" in done.output


def test_blocking_start_ends_with_its_node_and_tells_how(engine: Engine, tmp_path: Path) -> None:
    code = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_standing_nodes import Engine
from ray import _native
engine = Engine()
_native.start_node, _native.stop_node = engine.start_node, engine.stop_node
from ray.scripts.scripts import cli
cli(["start", "--head", "--block"])
"""
    for number, rc, text in [(signal.SIGTERM, 0, "as it was asked to"), (signal.SIGKILL, 1, "by itself (signal 9)")]:
        with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as command:
            os.kill(_daemon_of(command), number)
            output, _ = command.communicate(timeout=20)
            assert command.returncode == rc, output
            assert text in output
    heeded = [number for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP) if signal.getsignal(number) is not signal.SIG_IGN]  # under nohup
    for number in heeded:
        with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as command:
            pid = _daemon_of(command)
            command.send_signal(number)
            output, _ = command.communicate(timeout=20)
            assert command.returncode == 0, output
            assert "The node has ended." in output
            assert not Path(f"/proc/{pid}").exists()


def _daemon_of(command: "subprocess.Popen[str]") -> int:
    """Read what a blocking command says until it stays; the pid that it names."""
    assert command.stdout is not None
    pid = 0
    for line in command.stdout:
        if "(pid " in line:
            pid = int(line.split("(pid ")[1].split(")")[0])
        if "stays until the node ends" in line:
            return pid
    raise AssertionError("it ended")


@pytest.mark.skipif(os.geteuid() != 0, reason="gives a folder away")
def test_folder_of_another_user_is_left_to_him(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "ray").mkdir(0o777)
    os.chown(tmp_path / "ray", 12345, 12345)
    assert Path(start().session_dir).parent == tmp_path / f"ray-{os.geteuid()}"


# Ending


def test_stop_ends_the_nodes_the_head_last_and_tells_them(engine: Engine) -> None:
    head = start()
    start(head=head.head)
    plain = subprocess.Popen([sys.executable, "-c", DAEMON, door.name_of("session_2099-01-01_00-00-00_000000_1"), "0"])
    engine.processes.append(plain)
    done = run("stop")
    assert done.exit_code == 0, done.output
    lines = done.output.splitlines()
    assert [line.split(" of the")[0] for line in lines] == ["stopped: a node", "stopped: the head"]
    assert door.clusters() == []
    assert plain.poll() is None
    assert run("stop").output == "no node of yours runs on this machine\n"


@pytest.mark.parametrize(("arguments", "word"), [(("--force",), "killed: the head"), (("--grace-period=0",), "did not end in time")])
def test_stop_kills_what_does_not_listen(engine: Engine, arguments: tuple[str, ...], word: str) -> None:
    engine.stubborn = True
    head = start()
    done = run("stop", *arguments)
    assert done.exit_code == 0, done.output
    assert word in done.output
    assert not door.pid_behind(head.door)


def test_stopped_daemon_is_killed_too(engine: Engine) -> None:
    head = start()
    os.kill(head.pid, signal.SIGSTOP)
    daemon = daemon_behind(head.door)
    assert daemon is not None
    assert end([daemon], "test", 0.0) == [daemon]
    assert not daemon.is_alive()
    assert daemon.status == -signal.SIGKILL


def test_daemon_that_is_gone_is_no_error() -> None:
    assert daemon_behind(door.name_of("session_gone")) is None
    process = subprocess.Popen(["true"])
    process.wait()
    gone = Daemon(process.pid, "x")
    assert gone.wait(None)
    gone.kill()
    gone.close()


# ray.init


def test_init_connects_to_the_running_cluster(engine: Engine) -> None:
    head = start(port=5000, labels={"zone": "a"}, name="first")
    start(head=head.head)
    with ray.init(namespace="space", runtime_env={"env_vars": {"A": "1"}}, _system_config={"job_weight": 7}, log_to_driver=False) as context:
        config = _native.Core.connected
        assert (config["door"], config["namespace"], config["weight"], config["log_to_driver"]) == (head.door, "space", 7, False)
        assert json.loads(config["job_env"]) == {"env_vars": {"A": "1"}}
        assert list(config["settings"]) == ["session_dir"]
        assert "pytest" in config["entrypoint"]
        assert context.address_info["address"] == context.address_info["gcs_address"] == head.head
        assert (context["node_id"], context["node_ip_address"], context["session_dir"]) == (head.node_id, "127.0.0.1", head.session_dir)
        assert ray.get_runtime_context().gcs_address == head.head
        first, second = ray.nodes()
        assert (first["NodeID"], first["NodeName"], first["Alive"], first["NodeManagerPort"]) == (head.node_id, "first", True, 5000)
        assert first["Labels"] == {"zone": "a", "ray.io/node-id": head.node_id}
        assert second["NodeName"] == "127.0.0.1"
        engine.processes[1].kill()
        engine.processes[1].wait()
        dead = ray.nodes()[1]
        assert (dead["Alive"], dead["alive"], dead["Resources"], dead["DeathReasonMessage"]) == (False, False, {}, "it was killed")
    assert engine.processes[0].poll() is None


@pytest.mark.parametrize("how", ["auto", "address", "RAY_ADDRESS"])
def test_init_connects_to_the_address(monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    head = start(is_programs_own=True)
    if how == "RAY_ADDRESS":
        monkeypatch.setenv("RAY_ADDRESS", head.head)
    ray.init(None if how == "RAY_ADDRESS" else head.head if how == "address" else "auto")
    assert _native.Core.connected["door"] == head.door
    ray.shutdown()


@pytest.mark.parametrize(
    "arguments",
    [
        {"num_cpus": 1},
        {"num_gpus": 0},
        {"resources": {}},
        {"labels": {"a": "b"}},
        {"object_store_memory": 100_000_000},
        {"_memory": 1},
        {"object_spilling_directory": "/tmp"},
        {"_system_config": {"idle_worker_s": 1}},
    ],
)
def test_init_refuses_what_only_a_new_node_could_heed(arguments: dict[str, Any]) -> None:
    start()
    with pytest.raises(ValueError, match=r"can't be chosen when connecting to a cluster"):
        ray.init(**arguments)
    assert not ray.is_initialized()


def test_job_settings_may_be_given_when_connecting() -> None:
    start()
    ray.init(_system_config={"pending_calls_bytes": 1000, "job_weight": 1})
    assert _native.Core.connected["settings"]["pending_calls_bytes"] == "1000"
    assert _native.Core.connected["weight"] == 1


@pytest.mark.parametrize(("weight", "error"), [(0, ValueError), (-1, ValueError), (1.5, TypeError), ("1", TypeError), (True, TypeError)])
def test_bad_weight_is_refused(weight: object, error: type[Exception]) -> None:
    with pytest.raises(error, match="job_weight"):
        ray.init("local", _system_config={"job_weight": weight})


@pytest.mark.parametrize(
    ("address", "error", "said"),
    [
        ("auto", ConnectionError, "ray start --head"),
        ("127.0.0.1:9", ConnectionError, "ray start --head"),
        ("198.51.100.7:9", ConnectionError, "ray start --address=198.51.100.7:9"),
        ("nonsense", ValueError, "no address"),
        ("ray://a:1", NotImplementedError, "not available yet"),
        (5, TypeError, "must be a string"),
    ],
)
def test_init_with_an_address_where_nothing_is_says_what_to_do(address: Any, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        ray.init(address)


def test_local_mode_looks_for_no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    start()
    ray.init(local_mode=True, labels={"a": "b"})
    (only,) = ray.nodes()
    assert (only["Alive"], only["Labels"]["a"], only["NodeManagerAddress"]) == (True, "b", "127.0.0.1")
    assert ray.get_runtime_context().get_node_labels()["a"] == "b"
    ray.shutdown()
    with pytest.raises(ValueError, match="makes no sense"):
        ray.init("auto", local_mode=True)


def test_refusal_of_the_node_is_a_connection_error(monkeypatch: pytest.MonkeyPatch) -> None:
    start()

    def refuse(config: dict[str, Any]) -> None:
        raise RuntimeError("the node is ending")

    monkeypatch.setattr(_native.Core, "connect", refuse)
    with pytest.raises(ConnectionError, match="the node is ending"):
        ray.init()


# ray.cluster_utils


def test_cluster_of_a_program_is_started_changed_and_ended(engine: Engine) -> None:
    cluster = Cluster(initialize_head=True, connect=True, head_node_args={"num_cpus": 2, "resources": {"a": 1}})
    assert cluster.head_node is not None
    assert cluster.address == cluster.gcs_address == cluster.head_node.address
    assert engine.configs[0]["resources"]["CPU"] == 2.0
    assert engine.configs[0]["ip"] == "127.0.0.1"
    assert ray.is_initialized()
    first, second = cluster.add_node(), cluster.add_node(num_cpus=0, env_vars={"A": "1"})
    assert len({config["token"] for config in engine.configs}) == 1
    assert {config["head"] for config in engine.configs[1:]} == {cluster.address}
    assert [first.node_id == first.unique_id, len(first.node_id), first.head] == [True, 56, False]
    assert cluster.worker_nodes == {first, second}
    assert cluster.list_all_nodes()[0] is cluster.head_node
    cluster.wait_for_nodes()
    with pytest.raises(RuntimeError, match="connected to that node"):
        cluster.remove_node(cluster.head_node)
    cluster.remove_node(first)
    assert engine.processes[1].poll() == 0
    cluster.remove_node(second, allow_graceful=False)
    assert not Path(f"/proc/{second.pid}").exists()
    with pytest.raises(ValueError, match="removed before"):
        cluster.remove_node(second)
    cluster.wait_for_nodes()
    assert cluster.remaining_processes_alive()
    folder = Path(cluster.head_node.get_session_dir_path())
    assert folder.is_dir()
    ray.shutdown()
    cluster.shutdown()
    cluster.shutdown()
    assert door.clusters() == []
    assert not folder.exists()
    assert cluster.gcs_address is None


def test_cluster_that_differs_from_its_list_is_told_after_the_timeout(engine: Engine) -> None:
    cluster = Cluster(initialize_head=True)
    lost = cluster.add_node()
    lost.kill_raylet()
    engine.processes[1].wait()
    with pytest.raises(TimeoutError, match=r"2 nodes.*after 0.05 s; it lists 1"):
        cluster.wait_for_nodes(timeout=0.05)
    with pytest.raises(RuntimeError, match="has ended already"):
        lost.kill_raylet()
    cluster.shutdown()


def test_cluster_refuses_what_it_does_not_know() -> None:
    with pytest.raises(RuntimeError, match="no head yet"):
        Cluster(connect=True)
    cluster = Cluster()
    with pytest.raises(RuntimeError, match="has no head"):
        cluster.address  # noqa: B018
    with pytest.raises(ValueError, match="no argument nonsense"):
        cluster.add_node(nonsense=1)
    with pytest.raises(TypeError):
        cluster.add_node(num_cpus="1")


def test_forks_of_the_program_leave_its_cluster_alone(engine: Engine) -> None:
    cluster = Cluster(initialize_head=True)
    pid = os.fork()
    if pid == 0:
        cluster.shutdown()
        os._exit(0)
    os.waitpid(pid, 0)
    assert cluster.remaining_processes_alive()
    cluster.shutdown()
