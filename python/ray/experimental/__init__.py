"""Import paths of Ray whose contents may change."""

__all__ = ["set_resource"]


def set_resource(resource_name: str, capacity: float, node_id: str | None = None) -> None:
    """Change a node's resources while it runs. Compat: Ray took that away.

    Raises:
        DeprecationWarning: Always.
    """
    raise DeprecationWarning(
        f"the amount of {resource_name!r} can't be changed to {capacity} on node {node_id or 'this one'}: dynamic resources were taken away"
        "\nhint: name resources when a node starts, or reserve them with placement groups"
    )
