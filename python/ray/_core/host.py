"""What this machine lets this process use: processors and memory. Control groups count, because containers set limits there."""

from __future__ import annotations

import os

from ray._core.config import env

MEMORY_SHARE = 0.7
"""Part of the memory that is offered to tasks."""
OBJECT_STORE_MIN_BYTES = 75 * 1024 * 1024
"""Smallest object store. Compat: Ray's limit."""

_CGROUP = "/sys/fs/cgroup"
_MEMBERSHIP = "/proc/self/cgroup"
_UNLIMITED = 1 << 60  # cgroup v1 writes a huge number for "no limit"


def _read(path: str) -> str | None:
    try:
        with open(path, encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return None


def _cgroup_dirs(root: str, controller: str, membership: str) -> list[str]:
    """Folders of this process's control group and its parents, innermost first, for version 2 and then for version 1."""
    found = []
    for line in (_read(membership) or "").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            base = root
        elif controller in controllers.split(","):
            base = os.path.join(root, controller)
        else:
            continue
        while True:
            found.append(base + path.rstrip("/"))
            if path in ("", "/"):
                break
            path = os.path.dirname(path)
    return found + [root, os.path.join(root, controller)]


def cgroup_cpus(root: str = _CGROUP, membership: str = _MEMBERSHIP) -> float | None:
    """Give the processor quota of the control group.

    Args:
        root: Where control groups are mounted.
        membership: The file that names this process's groups.

    Returns:
        Processors, possibly fractional; None without a quota.
    """
    limits = []
    for folder in _cgroup_dirs(root, "cpu", membership):
        quota, period = ((_read(f"{folder}/cpu.max") or "").split() + ["", ""])[:2]
        if not quota:
            quota, period = _read(f"{folder}/cpu.cfs_quota_us") or "", _read(f"{folder}/cpu.cfs_period_us") or ""
        if quota.isdigit() and period.isdigit() and int(quota) > 0 and int(period) > 0:
            limits.append(int(quota) / int(period))
    return min(limits, default=None)


def _memory_limits(root: str, membership: str = _MEMBERSHIP) -> list[tuple[int, str]]:
    limits = []
    for folder in _cgroup_dirs(root, "memory", membership):
        text = _read(f"{folder}/memory.max") or _read(f"{folder}/memory.limit_in_bytes") or ""
        if text.isdigit() and 0 < int(text) < _UNLIMITED:
            limits.append((int(text), folder))
    return limits


def cgroup_memory_bytes(root: str = _CGROUP, membership: str = _MEMBERSHIP) -> int | None:
    """Give the memory limit of the control group.

    Args:
        root: Where control groups are mounted.
        membership: The file that names this process's groups.

    Returns:
        Bytes; None without a limit.
    """
    return min((limit for limit, _ in _memory_limits(root, membership)), default=None)


def memory_cgroup(root: str = _CGROUP) -> str | None:
    """Give the folder of the control group whose memory limit is the smallest: there the kernel counts what is used against it.

    Args:
        root: Where control groups are mounted.

    Returns:
        Its path; None without a limit.
    """
    return min(_memory_limits(root), default=(0, None))[1]


def available_cpus() -> int:
    """Count the processors that this process may use, at least 1."""
    if env("RAY_USE_MULTIPROCESSING_CPU_COUNT"):
        return os.cpu_count() or 1
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cgroup_cpus()
    return max(1, allowed if quota is None else min(allowed, int(quota)))


def memory_bytes() -> int:
    """Give the memory that this process may use: of the machine, or of the control group if that is less."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = cgroup_memory_bytes()
    return total if limit is None else min(total, limit)
