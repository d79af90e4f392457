"""What belongs to the user stays the user's: signal handlers, logging, warnings, limits and hooks, in the driver and in tasks."""

import faulthandler
import logging
import os
import signal
import sys
import threading
import warnings

import pytest

import ray
from support import run_script, start_script

pytestmark = pytest.mark.limit(30)

SETTINGS = """
import asyncio, builtins, faulthandler, gc, locale, logging, multiprocessing, os, random, resource, signal, sys, threading, warnings

def settings():
    umask = os.umask(0)
    os.umask(umask)
    return {
        "signal handlers": {n: signal.getsignal(n) for n in signal.valid_signals() if n not in (signal.SIGKILL, signal.SIGSTOP)},
        "signal mask": signal.pthread_sigmask(signal.SIG_BLOCK, []),
        "wakeup descriptor": _wakeup_fd(),
        "interval timer": signal.getitimer(signal.ITIMER_REAL),
        "root logger": (logging.root.level, list(logging.root.handlers), list(logging.root.filters), logging.root.manager.disable),
        "logger class": logging.getLoggerClass(),
        "last resort": logging.lastResort,
        "recursion limit": sys.getrecursionlimit(),
        "switch interval": sys.getswitchinterval(),
        "warning filters": list(warnings.filters),
        "showwarning": warnings.showwarning,
        "hooks": (sys.excepthook, sys.unraisablehook, sys.breakpointhook, sys.displayhook, threading.excepthook, builtins.__import__),
        "trace": (sys.gettrace(), sys.getprofile(), threading.gettrace(), threading.getprofile()) if sys.version_info >= (3, 10) else None,
        "streams": (sys.stdin, sys.stdout, sys.stderr),
        "faulthandler": faulthandler.is_enabled(),
        "collector": (gc.isenabled(), gc.get_threshold(), gc.get_freeze_count(), list(gc.callbacks), gc.get_debug()),
        "environment": dict(os.environ),
        "folder": os.getcwd(),
        "umask": umask,
        "path": list(sys.path),
        "meta path": list(sys.meta_path),
        "argv": list(sys.argv),
        "random state": random.getstate(),
        "locale": locale.setlocale(locale.LC_ALL),
        "limits": {name: resource.getrlimit(getattr(resource, name)) for name in dir(resource) if name.startswith("RLIMIT_")},
        "start method": multiprocessing.get_start_method(allow_none=True),
        "loop policy": type(asyncio.get_event_loop_policy()) if sys.version_info < (3, 14) else None,
        "priority": os.getpriority(os.PRIO_PROCESS, 0),
        "affinity": os.sched_getaffinity(0),
        "thread name": open("/proc/self/comm").read(),
    }

def _wakeup_fd():
    fd = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(fd)
    return fd

def changed(before, after):
    return sorted(name for name in before if before[name] != after[name])
"""


def test_settings_of_the_driver_are_untouched():
    """`import ray`, `init`, calls of every kind, errors and `shutdown` change nothing of the process that the user can set."""
    done = run_script(
        SETTINGS
        + """
class Own(Exception):
    pass
signal.signal(signal.SIGUSR1, lambda *_: None)
signal.signal(signal.SIGCHLD, lambda *_: None)
signal.signal(signal.SIGTERM, lambda *_: None)
signal.signal(signal.SIGINT, lambda *_: None)
signal.setitimer(signal.ITIMER_REAL, 0)
logging.basicConfig(level=logging.ERROR, format="own %(message)s")
warnings.simplefilter("error", Own)
sys.setrecursionlimit(777)
sys.setswitchinterval(0.004)
sys.excepthook = lambda *error: print("own hook", error)
threading.excepthook = lambda args: print("own thread hook", args)
sys.breakpointhook = print
os.umask(0o077)
gc.set_threshold(500, 7, 7)
random.seed(5)
before = settings()
import ray
steps = {"import": changed(before, settings())}
ray.init(num_cpus=2, include_dashboard=False)
steps["init"] = changed(before, settings())

@ray.remote
def echo(x):
    return x

@ray.remote
class Actor:
    async def fail(self):
        raise Own

assert ray.get([echo.remote(1), echo.remote(ray.put(b"x" * 300_000)), echo.remote(2)])[2] == 2
try:
    ray.get(Actor.remote().fail.remote())
except Own:
    echo.remote(3).future().result()
async def main():
    return await echo.remote(4)
loop = asyncio.new_event_loop()
loop.run_until_complete(main())
loop.close()
steps["calls"] = changed(before, settings())
ray.shutdown()
steps["shutdown"] = changed(before, settings())
print({step: names for step, names in steps.items() if names})
"""
    )
    assert (done.rc, done.stdout.strip()) == (0, "{}"), done


