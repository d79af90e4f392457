"""Prints the lines of workers in the driver, as `(name pid=123) text`.

A line that several processes print within a few seconds, equal but for numbers, is shown once and then counted:
`(name pid=123) text [repeated 5x across cluster]`.

One thread, `ray-log-printer`, reads from the engine and prints; `Deduplicator` is pure and gets the time as an argument.
Lines that are not printed yet are few: the engine hands out a part at a time, and workers wait in `print` while the driver has megabytes to show. So
whatever happens to the printer, somebody must go on taking lines.
"""

from __future__ import annotations

import contextlib
import heapq
import re
import sys
import threading
import time

from ray._core.config import env

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import TextIO

    LogLine = tuple[str, int, bool, str, bytes]
    """(name, pid, is_stderr, kind, text): what `Core.next_log` gives."""

_SEEN_MAX = 4096
"""Lines remembered at once. Beyond it the oldest is forgotten before its window is over: memory is bounded, whatever workers print."""
_LENGTH_MAX = 2000
"""Longer lines are not compared: they are not repeats of a message, and remembering them would cost what they cost."""
_NUMBER = re.compile(r"0x[0-9a-fA-F]+|\d+(?:\.\d+)?")
_COLOURS = (36, 35, 33, 34, 32)  # cyan first, as Ray's prefix; by process, so that neighbours differ
_NOTICE_COLOUR = 33


class _Repeats:
    """A line seen lately: who showed it, and who repeated it since."""

    __slots__ = ("count", "deadline_s", "last", "shown_by")

    def __init__(self, line: LogLine, deadline_s: float) -> None:
        self.shown_by = line[1]
        self.deadline_s = deadline_s
        self.count = 0
        self.last = line


class Deduplicator:
    """Decides which lines to show.

    Args:
        window_s: Seconds over which repeats of a line are counted.
        allow: A line in which this regular expression is found is always shown; "" for none.
        skip: A line in which this one is found, and not the other, never.
    """

    def __init__(self, window_s: float, allow: str = "", skip: str = "") -> None:
        self._window_s = window_s
        self._allowed = re.compile(allow) if allow else None
        self._skipped = re.compile(skip) if skip else None
        # Every window is as long as any other, so the oldest line is the first that is due.
        self._seen: dict[tuple[bool, str], _Repeats] = {}
        self._counted: list[tuple[float, tuple[bool, str]]] = []
        """A heap of those with repeats, by deadline."""

    def _rule(self, text: str) -> bool | None:
        """True: always shown. False: never. None: counted as any other line."""
        if self._allowed is not None and self._allowed.search(text):
            return True
        return False if self._skipped is not None and self._skipped.search(text) else None

    def add(self, line: LogLine, text: str, now_s: float) -> Iterable[tuple[LogLine, str]]:
        """Take one line.

        Args:
            line: The line.
            text: Its text.
            now_s: Time on any steady clock.

        Returns:
            Lines to show now, with their texts.
        """
        shown = self.expire(now_s)
        rule = self._rule(text)
        if len(text) > _LENGTH_MAX or rule is not None:
            return shown if rule is False else [*shown, (line, text)]
        key = (line[2], _NUMBER.sub("0", text))
        repeats = self._seen.get(key)
        if repeats is None:
            if len(self._seen) >= _SEEN_MAX:
                shown += self._forget(next(iter(self._seen)))
            self._seen[key] = _Repeats(line, now_s + self._window_s)
            shown.append((line, text))
        elif repeats.shown_by == line[1]:  # one process that repeats itself is shown in full: it may be a progress report
            shown.append((line, text))
        else:
            if not repeats.count:
                heapq.heappush(self._counted, (repeats.deadline_s, key))
            repeats.count += 1
            repeats.last = line
        return shown

    def expire(self, now_s: float | None) -> list[tuple[LogLine, str]]:
        """Forget lines whose window is over; None means all.

        Returns:
            For each that was repeated, its last repetition with the count.
        """
        shown = []
        while self._seen:
            key, repeats = next(iter(self._seen.items()))
            if now_s is not None and repeats.deadline_s > now_s:
                break
            shown += self._forget(key)
        return shown

    def _forget(self, key: tuple[bool, str]) -> list[tuple[LogLine, str]]:
        repeats = self._seen.pop(key)
        if not repeats.count:
            return []
        heapq.heappop(self._counted)  # lines are forgotten in the order of their deadlines, so it is this one
        text = repeats.last[4].decode("utf-8", "replace")
        suffix = f" [repeated {repeats.count}x across cluster]" if repeats.count > 1 else ""
        return [(repeats.last, text + suffix)]

    def next_deadline_s(self) -> float | None:
        """When the first counted line is due."""
        return self._counted[0][0] if self._counted else None


