"""joblib on this runtime: scikit-learn and others then run on all machines of the cluster.

Example:
    >>> register_ray()
    >>> with joblib.parallel_backend("ray"):
    ...     search.fit(x, y)
"""

__all__ = ["register_ray"]


def register_ray() -> None:
    """Make "ray" a backend of joblib.

    Raises:
        ImportError: joblib is not installed.
    """
    try:
        from joblib.parallel import register_parallel_backend
    except ImportError as error:
        raise ImportError("register_ray() needs joblib\nhint: pip install joblib") from error
    from ray.util.joblib.ray_backend import RayBackend

    register_parallel_backend("ray", RayBackend)
