"""What keeps an object from being serialized: a search through it, printed as a tree."""

from __future__ import annotations

import re
import sys
from typing import Any, TextIO

from ray._core.pickle_path import is_picklable, parts, why_not

__all__ = ["FailureTuple", "inspect_serializability"]

_WIDTH = 78
_TRIED_MAX = 2_000


class FailureTuple:
    """Something that can't be serialized, with nothing inside of it to blame.

    Attributes:
        obj: The object.
        path: The steps that lead to it, the name of the object that was inspected first.
        parent: What holds it.
    """

    def __init__(self, obj: Any, path: tuple[str, ...], parent: Any) -> None:
        self.obj = obj
        self.path = path
        self.parent = parent

    @property
    def name(self) -> str:
        """The last step of the path."""
        return self.path[-1]

    def __repr__(self) -> str:
        return f"FailTuple({self.name} [path={' -> '.join(self.path)}, obj={self.obj!r}, parent={self.parent!r}])"


_QUOTED = re.compile(r"\['(.*)'\]$")


def _name(step: str) -> str:
    """The bare name of a step: `lock` of `.closure['lock']` and of `.lock`."""
    quoted = _QUOTED.search(step)
    return quoted.group(1) if quoted else step.lstrip(".")


class _Inspection:
    """One search. Objects that were looked at already are not looked at again."""

    def __init__(self, out: TextIO) -> None:
        self.out = out
        self.failures: list[FailureTuple] = []
        self._seen: set[int] = set()
        self._tried = 0

    def say(self, text: str, level: int = 0) -> None:
        self.out.write("    " * level + text + "\n")

    def look(self, value: Any, path: tuple[str, ...], parent: Any, depth: int) -> None:
        """`value` fails: name what inside of it does, down to `depth` steps."""
        level = len(path) - 1
        self.say(f"!!! FAIL serialization: {why_not(value)}", level)
        found = False
        for step, part in parts(value) if depth > 0 else ():
            self._tried += 1
            if self._tried > _TRIED_MAX:
                break
            if is_picklable(part):
                continue
            found = True
            if id(part) in self._seen:
                continue
            self._seen.add(id(part))
            self.say(f"Serializing {step!r} {part!r:.200}...", level + 1)
            self.look(part, (*path, _name(step)), value, depth - 1)
        if not found:
            self.failures.append(FailureTuple(value, path, parent))


def inspect_serializability(base_obj: Any, name: str | None = None, depth: int = 3, print_file: Any = None) -> tuple[bool, set[FailureTuple]]:
    """Find out what keeps an object from being serialized.

    Args:
        base_obj: A function, a class, or any other object.
        name: How the report calls it.
        depth: How many steps to go into it.
        print_file: Where the report goes; by default to standard output.

    Returns:
        Whether it can be serialized, and what inside of it can't.

    Example:
        >>> inspect_serializability(threading.Lock(), name="lock")[0]
        False
    """
    inspection = _Inspection(print_file if print_file is not None else sys.stdout)
    name = name or getattr(base_obj, "__qualname__", None) or f"<{type(base_obj).__name__}>"
    inspection.say("=" * _WIDTH)
    inspection.say(f"Checking Serializability of {base_obj!r:.500}")
    inspection.say("=" * _WIDTH)
    if is_picklable(base_obj):
        return True, set()
    inspection.look(base_obj, (name,), None, depth)
    inspection.say("=" * _WIDTH)
    inspection.say("Can't be serialized:\n")
    for failure in inspection.failures:
        inspection.say(repr(failure), 1)
    inspection.say("\nhint: leave it out, make it inside the task or actor, or give its class a __reduce__ method; there may be others behind it")
    inspection.say("=" * _WIDTH)
    return False, set(inspection.failures)
