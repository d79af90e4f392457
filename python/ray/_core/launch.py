"""The steps of `ray.init`: check the arguments, look at the machine, start the engine. Loaded only when a driver starts."""

from __future__ import annotations

import atexit
import functools
import logging
import os
import sys
import time
from collections.abc import Iterator, Mapping

from ray._core import RAY_COMMIT, RAY_VERSION, host, session
from ray._core.calls.options import check_namespace
from ray._core.calls.strategies import NODE_ID_LABEL
from ray._core.cluster import accelerators, connecting, door
from ray._core.config import WORKER_SETTINGS, env, job, json_of, spilling, timeline_settings, worker_settings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TextIO

    from typing_extensions import Self

    from ray._core.cluster.door import Door
    from ray._core.config.job_config import JobConfig
    from ray._core.log_printer import LogPrinter
    from ray._native import Core

SETTINGS: frozenset[str] = frozenset(
    ["idle_worker_s", "infeasible_is_error", "stopped_is_dead", "warm_workers", *connecting.PROCESS_SETTINGS, *WORKER_SETTINGS]
)
"""Names that `_system_config` may hold: seconds before surplus idle workers end; whether a request that can never be met raises instead of staying
pending; bytes that the calls of a process may keep before submitting waits, and seconds without progress after which that raises
(docs/design/005); whether a worker stopped for 5 s counts as dead; workers kept ready; those of config. The daemon reads them
(crates/ray-node/src/event_loop.rs), and those of calls each process for itself (crates/ray-py/src/core.rs)."""

LOCAL_HOST = "127.0.0.1"
HEAD_RESOURCE = "node:__internal_head__"
_PRIVATE_ARGUMENTS = ("_memory", "_system_config", "_temp_dir", "object_spilling_directory")
_NOT_YET = {
    # argument: values that mean "not asked for"
    "enable_resource_isolation": (False,),
    "cgroup_path": (None,),
    "system_reserved_cpu": (None,),
    "system_reserved_memory": (None,),
}

logger = logging.getLogger("ray")


class BaseContext:
    """A connection to a cluster. Ends with the `with` block, or with `disconnect`.

    Attributes:
        dashboard_url: Address of the dashboard, "" if there is none.
        python_version: Version of Python, for example "3.11.7".
        ray_version: Version of Ray that this implementation follows.
        ray_commit: Source revision, "" if unknown.
    """

    def __init__(self, dashboard_url: str | None = "") -> None:
        self.dashboard_url = dashboard_url
        self.python_version = "{}.{}.{}".format(*sys.version_info[:3])
        self.ray_version = RAY_VERSION
        self.ray_commit = RAY_COMMIT

    def __enter__(self) -> Self:
        return self

    def __exit__(self, exc_type: object = None, exc_value: object = None, exc_traceback: object = None) -> None:
        self.disconnect()

    def disconnect(self) -> None:
        """Disconnect; a cluster that `ray.init` started ends."""
        session.shutdown()

    def __repr__(self) -> str:
        fields = ("dashboard_url", "python_version", "ray_version", "ray_commit")
        return f"{type(self).__name__}({', '.join(f'{name}={getattr(self, name)!r}' for name in fields)})"


class RayContext(BaseContext, Mapping[str, "Any"]):
    """The connection of a driver. Its addresses are in `address_info`; the mapping of the same is Ray's older way to them.

    Attributes:
        address_info: "address", "node_id", "session_dir" and others.
    """

    def __init__(self, address_info: dict[str, Any]) -> None:
        super().__init__(address_info.get("webui_url"))
        self.address_info = address_info

    def __getitem__(self, key: str) -> Any:
        return self.address_info[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.address_info)

    def __len__(self) -> int:
        return len(self.address_info)

    # A mapping is unhashable and compares by content; a connection is itself.
    def __hash__(self) -> int:
        return id(self)

    def __eq__(self, other: object) -> bool:
        return self is other


