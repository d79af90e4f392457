"""Faults F38 to F43: the driver is killed, interrupted, fails, forks, or loses its output."""

import os
import re
import signal
import stat
import time

import pytest

from support import Snapshot, run_script, start_script

pytestmark = pytest.mark.limit(30)

BUSY = """
import os, signal, sys, ray
context = ray.init(num_cpus=2, include_dashboard=False)

@ray.remote
def forever(path):
    open("started", "w").close()
    with open(path) as file:
        return file.read()

@ray.remote
class Actor:
    def ping(self):
        return "pong"

actor = Actor.remote()
assert ray.get(actor.ping.remote()) == "pong"
held = [ray.put(b"x" * 5_000_000) for _ in range(5)]
refs = [forever.remote(os.environ["FIFO"]) for _ in range(4)]
while refs and not os.path.exists("started"):
    ray.wait(refs, timeout=0.01)
print("session", context.address_info.get("session_dir"), flush=True)
"""


@pytest.fixture
def busy(tmp_path):
    """Start a driver whose tasks block for ever, with `code` added at its end; ready when a task runs."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    started = []

    def start(code="ray.get(refs)\n"):
        script = start_script(BUSY + code, cwd=tmp_path, env={"FIFO": str(fifo)})
        started.append(script)
        script.wait_for_output("session")
        return script

    yield start
    for script in started:
        script.__exit__()


def sockets_below(folder):
    found = []
    for root, _, names in os.walk(folder or "/nonexistent"):
        found += [name for name in names if stat.S_ISSOCK(os.lstat(os.path.join(root, name)).st_mode)]
    return found


def test_f38_killed_driver_leaves_nothing(busy):
    """After SIGKILL of the driver, no process, socket or segment is left within ten seconds."""
    before = Snapshot.take()
    script = busy()
    session = re.search(r"session (.*)", script.stdout).group(1)
    script.signal(signal.SIGKILL)
    script.popen.wait(5)
    script.check_nothing_left(10.0)
    assert sockets_below(session) == []
    assert "shm" not in before.leaked()


def test_f39_interrupt_in_get_ends_within_a_second(busy):
    """SIGINT in `ray.get` raises KeyboardInterrupt at once; the program ends and leaves nothing."""
    script = busy()
    sent = script.signal(signal.SIGINT)
    done = script.finish(5)
    assert time.monotonic() - sent < 1.5
    assert done.rc in (-signal.SIGINT, 128 + signal.SIGINT, 1)
    assert done.stderr.strip().splitlines()[-1].startswith("KeyboardInterrupt"), done.stderr


def test_f39_interrupt_can_be_caught_and_work_goes_on(busy):
    """A program that catches KeyboardInterrupt keeps its runtime."""
    script = busy(
        """
try:
    ray.get(refs)
except KeyboardInterrupt:
    print("caught", ray.get(actor.ping.remote()), flush=True)
"""
    )
    script.signal(signal.SIGINT)
    done = script.finish(5)
    assert (done.rc, "caught pong" in done.stdout) == (0, True), done


def test_f40_terminated_driver_leaves_nothing(busy):
    """SIGTERM ends the program; nothing is left."""
    script = busy()
    script.signal(signal.SIGTERM)
    done = script.finish(5)
    assert done.rc != 0
    assert "Traceback" not in done.stderr or "SystemExit" in done.stderr, done.stderr


def test_f40_users_sigterm_handler_is_called(busy):
    """A handler that the user has set for SIGTERM runs, also while the program sits in `ray.get`."""
    script = busy(
        """
def handler(number, frame):
    print("own handler", flush=True)
    sys.exit(7)

signal.signal(signal.SIGTERM, handler)
print("handler set", flush=True)
ray.get(refs)
"""
    )
    script.wait_for_output("handler set")
    script.signal(signal.SIGTERM)
    done = script.finish(5)
    assert (done.rc, "own handler" in done.stdout) == (7, True), done


def test_f41_uncaught_exception_ends_with_code_one(busy):
    """An exception at top level gives exit code 1, its traceback comes last, nothing is left."""
    script = busy("raise LookupError('at top level')\n")
    done = script.finish(5)
    assert done.rc == 1
    assert done.stderr.strip().splitlines()[-1] == "LookupError: at top level", done.stderr


def test_f42_forked_children_leave_the_parent_unharmed():
    """Children forked with the runtime up may compute and exit; the parent's refs and actors go on."""
    done = run_script(
        BUSY.replace("refs = [forever", "refs = [] and [forever")
        + """
import multiprocessing
with multiprocessing.get_context("fork").Pool(2) as pool:
    assert pool.map(abs, range(-5, 5)) == [abs(i) for i in range(-5, 5)]
for leave in (os._exit, sys.exit):
    pid = os.fork()
    if pid == 0:
        del held, actor
        leave(0)
    assert os.waitpid(pid, 0)[1] == 0
assert ray.get(actor.ping.remote()) == "pong"
assert len(ray.get(held[0])) == 5_000_000
print("unharmed")
""",
        env={"FIFO": "/dev/null"},
    )
    assert (done.rc, "unharmed" in done.stdout) == (0, True), done


def test_f42_forked_child_using_the_api_gets_a_clear_error_or_a_session():
    """A forked child that uses the API gets an error that says why, or a session of its own; it never hangs."""
    done = run_script(
        BUSY.replace("refs = [forever", "refs = [] and [forever")
        + """
pid = os.fork()
if pid == 0:
    signal.alarm(10)
    try:
        print("child got", ray.get(actor.ping.remote()), flush=True)
    except Exception as error:
        print("child error", type(error).__name__, str(error).replace("\\n", " "), flush=True)
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0, "the child hung"
assert ray.get(actor.ping.remote()) == "pong"
""",
        env={"FIFO": "/dev/null"},
    )
    assert done.rc == 0, done
    assert re.search(r"child error .*fork", done.stdout) or "child got pong" in done.stdout, done


def test_f43_closed_stdout_neither_hangs_nor_rages(tmp_path):
    """When nobody reads the program's output any more, it still ends, without a stack of noise."""
    code = """
import ray
ray.init(num_cpus=2, include_dashboard=False)

@ray.remote
def speak():
    for i in range(200):
        print("a line that nobody reads", i)
    return 1

assert ray.get([speak.remote() for _ in range(10)]) == [1] * 10
"""
    reader, writer = os.pipe()
    os.close(reader)
    with start_script(code, cwd=tmp_path, stdout=writer) as script:
        os.close(writer)
        done = script.finish(10)
    assert len(done.stderr.strip().splitlines()) <= 8, done.stderr
