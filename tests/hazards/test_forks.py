"""Processes forked by the user's program: in the driver, in a task, in an actor of any kind. F42 has more about the driver's."""

import concurrent.futures
import gc
import multiprocessing
import os
import pickle
import signal
import sys
import threading

import pytest

import ray
from support import is_alive, run_script, start_script, wait_for

pytestmark = [pytest.mark.runtime(num_cpus=4), pytest.mark.limit(40)]

FORK = multiprocessing.get_context("fork")
PLACES = ("driver", "task", "actor", "threaded actor", "async actor")


def in_child(body):
    """Run `body` in a forked child; what it returned or raised as text, and the exit code (-14 is the alarm: it hung)."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(15)
        try:
            text = str(body())
        except BaseException as error:
            text = f"{type(error).__name__}: {error}"
        os.write(writer, text.encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as file:
        text = file.read()
    return text, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@ray.remote
def echo(x):
    return x


@ray.remote
class Host:
    def run(self, body):
        return body()

    def ping(self):
        return "pong"


@ray.remote
class AsyncHost:
    async def run(self, body):
        return body()


@ray.remote(max_retries=0)
def run_task(body):
    return body()


def run_at(place, body):
    """Call `body` in the driver, or send it to a process of the runtime."""
    if place == "driver":
        return body()
    if place == "task":
        return ray.get(run_task.remote(body))
    actor = {"actor": Host, "threaded actor": Host.options(max_concurrency=3), "async actor": AsyncHost}[place].remote()
    return ray.get(actor.run.remote(body))


@pytest.mark.parametrize("place", PLACES)
def test_child_that_uses_the_api_gets_a_clear_error(place):
    """Each call of the API in a forked child says that the process was forked, and the parent goes on."""
    actor = Host.remote()
    ray.get(actor.ping.remote())

    def body():
        ref = ray.put("parent's")
        ray.get(actor.ping.remote())  # the call site is bound before the fork
        uses = {
            "get": lambda: ray.get(ref),
            "wait": lambda: ray.wait([ref], timeout=1),
            "put": lambda: ray.put(1),
            "task": lambda: echo.remote(1),
            "method": lambda: actor.ping.remote(),
            "other method": lambda: actor.run.remote(len),
            "create": lambda: Host.remote(),
            "kill": lambda: ray.kill(actor),
            "name": lambda: ray.get_actor("nobody"),
            "future": lambda: ref.future(),
            "unpickle": lambda: pickle.loads(pickle.dumps(ref)),
            "resources": lambda: ray.available_resources(),
            "context": lambda: ray.get_runtime_context().get_node_id(),
        }
        answers = {name: in_child(use) for name, use in uses.items()}
        return answers, in_child(ray.is_initialized), ray.get(ref), ray.get(actor.ping.remote())

    answers, initialized, value, pong = run_at(place, body)
    assert {name: code for name, (_, code) in answers.items() if code} == {}
    assert {name: text for name, (text, _) in answers.items() if "forked" not in text} == {}
    assert (initialized, value, pong) == (("False", 0), "parent's", "pong")


LEAVES = {"return": 0, "exit": 3, "exit with text": 1, "raise": 1}


@pytest.mark.parametrize("place", PLACES[1:])
@pytest.mark.parametrize("leave", LEAVES)
def test_child_that_leaves_the_call_ends_and_the_call_is_the_parents(place, leave):
    """A child forked in a call that returns, raises or exits ends there with the code of a program; only the parent answers the call."""

    def body():
        pid = os.fork()
        if pid:
            return "parent", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if leave == "return":
            return "child", 0
        if leave == "raise":
            raise ValueError("in the child")
        sys.exit(3 if leave == "exit" else "last words")

    assert run_at(place, body) == ("parent", LEAVES[leave])


def test_child_forked_in_a_constructor_ends_with_it():
    """An actor whose constructor forks is one actor."""

    @ray.remote
    class Forker:
        def __init__(self):
            self.child = os.fork()
            self.code = os.waitstatus_to_exitcode(os.waitpid(self.child, 0)[1]) if self.child else None

        def tell(self):
            return self.child > 0, self.code

    assert ray.get(Forker.remote().tell.remote()) == (True, 0)


@pytest.mark.parametrize("place", PLACES)
def test_child_that_drops_references_frees_nothing(place):
    """References, handles and views that die in children leave the parent's alone."""

    def body():
        held = [ray.put(bytes([n]) * 300_000) for n in range(8)]
        values = ray.get(held)
        actor = Host.remote()

        def drop():
            held.clear()
            values.clear()
            nonlocal actor
            actor = None
            gc.collect()

        codes = {in_child(drop)[1] for _ in range(5)}
        # What the children's drops had freed would be used again here.
        filler = [ray.put(bytes([255]) * 300_000) for _ in range(16)]
        right = [value == bytes([n]) * 300_000 for n, value in enumerate(ray.get(held))]
        return codes, all(right), [value[0] for value in values], ray.get(actor.ping.remote()), len(filler)

    assert run_at(place, body) == ({0}, True, list(range(8)), "pong", 16)


