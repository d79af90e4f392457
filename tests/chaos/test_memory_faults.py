"""Faults F11 and F12: a stopped worker that counts as dead, and workers that use too much memory."""

import os
import re
import signal
from pathlib import Path

import pytest

import ray
from ray.exceptions import ActorDiedError, OutOfMemoryError, WorkerCrashedError
from support import is_alive, wait_for

LIMIT_MB = 300
pytestmark = [pytest.mark.runtime(num_cpus=4, _system_config={"memory_limit_bytes": LIMIT_MB << 20, "memory_monitor_refresh_ms": 20}), pytest.mark.limit(30)]


def fill(megabytes, made=None):
    """Touch so much memory, a megabyte at a time."""
    kept = made if made is not None else []
    for _ in range(megabytes):
        kept.append(b"x" * (1 << 20))
        wait_a_moment()
    return kept


def wait_a_moment():
    """The monitor looks every 20 ms: without a pause the machine's speed would decide how far a bomb gets."""
    import select

    select.select([], [], [], 0.002)


def bomb(path=None):
    if path is not None:
        with open(path, "a") as file:
            file.write(f"{os.getpid()}\n")
    return len(fill(2_000))


@ray.remote
class Neighbour:
    def __init__(self):
        self.kept = fill(40)

    def pid(self):
        return os.getpid()


@pytest.mark.limit(40)
def test_f11_stopped_worker_is_dead_when_the_setting_says_so(no_runtime, gate):
    """With `stopped_is_dead`, SIGSTOP ends the task after five seconds; the error names the stop and the pid."""
    ray.init(num_cpus=1, include_dashboard=False, _system_config={"stopped_is_dead": True})
    ref = ray.remote(max_retries=0)(lambda: gate.pass_through()).remote()
    (pid,) = wait_for(gate.pids)
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(WorkerCrashedError) as caught:
        ray.get(ref, timeout=20)
    assert re.search(r"stopped \(state T\)", str(caught.value)), str(caught.value)
    assert str(pid) in str(caught.value)
    wait_for(lambda: not is_alive(pid))


def test_f12_task_without_bound_is_ended_and_named(tmp_path):
    """The error names the task, its process, its peak and the limit; a neighbour that uses little lives on."""
    neighbour = Neighbour.remote()
    before = ray.get(neighbour.pid.remote())
    starts = tmp_path / "starts"
    with pytest.raises(OutOfMemoryError) as caught:
        ray.get(ray.remote(max_retries=0)(bomb).remote(str(starts)))
    text = str(caught.value)
    (pid,) = starts.read_text().split()
    assert "bomb" in text
    assert f"pid {pid}" in text
    assert f"limit of {LIMIT_MB} MiB" in text
    peak = int(re.search(r"peaked at (\d+) MiB", text).group(1))
    assert 150 < peak < 2 * LIMIT_MB, text
    assert re.search(rf"pid {before} \d+ MiB \(actor Neighbour\)", text), text
    assert "hint:" in text
    assert ray.get(neighbour.pid.remote()) == before


def test_f12_task_that_alone_is_too_large_uses_up_its_retries(tmp_path):
    """Waiting for others would not make room for a bomb beside an actor: it fails after its ordinary retries instead of running for ever."""
    neighbour = Neighbour.remote()
    ray.get(neighbour.pid.remote())
    starts = tmp_path / "starts"
    with pytest.raises(OutOfMemoryError, match="attempt 3"):
        ray.get(ray.remote(max_retries=2)(bomb).remote(str(starts)))
    assert len(starts.read_text().split()) == 3


def test_f12_crowded_tasks_are_retried_free_of_charge(tmp_path, gate):
    """Two tasks that fit only one after the other both succeed, though they may be retried only once."""

    @ray.remote(max_retries=1)
    def large(path):
        with open(path, "a") as file:
            file.write(f"{os.getpid()}\n")
        made = fill(100)
        Path(f"{path}.half").touch()
        if len(Path(path).read_text().split()) == 1:
            gate.pass_through()
        return len(fill(80, made))

    paths = [str(tmp_path / name) for name in "ab"]
    refs = [large.remote(path) for path in paths]
    wait_for(lambda: all(Path(f"{path}.half").exists() for path in paths))
    gate.open()
    assert ray.get(refs) == [180, 180]
    assert sum(len(Path(path).read_text().split()) for path in paths) > 2


def test_f12_actor_without_restarts_gives_out_of_memory():
    """Compat: the call of an actor that is ended for memory raises OutOfMemoryError, as do later ones."""

    @ray.remote
    class Bomb:
        def go(self):
            return bomb()

    actor = Bomb.remote()
    for _ in range(2):
        with pytest.raises(OutOfMemoryError) as caught:
            ray.get(actor.go.remote())
        assert "Bomb" in str(caught.value)
        assert not isinstance(caught.value, ActorDiedError)


