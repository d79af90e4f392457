"""Key-value pairs that the cluster keeps, under Ray's import path. Libraries leave small facts there."""

from __future__ import annotations

from ray._core import session

__all__ = [
    "_internal_kv_del",
    "_internal_kv_exists",
    "_internal_kv_get",
    "_internal_kv_initialized",
    "_internal_kv_list",
    "_internal_kv_put",
]


def _key(key: str | bytes, namespace: str | bytes | None) -> bytes:
    """Namespaces are parts of keys. Pairs without one are apart from all of them."""
    space, name = (part.encode() if isinstance(part, str) else part for part in (namespace or b"", key))
    return b"kv:%d:%b:%b" % (len(space), space, name)


def _internal_kv_initialized() -> bool:
    """Whether this process is connected."""
    return session.core is not None


def _internal_kv_get(key: str | bytes, *, namespace: str | bytes | None = None) -> bytes | None:
    """The value of a key; None if there is none."""
    return session.auto_init().kv_get(_key(key, namespace))


def _internal_kv_exists(key: str | bytes, *, namespace: str | bytes | None = None) -> bool:
    """Whether there is a value."""
    return session.auto_init().kv_exists(_key(key, namespace))


def _internal_kv_put(key: str | bytes, value: str | bytes, overwrite: bool = True, *, namespace: str | bytes | None = None) -> bool:
    """Keep a value. Whether the key existed before; without `overwrite` its value stays then."""
    return session.auto_init().kv_put(_key(key, namespace), value.encode() if isinstance(value, str) else value, overwrite)


def _internal_kv_del(key: str | bytes, *, del_by_prefix: bool = False, namespace: str | bytes | None = None) -> int:
    """Remove a key, or all that start with it. How many were removed."""
    return session.auto_init().kv_del(_key(key, namespace), del_by_prefix)


def _internal_kv_list(prefix: str | bytes, *, namespace: str | bytes | None = None) -> list[bytes]:
    """The keys that start with `prefix`."""
    start = len(_key(b"", namespace))
    return [key[start:] for key in session.auto_init().kv_keys(_key(prefix, namespace))]