def test_child_shares_no_socket_with_the_runtime():
    """A forked child holds none of its parent's links open."""

    def body():
        ray.get(echo.remote(1))

        def sockets():
            links = {fd: os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{fd}")}
            return sorted(fd for fd, target in links.items() if target.startswith("socket:"))

        before = sockets()
        return len(before), in_child(lambda: sockets())[0]

    count, left = run_at("task", body)
    assert count >= 1
    assert left == "[]"


def test_forks_under_traffic_never_hang_nor_harm():
    """Children forked while the engine is busy in every thread find free locks; no result is lost in the parent."""
    stop, failures, rounds = threading.Event(), [], []

    def traffic(seed):
        try:
            while not stop.is_set():
                refs = [echo.remote(seed + i) for i in range(20)]
                big = ray.put(bytes([seed % 256]) * 200_000)
                assert ray.get(refs) == [seed + i for i in range(20)]
                assert ray.get(big)[0] == seed % 256
                rounds.append(seed)
        except BaseException as error:
            failures.append(error)

    def use():
        ref = ray.ObjectRef.from_random()
        for attempt in (lambda: ray.put(1), lambda: echo.remote(1), lambda: pickle.dumps(kept), lambda: kept.hex()):
            try:
                attempt()
            except ray.exceptions.RaySystemError:
                continue
        del ref
        gc.collect()
        return "fine"

    kept = ray.put("kept")
    ray.get(echo.remote(0))
    threads = [threading.Thread(target=traffic, args=(100 * n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    try:
        answers = [in_child(use) for _ in range(25)]
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert answers == [("fine", 0)] * 25
    assert failures == []
    assert rounds
    assert ray.get(kept) == "kept"


@pytest.mark.parametrize("place", PLACES)
def test_process_pools_compute_beside_the_runtime(place):
    """`ProcessPoolExecutor` and `Pool` by fork work anywhere, on values that came out of the object store."""
    ref = ray.put(list(range(50_000)))

    def body():
        values = ray.get(ref)
        with concurrent.futures.ProcessPoolExecutor(2, mp_context=FORK) as pool:
            squares = list(pool.map(abs, range(-20, 0)))
        with FORK.Pool(2) as pool:
            parts = pool.map(sum, [values[:10], values[10:20]])
        return squares, parts, ray.get(echo.remote("after"))

    assert run_at(place, body) == (list(range(20, 0, -1)), [45, 145], "after")


class LoaderOfBatches:
    """What a data loader with workers does: fork them with the data set, send indices, collect batches, end them, each epoch anew."""

    def __init__(self, data, workers):
        self.data = data
        self.workers = workers

    def work(self, indices, batches):
        while (index := indices.get()) is not None:
            batches.put((index, int(self.data[index * 100 : (index + 1) * 100].sum())))

    def epoch(self, count):
        indices, batches = FORK.Queue(), FORK.Queue()
        started = [FORK.Process(target=self.work, args=(indices, batches), daemon=False) for _ in range(self.workers)]
        for process in started:
            process.start()
        for index in range(count):
            indices.put(index)
        found = dict(batches.get(timeout=20) for _ in range(count))
        for _ in started:
            indices.put(None)
        for process in started:
            process.join(20)
        return [found[index] for index in range(count)], [process.exitcode for process in started]


@pytest.mark.parametrize("place", PLACES)
def test_data_loader_workers_read_arrays_of_the_store(place):
    """Loader processes forked for each epoch read a zero-copy array, and end with code 0."""
    np = pytest.importorskip("numpy")
    ref = ray.put(np.arange(100_000))

    def body():
        loader = LoaderOfBatches(ray.get(ref), 2)
        return [loader.epoch(30) for _ in range(2)]

    expected = [sum(range(i * 100, (i + 1) * 100)) for i in range(30)]
    assert run_at(place, body) == [(expected, [0, 0])] * 2


@pytest.mark.parametrize("place", PLACES)
def test_views_of_a_child_stay_when_the_parent_drops_its_own(place):
    """Shared memory that a child sees is not used again while the child lives, and is freed when it has ended."""
    np = pytest.importorskip("numpy")

    def body():
        from ray._core import session

        go, tell = os.pipe()
        array = ray.get(ray.put(np.full(200_000, 7)))

        def look():
            os.read(go, 1)
            return sorted(set(array.tolist()))

        answers = []
        child = threading.Thread(target=lambda: answers.append(in_child(look)))
        children = threading.Event()
        os.register_at_fork(after_in_parent=children.set)
        child.start()
        children.wait(20)
        held = session.core.table_sizes()[0]
        array = None
        gc.collect()
        fillers = [ray.put(np.full(200_000, 9)) for _ in range(4)]
        del fillers
        os.write(tell, b"x")
        child.join()
        os.close(go)
        os.close(tell)
        wait_for(lambda: session.core.table_sizes()[0] < held, 10, "the child's objects are freed")
        return answers

    assert run_at(place, body) == [("[7]", 0)]


@pytest.mark.parametrize("place", ["driver", "task"])
def test_child_may_start_a_session_of_its_own(place):
    """`ray.init()` in a forked child starts another session, with everything that the parent had used before; it ends with the child."""

    def body():
        assert echo.remote(1).future().result(20) == 1  # the thread behind futures is not in the child

        def own():
            ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, configure_logging=False)
            answer = ray.get(echo.remote(2)), echo.remote(3).future().result(10), ray.get(Host.remote().ping.remote())
            ray.shutdown()
            return answer

        return in_child(own), ray.get(echo.remote(4))

    assert run_at(place, body) == (("(2, 3, 'pong')", 0), 4)


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_task_may_start_processes_by(method):
    """`spawn` and `forkserver` work in a task: the new process imports what it runs, and no program of the user again."""

    def body():
        with multiprocessing.get_context(method).Pool(1) as pool:
            return pool.map(abs, [-1, -2])

    assert run_at("task", body) == [1, 2]


def test_spawned_child_imports_main_again_without_a_second_session(tmp_path):
    """A process started with `spawn` by a program with remote functions at its top imports them and starts nothing."""
    done = run_script(
        """
import multiprocessing, os, ray

@ray.remote
def double(x):
    return 2 * x

@ray.remote
class Actor:
    def ping(self):
        return "pong"

def work(x):
    return x + 1, ray.is_initialized(), double.__name__

if __name__ == "__main__":
    ray.init(num_cpus=1, include_dashboard=False)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        print(pool.apply(work, (1,)), ray.get(double.remote(4)))
"""
    )
    assert (done.rc, done.stdout.strip()) == (0, "(2, False, 'double') 8"), done


def test_driver_killed_with_a_forked_child_alive_leaves_nothing_of_the_runtime(tmp_path):
    """A child that lives on does not keep its parent's session alive."""
    code = """
import os, ray
ray.init(num_cpus=2, include_dashboard=False)
ray.get(ray.remote(lambda: 1).remote())
reader, writer = os.pipe()
child = os.fork()
if child == 0:
    os.close(writer)
    os.read(reader, 1)      # until nobody holds the other end
    os._exit(0)
print("child", child, flush=True)
os.read(os.open(os.environ["FIFO"], os.O_RDWR), 1)
"""
    # The child waits at a fifo of the test's: the pipe above would end it with its parent.
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    hold = os.open(fifo, os.O_RDWR)
    code = code.replace("os.read(reader, 1)      # until nobody holds the other end", 'os.read(os.open(os.environ["FIFO"], os.O_RDWR), 1)')
    with start_script(code, cwd=tmp_path, env={"FIFO": str(fifo)}) as script:
        script.wait_for_output("child")
        child = int(script.stdout.split()[1])
        script.signal(signal.SIGKILL)
        script.popen.wait(5)
        wait_for(lambda: {one.pid for one in script.survivors()} == {child}, 10, "only the forked child is left")
        assert is_alive(child)
        os.kill(child, signal.SIGKILL)
        wait_for(lambda: not is_alive(child), 5)
    os.close(hold)
