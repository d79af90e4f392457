"""Starting the runtime under test, whichever implementation `import ray` finds. Importing this needs none."""

from typing import Any


def is_own() -> bool:
    """True on this project's engine, False on Ray's own release."""
    import ray

    return hasattr(ray, "__own_version__")


def init(**options: Any) -> Any:
    """`ray.init` without a dashboard; every other option goes through as given."""
    import ray

    return ray.init(**{"include_dashboard": False, **options})
