"""Where in an object the part is that can't be pickled. Loaded only when pickling has failed."""

from __future__ import annotations

import cloudpickle

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
    for step, part in _parts(value):
        budget[0] -= 1
        if budget[0] <= 0:
            return path, value
        if not _picklable(part):
            return _find(part, _join(path, step, part), depth + 1, budget)
    return path, value


def _join(path: str, step: str, part: Any) -> str:
    if path == "payload":
        return _name_of(part)
    return f"{path}{step}"


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield f"[{key!r}]", item
    elif isinstance(value, (list, tuple, set, frozenset)):
        for index, item in enumerate(value):
            yield f"[{index}]", item
    elif hasattr(value, "__code__"):
        yield from _function_parts(value)
    elif isinstance(value, type):
        for name, item in vars(value).items():
            if not (name.startswith("__") and name.endswith("__")) or callable(item):
                yield f".{name}", item
    else:
        for name, item in getattr(value, "__dict__", {}).items():
            yield f".{name}", item


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


def _picklable(value: Any) -> bool:
    try:
        cloudpickle.dumps(value)
    except Exception:  # whatever the user's own reduce raises: the question is only whether it works
        return False
    return True
