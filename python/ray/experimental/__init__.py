"""Import paths of Ray whose contents may change."""
