"""The environment variables that the Python half of the core honours: RAY_* and what Python itself reads. Nothing else reads the environment for settings.

Read at the time of use, so that a program may set them before `ray.init`.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any


def _flag(text: str) -> bool:
    return text.strip().lower() not in ("", "0", "false", "no", "off")


def _whole(text: str, least: int) -> int:
    value = int(text)
    if value < least:
        raise ValueError(f"less than {least}")
    return value


def _share(text: str) -> float:
    value = float(text)
    if not 0 < value <= 1:
        raise ValueError("not above 0 and at most 1")
    return value


WORKER_SETTINGS: dict[str, tuple[Callable[[str], Any], str]] = {
    # name in `_system_config`, RAY_<name> in the environment: (parser, what it is)
    "actor_graceful_shutdown_timeout_ms": (lambda text: _whole(text, 1), "what an actor that ends in good order may still take; by default 30000"),
    "enable_timeline": (_flag, "record calls for ray.timeline(); on by default"),
    "enforce_memory_requests": (_flag, "end a worker that uses more memory than the memory= of what it runs; off by default, as in Ray"),
    "kill_child_processes_on_worker_exit": (_flag, "end what left a worker's session, too, when the worker ends; on by default"),
    "memory_limit_bytes": (lambda text: _whole(text, 1), "count the workers' private memory against this many bytes instead of looking at the machine"),
    "memory_monitor_refresh_ms": (lambda text: _whole(text, 0), "time between two looks at the memory; 0 turns the monitor off; by default 250"),
    "memory_usage_threshold": (_share, "part of the memory above which a worker is ended; by default 0.95"),
    "task_events_report_interval_ms": (lambda text: _whole(text, 0), "0: record no calls for ray.timeline(); any other value is as good as the next"),
    "task_oom_retries": (lambda text: _whole(text, -1), "retries, besides max_retries, of a task ended when memory was short; -1, the default: no limit"),
    "worker_growth_mb": (lambda text: _whole(text, 0), "replace an idle worker that grew by more; 0: never; by default 5 % of the memory, at least 512"),
}
"""Settings of the engine that concern what workers may do."""


def json_of(name: str) -> dict[str, Any]:
    """Read a variable of the table that holds a JSON object; empty if it is not set.

    Args:
        name: A name in the table.

    Raises:
        ValueError: It holds something else.
    """
    import json

    text = env(name)
    try:
        found = json.loads(text) if text else {}
    except ValueError as error:
        raise ValueError(f"the environment variable {name} holds no JSON: {error}") from None
    if not isinstance(found, dict):
        raise ValueError(f"the environment variable {name} must hold a JSON object, got {text!r}")
    return found


def worker_settings(given: Mapping[str, Any]) -> dict[str, str]:
    """Put together the settings that `_system_config` and the environment make; `_system_config` wins.

    Args:
        given: `_system_config`; names that are not in the table are left to others.

    Returns:
        Texts for the engine, without those that are not set.

    Raises:
        ValueError: A value can't be used.
    """
    found = {}
    for name, (parse, _) in WORKER_SETTINGS.items():
        variable = f"RAY_{name}"
        source, value = (f"_system_config[{name!r}]", given[name]) if name in given else (f"the environment variable {variable}", os.environ.get(variable))
        if value is None:
            continue
        try:
            parsed = parse(str(value))
        except ValueError as error:
            raise ValueError(f"{source} is {value!r}, which can't be used: {error}") from None
        found[name] = str(int(parsed) if isinstance(parsed, bool) else parsed)
    if env("RAY_DISABLE_MEMORY_MONITOR"):
        found.setdefault("memory_monitor_refresh_ms", "0")
    return found


def timeline_settings() -> dict[str, str]:
    """Give what of `worker_settings` is about the timeline, by the environment alone: each job decides for itself."""
    return {name: text for name, text in worker_settings({}).items() if name in ("enable_timeline", "task_events_report_interval_ms")}


_TABLE: dict[str, tuple[Callable[[str], Any], Any]] = {
    # name: (parser, default)
    "RAY_ADDRESS": (str, ""),  # cluster to connect to when `ray.init` gets no address
    "RAY_AUTH_MODE": (str, ""),  # "token", which is the default too; "disabled" is refused
    "RAY_AUTH_TOKEN": (str, ""),  # the secret that the nodes of a cluster share
    "RAY_AUTH_TOKEN_PATH": (str, ""),  # a file that holds it
    "RAY_JOB_CONFIG_JSON_ENV_VAR": (str, ""),  # a job's description as JSON, see `JobConfig.from_json`
    "RAY_LOGGING_CONFIG_ENCODING": (str, ""),  # "TEXT" or "JSON": how to log when `ray.init` gets no logging_config
    "RAY_LOCAL_MODE": (_flag, False),  # run tasks and actors in the driver's process when `ray.init` does not say
    "RAY_NAMESPACE": (str, ""),  # namespace when `ray.init` gets none
    "RAY_TMPDIR": (str, ""),  # where session folders go
    "RAY_DEDUP_LOGS": (_flag, True),  # show a line that several workers print once
    "RAY_DEDUP_LOGS_ALLOW_REGEX": (str, ""),  # lines in which this is found are always shown
    "RAY_DEDUP_LOGS_SKIP_REGEX": (str, ""),  # lines in which this is found are never shown
    "RAY_DEDUP_LOGS_AGG_WINDOW_S": (float, 5.0),  # seconds over which repeats are counted
    "RAY_DEFAULT_OBJECT_STORE_MAX_MEMORY_BYTES": (int, 0),  # size of the object store at most, when none is given; 0: no limit
    "RAY_DEFAULT_OBJECT_STORE_MEMORY_PROPORTION": (_share, 0.3),  # part of the memory for the object store, when no size is given
    "RAY_DISABLE_MEMORY_MONITOR": (_flag, False),  # the same as RAY_memory_monitor_refresh_ms=0
    "RAY_ENABLE_AUTO_CONNECT": (_flag, True),  # start a node at the first use without `ray.init`
    "RAY_LOG_TO_DRIVER": (_flag, True),  # print what workers print, when `ray.init` does not say
    "RAY_OVERRIDE_LABELS": (str, ""),  # JSON: labels of the node, over those that are given
    "RAY_OVERRIDE_RESOURCES": (str, ""),  # JSON: what the node offers, over what is given or found
    "RAY_TASK_MAX_RETRIES": (int, 3),  # retries of a task that says nothing of them
    "RAY_USE_MULTIPROCESSING_CPU_COUNT": (_flag, False),  # offer as many CPUs as the machine has, whatever control groups say
    "RAY_WARN_BLOCKING_GET_INSIDE_ASYNC": (_flag, True),  # warn when ray.get blocks the event loop of an async actor
    "RAY_WORKER_NICENESS": (int, 0),  # by so much workers are nicer than the node
    "PYTHONBREAKPOINT": (str, ""),  # Python's own: what `breakpoint()` calls
    "RAY_COLOR_PREFIX": (_flag, True),  # colour the "(name pid=..)" prefix on a terminal
    "RAY_CLOUD_INSTANCE_ID": (str, ""),  # the cloud's name of this machine
}


def env(name: str) -> Any:
    """Read one variable of the table.

    Args:
        name: A name in the table.

    Returns:
        The parsed value, or the default if the variable is not set.

    Raises:
        ValueError: The variable is set to something that can't be parsed.
    """
    parse, default = _TABLE[name]
    text = os.environ.get(name)
    if text is None:
        return default
    try:
        return parse(text)
    except ValueError:
        raise ValueError(f"the environment variable {name} is set to {text!r}, which can't be read as {parse.__name__}") from None
