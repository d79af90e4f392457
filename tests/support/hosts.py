"""Odd machines to run a program on: other users, private mounts, limits. What a machine can't show is skipped, with the reason.

Nothing here outlives the program: mounts are made in a mount namespace of its own, users are plain numbers.
"""

import functools
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.scripts import Finished, start_script

REPOSITORY = Path(__file__).resolve().parents[2]

WORK = """
import os, sys, ray
ray.init(num_cpus=2, include_dashboard=False)

@ray.remote
def size(data):
    return len(data)

@ray.remote
class Doubler:
    def double(self, x):
        return 2 * x

assert ray.get([size.remote(b"x" * n) for n in range(10)]) == list(range(10))
assert ray.get(size.remote(ray.put(b"x" * 3_000_000))) == 3_000_000
assert ray.get(Doubler.remote().double.remote(4)) == 8
"""
"""Tasks, a large object, an actor."""

WORKED = "all of it worked"
PROGRAM = f"{WORK}\nprint({WORKED!r}, flush=True)\n"


def run(
    folder: Path, code: str = PROGRAM, *, under: Sequence[str] = (), env: dict[str, str] | None = None, timeout_s: float = 25.0, **popen: object
) -> Finished:
    """Run a program in `folder`, started by the command `under`."""
    with start_script(code, cwd=folder, env=env, under=under, **popen) as script:
        return script.finish(timeout_s)


def worked(done: Finished) -> bool:
    """Whether `PROGRAM` did what it should, and nothing complained on the way."""
    return done.rc == 0 and WORKED in done.stdout and "Traceback" not in done.stderr and "(ray)" not in done.stderr


def private_mounts(setup: str) -> list[str]:
    """A command that runs the program with its own view of the mounts, after the shell commands `setup`."""
    need_private_mounts()
    return ["unshare", "--mount", "--propagation", "private", "sh", "-c", f'set -e\n{setup}\nexec "$@"', "sh"]


@functools.cache
def _refusal(command: tuple[str, ...]) -> str:
    if shutil.which(command[0]) is None:
        return f"{command[0]} is not installed"
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    return "" if done.returncode == 0 else f"{' '.join(command)}: {done.stderr.strip() or done.returncode}"


def need(*command: str) -> None:
    """Skip the test where this command does not succeed."""
    refusal = _refusal(command)
    if refusal:
        pytest.skip(refusal)


def need_private_mounts() -> None:
    need("unshare", "--mount", "--propagation", "private", "mount", "-t", "tmpfs", "none", "/mnt")


def as_user(uid: int, then: Sequence[str] = (), setup: str = "") -> list[str]:
    """A command that runs the program as the user `uid`, who has neither a name nor a home; `setup` runs as root before."""
    identity = [f"--reuid={uid}", f"--regid={uid}", "--clear-groups", "--no-new-privs"]
    need("setpriv", *identity, "true")
    return [*private_mounts(_open_way_to_python() + setup), "setpriv", *identity, *then]


def _open_way_to_python() -> str:
    """Shell commands that show the interpreter to everybody where it lies in somebody's private folder."""
    needed = [Path(sys.base_prefix), Path(sys.prefix), REPOSITORY]
    commands = ""
    for hidden in {one for one in map(_first_closed_folder, needed) if one is not None}:
        shown = [path for path in needed if path.is_relative_to(hidden)]
        shown = [path for path in shown if not any(path != other and path.is_relative_to(other) for other in shown)]
        commands += "aside=$(mktemp -d)\n"
        commands += "".join(f'mkdir "$aside/{i}"; mount --bind "{path}" "$aside/{i}"\n' for i, path in enumerate(shown))
        commands += f'mount -t tmpfs -o mode=755 none "{hidden}"\n'
        commands += "".join(f'mkdir -p "{path}"; mount --bind "$aside/{i}" "{path}"; umount "$aside/{i}"\n' for i, path in enumerate(shown))
        commands += 'rm -r "$aside"\n'
    return commands


def _first_closed_folder(path: Path) -> Path | None:
    for folder in [*reversed(path.parents), path]:
        if not folder.stat().st_mode & stat.S_IXOTH:
            return folder
    return None


@contextmanager
def folder_for_all() -> Iterator[Path]:
    """A folder where every user may write. (Those of pytest are open to their owner only.)"""
    with tempfile.TemporaryDirectory(prefix="for-all-") as name:
        folder = Path(name)
        if _first_closed_folder(folder.parent) is not None:
            pytest.skip(f"{folder.parent} is closed to other users")
        os.chmod(folder, 0o777)
        yield folder
