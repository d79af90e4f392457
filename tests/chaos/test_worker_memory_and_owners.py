"""Faults F10, F14 to F16 and F19 to F24: stopped, blocked, owning, reading and failing workers."""

import ctypes
import os
import re
import signal
import subprocess
import threading
import time

import pytest

import ray
from ray.exceptions import OwnerDiedError, RayError, WorkerCrashedError
from support import Gate, is_alive, start_script, wait_for

np = pytest.importorskip("numpy")
STORE_BYTES = 320 * 1024 * 1024
BIG_BYTES = 200 * 1024 * 1024
pytestmark = [pytest.mark.runtime(num_cpus=4, object_store_memory=STORE_BYTES), pytest.mark.limit(15)]


def kill(pid):
    os.kill(pid, signal.SIGKILL)


def all_cpus_free():
    return ray.available_resources().get("CPU") == 4


@pytest.mark.slow
@pytest.mark.limit(40)
def test_f10_stopped_worker_is_reported_and_goes_on(tmp_path):
    """A worker stopped for eight seconds is reported as stopped after five; then the right result arrives."""
    code = """
import os, ray
ray.init(num_cpus=1, include_dashboard=False)

@ray.remote
def work(path):
    print("worker", os.getpid(), flush=True)
    with open(path) as file:
        return file.read()

print("result", ray.get(work.remote(os.environ["FIFO"])), flush=True)
"""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with start_script(code, cwd=tmp_path, env={"FIFO": str(fifo)}) as script:
        script.wait_for_output("worker ")
        pid = int(re.search(r"worker (\d+)", script.stdout).group(1))
        os.kill(pid, signal.SIGSTOP)
        wait_for(lambda: re.search(r"(?i)\bstopped\b", script.stderr + script.stdout) and str(pid) in script.stderr, 9, script.report())
        os.kill(pid, signal.SIGCONT)
        fifo.write_text("right")
        done = script.finish()
    assert "result right" in done.stdout


@pytest.mark.parametrize("blocking", ["get", "wait"])
@pytest.mark.parametrize("retries", [0, 1])
def test_f14_f15_killed_parent_leaves_no_child_behind(blocking, retries, gate):
    """A parent killed in `get` (F14) or `wait` (F15) fails or is retried; its running child is ended, its CPU comes back."""

    @ray.remote
    def child():
        return gate.pass_through()

    parents = Gate(f"{gate.path}-parents")
    parents.open()

    @ray.remote(max_retries=retries)
    def parent():
        parents.pass_through()
        ref = child.remote()
        if blocking == "wait":
            ray.wait([ref])
        return ray.get(ref)

    ref = parent.remote()
    (orphan,) = wait_for(gate.pids)
    kill(parents.pids()[0])
    if retries:
        wait_for(lambda: len(gate.pids()) == 2)
        wait_for(lambda: not is_alive(orphan))
        gate.open()
        assert ray.get(ref) == gate.pids()[1]
    else:
        with pytest.raises(WorkerCrashedError):
            ray.get(ref)
        wait_for(lambda: not is_alive(orphan))
    wait_for(all_cpus_free)


def test_f16_kill_in_the_middle_of_a_put_reclaims_the_space(tally):
    """Workers killed while they write 200 MB into a store of 320 MB leave it empty."""

    @ray.remote(max_retries=0)
    def put():
        data = np.ones(BIG_BYTES, dtype=np.uint8)
        tally.add(os.getpid())
        while True:
            ray.put(data)

    for round_ in range(3):
        ref = put.remote()
        wait_for(lambda expected=round_ + 1: tally.count() == expected)
        kill(int(tally.words()[-1]))
        with pytest.raises(WorkerCrashedError):
            ray.get(ref)
    assert ray.get(ray.put(np.ones(BIG_BYTES, dtype=np.uint8)))[-1] == 1


