"""Every way in which a program leaves. Exit codes, unfinished tasks and finalizers are in integration/test_scripts.py, signals in chaos/test_driver_faults.py."""

import signal

import pytest

from support import run_script, start_script

pytestmark = pytest.mark.limit(30)

START = """
import atexit, os, sys, threading, time, ray

@ray.remote
def echo(x):
    return x

@ray.remote
class Sleeper:
    def never(self):
        threading.Event().wait()

    def ping(self):
        return "pong"
"""
INIT = START + "ray.init(num_cpus=2, include_dashboard=False)\n"

LEAVES = {
    "os._exit": ("os._exit(9)", 9),
    "abort": ("os.abort()", -signal.SIGABRT),
    "exec of another program": ("os.execv(sys.executable, [sys.executable, '-c', 'raise SystemExit(5)'])", 5),
    "sys.exit with busy daemon threads": ("sys.exit(6)", 6),
    "sys.exit in a thread, then the end": ("thread = threading.Thread(target=sys.exit, args=(3,)); thread.start(); thread.join()", 0),
    "sys.exit with a thread that still works": ("threading.Thread(target=lambda: print(ray.get(echo.remote('worked')), flush=True)).start(); sys.exit(4)", 4),
    "an error in an exit handler": ("atexit.register(lambda: 1 / 0)", 0),
    "shutdown, then the end": ("ray.shutdown()", 0),
    "shutdown in a thread": ("thread = threading.Thread(target=ray.shutdown); thread.start(); thread.join()", 0),
    "shutdown in an exit handler": ("atexit.register(ray.shutdown)", 0),
}


@pytest.mark.parametrize("leave", LEAVES)
def test_exit_leaves_nothing_and_its_code_is_the_programs(leave):
    """With tasks running and references held, each way to leave gives the code of the program, and no process is left."""
    statement, code = LEAVES[leave]
    done = run_script(
        INIT
        + f"""
sleeper = Sleeper.remote()
ray.get(sleeper.ping.remote())
held = [sleeper.never.remote(), ray.put(b"x" * 300_000), echo.remote(1)]
def busy():
    while True:
        ray.get(echo.remote(1))
if {"busy" in leave}:
    for _ in range(4):
        threading.Thread(target=busy, daemon=True).start()
    ray.get([echo.remote(i) for i in range(100)])
{statement}
"""
    )
    assert done.rc == code, done
    assert ("Traceback" in done.stderr) == ("error" in leave), done
    assert ("worked" in done.stdout) == ("still works" in leave), done


def test_exit_daemon_threads_waiting_end_without_a_word():
    """Daemon threads in get, wait, a future's result and an await go with the process: nothing is printed, nothing hangs."""
    done = run_script(
        INIT
        + """
import asyncio
never = Sleeper.remote().never.remote()
entered = threading.Barrier(5)
async def wait_in_loop():
    entered.wait()
    await never
waits = [lambda: ray.get(never), lambda: ray.wait([never]), lambda: never.future().result(), lambda: asyncio.run(wait_in_loop())]
def run(wait):
    if wait is not waits[3]:
        entered.wait()
    wait()
for wait in waits:
    threading.Thread(target=run, args=(wait,), daemon=True).start()
entered.wait()
from ray._core import session
while session.core.table_sizes()[3] < 4:
    time.sleep(0.001)
"""
    )
    assert (done.rc, done.stdout) == (0, ""), done
    assert [line for line in done.stderr.splitlines() if "started a local node" not in line] == [], done


def test_shutdown_by_the_program_tells_threads_that_wait():
    """`ray.shutdown()` is no exit: a thread that waits gets an error."""
    done = run_script(
        INIT
        + """
never = Sleeper.remote().never.remote()
answers = []
def wait():
    try:
        ray.get(never)
    except ray.exceptions.RayError as error:
        answers.append(str(error))
thread = threading.Thread(target=wait)
thread.start()
from ray._core import session
while session.core.table_sizes()[3] < 1:
    time.sleep(0.001)
ray.shutdown()
thread.join(10)
print(len(answers), "shutdown" in answers[0])
"""
    )
    assert (done.rc, done.stdout.strip()) == (0, "1 True"), done


def test_exit_handlers_registered_after_init_have_the_runtime_and_earlier_ones_do_not():
    """Handlers run last in, first out: later ones than `init` may use everything, earlier ones get an error that says so, and no second session starts."""
    done = run_script(
        START
        + """
def early():
    try:
        ray.get(ray.put(1))
    except ray.exceptions.RaySystemError as error:
        print("early", ray.is_initialized(), "exit" in str(error), "hint:" in str(error))

def late():
    print("late", ray.is_initialized(), ray.get(echo.remote(5)))

atexit.register(early)
ray.init(num_cpus=1, include_dashboard=False)
atexit.register(late)
"""
    )
    assert (done.rc, done.stdout.splitlines()) == (0, ["late True 5", "early False True True"]), done
    assert done.stderr.count("started a local node") == 1, done


def test_exit_with_references_alive_at_finalization_is_quiet():
    """References, handles, views and futures in module globals, cycles, threads' locals and `sys.modules` die with the interpreter without a word."""
    done = run_script(
        INIT
        + """
class Keeper:
    def __init__(self):
        self.things = [ray.put(1), Sleeper.remote(), echo.remote(2), echo.remote(3).future(), ray.get(ray.put(b"x" * 300_000)), self]
        ray.get(self.things[2])
    def __del__(self):
        del self.things[:]

sys.modules["kept"] = Keeper()
kept = Keeper()
local = threading.local()
local.kept = Keeper()
sys.kept = Keeper()
"""
    )
    assert done.rc == 0, done
    assert [line for line in done.stderr.splitlines() if "started a local node" not in line] == [], done


def test_init_from_a_thread_that_ends_keeps_the_session():
    """The session belongs to the process, not to the thread that started it."""
    done = run_script(
        START
        + """
for name in ("first", "second"):
    thread = threading.Thread(target=lambda: ray.init(num_cpus=1, include_dashboard=False))
    thread.start()
    thread.join()
    sleeper = Sleeper.remote()
    print(name, ray.get(echo.remote(1)), ray.get(sleeper.ping.remote()))
    other = threading.Thread(target=ray.shutdown)
    other.start()
    other.join()
"""
    )
    assert (done.rc, done.stdout.splitlines()) == (0, ["first 1 pong", "second 1 pong"]), done


def test_exit_of_a_program_that_ignores_its_children_is_clean(tmp_path):
    """SIGCHLD ignored, or children reaped by a handler of the user's: sessions still start, work and end, without delay."""
    code = (
        """
import signal
def reap(*_):
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return
"""
        + INIT.replace("ray.init(", "import signal\nsignal.signal(signal.SIGCHLD, signal.SIG_IGN)\nray.init(")
        + """
print(ray.get(echo.remote(1)))
ray.shutdown()
signal.signal(signal.SIGCHLD, reap)
ray.init(num_cpus=1, include_dashboard=False)
print(ray.get(echo.remote(2)))
"""
    )
    with start_script("import os\n" + code, cwd=tmp_path) as script:
        done = script.finish(10)
    assert (done.rc, done.stdout.split()) == (0, ["1", "2"]), done
    assert "Traceback" not in done.stderr, done
