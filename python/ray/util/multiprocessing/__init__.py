"""`multiprocessing.Pool` over actors: the same interface, on all machines of the cluster.

Example:
    >>> from ray.util.multiprocessing import Pool
    >>> with Pool(4) as pool:
    ...     pool.map(work, range(100))
"""

from multiprocessing import JoinableQueue, TimeoutError

from ray.util.multiprocessing.pool import Pool

__all__ = ["JoinableQueue", "Pool", "TimeoutError"]
