"""Where objects are: `ray.experimental.get_object_locations`."""

from __future__ import annotations

from ray import _native
from ray._core import session
from ray.exceptions import GetTimeoutError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

    from ray._native import Core, ObjectRef

    Location = dict[str, Any]


def get_object_locations(obj_refs: list[ObjectRef[Any]], timeout_ms: int = -1) -> dict[ObjectRef[Any], Location]:
    """Tell where objects are, as their owners know it.

    Args:
        obj_refs: References.
        timeout_ms: Kept for compatibility: an owner that does not answer within a second counts as one that knows nothing.

    Returns:
        For each: "node_ids" (hex), where it is in shared memory or on disk; none for one that is not ready, or so small that it stays with its owner.
        "object_size" in bytes, and "did_spill", whether it is on disk.

    Raises:
        RuntimeError: Not connected.
        GetTimeoutError: `timeout_ms` is 0: owners need a moment to answer.
    """
    if timeout_ms == 0:
        raise GetTimeoutError("object locations can't be asked for within 0 milliseconds")
    return _locations(obj_refs, local=False)


def get_local_object_locations(obj_refs: list[ObjectRef[Any]]) -> dict[ObjectRef[Any], Location]:
    """Tell where objects are, as far as this process knows without asking.

    Args:
        obj_refs: References.

    Returns:
        As `get_object_locations`; nothing is known of objects that other processes own.

    Raises:
        RuntimeError: Not connected.
    """
    return _locations(obj_refs, local=True)


def _locations(obj_refs: list[ObjectRef[Any]], local: bool) -> dict[ObjectRef[Any], Location]:
    core = session.core
    if core is None:
        raise RuntimeError("ray hasn't been initialized: object locations need a running session\nhint: call ray.init() first")
    if session.is_local():
        node, sizes = core.node_id.hex(), {raw: size for kind, raw, _, size in core.holdings() if kind == "object"}
        known = ((ref, ref.binary() in sizes, sizes.get(ref.binary(), 0)) for ref in obj_refs)
        return {ref: {"node_ids": [node] if here else [], "object_size": size, "did_spill": False} for ref, here, size in known}
    ids = {node["index"]: node["node_id"].hex() for node in core.nodes()}
    return {ref: _location(core, ref, ids, local) for ref in obj_refs}


def _location(core: Core, ref: ObjectRef[Any], ids: dict[int, str], local: bool) -> Location:
    found: Location = {"node_ids": [], "object_size": 0, "did_spill": False}
    owner = ref.owner_proc()
    if local and owner != core.proc_id:
        return found
    for fact in _native.ask_about(core, owner, ("object", ref.binary())) or []:
        if fact["fact"] == "stored":
            found["node_ids"] = [ids[fact["node"]]] if fact["node"] in ids else []
            found["object_size"], found["did_spill"] = fact["bytes"], fact["on_disk"]
    return found


def set_resource(resource_name: str, capacity: float, node_id: str | None = None) -> NoReturn:
    """Refuse to change what a running node offers.

    Args:
        resource_name: Name of a resource.
        capacity: How much of it there is to be.
        node_id: Of which node.

    Raises:
        DeprecationWarning: Always. Compat: Ray refuses it so, too.
    """
    raise DeprecationWarning(
        f"{resource_name} can't be set to {capacity!r} on {'this node' if node_id is None else node_id}: what a node offers is fixed when it starts"
        "\nhint: ray.init(resources=...) or ray start --resources=...; placement groups reserve what calls need together"
    )
