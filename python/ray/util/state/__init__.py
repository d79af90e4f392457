"""What the runtime is doing: questions about tasks, actors and objects while they live.

Example:
    >>> ref = slow.remote()
    >>> print(ray.util.state.explain(ref))
"""

from __future__ import annotations

from typing import Any

from ray._core import session
from ray._core.why import Explanation, subject_from_hex
from ray._core.why import explain as _explain
from ray._native import ObjectRef
from ray.actor import ActorHandle
from ray.exceptions import RaySystemError
from ray.util.placement_group import PlacementGroup

__all__ = ["Explanation", "explain"]


def explain(what: ObjectRef[Any] | ActorHandle[Any] | PlacementGroup | str | None = None) -> Explanation:
    """Say what something waits for, or what ended it, from the records that the engine itself decides from.

    Args:
        what: A reference, an actor's handle, a placement group, or the id in hex of an object, a task, an actor, a placement group or a worker. None: everything that runs or waits.

    Returns:
        The explanation; print it.

    Raises:
        RaySystemError: No session is running.
        TypeError: `what` is none of these.
        ValueError: `what` is a string and no id.
    """
    core = session.core
    if core is None:
        raise RaySystemError("explain() needs a running session\nhint: call ray.init() first")
    if what is None:
        return _explain(core, ("everything", None))
    if isinstance(what, ObjectRef):
        return _explain(core, ("object", what.binary()))
    if isinstance(what, ActorHandle):
        return _explain(core, ("actor", what._ray_ref.binary()))
    if isinstance(what, PlacementGroup):
        return _explain(core, ("group", what.id.binary()))
    if isinstance(what, str):
        return _explain(core, subject_from_hex(what, core.node_id))
    raise TypeError(f"explain() takes an ObjectRef, an actor's handle, a placement group or an id in hex, got {type(what).__name__}")
