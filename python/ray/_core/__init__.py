"""The Python half of the core. Private: programs use the names in `ray`."""

RAY_VERSION = "2.60.0"
"""The version of Ray whose interface this implements."""
RAY_COMMIT = ""
"""Source revision of this build, "" if unknown."""