def check_arguments(arguments: dict[str, Any], private: dict[str, Any]) -> None:
    """Check the arguments of `ray.init`.

    Args:
        arguments: The named ones.
        private: The others.

    Raises:
        RuntimeError: Unknown, or no longer supported.
        TypeError: Wrong type.
        ValueError: Bad value.
        NotImplementedError: Not built yet.
    """
    unknown = [name for name in private if name not in _PRIVATE_ARGUMENTS]
    if unknown:
        raise RuntimeError(f"ray.init() has no argument {', '.join(unknown)}")
    if not isinstance(arguments["local_mode"], bool):
        raise TypeError(f"local_mode must be True or False, got {type(arguments['local_mode']).__name__}: {arguments['local_mode']!r}")
    connecting.check_address(arguments["address"], arguments["local_mode"])
    for name, unset in _NOT_YET.items():
        if arguments[name] not in unset:
            raise NotImplementedError(f"ray.init({name}=...) is not available yet")
    namespace = arguments["namespace"]
    if namespace is not None and not isinstance(namespace, str):
        raise TypeError(f"namespace must be None or a string, got {type(namespace).__name__}")
    check_namespace("namespace", namespace)
    job.check(arguments)
    check_amounts(arguments)
    check_labels(arguments["labels"])
    check_settings(private.get("_system_config"))
    spilling.check(private)


def check_amounts(arguments: Mapping[str, Any]) -> None:
    """Check what a node is to offer.

    Args:
        arguments: "num_cpus", "num_gpus", "object_store_memory" and "resources"; None: not given.

    Raises:
        TypeError: Wrong type.
        ValueError: Bad value.
    """
    for name in ("num_cpus", "num_gpus", "object_store_memory"):
        value = arguments[name]
        if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float))):
            raise TypeError(f"{name} must be a number or None, got {type(value).__name__}: {value!r}")
        if value is not None and (value < 0 or value != int(value)):
            raise ValueError(f"{name} must be a whole number and not negative, got {value!r}")
    store = arguments["object_store_memory"]
    if store is not None and store < host.OBJECT_STORE_MIN_BYTES:
        raise ValueError(f"object_store_memory is {store} bytes, but must be at least {host.OBJECT_STORE_MIN_BYTES}")
    resources = arguments["resources"]
    if resources is not None and not isinstance(resources, dict):
        raise TypeError(f"resources must be a dict or None, got {type(resources).__name__}")
    for name, amount in (resources or {}).items():
        if name in ("CPU", "GPU", "memory", "object_store_memory"):
            argument = {"CPU": "num_cpus", "GPU": "num_gpus", "memory": "_memory"}.get(name, name)
            raise AmountNameError(f"resources cannot hold {name!r}\nhint: use {argument}={amount!r}")
        if isinstance(amount, bool) or not isinstance(amount, (int, float)):
            raise TypeError(f"resources[{name!r}] must be a number, got {type(amount).__name__}")
        if amount < 0:
            raise ValueError(f"resources[{name!r}] must not be negative, got {amount!r}")


class AmountNameError(AssertionError, ValueError):
    """A built-in resource was given among the custom ones. Compat: Ray raises AssertionError here; ValueError is what it is."""


def check_labels(labels: Any) -> None:
    """Check the labels of a node.

    Raises:
        TypeError: Not a dict of strings.
        ValueError: A label that the runtime sets itself.
    """
    if labels is None:
        return
    if not isinstance(labels, dict) or not all(isinstance(part, str) for item in labels.items() for part in item):
        raise TypeError(f"labels must be a dict of str to str, got {labels!r}")
    if NODE_ID_LABEL in labels:
        raise ValueError(f"the label {NODE_ID_LABEL} is set by the runtime\nhint: use another name")


def check_settings(settings: Any) -> None:
    """Check `_system_config`.

    Raises:
        TypeError: Wrong type.
        ValueError: Unknown name or bad value.
    """
    if settings is None:
        return
    if not isinstance(settings, dict):
        raise TypeError(f"_system_config must be a dict, got {type(settings).__name__}")
    known = SETTINGS | spilling.SETTINGS | spilling.WITHOUT_EFFECT | {connecting.WEIGHT}
    for name in settings:
        if name not in known:
            raise ValueError(f"_system_config has no setting {name!r}\nhint: known settings: {', '.join(sorted(known))}")
    worker_settings(settings)
    connecting.job_weight(settings)


