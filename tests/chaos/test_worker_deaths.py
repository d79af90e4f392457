"""Faults F01 to F09 and F13: a worker dies while, before or after it runs a task. The caller learns the evidence."""

import ctypes
import os
import re
import signal
import sys

import pytest

import ray
from ray.exceptions import RayError, WorkerCrashedError
from support import Gate, is_alive, of_role, run_script, wait_for

pytestmark = [pytest.mark.runtime(num_cpus=4), pytest.mark.limit(10)]


@ray.remote
def hold(gate):
    gate.pass_through()
    return "held"


def kill(pid):
    os.kill(pid, signal.SIGKILL)


def crash_text(ref):
    with pytest.raises(WorkerCrashedError) as caught:
        ray.get(ref)
    return str(caught.value)


def test_f01_kill_without_retries_names_signal_and_pid(gate):
    """SIGKILL of a running task without retries gives WorkerCrashedError with the signal and the pid."""
    ref = hold.options(max_retries=0).remote(gate)
    (pid,) = wait_for(gate.pids)
    kill(pid)
    text = crash_text(ref)
    assert re.search(r"signal 9|SIGKILL", text), text
    assert str(pid) in text


def test_f02_kill_once_with_retries_gives_the_result(gate):
    """SIGKILL of the first attempt is followed by a second one in another process."""
    ref = hold.options(max_retries=3).remote(gate)
    (first,) = wait_for(gate.pids)
    kill(first)
    wait_for(lambda: len(gate.pids()) == 2)
    gate.open()
    assert ray.get(ref) == "held"
    assert gate.pids()[1] != first


def test_f03_kill_each_time_fails_after_four_attempts(gate):
    """SIGKILL of every attempt ends after four, and the error says how many there were."""
    ref = hold.options(max_retries=3).remote(gate)
    for attempt in range(4):
        wait_for(lambda expected=attempt + 1: len(gate.pids()) == expected)
        kill(gate.pids()[-1])
    text = crash_text(ref)
    assert re.search(r"\b4 attempts|attempt\w* 4\b|\b4 of 4\b", text), text
    assert len(gate.pids()) == 4


def test_f04_os_exit_names_the_exit_code():
    """`os._exit(3)` gives WorkerCrashedError with exit code 3."""
    text = crash_text(ray.remote(max_retries=0)(lambda: os._exit(3)).remote())
    assert re.search(r"(code|status)\D{0,3}3\b", text), text


@pytest.mark.parametrize("code", [0, 5])
def test_f05_sys_exit_fails_the_task_with_the_code(code):
    """`sys.exit` is the task's own failure; it names the code, and the process is replaced."""

    @ray.remote(max_retries=0, num_cpus=4)
    def leave():
        sys.exit(code)

    @ray.remote(num_cpus=4)
    def pid():
        return os.getpid()

    before = ray.get(pid.remote())
    with pytest.raises(RayError) as caught:
        ray.get(leave.remote())
    assert re.search(rf"SystemExit|(code|status)\D{{0,3}}{code}\b", str(caught.value)), str(caught.value)
    assert ray.get(pid.remote()) != before


def test_f06_segmentation_fault_is_named_with_its_stack():
    """A segmentation fault gives SIGSEGV and the stack that faulthandler wrote."""

    @ray.remote(max_retries=0)
    def bad_pointer_user():
        ctypes.string_at(0)

    text = crash_text(bad_pointer_user.remote())
    assert re.search(r"signal 11|SIGSEGV", text), text
    assert "bad_pointer_user" in text
    assert "Segmentation fault" in text


def test_f07_abort_is_named():
    """`abort()` gives SIGABRT."""
    text = crash_text(ray.remote(max_retries=0)(lambda: os.abort()).remote())
    assert re.search(r"signal 6|SIGABRT", text), text


def test_f08_tasks_queued_behind_a_dying_one_run_once(gate, tally):
    """Twenty tasks behind the one that dies all run, none twice, without using up retries."""

    @ray.remote(max_retries=0, num_cpus=4)
    def queued(i):
        tally.add(i)
        return i

    dying = hold.options(max_retries=0, num_cpus=4).remote(gate)
    (pid,) = wait_for(gate.pids)
    refs = [queued.remote(i) for i in range(20)]
    kill(pid)
    crash_text(dying)
    assert ray.get(refs) == list(range(20))
    assert sorted(map(int, tally.words())) == list(range(20))


def test_f09_idle_worker_killed_is_replaced_unnoticed():
    """After SIGKILL of all idle workers, tasks without retries still succeed."""
    pids = set(ray.get([ray.remote(lambda: os.getpid()).remote() for _ in range(8)]))
    for pid in pids:
        kill(pid)
    assert ray.get([ray.remote(max_retries=0)(lambda i: i).remote(i) for i in range(8)]) == list(range(8))
    wait_for(lambda: not any(is_alive(pid) for pid in pids))
    assert of_role("worker")


def test_f13_last_lines_of_stderr_are_in_the_error(tmp_path):
    """Ten megabytes of stderr arrive completely, and the error ends with the last twenty lines."""
    report = tmp_path / "error.txt"
    done = run_script(
        f"""
import os, pathlib, signal, sys, ray
ray.init(num_cpus=1, include_dashboard=False)

@ray.remote(max_retries=0)
def talk():
    for i in range(20_000):
        sys.stderr.write(f"line {{i:06d}} " + "." * 500 + "\\n")
    sys.stderr.flush()
    os.kill(os.getpid(), signal.SIGKILL)

try:
    ray.get(talk.remote())
except ray.exceptions.WorkerCrashedError as error:
    pathlib.Path({str(report)!r}).write_text(str(error))
"""
    )
    text = report.read_text()
    assert [f"line {i:06d}" in text for i in range(19_980, 20_000)] == [True] * 20
    assert "line 019000" not in text
    seen = [int(one) for one in re.findall(r"^\(talk pid=\d+\) line (\d{6})", done.stderr, re.MULTILINE)]
    assert seen == list(range(20_000))


def test_f08_many_kills_while_tasks_flow_lose_nothing(tmp_path):
    """Tasks with retries all give their results while workers are killed one after the other."""
    gates = [Gate(tmp_path / f"gate{i}") for i in range(3)]

    @ray.remote
    def maybe(i):
        if i % 20 == 10:
            gates[i // 20].pass_through()
        return i

    refs = [maybe.remote(i) for i in range(60)]
    for gate in gates:
        wait_for(gate.pids)
        kill(gate.pids()[0])
        gate.open()
    assert ray.get(refs) == list(range(60))
