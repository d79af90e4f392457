"""Ctrl-C, pipes that close, and forks."""

import os
import signal
import subprocess
import time

import pytest

from support import run_script, start_script

pytestmark = pytest.mark.limit(30)

INIT = """
import asyncio, os, sys, threading, time, ray
ray.init(num_cpus=2, include_dashboard=False)

@ray.remote
def forever():
    threading.Event().wait()

@ray.remote
class Actor:
    def forever(self):
        threading.Event().wait()

actor = Actor.remote()
refs = [forever.remote() for _ in range(2)]
"""

BLOCKERS = {
    "get": "ray.get(refs)",
    "get_timeout": "ray.get(refs, timeout=60)",
    "actor_get": "ray.get(actor.forever.remote())",
    "wait": "ray.wait(refs, num_returns=2)",
    "future": "refs[0].future().result()",
    "await": "asyncio.run(asyncio.wait_for(refs[0], None))",
    "sleep": "time.sleep(60)",
}


@pytest.mark.parametrize("blocker", BLOCKERS)
def test_interrupt_ends_the_program_within_a_second(blocker, tmp_path):
    """SIGINT in any blocking call raises KeyboardInterrupt and the program is gone within a second."""
    with start_script(INIT + f"print('blocking', flush=True)\n{BLOCKERS[blocker]}\n", cwd=tmp_path) as script:
        script.wait_for_output("blocking")
        sent = script.signal(signal.SIGINT)
        done = script.finish(10)
        assert time.monotonic() - sent < 2.0, script.report()
    assert done.rc != 0
    assert "KeyboardInterrupt" in done.stderr


def test_interrupt_by_terminal_reaches_the_whole_group(tmp_path):
    """Ctrl-C in a terminal signals workers as well: still one clean end, without tracebacks of workers."""
    with start_script(INIT + "print('blocking', flush=True)\nray.get(refs)\n", cwd=tmp_path) as script:
        script.wait_for_output("blocking")
        os.killpg(script.pid, signal.SIGINT)
        done = script.finish(10)
    assert done.rc != 0
    assert done.stderr.count("Traceback") == 1, done.stderr


def test_pipe_closed_by_the_reader_ends_quietly(tmp_path):
    """`program | head -1` ends by itself."""
    code = """
import ray
ray.init(num_cpus=1, include_dashboard=False)

@ray.remote
def speak(i):
    print("worker line", i)
    return i

for i in range(50):
    print("driver line", ray.get(speak.remote(i)), flush=True)
"""
    with start_script(code, cwd=tmp_path, stdout=subprocess.PIPE) as script:
        script.popen.stdout.readline()
        script.popen.stdout.close()
        done = script.finish(20)
    assert done.stderr.count("Traceback") <= 2, done.stderr


def test_fork_by_multiprocessing_with_the_runtime_up_works():
    """A pool of forked processes computes beside the runtime, and both go on afterwards."""
    done = run_script(
        """
import multiprocessing, ray
ray.init(num_cpus=2, include_dashboard=False)

@ray.remote
def double(x):
    return 2 * x

def triple(x):
    return 3 * x

ref = ray.put(list(range(100_000)))
with multiprocessing.get_context("fork").Pool(3) as pool:
    tripled = pool.map_async(triple, range(50))
    doubled = ray.get([double.remote(i) for i in range(50)])
    assert tripled.get(20) == [3 * i for i in range(50)]
assert doubled == [2 * i for i in range(50)]
assert sum(ray.get(ref)) == sum(range(100_000))
process = multiprocessing.get_context("fork").Process(target=triple, args=(1,))
process.start()
process.join()
print("code", process.exitcode, ray.get(double.remote(4)))
"""
    )
    assert (done.rc, done.stdout.strip()) == (0, "code 0 8"), done


def test_spawned_process_may_start_its_own_runtime():
    """A process started with `spawn` is a driver of its own."""
    done = run_script(
        """
import multiprocessing, ray

def work(x):
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
    return ray.get(ray.remote(lambda y: y * 2).remote(x))

if __name__ == "__main__":
    ray.init(num_cpus=1, include_dashboard=False)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        print(pool.apply(work, (21,)), ray.get(ray.put("own")))
"""
    )
    assert (done.rc, done.stdout.strip()) == (0, "42 own"), done


def test_subprocess_of_a_task_inherits_no_runtime_descriptors():
    """A program started by a task or the driver finds only its standard streams open."""
    done = run_script(
        """
import subprocess, sys, ray
ray.init(num_cpus=1, include_dashboard=False)
LIST = "import os; print(sorted(int(fd) for fd in os.listdir('/proc/self/fd'))[:-1])"

@ray.remote
def inner():
    return subprocess.run([sys.executable, "-c", LIST], capture_output=True, text=True, close_fds=False).stdout.strip()

print(ray.get(inner.remote()), "|", subprocess.run([sys.executable, "-c", LIST], capture_output=True, text=True, close_fds=False).stdout.strip())
"""
    )
    assert (done.rc, done.stdout.strip()) == (0, "[0, 1, 2] | [0, 1, 2]"), done
