"""Driver programs run as a user would run them: a fresh interpreter in a session of its own."""

import os
import re
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.processes import Process, end, everything, marked
from support.runtime import is_own
from support.waiting import wait_for

MARK = "RAY_TEST_SCRIPT_MARK"
ANSI = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(frozen=True)
class Finished:
    rc: int
    stdout: str
    stderr: str
    elapsed_s: float

    @property
    def output(self) -> str:
        return self.stdout + self.stderr


class Script:
    """A running driver program, started by the command `under` if that is given. Leaving the `with` block ends whatever is left of it."""

    def __init__(self, argv: Sequence[str], cwd: Path, env: dict[str, str] | None = None, under: Sequence[str] = (), **popen: Any) -> None:
        self.mark = uuid.uuid4().hex
        self._folder = tempfile.TemporaryDirectory(prefix="script-output-")
        self._out, self._err = (Path(self._folder.name) / name for name in ("stdout", "stderr"))
        self._started = time.monotonic()
        environment = {**os.environ, **(env or {}), MARK: self.mark}
        with self._out.open("wb") as out, self._err.open("wb") as err:
            streams = {"stdin": subprocess.DEVNULL, "stdout": out, "stderr": err, **popen}
            self.popen = subprocess.Popen([*under, sys.executable, *argv], cwd=cwd, env=environment, start_new_session=True, **streams)
        self.pid = self.popen.pid

    def __enter__(self) -> "Script":
        return self

    def __exit__(self, *_: object) -> None:
        end([one.pid for one in self.survivors()])
        self.popen.wait()
        self._folder.cleanup()

    @property
    def stdout(self) -> str:
        return ANSI.sub("", self._out.read_text(errors="replace"))

    @property
    def stderr(self) -> str:
        return ANSI.sub("", self._err.read_text(errors="replace"))

    def survivors(self) -> list[Process]:
        """Living processes that this program started, whatever became of their parents."""
        pids = {one.pid: one for one in marked(MARK, self.mark)}
        pids.update({one.pid: one for one in everything() if one.session == self.pid and not one.zombie})
        return list(pids.values())

    def wait_for_output(self, text: str, timeout_s: float | None = None) -> None:
        """Block until the program has printed `text`; fail at once if it ends before."""

        def seen() -> bool:
            if text in self.stdout:
                return True
            if self.popen.poll() is not None and text not in self.stdout:
                raise AssertionError(f"ended with {self.popen.returncode} before printing {text!r}: {self.report()}")
            return False

        wait_for(seen, timeout_s or (20.0 if is_own() else 90.0), f"{text!r} in the output: {self.report()}")

    def signal(self, number: signal.Signals) -> float:
        """Send a signal to the program alone; returns the moment on the monotonic clock."""
        moment = time.monotonic()
        os.kill(self.pid, number)
        return moment

    def finish(self, timeout_s: float = 30.0, survive_s: float | None = None) -> Finished:
        """Wait for the end, then insist that no process outlives it by more than `survive_s` seconds."""
        try:
            self.popen.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {timeout_s} s: {self.report()}") from None
        done = Finished(self.popen.returncode, "", "", time.monotonic() - self._started)
        self.check_nothing_left(survive_s)
        return Finished(done.rc, self.stdout, self.stderr, done.elapsed_s)

    def check_nothing_left(self, survive_s: float | None = None) -> None:
        limit_s = survive_s if survive_s is not None else (2.0 if is_own() else 20.0)
        wait_for(lambda: not self.survivors(), limit_s, f"no process left; {self.survivors()}")

    def report(self) -> str:
        return f"\n--- stdout\n{self.stdout[-3000:]}\n--- stderr\n{self.stderr[-3000:]}"


def run_script(
    code: str, timeout_s: float | None = None, *, inline: bool = False, args: Sequence[str] = (), cwd: Path | None = None, env: dict[str, str] | None = None
) -> Finished:
    """Run `code` as a driver, from a file or (`inline`) through `python -c`; no process may survive it."""
    with tempfile.TemporaryDirectory(prefix="script-") as scratch, start_script(code, inline=inline, args=args, cwd=cwd or Path(scratch), env=env) as script:
        return script.finish(timeout_s or (20.0 if is_own() else 90.0))


def start_script(code: str, *, cwd: Path, inline: bool = False, args: Sequence[str] = (), env: dict[str, str] | None = None, **popen: Any) -> Script:
    """Start `code` as a driver in the directory `cwd` and return at once."""
    text = textwrap.dedent(code)
    if inline:
        return Script(["-c", text, *args], cwd, env, **popen)
    path = cwd / f"driver_{uuid.uuid4().hex[:8]}.py"
    path.write_text(text)
    return Script([str(path), *args], cwd, env, **popen)
