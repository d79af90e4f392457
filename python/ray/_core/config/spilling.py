"""Settings of `ray.init` about spilling: where objects go when the store is full, and how much of the disk they may take.

What is spilled lives in files without a name (docs/design/010): no folder is made for it, and nothing is left behind by a process that is killed.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

SETTINGS: frozenset[str] = frozenset(
    [
        "automatic_object_spilling_enabled",
        "local_fs_capacity_threshold",
        "min_spilling_size",
        "object_spilling_config",
        "object_spilling_quota_bytes",
    ]
)
"""Names in `_system_config`: whether to spill (default yes); the part of a file system that may be in use (0.95); bytes to move at a time; folders, as Ray's
JSON text; bytes of disk that spilled objects may take (no limit). All but the last are Ray's."""

WITHOUT_EFFECT: frozenset[str] = frozenset(["max_fused_object_count", "max_io_workers", "object_spilling_threshold"])
"""Ray's settings about processes that spill and about spilling ahead of need: here each process spills for itself, when memory is asked for."""

_MOST_USED = 0.95  # Compat: Ray's default of local_fs_capacity_threshold


def check(private: Mapping[str, Any]) -> None:
    """Check what `ray.init` was given about spilling.

    Args:
        private: Its arguments beyond the named ones.

    Raises:
        TypeError: A setting has the wrong type.
        ValueError: A setting has a bad value.
        ImportError: Objects are to be spilled to a place that needs fsspec, and that is not installed.
    """
    settings = private.get("_system_config") or {}
    directory = private.get("object_spilling_directory")
    if directory is not None and not isinstance(directory, (str, os.PathLike)):
        raise TypeError(f"object_spilling_directory must be a path or None, got {type(directory).__name__}")
    for name in ("min_spilling_size", "object_spilling_quota_bytes"):
        value = settings.get(name, 0)
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"_system_config[{name!r}] must be a number of bytes, got {value!r}")
        if value < 0:
            raise ValueError(f"_system_config[{name!r}] must not be negative, got {value!r}")
    share = settings.get("local_fs_capacity_threshold", _MOST_USED)
    if isinstance(share, bool) or not isinstance(share, (int, float)):
        raise TypeError(f"_system_config['local_fs_capacity_threshold'] must be a number, got {share!r}")
    if not 0 < share <= 1:
        raise ValueError(f"_system_config['local_fs_capacity_threshold'] must be above 0 and at most 1, got {share!r}")
    if _configured(settings)[1]:
        from ray._core.config import storage

        storage.check(_configured(settings)[1])


def engine_settings(private: Mapping[str, Any], session_dir: str) -> dict[str, str]:
    """Put together what the daemon needs to know, and make folders that were named.

    Args:
        private: Checked arguments of `ray.init` beyond the named ones.
        session_dir: The session's folder, which need not exist.

    Returns:
        Settings of the engine.

    Raises:
        ValueError: A folder that was named can't be used.
    """
    settings = private.get("_system_config") or {}
    if not settings.get("automatic_object_spilling_enabled", True):
        return {}
    directory = private.get("object_spilling_directory")
    configured, places = _configured(settings)
    folders = [os.fspath(directory)] if directory else configured
    for folder in folders:
        _make(folder)
    found = {
        "spill_folders": "\n".join(os.path.abspath(folder) for folder in folders) or _nearest_folder(session_dir),
        "spill_most_used": str(settings.get("local_fs_capacity_threshold", _MOST_USED)),
    }
    if places:
        from uuid import uuid4

        found["spill_storage"] = "\n".join(f"{place.rstrip('/')}/ray-spilled-{uuid4().hex}" for place in places)
    if "min_spilling_size" in settings:
        found["spill_batch_bytes"] = str(settings["min_spilling_size"])
    if "object_spilling_quota_bytes" in settings:
        found["spill_quota_bytes"] = str(settings["object_spilling_quota_bytes"])
    return found


_PLACES = {"filesystem": "directory_path", "smart_open": "uri", "fsspec": "uri"}
"""Types in `object_spilling_config`, with the parameter that says where. The first is for folders; the others are for anything that fsspec can open."""


def _configured(settings: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Give the folders and the URIs that `object_spilling_config` names."""
    text = settings.get("object_spilling_config")
    if not text:
        return [], []
    import json

    if not isinstance(text, str):
        raise TypeError(f"_system_config['object_spilling_config'] must be a JSON text, got {type(text).__name__}\nhint: use json.dumps(...)")
    try:
        config = json.loads(text)
    except ValueError as error:
        raise ValueError(f"_system_config['object_spilling_config'] is no JSON text: {error}") from None
    kind = config.get("type") if isinstance(config, dict) else None
    if kind not in _PLACES:
        raise ValueError(f"object_spilling_config: type must be one of {', '.join(_PLACES)}, got {kind!r}")
    parameter = _PLACES[kind]
    places = (config.get("params") or {}).get(parameter)
    places = [places] if isinstance(places, str) else places
    if not isinstance(places, list) or not places or not all(isinstance(place, str) and place and "\n" not in place for place in places):
        raise ValueError(f"object_spilling_config: {parameter} must be a text or a list of texts, got {places!r}")
    return (places, []) if kind == "filesystem" else ([], places)


def _make(folder: str) -> None:
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise ValueError(f"objects can't be spilled to {folder!r}: {error.strerror}\nhint: name a folder that can be written to") from None


def _nearest_folder(path: str) -> str:
    """Give the folder itself or the nearest one above it that exists and can be written to."""
    while not (os.path.isdir(path) and os.access(path, os.W_OK | os.X_OK)):
        above = os.path.dirname(path)
        if above == path:
            return ""
        path = above
    return path
