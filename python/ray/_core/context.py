"""What `ray.init` returns."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping

from ray._core import RAY_COMMIT, RAY_VERSION, session

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from typing_extensions import Self


class BaseContext:
    """A connection to a cluster. Ends with the `with` block, or with `disconnect`.

    Attributes:
        dashboard_url: Address of the dashboard, "" if there is none.
        python_version: Version of Python, for example "3.11.7".
        ray_version: Version of Ray that this implementation follows.
        ray_commit: Source revision, "" if unknown.
    """

    def __init__(self, dashboard_url: str) -> None:
        self.dashboard_url = dashboard_url
        self.python_version = "{}.{}.{}".format(*sys.version_info[:3])
        self.ray_version = RAY_VERSION
        self.ray_commit = RAY_COMMIT

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.disconnect()

    def disconnect(self) -> None:
        """Disconnect; a cluster that `ray.init` started ends."""
        session.shutdown()

    def __repr__(self) -> str:
        fields = ("dashboard_url", "python_version", "ray_version", "ray_commit")
        return f"{type(self).__name__}({', '.join(f'{name}={getattr(self, name)!r}' for name in fields)})"


class RayContext(BaseContext, Mapping[str, "Any"]):
    """The connection of a driver. Its addresses are in `address_info`; the mapping of the same is Ray's older way to them.

    Attributes:
        address_info: "address", "node_id", "session_dir" and others.
    """

    def __init__(self, dashboard_url: str, address_info: dict[str, Any]) -> None:
        super().__init__(dashboard_url)
        self.address_info = address_info

    def __getitem__(self, key: str) -> Any:
        return self.address_info[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.address_info)

    def __len__(self) -> int:
        return len(self.address_info)

    # A mapping is unhashable and compares by content; a connection is itself.
    def __hash__(self) -> int:
        return id(self)

    def __eq__(self, other: object) -> bool:
        return self is other
