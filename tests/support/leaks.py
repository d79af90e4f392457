"""What this process holds of the operating system, to be compared before and after."""

import gc
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from support.processes import descendants
from support.waiting import wait_for

ALLOCATOR_THREAD = "jemalloc_bg_thd"  # pyarrow's, started at its first use


@dataclass(frozen=True)
class Snapshot:
    """Resources of the calling process. Compare with `leaked_since`."""

    fds: dict[int, str]
    threads: Counter[str]
    children: set[str]
    shm: set[str]
    memfd_maps: set[str]

    @classmethod
    def take(cls) -> "Snapshot":
        return cls(fds=_fds(), threads=_threads(), children=_children(), shm=_shm(), memfd_maps=_memfd_maps())

    def leaked(self) -> dict[str, list[str]]:
        """What the process holds now beyond this snapshot, by kind; empty when nothing leaked."""
        now = Snapshot.take()
        more_fds = Counter(now.fds.values()) - Counter(self.fds.values())
        found = {
            "fds": [f"{count} x {target}" for target, count in sorted(more_fds.items())] if len(now.fds) > len(self.fds) else [],
            "threads": [f"{count} x {name}" for name, count in sorted((now.threads - self.threads).items())],
            "children": sorted(now.children - self.children),
            "shm": sorted(name for name in now.shm - self.shm if not _held_by_anyone(name)),
            "memfd maps": sorted(now.memfd_maps - self.memfd_maps),
        }
        return {kind: things for kind, things in found.items() if things}

    def check(self, timeout_s: float = 3.0) -> None:
        """Fail unless everything is back to this snapshot within `timeout_s` seconds."""
        gc.collect()  # what only a reference cycle holds, for example through a caught exception's traceback, is no leak
        try:
            wait_for(lambda: not self.leaked(), timeout_s)
        except AssertionError:
            leaked = self.leaked()
            if leaked:
                raise AssertionError(f"leaked: {leaked}") from None


def _fds() -> dict[int, str]:
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:
            continue  # the descriptor of the listing itself
        found[int(name)] = target.split(":[")[0] if target.startswith(("socket:", "pipe:")) else target
    return found


def _threads() -> Counter[str]:
    found: Counter[str] = Counter()
    for tid in os.listdir("/proc/self/task"):
        try:
            name = Path(f"/proc/self/task/{tid}/comm").read_text().strip()
        except (FileNotFoundError, ProcessLookupError):
            continue
        found[name] += name != ALLOCATOR_THREAD
    return found


def _children() -> set[str]:
    return {f"{one.pid} {one.comm}" for one in descendants()}


def _shm() -> set[str]:
    return set(os.listdir("/dev/shm"))


def _memfd_maps() -> set[str]:
    lines = Path("/proc/self/maps").read_text(errors="replace").splitlines()
    return {line for line in lines if "memfd:" in line}


def _held_by_anyone(shm_name: str) -> bool:
    """Whether a living process maps or opens the entry: then it is in use by somebody else, not left behind."""
    path = f"/dev/shm/{shm_name}"
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if path in Path(f"/proc/{pid}/maps").read_text(errors="replace"):
                return True
            if any(os.readlink(f"/proc/{pid}/fd/{fd}") == path for fd in os.listdir(f"/proc/{pid}/fd")):
                return True
        except OSError:
            continue
    return False
