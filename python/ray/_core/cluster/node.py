"""Starting a standing node: a daemon that outlives the process that starts it. For `ray start` and `ray.cluster_utils`."""

from __future__ import annotations

import dataclasses
import os
import sys

from ray._core import RAY_VERSION, launch
from ray._core.cluster import address, door
from ray._core.cluster.ending import daemon_behind, end
from ray._core.config import spilling

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

NAME_LABEL = "ray.io/node-name"
"""Where the name of a node stands that its user gave it."""
_CLUSTER_ID_BYTES = 28
_LOG_LINES = 20
_LOG_BYTES = 16_384
_PORT_ATTEMPTS = 5


@dataclasses.dataclass(frozen=True)
class NodeOptions:
    """What a node is to be. None and "": the default.

    Attributes:
        num_cpus: CPUs to offer.
        num_gpus: GPUs to offer.
        memory: Bytes to offer to calls.
        object_store_memory: Bytes of the object store.
        resources: Custom resources and their amounts.
        labels: Labels.
        name: Name of the node.
        system_config: Settings of the engine.
        temp_dir: Where the session folder goes.
        spilling_directory: Where objects go when the store is full.
        ip: Where other nodes reach this one.
        port: Where it listens; 0 for any port.
        is_port_exact: Fail if the port is taken, instead of using another.
        head: "ip:port" of the cluster to join; "" to be the head of a new one.
        token: The secret of the cluster.
        is_programs_own: A program starts it for itself.
        sys_path: Where the node's own Python looks for modules; jobs bring theirs.
    """

    num_cpus: int | None = None
    num_gpus: int | None = None
    memory: int | None = None
    object_store_memory: int | None = None
    resources: dict[str, float] | None = None
    labels: dict[str, str] | None = None
    name: str = ""
    system_config: dict[str, Any] = dataclasses.field(default_factory=dict)
    temp_dir: str | None = None
    spilling_directory: str | None = None
    ip: str = address.LOOPBACK
    port: int = 0
    is_port_exact: bool = False
    head: str = ""
    token: str = dataclasses.field(default="", repr=False)
    is_programs_own: bool = False
    sys_path: tuple[str, ...] = ()

    def check(self) -> None:
        """Check the values.

        Raises:
            TypeError: Wrong type.
            ValueError: Bad value.
            NotImplementedError: Not built yet.
        """
        launch.check_amounts(dataclasses.asdict(self))
        launch.check_labels(self.labels)
        launch.check_settings(self.system_config)
        spilling.check(self._private())
        if not address.is_own(self.ip):
            raise ValueError(f"{self.ip} is no address of this machine\nhint: leave it out, or name one that `ip addr` lists")

    def _private(self) -> dict[str, Any]:
        return {"_system_config": self.system_config, "object_spilling_directory": self.spilling_directory}

    def config(self, session_dir: str, port: int) -> dict[str, Any]:
        """Put together what the engine needs to start the node.

        Args:
            session_dir: The node's folder.
            port: Where it is to listen.

        Returns:
            The argument of `start_node`.
        """
        from ray import _native

        is_head = not self.head
        resources = launch.node_resources(dataclasses.asdict(self), self.ip, is_head)
        return {
            "python": sys.executable,
            "native_path": _native.__file__,
            "resources": resources,
            "labels": {**launch.node_labels(self.labels), **({NAME_LABEL: self.name} if self.name else {})},
            "object_store_memory": int(resources["object_store_memory"]),
            "session_dir": session_dir,
            "door": door.cluster_name(self.head or address.join(self.ip, port), is_head, os.path.basename(session_dir)),
            "settings": {**launch.engine_settings(self.system_config), **launch.spill_settings(self._private(), session_dir)},
            "sys_path": list(self.sys_path) or launch.import_path(),
            "ip": self.ip,
            "port": port,
            "head": self.head,
            "token": self.token.encode(),
            "cluster": os.urandom(_CLUSTER_ID_BYTES) if is_head else b"",
            "host": os.uname().nodename,
            "python_version": f"{sys.version_info.major}.{sys.version_info.minor}",
            "release": RAY_VERSION,
            "log": os.path.join(session_dir, "logs", "node.log"),
        }


