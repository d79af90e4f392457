"""Where in an object the part is that can't be pickled. Loaded only when pickling has failed."""

from __future__ import annotations

import functools
import io
import types

import cloudpickle

from ray._native import ObjectRef

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

_DEPTH_MAX = 12
_PARTS_MAX = 2_000


def explain(value: Any, error: BaseException) -> TypeError:
    """Make the error for a value that can't be pickled.

    Args:
        value: What was to be pickled.
        error: What pickle raised.

    Returns:
        A TypeError that names the path, the type found there and the cause.
    """
    path, culprit = _find(value, _name_of(value), 0, [_PARTS_MAX])
    where = f"{path} (a {type(culprit).__module__}.{type(culprit).__qualname__})" if culprit is not value else path
    return TypeError(
        f"could not serialize {where}: {type(error).__name__}: {error}\n"
        "hint: leave it out, make it inside the task or actor, or give its class a __reduce__ method"
    )


def _name_of(value: Any) -> str:
    if isinstance(value, dict) and value.get("kind") in ("function", "class"):
        return "payload"
    return getattr(value, "__name__", None) or f"<{type(value).__name__}>"


def _find(value: Any, path: str, depth: int, budget: list[int]) -> tuple[str, Any]:
    """Follow the first part that fails alone, down to the last one."""
    if depth >= _DEPTH_MAX:
        return path, value
    for step, part in parts(value):
        budget[0] -= 1
        if budget[0] <= 0:
            return path, value
        if not is_picklable(part):
            return _find(part, _join(path, step, part), depth + 1, budget)
    return path, value


def _join(path: str, step: str, part: Any) -> str:
    if path == "payload":
        return _name_of(part)
    return f"{path}{step}"


def parts(value: Any) -> Iterator[tuple[str, Any]]:
    """Give what is inside a value, each with the step that leads there: `["key"]`, `.attribute`, `.closure['name']`."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield f"[{key!r}]", item
            if not isinstance(key, (str, bytes, int, float)):
                yield f".key({key!r:.40})", key
    elif isinstance(value, (list, tuple, set, frozenset)):
        for index, item in enumerate(value):
            yield f"[{index}]", item
    elif isinstance(value, types.MethodType):
        yield ".__self__", value.__self__
        yield ".__func__", value.__func__
    elif isinstance(value, functools.partial):
        yield ".func", value.func
        yield ".args", value.args
        yield ".keywords", value.keywords
    elif hasattr(value, "__code__"):
        yield from _function_parts(value)
    elif isinstance(value, type):
        for name, item in vars(value).items():
            if not (name.startswith("__") and name.endswith("__")) or callable(item):
                yield f".{name}", item
    else:
        yield from _fields(value)


def _fields(value: Any) -> Iterator[tuple[str, Any]]:
    yield from ((f".{name}", item) for name, item in getattr(value, "__dict__", {}).items())
    for cls in type(value).__mro__:
        slots = cls.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if name not in ("__dict__", "__weakref__") and hasattr(value, name):
                yield f".{name}", getattr(value, name)


def _function_parts(function: Any) -> Iterator[tuple[str, Any]]:
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=False):
        try:
            yield f".closure[{name!r}]", cell.cell_contents
        except ValueError:
            continue  # a cell that is not filled yet holds nothing
    for name in function.__code__.co_names:
        if name in function.__globals__:
            yield f".globals[{name!r}]", function.__globals__[name]
    for index, default in enumerate(function.__defaults__ or ()):
        yield f".defaults[{index}]", default
    for name, default in (getattr(function, "__kwdefaults__", None) or {}).items():
        yield f".kwdefaults[{name!r}]", default


class _Probe(cloudpickle.Pickler):  # type: ignore[misc]  # cloudpickle has no types
    """Tries to pickle, for nobody to read."""

    def persistent_id(self, value: Any) -> str | None:
        """Leave references out: one that is pickled keeps its object for whoever reads the bytes."""
        return "ref" if type(value) is ObjectRef else None


def is_picklable(value: Any) -> bool:
    """Tell whether a value can be pickled by itself."""
    return not why_not(value)


def why_not(value: Any) -> str:
    """Say why a value can't be pickled, "" if it can."""
    try:
        _Probe(io.BytesIO(), protocol=5).dump(value)
    except Exception as error:  # whatever the user's own reduce raises: the question is only whether it works
        return str(error) or type(error).__name__
    return ""