def start(arguments: dict[str, Any], private: dict[str, Any]) -> session.Session:
    """Connect to a cluster, or start a local node and connect to that.

    Args:
        arguments: Checked named arguments of `ray.init`.
        private: Checked other arguments.

    Returns:
        The running session.

    Raises:
        RuntimeError: The node did not start.
        ConnectionError: There is no such cluster, or it can't be reached.
        ValueError: An argument is for a node that is to be started, and there is one already.
    """
    if arguments["configure_logging"]:
        configure_logging(arguments["logging_level"], arguments["logging_format"])
    if arguments["include_dashboard"]:
        logger.warning("there is no dashboard yet: include_dashboard=True has no effect")
    arguments["local_mode"] = arguments["local_mode"] or env("RAY_LOCAL_MODE")
    if arguments["log_to_driver"] is None:
        arguments["log_to_driver"] = env("RAY_LOG_TO_DRIVER")
    own = job.settled(arguments)
    storage = ""
    found = None if arguments["local_mode"] else connecting.find(arguments["address"])
    if found is not None:
        connecting.check_arguments(arguments, private, found)
        engine = connecting.connect(
            found, job_config(arguments, own), {**timeline_settings(), **job.settings(own, os.path.join(sessions_folder(), found.session))}, private
        )
        info = _cluster_info(engine, found)
        logger.info("connected to the cluster at %s, through its node at %s", found.head, info["node_ip_address"])
    else:
        engine, info, storage = _start_node(arguments, private, own)
    printer = _start_printer(engine) if arguments["log_to_driver"] is not False and not arguments["local_mode"] else None
    _install_hooks()
    job.apply_logging(own.py_logging_config)
    return session.Session(engine, RayContext(info), printer, info["session_dir"], arguments, storage)


def _start_node(arguments: dict[str, Any], private: dict[str, Any], own: JobConfig) -> tuple[Core, dict[str, Any], str]:
    from ray import _native

    check_interpreter()
    config = engine_config(arguments, private, own, _native.__file__)
    engine = _local_engine(config) if arguments["local_mode"] else _native.Core.start(config)
    total = config["resources"]
    what = "local mode, everything in this process" if arguments["local_mode"] else f"session {config['session_dir']}"
    logger.info("started a local node: %g CPUs, %g GPUs, %s", total.get("CPU", 0), total.get("GPU", 0), what)
    return engine, _address_info(engine.node_id.hex(), config["session_dir"]), config["settings"].get("spill_storage", "")


def check_interpreter() -> None:
    """Refuse to start a node without knowing with what.

    Raises:
        RuntimeError: There is no path of an interpreter.
    """
    if not sys.executable:
        raise RuntimeError(
            "could not start ray: sys.executable is empty, and workers need a Python interpreter\nhint: set sys.executable to its path before ray.init()"
        )


def _start_printer(engine: Core) -> LogPrinter:
    from ray._core.log_printer import LogPrinter

    printer = LogPrinter(engine.next_log)
    try:
        printer.start()
    except RuntimeError as error:
        engine.shutdown(exiting=False)
        raise RuntimeError(
            f"could not start ray: no thread to print what workers say: {error}\n"
            "hint: end some processes or threads, or raise the limit with ulimit -u; in a container also its limit of pids counts"
        ) from None
    return printer


def _local_engine(config: dict[str, Any]) -> Core:
    """Start local mode. Its engine has the interface of the native one, which tests/unit/test_local_interface.py checks."""
    from ray._core.local.core import LocalCore

    lifetime = config["settings"].get("default_actor_lifetime", "non_detached")
    engine: Any = LocalCore(config["resources"], config["namespace"], config["job_env"], config["labels"], lifetime)
    return engine  # type: ignore[no-any-return]