@dataclasses.dataclass(frozen=True)
class StartedNode:
    """A standing node.

    Attributes:
        pid: Its daemon, a child of this process.
        node_id: In hex.
        address: "ip:port" where other nodes reach it.
        head: "ip:port" of the cluster's head.
        door: Name of its door.
        session_dir: Its folder.
        log: What the daemon itself says goes there.
    """

    pid: int
    node_id: str
    address: str
    head: str
    door: str
    session_dir: str
    log: str


def start(options: NodeOptions) -> StartedNode:
    """Start a node, and wait until it is a part of its cluster.

    Args:
        options: What it is to be.

    Raises:
        RuntimeError: It could not be started.
        TypeError: An option has the wrong type.
        ValueError: An option has a bad value.
        NotImplementedError: An option asks for what is not built yet.
    """
    launch.check_interpreter()
    options.check()
    session_dir = _make_session_dir(options)
    started = None
    try:
        started = _start_at_some_port(options, session_dir)
    finally:
        if started is None:
            remove_session_dir(session_dir)
    return started


def _start_at_some_port(options: NodeOptions, session_dir: str) -> StartedNode:
    """Start it. Its door says where the head listens, so a head's port is chosen first, and is chosen again if somebody takes it meanwhile."""
    from ray import _native

    for attempt in range(_PORT_ATTEMPTS):
        port = _port(options, attempt)
        config = options.config(session_dir, port)
        try:
            found = _native.start_node(config)
        except RuntimeError as error:
            was_taken = port and not options.is_port_exact and not address.is_free(options.ip, port)
            if was_taken and attempt + 1 < _PORT_ATTEMPTS:
                continue
            raise RuntimeError(_with_log(str(error), config["log"])) from None
        except KeyboardInterrupt:  # nobody would know of it
            _kill_behind(config["door"])
            raise
        return StartedNode(found["pid"], found["node_id"].hex(), found["address"], found["head"], config["door"], session_dir, config["log"])
    raise AssertionError("the last attempt returns or raises")


def _kill_behind(name: str) -> None:
    found = daemon_behind(name)
    if found is not None:
        end([found], "its start was interrupted", grace_s=0.0, force=True)
        found.close()


def _port(options: NodeOptions, attempt: int) -> int:
    wanted = options.port if attempt == 0 else 0
    if wanted and (address.is_free(options.ip, wanted) or options.is_port_exact):
        if not address.is_free(options.ip, wanted):
            raise RuntimeError(f"the port {wanted} of {options.ip} is taken\nhint: choose another with --port, or leave it out; ss -ltnp shows who has it")
        return wanted
    return 0 if options.head else address.free_port(options.ip)


def _make_session_dir(options: NodeOptions) -> str:
    path = launch.session_dir_path(options.temp_dir) + (door.PROGRAMS_OWN if options.is_programs_own else "")
    base = os.path.dirname(path)
    try:
        try:
            os.makedirs(base)
        except FileExistsError:
            pass
        else:
            if options.temp_dir is None:
                os.chmod(base, 0o1777)  # shared by the users of the machine, as its parent is
        os.mkdir(path, 0o700)
        os.mkdir(os.path.join(path, "logs"), 0o700)
    except OSError as error:
        raise RuntimeError(f"the node's folder {path} can't be made: {error.strerror}\nhint: name a folder for it with --temp-dir, or set RAY_TMPDIR") from None
    return path


def remove_session_dir(path: str) -> None:
    """Remove the folder of a node that has ended."""
    import shutil

    shutil.rmtree(path, ignore_errors=True)


def last_words(log: str) -> str:
    """Give the last lines of a daemon's log, "" if there are none."""
    try:
        with open(log, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _LOG_BYTES))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return ""
    return "\n".join(lines[-_LOG_LINES:]).strip()


def _with_log(text: str, log: str) -> str:
    words = last_words(log)
    return text if not words or words in text else f"{text}\nits last words:\n{words}"