def test_settings_of_a_worker_are_those_of_a_fresh_interpreter():
    """In a task: default signal handlers, no root handlers, default limits; what one task sets for itself works."""
    ray.shutdown()
    ray.init(num_cpus=1, include_dashboard=False)

    @ray.remote
    def look():
        named = {n.name: signal.getsignal(n) for n in signal.valid_signals() if isinstance(n, signal.Signals) and n not in (signal.SIGKILL, signal.SIGSTOP)}
        caught = {name for name, handler in named.items() if callable(handler) and not isinstance(handler, signal.Handlers)}
        ignored = {name for name, handler in named.items() if handler is signal.SIG_IGN}
        return caught, ignored, signal.pthread_sigmask(signal.SIG_BLOCK, []), logging.root.handlers, logging.root.level, sys.getrecursionlimit(), sys.gettrace()

    caught, ignored, mask, handlers, level, limit, trace = ray.get(look.remote())
    assert caught == {"SIGINT"}  # Python's own
    inherited = {number.name for number in signal.Signals if signal.getsignal(number) is signal.SIG_IGN}  # nohup, or a shell's background
    assert ignored <= {"SIGPIPE", "SIGXFSZ", "SIGXFZ"} | inherited  # Python's own
    assert (mask, handlers, level, limit, trace) == (set(), [], logging.WARNING, 1000, None)

    @ray.remote
    def set_own():
        got = []
        signal.signal(signal.SIGUSR1, lambda *_: got.append("usr1"))
        signal.signal(signal.SIGALRM, lambda *_: got.append("alarm"))
        os.kill(os.getpid(), signal.SIGUSR1)
        signal.setitimer(signal.ITIMER_REAL, 0.01)
        while len(got) < 2:
            signal.pause()
        sys.setrecursionlimit(5000)

        def deep(n):
            return n and 1 + deep(n - 1)

        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            warnings.warn("own", stacklevel=1)
        return got, deep(3000), [str(one.message) for one in caught]

    assert ray.get(set_own.remote()) == (["usr1", "alarm"], 3000, ["own"])

    @ray.remote
    def endless():
        return endless_depth(0)

    def endless_depth(n):
        return endless_depth(n + 1)

    with pytest.raises(RecursionError):
        ray.get(endless.remote())
    assert ray.get(look.remote())[3] == []
    ray.shutdown()


@pytest.mark.parametrize("blocker", ["ray.get(never)", "ray.wait([never])", "never.future().result()", "time.sleep(60)"])
def test_signal_handlers_of_the_user_run_while_the_runtime_blocks(blocker, tmp_path):
    """A handler runs within the blocking call, may use the runtime itself, and the call goes on afterwards."""
    code = f"""
import os, signal, threading, time, ray
ray.init(num_cpus=1, include_dashboard=False)

@ray.remote
class Sleeper:
    def never(self):
        threading.Event().wait()

@ray.remote
def echo(x):
    return x

never = Sleeper.remote().never.remote()
got = []
def handler(number, frame):
    got.append(ray.get(echo.remote(number)))
    os.write(1, b"handled %d\\n" % len(got))  # print in a handler may find itself interrupted in print
    if len(got) == 3:
        os._exit(7)
signal.signal(signal.SIGUSR1, handler)
print("set", flush=True)
{blocker}
"""
    with start_script(code, cwd=tmp_path) as script:
        script.wait_for_output("set")
        for count in (1, 2, 3):
            script.signal(signal.SIGUSR1)
            script.wait_for_output(f"handled {count}")
        done = script.finish(10)
    assert done.rc == 7, done