def engine_config(arguments: dict[str, Any], private: dict[str, Any], own: JobConfig, native_path: str) -> dict[str, Any]:
    """Put together what the engine needs to start.

    Args:
        arguments: Checked named arguments of `ray.init`.
        private: Checked other arguments.
        own: What holds for the job.
        native_path: File of the extension module.

    Returns:
        The argument of `Core.start`.
    """
    session_dir = session_dir_path(private.get("_temp_dir"))
    resources = node_resources({**arguments, "memory": private.get("_memory")}, LOCAL_HOST, is_head=True)
    return {
        **job_config(arguments, own),
        "python": sys.executable,
        "native_path": native_path,
        "resources": resources,
        "labels": node_labels(arguments["labels"]),
        "object_store_memory": int(resources["object_store_memory"]),
        "session_dir": session_dir,
        "door": door.name_of(os.path.basename(session_dir)),
        "settings": {**engine_settings(private.get("_system_config") or {}), **spill_settings(private, session_dir), **job.settings(own, session_dir)},
    }


def job_config(arguments: Mapping[str, Any], own: JobConfig) -> dict[str, Any]:
    """Put together what the engine needs to know of this program.

    Args:
        arguments: Checked named arguments of `ray.init`.
        own: What holds for the job.

    Returns:
        The part of the argument of `Core.start` that `Core.connect` takes too.
    """
    return job.engine_config(own, import_path(), arguments["log_to_driver"] is not False)


def node_resources(offered: Mapping[str, Any], ip: str, is_head: bool) -> dict[str, float]:
    """Put together what a node offers.

    Args:
        offered: Checked "num_cpus", "num_gpus", "memory", "object_store_memory" and "resources"; None: what the machine has.
        ip: The node's.
        is_head: Whether it is the head's own node.

    Returns:
        Amounts above zero by resource name.
    """
    memory = host.memory_bytes()
    devices = accelerators.offered(os.environ)
    given = {"GPU": offered["num_gpus"], **(offered["resources"] or {})}
    for resource in accelerators.RESOURCES:
        if given.get(resource):
            accelerators.check_offer(resource, given[resource], os.environ)
    if given["GPU"] is None:
        given.pop("GPU")
    store = offered["object_store_memory"]
    found = {
        "CPU": host.available_cpus() if offered["num_cpus"] is None else offered["num_cpus"],
        **devices,
        "memory": offered["memory"] or int(memory * host.MEMORY_SHARE),
        "object_store_memory": _store_bytes(memory) if store is None else int(store),
        f"node:{ip}": 1,
        **({HEAD_RESOURCE: 1} if is_head else {}),
        **given,
        **json_of("RAY_OVERRIDE_RESOURCES"),
    }
    return {name: float(amount) for name, amount in found.items() if amount > 0}


def node_labels(given: Mapping[str, str] | None) -> dict[str, str]:
    """Put together the labels of a node.

    Args:
        given: Checked ones, or None.

    Raises:
        ValueError: RAY_OVERRIDE_LABELS holds no labels.
    """
    over = json_of("RAY_OVERRIDE_LABELS")
    if not all(isinstance(value, str) for value in over.values()):
        raise ValueError(f"the environment variable RAY_OVERRIDE_LABELS must map texts to texts, got {over!r}")
    return {**(given or {}), **over}


def _store_bytes(memory: int) -> int:
    size = int(memory * env("RAY_DEFAULT_OBJECT_STORE_MEMORY_PROPORTION"))
    return min(size, env("RAY_DEFAULT_OBJECT_STORE_MAX_MEMORY_BYTES") or size)


def engine_settings(given: dict[str, Any]) -> dict[str, str]:
    """Give the texts that the engine reads.

    Args:
        given: Checked `_system_config`.

    Returns:
        Its values but those about spilling, those of the environment, and where the control group of this process keeps its memory limit.
    """
    settings = {name: str(int(value) if isinstance(value, bool) else value) for name, value in given.items() if name in SETTINGS}
    folder = host.memory_cgroup()
    return {**settings, **worker_settings(given), **({"memory_cgroup": folder} if folder else {})}


def spill_settings(private: Mapping[str, Any], session_dir: str) -> dict[str, str]:
    """Give the texts about spilling that the engine reads, and say what of them has no effect.

    Args:
        private: Checked arguments of `ray.init` beyond the named ones.
        session_dir: The session's folder.
    """
    idle = sorted(spilling.WITHOUT_EFFECT & (private.get("_system_config") or {}).keys())
    if idle:
        logger.info("these settings have no effect in this engine: %s", ", ".join(idle))
    settings = spilling.engine_settings(private, session_dir)
    if settings.get("spill_folders") == "":
        logger.warning("no folder above %s can be written to: objects can't be spilled, and a full store is an error", session_dir)
    return settings


