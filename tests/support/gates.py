"""Meeting points between a test and the processes that run its tasks, made of plain files.

They hold no runtime object, so they also work while the runtime is being broken on purpose.
Nothing here polls: a closed gate is an exclusive `flock`, which the kernel drops if its holder dies.
"""

import fcntl
import os
from pathlib import Path


class Tally:
    """A list of short words that any process can append to and read. Appending is atomic."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = str(path)
        Path(self.path).touch()

    def add(self, word: object = "x") -> int:
        """Append one word and return how many there are now."""
        fd = os.open(self.path, os.O_WRONLY | os.O_APPEND)
        try:
            os.write(fd, f"{word}\n".encode())
        finally:
            os.close(fd)
        return self.count()

    def words(self) -> list[str]:
        return Path(self.path).read_text().splitlines()

    def count(self) -> int:
        return len(self.words())


class Gate:
    """Closed until its creator opens it; processes that pass it leave their pid behind before they wait."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = str(path)
        self.arrivals = Tally(f"{self.path}.arrivals")
        self._fd: int | None = os.open(self.path, os.O_RDWR | os.O_CREAT)
        fcntl.flock(self._fd, fcntl.LOCK_EX)

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (_guest, (self.path,))

    def open(self) -> None:
        """Let everybody through, now and later. Idempotent."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def pass_through(self) -> int:
        """Called by guests: record the own pid, block until the gate is open, return the pid."""
        self.arrivals.add(os.getpid())
        with open(self.path) as file:
            fcntl.flock(file, fcntl.LOCK_SH)
        return os.getpid()

    def pids(self) -> list[int]:
        """The pids of those who have arrived, in order of arrival."""
        return [int(word) for word in self.arrivals.words()]


def _guest(path: str) -> Gate:
    gate = Gate.__new__(Gate)
    gate.path = path
    gate.arrivals = Tally(f"{path}.arrivals")
    gate._fd = None
    return gate
