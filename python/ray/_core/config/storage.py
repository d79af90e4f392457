"""Spilled objects in storage that fsspec knows: buckets, HDFS, SSH hosts. Loaded only in sessions that spill there.

An object is one file, named after its owner and a number of the owner's. The owner writes it and removes it; whoever needs the value reads it.
What a killed process leaves is removed with the session's folder when the driver that started the session ends it.
The engine calls `write`, `read` and `remove` (crates/ray-py/src/storage.rs).
"""

from __future__ import annotations

import functools
import logging

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any


logger = logging.getLogger("ray")


def check(places: Sequence[str]) -> None:
    """Look whether objects can be written to places.

    Args:
        places: URIs such as "s3://bucket/folder".

    Raises:
        ImportError: fsspec, or the package that it needs for one of them, is not installed.
        ValueError: fsspec does not know the protocol of one of them.
    """
    for place in places:
        _filesystem(place)


@functools.cache
def _filesystem(place: str) -> tuple[Any, str]:
    """The file system of a URI, and the path in it."""
    try:
        from fsspec.core import url_to_fs
    except ImportError:
        raise ImportError(f"objects can be spilled to {place!r} only with fsspec\nhint: pip install fsspec, and what it needs for that protocol") from None
    filesystem, path = url_to_fs(place)
    return filesystem, path


def _file(folders: str, owner: int, number: int) -> tuple[Any, str]:
    """Folders take turns."""
    all_of_them = folders.split("\n")
    filesystem, path = _filesystem(all_of_them[number % len(all_of_them)])
    return filesystem, f"{path}/{owner:016x}-{number:x}"


def write(folders: str, owner: int, number: int, value: Any) -> None:
    """Write an object.

    Args:
        folders: The session's folders, one URI a line.
        owner: Number of its owner.
        number: A number that the owner uses once.
        value: Its bytes, as a buffer.
    """
    _announce(folders, owner)
    filesystem, path = _file(folders, owner, number)
    filesystem.makedirs(path.rpartition("/")[0], exist_ok=True)
    with filesystem.open(path, "wb") as file:
        view = memoryview(value)
        for start in range(0, len(view), _PART_BYTES):
            file.write(view[start : start + _PART_BYTES])


_PART_BYTES = 16 << 20


def read(folders: str, owner: int, number: int) -> bytes:
    """Read an object."""
    filesystem, path = _file(folders, owner, number)
    with filesystem.open(path, "rb") as file:
        found: bytes = file.read()
    return found


def remove(folders: str, owner: int, number: int) -> None:
    """Remove an object."""
    filesystem, path = _file(folders, owner, number)
    filesystem.rm_file(path)


def remove_all(folders: str) -> None:
    """Remove the session's folders, with whatever dead processes left in them. What can't be removed is told: the session ends all the same."""
    for folder in folders.split("\n"):
        try:
            filesystem, path = _filesystem(folder)
            if filesystem.exists(path):
                filesystem.rm(path, recursive=True)
        except Exception as error:  # of whatever package the storage is behind
            logger.warning("%s could not be removed: %s: %s\nhint: remove it by hand", folder, type(error).__name__, error)


def tell_of_failure(folders: str, error: BaseException) -> None:
    """Say that objects can't be written there: they go to the node's disk instead."""
    logger.warning("objects can't be spilled to %s and go to the disk of this node: %s: %s", _shown(folders), type(error).__name__, error)


def _shown(folders: str) -> str:
    return folders.replace("\n", ", ")


def read_for(folders: str | None, owner: int, number: int) -> bytes:
    """Read an object of an owner on this node or another one.

    Args:
        folders: Of this node; None: the owner is on another one, which has told the cluster where.
        owner: Number of the owner.
        number: Of the object.

    Raises:
        FileNotFoundError: It is gone.
    """
    return read(folders if folders is not None else _folders_of(_node_of(owner)), owner, number)


_KEY = b"spill_storage:%d"


def _node_of(owner: int) -> int:
    """The number of a process holds that of its node (crates/ray-proto/src/ids.rs)."""
    return (owner >> 24) & 0xFFFF


def _announce(folders: str, owner: int) -> None:
    """Tell the cluster where the owners of a node write to, once per process."""
    if folders not in _announced:
        _core().kv_put(_KEY % _node_of(owner), folders.encode(), False)
        _announced.add(folders)


_announced: set[str] = set()


def _folders_of(node: int) -> str:
    found: bytes | None = _core().kv_get(_KEY % node)
    if found is None:
        raise FileNotFoundError(f"node {node} has not told where it spills objects to")
    return found.decode()


def _core() -> Any:
    from ray._core import session

    return session.core