def test_f19_objects_of_a_killed_owner_raise_and_name_it():
    """Borrowers of a dead process's object get OwnerDiedError with its pid, in the driver and in tasks."""

    @ray.remote
    class Owner:
        def make(self):
            return os.getpid(), [ray.put(np.ones(1_000_000))]

    @ray.remote
    def read(array):
        return array.sum()

    owner = Owner.remote()
    pid, (ref,) = ray.get(owner.make.remote())
    kill(pid)
    wait_for(lambda: not is_alive(pid))
    with pytest.raises(OwnerDiedError) as caught:
        ray.get(ref)
    assert str(pid) in str(caught.value)
    with pytest.raises(OwnerDiedError):
        ray.get(read.remote(ref))


def test_f20_objects_of_a_busy_owner_stay_readable(gate):
    """While a worker sits in C code with the GIL, others read the small objects that it owns."""

    @ray.remote
    class Owner:
        def make(self):
            self.refs = [ray.put(("small", i)) for i in range(10)]
            return self.refs

        def block(self):
            gate.arrivals.add(os.getpid())
            ctypes.PyDLL(None).usleep(2_500_000)

    @ray.remote
    def read(box):
        return ray.get(box)

    owner = Owner.remote()
    refs = ray.get(owner.make.remote())
    ray.get(read.remote([]))
    block = owner.block.remote()
    wait_for(gate.pids)
    start = time.monotonic()
    assert ray.get(refs) == ray.get(read.remote(refs)) == [("small", i) for i in range(10)]
    assert time.monotonic() - start < 2
    ray.get(block)


def test_f21_killed_reader_lets_go_of_its_memory():
    """Memory that a killed worker was reading can be used again."""

    @ray.remote
    class Reader:
        def read(self, box):
            self.array = ray.get(box[0])
            return os.getpid(), int(self.array[-1])

    reader = Reader.remote()
    ref = ray.put(np.full(BIG_BYTES, 3, dtype=np.uint8))
    pid, last = ray.get(reader.read.remote([ref]))
    assert last == 3
    kill(pid)
    del ref

    def put():
        try:
            return ray.get(ray.put(np.full(BIG_BYTES, 4, dtype=np.uint8)))[0] == 4
        except ray.exceptions.ObjectStoreFullError:
            return False

    wait_for(put, 5)


def test_f22_unpicklable_result_names_the_path_and_keeps_the_worker():
    """The error names the place inside the result; the same process takes the next task."""

    @ray.remote(num_cpus=4)
    def bad():
        return {"settings": [1, threading.Lock()]}

    @ray.remote(num_cpus=4)
    def pid():
        return os.getpid()

    before = ray.get(pid.remote())
    with pytest.raises(TypeError) as caught:
        ray.get(bad.remote())
    assert "settings" in str(caught.value)
    assert "[1]" in str(caught.value)
    assert ray.get(pid.remote()) == before


def test_f23_unreadable_exception_shows_text_types_and_traceback():
    """An exception that the caller can't unpickle still shows its text, its types and where it was raised."""

    class Base(Exception):
        pass

    class Unreadable(Base):
        def __reduce__(self):
            return (int, ("not a number",))

    @ray.remote
    def function_with_unreadable_error():
        raise Unreadable("the text of it")

    with pytest.raises(RayError) as caught:
        ray.get(function_with_unreadable_error.remote())
    text = str(caught.value)
    for part in ("the text of it", "Unreadable", "function_with_unreadable_error", "test_worker_memory_and_owners.py"):
        assert part in text, text


def test_f24_grandchildren_of_a_killed_worker_end_with_it(tally):
    """A process that a worker has started ends when the worker is killed."""

    @ray.remote(max_retries=0)
    def spawn():
        child = subprocess.Popen(["sleep", "60"])
        tally.add(child.pid)
        tally.add(os.getpid())
        child.wait()

    ref = spawn.remote()
    wait_for(lambda: tally.count() == 2)
    grandchild, worker = map(int, tally.words())
    try:
        kill(worker)
        with pytest.raises(WorkerCrashedError):
            ray.get(ref)
        wait_for(lambda: not is_alive(grandchild), 3)
    finally:
        if is_alive(grandchild):
            kill(grandchild)
