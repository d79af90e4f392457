"""`ray.init` with a cluster that runs already: which one is meant, what may be said to it, and the connection to one of its nodes on this machine."""

from __future__ import annotations

import sys

from ray._core.config import env

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from ray._core.cluster.door import Door
    from ray._native import Core

PROCESS_SETTINGS = ("pending_calls_bytes", "pending_calls_patience_s")
"""Settings in `_system_config` that each process has for itself."""
WEIGHT = "job_weight"
"""Setting in `_system_config`: the job's share of what is scarce."""
ONE_SHARE = 100

_OF_A_NODE = ("num_cpus", "num_gpus", "resources", "labels", "object_store_memory")
_OF_A_NODE_PRIVATE = ("_memory", "_temp_dir", "object_spilling_directory")
_LONGEST_ENTRYPOINT = 1000


def check_address(address: Any, local_mode: bool) -> None:
    """Check the form of the argument `address`.

    Args:
        address: As given to `ray.init`.
        local_mode: As given to `ray.init`.

    Raises:
        TypeError: No string.
        ValueError: Local mode with the address of a cluster.
        NotImplementedError: A kind of address that is not built yet.
    """
    if address is not None and not isinstance(address, str):
        raise TypeError(f"address must be a string or None, got {type(address).__name__}")
    if local_mode and address not in (None, "", "local"):
        raise ValueError(f"local_mode=True runs everything in this process, so address={address!r} makes no sense\nhint: leave one of them out")


def job_weight(settings: Mapping[str, Any] | None) -> int:
    """Give the job's share of what is scarce.

    Args:
        settings: `_system_config`, or None.

    Raises:
        TypeError: It is no whole number.
        ValueError: It is below 1.
    """
    weight = (settings or {}).get(WEIGHT, ONE_SHARE)
    if isinstance(weight, bool) or not isinstance(weight, int):
        raise TypeError(f"_system_config[{WEIGHT!r}] must be a whole number, got {weight!r}")
    if weight < 1:
        raise ValueError(f"_system_config[{WEIGHT!r}] must be at least 1, got {weight}\nhint: {ONE_SHARE} is one share")
    return weight


def find(given: str | None) -> Door | None:
    """Find the node to connect to.

    Args:
        given: The argument `address` of `ray.init`.

    Returns:
        Its door. None: a new node is to be started.

    Raises:
        ValueError: The address has no known form.
        ConnectionError: There is no such node here.
        NotImplementedError: A kind of address that is not built yet.
    """
    address: str = given or env("RAY_ADDRESS")
    if address == "local":
        return None
    if address.startswith("ray://"):
        raise NotImplementedError(
            f"the remote client ({address}) is not available yet\nhint: start a node on this machine with ray start --address=HOST:PORT, then ray.init('auto')"
        )
    from ray._core.cluster.address import node_of_cluster, youngest_cluster

    if address:
        return node_of_cluster(address)
    try:
        return youngest_cluster(programs_own=False)
    except OSError:  # without /proc no cluster can be found, and none was asked for
        return None


def check_arguments(arguments: Mapping[str, Any], private: Mapping[str, Any], found: Door) -> None:
    """Refuse what only a node that is to be started could heed.

    Args:
        arguments: Checked named arguments of `ray.init`.
        private: Checked other arguments.
        found: The node to connect to.

    Raises:
        ValueError: Such an argument was given.
    """
    given = [name for name in _OF_A_NODE if arguments[name] is not None] + [name for name in _OF_A_NODE_PRIVATE if private.get(name) is not None]
    if given:
        raise ValueError(
            f"{', '.join(given)} can't be chosen when connecting to a cluster, here the one at {found.head}: its nodes are running\n"
            "hint: leave that out, or give it to ray start; ray.init('local', ...) starts a node of this program's own"
        )
    foreign = sorted(set(private.get("_system_config") or {}) - {WEIGHT, *PROCESS_SETTINGS})
    if foreign:
        raise ValueError(
            f"_system_config: {', '.join(foreign)} can't be chosen when connecting to a cluster, here the one at {found.head}\n"
            f"hint: give it to ray start --system-config; a job may have {', '.join([WEIGHT, *PROCESS_SETTINGS])}"
        )


def connect(found: Door, job: dict[str, Any], of_job: Mapping[str, str], private: Mapping[str, Any]) -> Core:
    """Connect as a driver.

    Args:
        found: The door of the node.
        job: What the engine needs to know of the program, see `launch.job_config`.
        of_job: Settings that the job has of its own.
        private: Checked arguments of `ray.init` beyond the named ones.

    Returns:
        The engine.

    Raises:
        ConnectionError: The node can't be reached, or refuses.
    """
    from ray import _native

    settings = private.get("_system_config") or {}
    config = {
        **job,
        "door": found.name,
        "settings": {**of_job, **{name: str(settings[name]) for name in PROCESS_SETTINGS if name in settings}},
        "entrypoint": _entrypoint(),
        "weight": job_weight(settings),
    }
    try:
        return _native.Core.connect(config)
    except RuntimeError as error:
        raise ConnectionError(str(error)) from None


def _entrypoint() -> str:
    import shlex

    return shlex.join(sys.orig_argv)[:_LONGEST_ENTRYPOINT]