def import_path() -> list[str]:
    """Give `sys.path` for the workers: "" means this folder now, and what stands beside the script can be imported."""
    path = [_absolute("") if entry == "" else entry for entry in sys.path]
    script = getattr(sys.modules.get("__main__"), "__file__", None)
    if script:
        folder = _absolute(os.path.dirname(script))
        if folder not in path:
            path.insert(0, folder)
    return [entry for entry in dict.fromkeys(path) if entry is not None]


def _absolute(folder: str) -> str | None:
    try:
        return os.path.abspath(folder)
    except FileNotFoundError:  # the working directory has been removed: nothing can be imported from there
        return None


def session_dir_path(temp_dir: str | None) -> str:
    """Name the folder of a new session. Nothing is written there until something has to be, so a session that is killed leaves no folder behind.

    Args:
        temp_dir: Folder for sessions, None for the default.

    Returns:
        Its path.
    """
    base = temp_dir if temp_dir is not None else sessions_folder()
    stamp = time.strftime("%Y-%m-%d_%H-%M-%S", time.localtime())
    return os.path.join(_absolute(base) or base, f"session_{stamp}_{time.time_ns() // 1000 % 1_000_000:06d}_{os.getpid()}")


def sessions_folder() -> str:
    """Name the folder where folders of sessions go if nobody names another. One that belongs to somebody else is left to him."""
    folder = os.path.join(env("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp", "ray")
    try:
        owner = os.stat(folder).st_uid
    except OSError:
        return folder
    return folder if owner in (0, os.geteuid()) else f"{folder}-{os.geteuid()}"


def _cluster_info(engine: Core, found: Door) -> dict[str, Any]:
    from ray._core.cluster.address import split

    node_id = engine.node_id
    own = next((node["address"] for node in engine.nodes() if node["node_id"] == node_id), "") or found.head
    # A node with another folder does not tell where it is; only messages name it.
    return _address_info(node_id.hex(), os.path.join(sessions_folder(), found.session), split(own)[0], found.head)


def _address_info(node_id: str, session_dir: str, ip: str = LOCAL_HOST, head: str = "local") -> dict[str, Any]:
    return {
        "node_ip_address": ip,
        "redis_address": None,
        "object_store_address": None,
        "raylet_socket_name": None,
        "webui_url": "",
        "session_dir": session_dir,
        "metrics_export_port": None,
        "gcs_address": head,
        "address": head,
        "dashboard_agent_listen_port": None,
        "node_id": node_id,
    }


def note_reinit() -> None:
    """Log that `ray.init` was called again and did nothing."""
    logger.info("ray.init() was called again: using the running session")


class _StderrHandler(logging.StreamHandler):  # type: ignore[type-arg]  # generic since Python 3.11 only
    """Writes to whatever `sys.stderr` is at that moment: programs and test tools replace it."""

    @property
    def stream(self) -> TextIO:
        return sys.stderr

    @stream.setter
    def stream(self, value: TextIO) -> None:
        """Ignored: StreamHandler sets it once when made."""


def configure_logging(level: int | str, fmt: str | None) -> None:
    """Set up the logger named "ray": one handler on stderr, nothing passed on to the root logger.

    Args:
        level: Level as a number or a name in any case.
        fmt: Format of the lines, None for the default.

    Raises:
        ValueError: Unknown level.
    """
    logger.setLevel(level.upper() if isinstance(level, str) else level)
    handler = next((h for h in logger.handlers if isinstance(h, _StderrHandler)), None)
    if handler is None:
        handler = _StderrHandler()
        logger.addHandler(handler)
    handler.setFormatter(logging.Formatter(fmt or "%(asctime)s\t%(levelname)s %(filename)s:%(lineno)s -- %(message)s"))
    logger.propagate = False


@functools.cache
def _install_hooks() -> None:
    atexit.register(session.at_exit)
    os.register_at_fork(after_in_child=session.after_fork_in_child)