def test_signal_in_a_thread_of_the_runtime_reaches_the_main_thread(tmp_path):
    """Threads that the runtime adds take no signal away: hundreds of signals during calls are all handled in the main thread."""
    done = run_script(
        """
import os, signal, threading, ray
ray.init(num_cpus=2, include_dashboard=False)

@ray.remote
def echo(x):
    return x

where = []
signal.signal(signal.SIGUSR1, lambda *_: where.append(threading.current_thread() is threading.main_thread()))
stop = threading.Event()
sent = []
def send():
    while not stop.wait(0.001):
        handled = len(where)
        os.kill(os.getpid(), signal.SIGUSR1)
        sent.append(1)
        while len(where) == handled and not stop.is_set():
            stop.wait(0.001)
thread = threading.Thread(target=send)
thread.start()
while len(where) < 100:
    assert ray.get([echo.remote(i) for i in range(20)]) == list(range(20))
    assert ray.get(ray.put(b"x" * 200_000))[0] == 120
stop.set()
thread.join()
print(all(where), len(sent) - len(where) <= 1)
"""
    )
    assert (done.rc, done.stdout.strip()) == (0, "True True"), done


def test_logging_configuration_of_the_user_holds():
    """Without `configure_logging` no logger is touched; with it only the one named "ray"; `basicConfig` works afterwards; and tasks can set up their own."""
    done = run_script(
        """
import logging, sys, ray
ray.init(num_cpus=1, include_dashboard=False, configure_logging=False)
named = logging.getLogger("ray")
print(named.handlers, named.level, named.propagate, logging.root.handlers)
ray.shutdown()
ray.init(num_cpus=1, include_dashboard=False, logging_level="error")
logging.basicConfig(stream=sys.stdout, level=logging.INFO, format="own:%(message)s")
logging.info("from the driver")

@ray.remote
def task():
    logging.basicConfig(stream=sys.stdout, level=logging.INFO, format="task:%(message)s")
    logging.getLogger("library").info("from a task")

ray.get(task.remote())
sys.stdout.write(f"handlers {len(logging.root.handlers)}\\n")  # one write: print's line and its end are two, and a worker's line may come between
"""
    )
    assert done.rc == 0, done
    assert done.stdout.splitlines()[:2] == ["[] 0 True []", "own:from the driver"], done
    assert "handlers 1" in done.stdout, done
    assert ") task:from a task" in done.output, done


@pytest.mark.runtime(num_cpus=1)
def test_faulthandler_of_the_user_works_in_workers(tmp_path):
    """In a task, faulthandler can dump, watch for a time, and answer a signal, into files of the user's; dying is still explained afterwards."""

    @ray.remote
    def dump(folder):
        with open(f"{folder}/now", "w") as file:
            faulthandler.dump_traceback(file)
        with open(f"{folder}/later", "w") as file:
            faulthandler.dump_traceback_later(0.05, file=file)
            threading.Event().wait(0.3)
            faulthandler.cancel_dump_traceback_later()
        with open(f"{folder}/signal", "w") as file:
            faulthandler.register(signal.SIGUSR2, file=file)
            os.kill(os.getpid(), signal.SIGUSR2)
            faulthandler.unregister(signal.SIGUSR2)
        return faulthandler.is_enabled()

    assert ray.get(dump.remote(str(tmp_path)))
    for name in ("now", "later", "signal"):
        assert " in dump" in (tmp_path / name).read_text(), name

    @ray.remote(max_retries=0)
    def crash():
        faulthandler._sigsegv()

    with pytest.raises(ray.exceptions.WorkerCrashedError, match="(?s)SIGSEGV.* in crash"):
        ray.get(crash.remote())