def test_f12_actor_with_restarts_is_restarted():
    """A restartable actor comes back after its end for memory."""

    @ray.remote(max_restarts=1)
    class Bomb:
        def go(self):
            return bomb()

        def pid(self):
            return os.getpid()

    actor = Bomb.remote()
    first = ray.get(actor.pid.remote())
    with pytest.raises(ray.exceptions.RayError):
        ray.get(actor.go.remote())
    assert ray.get(actor.pid.remote()) != first


def test_f12_children_count_for_their_worker(tmp_path):
    """Memory that a task's subprocess uses is the task's: its worker is ended and the subprocess with it."""
    code = "import os, sys, select\nprint(os.getpid(), flush=True)\nkept = []\nwhile True:\n    kept.append(b'x' * (1 << 20))\n    select.select([], [], [], 0.002)"

    @ray.remote(max_retries=0)
    def host():
        import subprocess
        import sys

        child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        (tmp_path / "child").write_text(child.stdout.readline())
        return child.wait()

    with pytest.raises(OutOfMemoryError, match="host"):
        ray.get(host.remote())
    wait_for(lambda: not is_alive(int((tmp_path / "child").read_text())))


def test_f12_over_its_request_goes_before_the_larger_one(no_runtime):
    """Who uses more than its `memory=` is ended, not who uses even more and asked for it."""
    ray.init(num_cpus=4, include_dashboard=False, _memory=1 << 30, _system_config={"memory_limit_bytes": LIMIT_MB << 20, "memory_monitor_refresh_ms": 20})

    @ray.remote
    class Honest:
        def __init__(self):
            self.kept = fill(160)

        def pid(self):
            return os.getpid()

    honest = Honest.options(memory=200 << 20).remote()
    before = ray.get(honest.pid.remote())
    with pytest.raises(OutOfMemoryError, match="more than the 20 MiB that its memory= asked for"):
        ray.get(ray.remote(max_retries=0, memory=20 << 20)(bomb).remote())
    assert ray.get(honest.pid.remote()) == before


def test_f12_request_is_a_limit_when_enforced(no_runtime):
    """With `enforce_memory_requests`, passing its own `memory=` ends a worker on a machine with plenty left; without a request it goes on."""
    ray.init(num_cpus=2, include_dashboard=False, _memory=1 << 30, _system_config={"enforce_memory_requests": True, "memory_monitor_refresh_ms": 20})
    with pytest.raises(OutOfMemoryError, match="enforce_memory_requests"):
        ray.get(ray.remote(max_retries=0, memory=60 << 20)(bomb).remote())
    assert ray.get(ray.remote(lambda: len(fill(120))).remote()) == 120


def test_f12_idle_worker_goes_before_a_running_one(no_runtime):
    """Memory that an idle worker keeps is taken back first; the task that needs it finishes."""
    settings = {"memory_limit_bytes": LIMIT_MB << 20, "memory_monitor_refresh_ms": 20, "worker_growth_mb": 0}
    ray.init(num_cpus=2, include_dashboard=False, _system_config=settings)

    @ray.remote(num_cpus=2)
    def hoard():
        import builtins

        builtins.hoarded = fill(150)
        return os.getpid()

    @ray.remote(max_retries=0, runtime_env={"env_vars": {"ANOTHER": "1"}})
    def work():
        return len(fill(200))

    idle = ray.get(hoard.remote())
    assert ray.get(work.remote()) == 200
    wait_for(lambda: not is_alive(idle))


CGROUP = Path("/sys/fs/cgroup/memory" if Path("/sys/fs/cgroup/memory/memory.limit_in_bytes").exists() else "/sys/fs/cgroup")


@pytest.mark.slow
@pytest.mark.limit(60)
def test_f12_limit_of_the_control_group_counts(tmp_path):
    """In a control group with a limit, the monitor ends the task before the kernel ends anything."""
    from support import start_script

    group = CGROUP / f"ray-test-{os.getpid()}"
    limit = "memory.limit_in_bytes" if CGROUP.name == "memory" else "memory.max"
    try:
        group.mkdir()
        (group / limit).write_text(str(600 << 20))
    except OSError as error:
        if group.exists():
            group.rmdir()
        pytest.skip(f"control groups can't be made here: {error}")
    code = f"""
import os, pathlib, select, ray
pathlib.Path({str(group / "cgroup.procs")!r}).write_text(str(os.getpid()))
ray.init(num_cpus=1, include_dashboard=False, object_store_memory=80_000_000, _system_config={{"memory_monitor_refresh_ms": 20, "memory_usage_threshold": 0.8}})

@ray.remote(max_retries=0)
def bomb():
    kept = []
    while True:
        kept.append(b"x" * (1 << 20))
        select.select([], [], [], 0.002)

try:
    ray.get(bomb.remote())
except ray.exceptions.OutOfMemoryError as error:
    print(error)
"""
    try:
        with start_script(code, cwd=tmp_path) as script:
            done = script.finish(40)
        assert "of the control group" in done.stdout, done.output
        assert "limit of 600 MiB" in done.stdout
    finally:
        wait_for(lambda: not (group / "cgroup.procs").read_text().split())
        group.rmdir()
