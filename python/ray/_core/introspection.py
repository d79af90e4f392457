"""`ray.nodes`, `ray.cluster_resources`, `ray.available_resources`: what the cluster consists of. And what this process keeps, for leak checks."""

from __future__ import annotations

from collections import namedtuple

from ray._core import session
from ray.exceptions import RaySystemError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ray._native import Core


def _connected(name: str) -> Core:
    """Give the engine. These calls do not start one: asking about a cluster that isn't there is a mistake."""
    if session.core is None:
        raise RaySystemError(session.why_lost() or f"ray.{name}() needs a running session\nhint: call ray.init() first")
    return session.core


def nodes() -> list[dict[str, Any]]:
    """Describe the nodes of the cluster, the dead ones too.

    Returns:
        For each, the head's own first, a dict with "NodeID" (hex), "Alive", "NodeManagerAddress", "NodeManagerHostname", "Resources", "Labels" and others.

    Raises:
        RaySystemError: Not connected.
    """
    from ray._core.cluster.facts import described

    return [described(node) for node in _connected("nodes").nodes()]


def cluster_resources() -> dict[str, float]:
    """Give the resources of all nodes together.

    Returns:
        Amount by resource name; memory in bytes.

    Raises:
        RaySystemError: Not connected.
    """
    return _connected("cluster_resources").resources()[0]


def available_resources() -> dict[str, float]:
    """Give the resources that nothing holds now.

    Returns:
        Amount by resource name; memory in bytes. A resource that is used up is left out.

    Raises:
        RaySystemError: Not connected.
    """
    available = _connected("available_resources").resources()[1]
    return {name: amount for name, amount in available.items() if amount > 0}


def timeline(filename: str | None = None) -> list[dict[str, Any]] | None:
    """Tell what ran where and when, as a trace that chrome://tracing and ui.perfetto.dev open.

    Each worker keeps its last calls, about 6,500, until its node ends; records cost a call less than 0.2 us. Compat: RAY_enable_timeline=0 and
    RAY_task_events_report_interval_ms=0 turn them off, `enable_task_events=False` for single functions, actors and methods.

    Args:
        filename: Where to write it, as JSON; None: it is returned.

    Returns:
        The events of the trace; None if they were written to a file.

    Raises:
        RuntimeError: Not connected.
        OSError: The file can't be written.

    Example:
        >>> ray.timeline("timeline.json")
    """
    core = session.core
    if core is None:
        raise RuntimeError(session.why_lost() or "ray.timeline() needs a running session\nhint: call ray.init() first")
    if session.is_local():
        local: Any = core
        events: list[dict[str, Any]] = local.timeline()
    else:
        from ray._core.cluster.timeline import timeline_of

        events = timeline_of(core)
    if filename is None:
        return events
    import json

    with open(filename, "w", encoding="utf-8") as file:
        json.dump(events, file)
    return None


def function_name(context: dict[str, Any]) -> str | None:
    """Name the function or method that runs, whatever the call itself is named.

    Args:
        context: Of the caller, as `Core.context` gives it.

    Returns:
        "module.function" or "Class.method"; None outside of calls.
    """
    if not context["in_task"]:
        return None
    if session.is_local():
        local: Any = session.core
        name: str | None = local.function_name()
        return name
    from ray._core.worker.main import function_name_of

    return function_name_of(context["payload"])


class Holding(namedtuple("Holding", ["kind", "id", "name", "size_bytes"])):
    """Something that this process keeps in the runtime: an "object", an "actor", or a "call" that has not ended."""

    def __str__(self) -> str:
        if self.kind == "object":
            return f"object {self.id} ({self.size_bytes:,} bytes)"
        if self.kind == "actor":
            return f"actor {self.name or 'of unknown class'} (handle {self.id})"
        return f"call {self.name}, not finished (task {self.id})"


def holdings() -> list[Holding]:
    """List what this process keeps of its own.

    Returns:
        Objects, living actors and unfinished calls; empty when not connected.
    """
    core = session.core
    if core is None:
        return []
    return [Holding(kind, raw.hex(), name or _actor_name(core, kind, raw), size) for kind, raw, name, size in core.holdings()]


def _actor_name(core: Core, kind: str, handle_id: bytes) -> str:
    """The class of an actor that has started: the node knows it."""
    if kind != "actor" or session.is_local():
        return ""
    from ray import _native

    facts = _native.ask_about(core, 0, ("actor", handle_id)) or []
    return next((fact["class_name"] for fact in facts if fact["fact"] == "actor"), "")
