"""Import paths of Ray whose contents may change."""

from ray._core.cluster.locations import get_local_object_locations, get_object_locations, set_resource

__all__ = ["get_local_object_locations", "get_object_locations", "set_resource"]
