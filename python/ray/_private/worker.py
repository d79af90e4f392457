"""What `ray.init` returns, at Ray's import path. Re-exports only."""

from ray._core.launch import BaseContext, RayContext

__all__ = ["BaseContext", "RayContext"]