class LogPrinter:
    """Prints lines of workers until the engine ends.

    Args:
        next_log: Blocks for lines; None at the end.
        deduplicator: Counts repeats; None shows everything. By default as the environment says.
    """

    def __init__(self, next_log: Callable[[], list[LogLine] | None], deduplicator: Deduplicator | bool | None = True) -> None:
        if deduplicator is True:
            rules = env("RAY_DEDUP_LOGS_ALLOW_REGEX"), env("RAY_DEDUP_LOGS_SKIP_REGEX")
            deduplicator = Deduplicator(env("RAY_DEDUP_LOGS_AGG_WINDOW_S"), *rules) if env("RAY_DEDUP_LOGS") else None
        self._next_log = next_log
        self._deduplicator = deduplicator or None
        self._colour = env("RAY_COLOR_PREFIX")
        self._lock = threading.Lock()
        self._due = threading.Condition(self._lock)
        self._ended = False
        self._reader = threading.Thread(target=self._read, name="ray-log-printer", daemon=True)
        self._flusher: threading.Thread | None = None

    def start(self) -> None:
        """Begin to print."""
        self._reader.start()

    def stop(self, timeout_s: float = 2.0) -> None:
        """Print what is left. The engine must have been shut down.

        Args:
            timeout_s: How long to wait for the last lines.
        """
        self._reader.join(timeout_s)
        with self._lock:
            self._ended = True
            self._due.notify_all()
            if self._deduplicator is not None:
                self._print(self._deduplicator.expire(None))
        if self._flusher is not None:
            self._flusher.join(timeout_s)

    def _read(self) -> None:
        try:
            self._print_all()
        except BaseException:
            while self._next_log() is not None:  # nothing is shown any more, but no worker may wait for it
                pass
            raise

    def _print_all(self) -> None:
        while (lines := self._next_log()) is not None:
            with self._lock:
                self._print(self._choose(lines))
                if self._deduplicator is not None and self._deduplicator.next_deadline_s() is not None:
                    self._wake_flusher()

    def _choose(self, lines: list[LogLine]) -> Iterator[tuple[LogLine, str]]:
        now_s = time.monotonic()
        for line in lines:
            text = line[4].decode("utf-8", "replace").rstrip("\n")
            if self._deduplicator is None or line[3] != "out":
                yield line, text
            else:
                yield from self._deduplicator.add(line, text, now_s)

    def _wake_flusher(self) -> None:
        """Start the second thread at the first repeated line: the reader blocks in the engine and can't also wait for a time."""
        if self._flusher is None:
            flusher = threading.Thread(target=self._flush, name="ray-log-flusher", daemon=True)
            try:
                flusher.start()
            except RuntimeError:  # the host allows no more threads: the count is shown with the next line, or at the end
                return
            self._flusher = flusher
        self._due.notify_all()

    def _flush(self) -> None:
        assert self._deduplicator is not None
        with self._lock:
            while not self._ended:
                deadline_s = self._deduplicator.next_deadline_s()
                now_s = time.monotonic()
                if deadline_s is not None and deadline_s <= now_s:
                    self._print(self._deduplicator.expire(now_s))
                else:
                    self._due.wait(None if deadline_s is None else deadline_s - now_s)

    def _print(self, lines: Iterable[tuple[LogLine, str]]) -> None:
        texts: dict[TextIO, list[str]] = {}
        prefixes: dict[tuple[TextIO, str, int, str], str] = {}
        for (name, pid, is_stderr, kind, _), text in lines:
            stream = sys.stderr if is_stderr or kind == "notice" else sys.stdout
            if stream is None or getattr(stream, "closed", False):  # pythonw and some daemons have none; a program may close its own
                continue
            key = (stream, name, pid, kind)
            prefix = prefixes.get(key)
            if prefix is None:
                prefix = prefixes[key] = self._prefix(stream, name, pid, kind)
            texts.setdefault(stream, []).append(f"{prefix} {text}\n")
        for stream, parts in texts.items():
            _write(stream, "".join(parts))
            with contextlib.suppress(OSError, ValueError):
                stream.flush()

    def _prefix(self, stream: TextIO, name: str, pid: int, kind: str) -> str:
        prefix = f"({name} pid={pid})" if kind == "out" else f"({name})"
        colour = _COLOURS[pid % len(_COLOURS)] if kind == "out" else _NOTICE_COLOUR
        return f"\033[{colour}m{prefix}\033[0m" if self._colour and _is_terminal(stream) else prefix


def _is_terminal(stream: TextIO) -> bool:
    isatty = getattr(stream, "isatty", None)
    return bool(isatty is not None and isatty())


def _write(stream: TextIO, text: str) -> None:
    """Write lines. One that can't be shown must not end the printer, nor reach a program whose reader is gone."""
    try:
        stream.write(text)
    except UnicodeEncodeError:
        encoding = getattr(stream, "encoding", None) or "ascii"
        stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
    except (OSError, ValueError):  # the reader has closed the pipe, or the program its stream
        return
