"""The template process: it has the worker's code imported, forks workers and reaps them. Its other half is crates/ray-node/src/template.rs.

Invariants:
1. One thread, for ever: a fork of a process with threads copies their locks in whatever state they are.
2. No user code runs here, and nothing that opens a connection or a device.
3. Every child's end is reported, with its status and peak memory.
"""

from __future__ import annotations

import errno
import gc
import os
import select
import signal
import socket
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn


def run(link: socket.socket, board_fd: int, config: dict[str, Any]) -> NoReturn:
    """Serve fork requests until the daemon goes away.

    Args:
        link: SEQPACKET socket to the daemon.
        board_fd: The status board, passed on to every worker.
        config: `sys_path`, where this process imports from, and `soft_fd_limit`. What workers need comes with each request.
    """
    from ray import _native
    from ray._core.worker import main as worker_main

    _native.set_process_name("ray-template")
    _restore_fd_limit(config["soft_fd_limit"])
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    wake_read, wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    worker_main.preload()
    gc.collect()
    gc.freeze()
    template = _Template(link, board_fd, (wake_read, wake_write))
    link.send(b"ready")
    template.serve()


def _restore_fd_limit(soft: int | None) -> None:
    """The daemon, whose child this is, has raised its own limit; workers have the driver's."""
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.RLIM_INFINITY if soft is None else soft, hard))


def _why(error: OSError | RuntimeError) -> str:
    if not isinstance(error, OSError) or error.errno not in (errno.EAGAIN, errno.ENOMEM):
        return str(error)
    import resource

    if error.errno == errno.ENOMEM:
        return f"the system gave no memory for another process ({error.strerror}).\nhint: free memory, or use fewer workers"
    limit = resource.getrlimit(resource.RLIMIT_NPROC)[0]
    shown = "unlimited" if limit == resource.RLIM_INFINITY else limit
    return (
        f"no more processes are allowed; ulimit -u is {shown} ({error.strerror}).\n"
        "hint: end some, or raise the limit with ulimit -u; in a container also its limit of pids counts"
    )


def _job_of(text: str) -> dict[str, Any]:
    """Read the job that a worker is for, and look for modules where its driver does. This process's own folders stay behind them: ray may lie elsewhere here."""
    import json

    job: dict[str, Any] = json.loads(text)
    sys.path[:] = dict.fromkeys([*job["sys_path"], *sys.path])
    return job


class _Template:
    def __init__(self, link: socket.socket, board_fd: int, wake: tuple[int, int]) -> None:
        self._link = link
        self._board_fd = board_fd
        self._wake = wake

    def serve(self) -> NoReturn:
        """This is the main loop of the template."""
        poll = select.poll()
        poll.register(self._link, select.POLLIN)
        poll.register(self._wake[0], select.POLLIN)
        while True:
            for fd, _ in poll.poll():
                if fd == self._wake[0]:
                    os.read(fd, 4096)
                    self._reap()
                else:
                    self._request()

    def _request(self) -> None:
        packet, fds, _, _ = socket.recv_fds(self._link, 1 << 20, 4)
        if not packet:
            os._exit(0)
        request, _, job = packet.decode().partition("\n")
        _, proc, slot, env = request.split(" ", 3)
        try:
            self._check_single_threaded()
            pid = os.fork()
        except (OSError, RuntimeError) as error:
            self._link.send(f"failed {proc} {_why(error)}".encode())
        else:
            if pid == 0:
                self._become_worker(fds, int(slot), env, job)
            self._link.send(f"forked {proc} {pid}".encode())
        for fd in fds:
            os.close(fd)

    def _check_single_threaded(self) -> None:
        threads = len(os.listdir("/proc/self/task"))
        if threads != 1:
            raise RuntimeError(f"the template process has {threads} threads; a fork would copy their locks")

    def _reap(self) -> None:
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            self._link.send(f"exited {pid} {os.waitstatus_to_exitcode(status)} {usage.ru_maxrss}".encode())

    def _become_worker(self, fds: list[int], slot: int, env: str, job: str) -> NoReturn:
        """In the child. Never returns: the template's stack is not the worker's."""
        code = 1
        try:
            os.setsid()
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            for fd in self._wake:
                os.close(fd)
            link_fd, out_fd, err_fd = fds
            os.set_inheritable(link_fd, False)  # a descriptor that was received starts as inheritable
            null = os.open(os.devnull, os.O_RDONLY)
            for ours, standard in ((null, 0), (out_fd, 1), (err_fd, 2)):
                os.dup2(ours, standard)
                os.close(ours)
            # The template's link was descriptor 0, which is stdin now. (Closed before, its number would have gone to `null`, and been closed with it.)
            self._link.detach()
            from ray._core.worker import main as worker_main

            code = worker_main.main(link_fd, slot, self._board_fd, _job_of(job), env)
        except BaseException:  # the outermost frame of the process: print, then end
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(code)
