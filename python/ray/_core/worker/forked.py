"""The end of a process that a call has forked."""

from __future__ import annotations

import atexit
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn


def leave_forked_child(error: BaseException | None) -> NoReturn:
    """End a process that a call has forked and that has come to the end of that call, as a program ends. The call itself goes on in the parent.

    Args:
        error: What the call raised in this process, None if it returned.
    """
    code = 0
    if isinstance(error, SystemExit) and (error.code is None or isinstance(error.code, int)):
        code = error.code or 0
    elif isinstance(error, SystemExit):
        code = 1
        sys.stderr.write(f"{error.code}\n")
    elif error is not None:
        code = 1
        sys.excepthook(type(error), error, error.__traceback__)
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code & 0xFF)
