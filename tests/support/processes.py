"""The process tree as /proc shows it."""

import os
import signal
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Process:
    pid: int
    ppid: int
    session: int
    state: str
    comm: str

    @property
    def zombie(self) -> bool:
        return self.state in "ZX"


def process(pid: int) -> Process | None:
    """The process with this pid, None if there is none."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    comm = text[text.index("(") + 1 : text.rindex(")")]
    fields = text[text.rindex(")") + 2 :].split()
    return Process(pid=pid, ppid=int(fields[1]), session=int(fields[3]), state=fields[0], comm=comm)


def everything() -> list[Process]:
    found = (process(int(name)) for name in os.listdir("/proc") if name.isdigit())
    return [one for one in found if one is not None]


def is_alive(pid: int) -> bool:
    """Whether the process exists and is not just waiting to be reaped."""
    found = process(pid)
    return found is not None and not found.zombie


def descendants(root: int | None = None) -> list[Process]:
    """Children, grandchildren and so on of `root` (default: this process), zombies left out."""
    children: dict[int, list[Process]] = {}
    for one in everything():
        children.setdefault(one.ppid, []).append(one)
    found: list[Process] = []
    queue = [os.getpid() if root is None else root]
    while queue:
        below = children.get(queue.pop(), [])
        found += below
        queue += [one.pid for one in below]
    return [one for one in found if not one.zombie]


def tree_pids(root: int | None = None) -> set[int]:
    return {one.pid for one in descendants(root)}


def of_role(role: str, root: int | None = None) -> list[Process]:
    """Descendants that play a role of the runtime: "daemon", "template" or "worker"."""
    return [one for one in descendants(root) if one.comm.startswith(f"ray-{role}")]


def marked(variable: str, value: str) -> list[Process]:
    """Processes whose environment holds `variable=value`, whatever their parent is now."""
    wanted = f"{variable}={value}".encode()
    found = []
    for one in everything():
        try:
            environment = Path(f"/proc/{one.pid}/environ").read_bytes()
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
        if wanted in environment.split(b"\0") and not one.zombie:
            found.append(one)
    return found


def end(pids: list[int]) -> None:
    """SIGKILL exactly these processes; those already gone don't matter."""
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
