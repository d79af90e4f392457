"""Types for annotations."""

from __future__ import annotations

from typing import Generic, TypeVar

__all__ = ["ObjectRef"]

T = TypeVar("T")


class ObjectRef(Generic[T]):
    """Stands for a reference in annotations, as in `def f() -> ObjectRef[int]`. Compat: what calls give are instances of `ray.ObjectRef`, not of this."""
