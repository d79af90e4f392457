"""An older import path of `ray.util.multiprocessing`."""

from ray.util.multiprocessing import Pool, TimeoutError

__all__ = ["Pool", "TimeoutError"]
