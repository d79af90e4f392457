"""The Python half of the core. Private: programs use the names in `ray`."""

RAY_VERSION = "2.60.0"
"""The version of Ray whose interface this implements."""
RAY_COMMIT = ""
"""Source revision of this build, "" if unknown."""

SCRIPT_MODE, WORKER_MODE, LOCAL_MODE = 0, 1, 2
"""What a process is: a driver, a worker, or both in local mode."""
