"""The connection of a program to a cluster far away. The client itself is not built yet; its context is what programs annotate with."""

from __future__ import annotations

from ray._core.launch import BaseContext

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["ClientContext"]


class ClientContext(BaseContext):
    """What `ray.init("ray://...")` returns. Ends with the `with` block, or with `disconnect`.

    Attributes:
        dashboard_url: Address of the dashboard, "" if there is none.
        python_version: Version of Python on the cluster.
        ray_version: Version of Ray that the cluster follows.
        ray_commit: Its source revision, "" if unknown.
    """

    def __init__(
        self, dashboard_url: str | None, python_version: str, ray_version: str, ray_commit: str, _num_clients: int, _context_to_restore: Any = None
    ) -> None:
        super().__init__(dashboard_url)
        self.python_version = python_version
        self.ray_version = ray_version
        self.ray_commit = ray_commit
        self._num_clients = _num_clients
        self._context_to_restore = _context_to_restore
