"""Ray's import path of what `ray.util.completion` holds."""

from ray.util.completion import as_completed, map_unordered

__all__ = ["as_completed", "map_unordered"]
