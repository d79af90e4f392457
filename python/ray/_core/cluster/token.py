"""The secret that the nodes of a cluster share. Every TCP connection starts with a proof that both sides know it (docs/design/011).

Where it comes from, first found first: the variable RAY_AUTH_TOKEN, the file named by RAY_AUTH_TOKEN_PATH, the file `.ray/auth_token` in the home folder.

Invariants:
1. A token is never logged and never part of an error's text.
2. A file that another user could have read or written is not used.
3. A file that this module makes is complete from the moment it has its name, and is never replaced.
"""

from __future__ import annotations

import os
import stat

from ray._core.config import env
from ray.exceptions import AuthenticationError

FEWEST_CHARACTERS = 16
"""A shorter one could be guessed by trying, from a handshake that somebody listened to."""
_MOST_BYTES = 4096
_RANDOM_BYTES = 32

_HOW = "hint: put it into ~/.ray/auth_token (then chmod 600), or set RAY_AUTH_TOKEN; ray get-auth-token prints it on the head's machine"
_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_ALL_BUT_READING_BY_GROUP = stat.S_IWGRP | stat.S_IXGRP | stat.S_IRWXO


def load() -> str | None:
    """Find the token.

    Returns:
        It; None if there is none anywhere.

    Raises:
        AuthenticationError: There is one that can't be used, and why.
    """
    check_mode()
    given: str = env("RAY_AUTH_TOKEN")
    if given:
        return _checked(given, "the environment variable RAY_AUTH_TOKEN")
    path: str = env("RAY_AUTH_TOKEN_PATH")
    if path:
        found = _read(os.path.expanduser(path), "RAY_AUTH_TOKEN_PATH names ")
        if found is None:
            raise AuthenticationError(f"RAY_AUTH_TOKEN_PATH names {path}, which does not exist\nhint: correct the variable, or unset it")
        return found
    home = _home()
    return None if home is None else _read(_default_path(home), "")


def required() -> str:
    """Find the token of a cluster that is to be joined.

    Raises:
        AuthenticationError: There is none, or it can't be used.
    """
    found = load()
    if found is None:
        raise AuthenticationError(f"there is no token, and nodes of a cluster must share one\n{_HOW}")
    return found


def load_or_create() -> tuple[str, str]:
    """Find the token, or make one in the home folder.

    Returns:
        The token, and the path of the file if it was made now, else "".

    Raises:
        AuthenticationError: There is one that can't be used, or none can be made.
    """
    found = load()
    if found is not None:
        return found, ""
    return _create()


def fresh() -> str:
    """Make a new token that is kept nowhere."""
    import secrets

    return secrets.token_hex(_RANDOM_BYTES)


def check_mode() -> None:
    """Refuse to go without tokens.

    Raises:
        AuthenticationError: RAY_AUTH_MODE asks for it, or for something unknown.
    """
    mode = env("RAY_AUTH_MODE").strip().lower()
    if mode in ("", "token"):
        return
    if mode == "disabled":
        raise AuthenticationError(
            "RAY_AUTH_MODE=disabled is refused: whoever reaches a node's port could run any program as you, so no port is opened without a token\n"
            "hint: unset the variable; ray start --head makes a token by itself"
        )
    raise AuthenticationError(f"RAY_AUTH_MODE is {mode!r}, which is not known\nhint: unset it, or set it to token")


def _checked(text: str, source: str) -> str:
    token = text.strip()
    if not token:
        raise AuthenticationError(f"{source} holds no token, only white space\n{_HOW}")
    if not token.isascii() or not token.isprintable() or " " in token:
        raise AuthenticationError(f"{source} holds no token: one is a single word of printable ASCII characters\n{_HOW}")
    if len(token) < FEWEST_CHARACTERS:
        raise AuthenticationError(
            f"{source} holds a token of {len(token)} characters, which could be guessed; it takes at least {FEWEST_CHARACTERS}\n"
            "hint: ray get-auth-token --generate makes one where there is none"
        )
    return token


def _home() -> str | None:
    home = os.path.expanduser("~")
    return home if os.path.isabs(home) else None


def _default_path(home: str) -> str:
    return os.path.join(home, ".ray", "auth_token")


def _read(path: str, said_by: str) -> str | None:
    """Read a file that is for its owner only. None: it does not exist."""
    try:
        # Not blocking: a pipe of that name must not hang whoever opens it.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise AuthenticationError(f"{said_by}{path}, which can't be read: {error.strerror}\nhint: make it readable, or set RAY_AUTH_TOKEN") from None
    try:
        _check_owner(os.fstat(fd), path)
        data = os.read(fd, _MOST_BYTES + 1)
    finally:
        os.close(fd)
    if len(data) > _MOST_BYTES:
        raise AuthenticationError(f"{path} is too large to be a token\n{_HOW}")
    return _checked(data.decode("utf-8", "replace"), f"the file {path}")


def _check_owner(status: os.stat_result, path: str) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise AuthenticationError(f"{path} is no plain file\n{_HOW}")
    me = os.geteuid()
    if status.st_uid not in (me, 0):
        raise AuthenticationError(f"{path} belongs to the user {status.st_uid}, and not to you: its token is not used\nhint: use a file of your own")
    # What root mounts for a program, such as a secret of a container, is read through the group.
    forbidden = _OTHERS if status.st_uid == me else _ALL_BUT_READING_BY_GROUP
    if status.st_mode & forbidden:
        mode = stat.S_IMODE(status.st_mode)
        raise AuthenticationError(f"{path} can be read or changed by other users (mode {mode:04o}): its token is not used\nhint: chmod 600 {path}")


def _create() -> tuple[str, str]:
    home = _home()
    if home is None:
        raise AuthenticationError("there is no home folder to keep a token in: HOME is not set\nhint: set RAY_AUTH_TOKEN, to the same on every machine")
    path = _default_path(home)
    token = fresh()
    try:
        _check_folder(os.path.dirname(path))
        is_new = _write(path, token)
    except OSError as error:
        raise AuthenticationError(
            f"no token could be kept in {path}: {error.strerror}\nhint: make the folder writable, or set RAY_AUTH_TOKEN, to the same on every machine"
        ) from None
    if is_new:
        return token, path
    found = _read(path, "")  # somebody else was faster
    if found is None:
        raise AuthenticationError(f"{path} comes and goes: no token could be read from it\n{_HOW}")
    return found, ""


def _check_folder(folder: str) -> None:
    try:
        os.mkdir(folder, 0o700)
    except FileExistsError:
        status = os.stat(folder)
        if status.st_uid != os.geteuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise AuthenticationError(f"{folder} can be changed by other users: no token is kept there\nhint: chmod 700 {folder}") from None


def _write(path: str, token: str) -> bool:
    """False: there is a file already."""
    draft = f"{path}.{os.getpid()}.{os.urandom(4).hex()}"
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        try:
            os.write(fd, f"{token}\n".encode())
            os.fsync(fd)
        finally:
            os.close(fd)
        os.link(draft, path)  # fails if the name is taken, unlike a rename
    except FileExistsError:
        return False
    finally:
        os.unlink(draft)
    return True
