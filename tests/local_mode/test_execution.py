"""Where and when calls run in local mode: in the waiting thread if that is what the wait is for, else in helpers; and never a silent hang."""

import asyncio
import os
import subprocess
import sys
import threading

import numpy as np
import pytest

import ray
from ray._core.local.stalls import LocalModeDeadlockError
from support import Snapshot, tree_pids, wait_for

pytestmark = pytest.mark.runtime(num_cpus=2, local_mode=True)


@ray.remote
def thread():
    return threading.get_ident()


@ray.remote
def double(x):
    return 2 * x


@ray.remote
class Signal:
    def __init__(self):
        self.event = asyncio.Event()

    async def send(self):
        self.event.set()

    async def wait(self):
        await self.event.wait()


@ray.remote
def wait_for_signal(signal):
    ray.get(signal.wait.remote())
    return "signalled"


def test_get_runs_the_task_in_the_calling_thread():
    """A debugger steps from `ray.get` into the task."""
    assert ray.get(thread.remote()) == threading.get_ident()
    assert ray.get([thread.remote(), thread.remote()]) == [threading.get_ident()] * 2


def test_get_runs_what_the_task_depends_on_first_in_the_calling_thread():
    """Arguments and the earlier calls of an actor run there, too, in order."""

    @ray.remote
    class Recorder:
        def __init__(self):
            self.seen = []

        def add(self, value):
            self.seen.append((value, threading.get_ident()))
            return self.seen

    recorder = Recorder.remote()
    for i in range(3):
        recorder.add.remote(i)
    assert ray.get(recorder.add.remote(double.remote(21))) == [(value, threading.get_ident()) for value in (0, 1, 2, 42)]


def test_values_are_copied_as_on_a_cluster():
    """What a task does to its argument, or a caller to a result, is nobody else's business; arrays are read-only."""
    given, kept = [1], ray.put({"n": 1})

    @ray.remote
    def change(values, array):
        values.append(2)
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1
        return values

    assert ray.get(change.remote(given, np.zeros(10))) == [1, 2]
    assert given == [1]
    ray.get(kept)["n"] = 2
    assert ray.get(kept) == {"n": 1}
    with pytest.raises(TypeError, match=r"could not serialize .*lock"):
        change.remote({"lock": threading.Lock()}, 0)


def test_no_process_is_started():
    """Everything is in this process."""
    before = tree_pids()
    assert ray.get([ray.remote(lambda: os.getpid()).remote() for _ in range(4)]) == [os.getpid()] * 4
    assert tree_pids() == before


def test_wait_returns_the_task_that_ends_first(gate):
    """A task that blocks does not hold up `ray.wait`, `get` with a timeout, or the tasks after it."""

    @ray.remote
    def hold():
        return gate.pass_through()

    slow, fast = hold.remote(), double.remote(1)
    assert ray.wait([slow, fast]) == ([fast], [slow])
    with pytest.raises(ray.exceptions.GetTimeoutError):
        ray.get(slow, timeout=0.05)
    gate.open()
    assert ray.get(slow) == os.getpid()


def test_call_that_nobody_waits_for_is_run(tally):
    """A program may start a call and look for its effects."""
    ray.remote(lambda: tally.add()).remote()
    wait_for(lambda: tally.count() == 1)


def test_call_may_wait_for_what_a_later_line_provides():
    """The weakness of eager local modes: here the driver goes on, and the task with it."""
    signal = Signal.remote()
    waiting = wait_for_signal.remote(signal)
    assert ray.wait([waiting], timeout=0.1)[0] == []
    signal.send.remote()
    assert ray.get(waiting) == "signalled"


def test_call_waits_for_a_signal_that_a_queued_task_sends():
    """A task that can't go on does not keep those behind it from running."""
    signal = Signal.remote()
    waiting = wait_for_signal.remote(signal)
    ray.remote(lambda signal: ray.get(signal.send.remote())).remote(signal)
    assert ray.get(waiting) == "signalled"


def test_wait_that_can_never_end_raises_and_names_the_chain():
    """Where a cluster would hang, local mode says what waits for what."""
    signal = Signal.remote()
    with pytest.raises(LocalModeDeadlockError) as caught:
        ray.get(wait_for_signal.remote(signal))
    text = str(caught.value)
    assert "wait_for_signal waits for Signal.wait" in text
    assert "Signal.wait is suspended in the event loop of its actor" in text
    assert "hint: only a later line of the program could end this wait" in text
    assert ray.get(double.remote(4)) == 8


def test_actor_that_waits_for_itself_raises():
    """A method that waits for another method of the same actor can never go on."""

    @ray.remote
    class Narcissus:
        def look(self, me):
            return ray.get(me.answer.remote())

        def answer(self):
            return "never"

    actor = Narcissus.remote()
    with pytest.raises(LocalModeDeadlockError, match="Narcissus.look waits for Narcissus.answer"):
        ray.get(actor.look.remote(actor))


def test_wait_with_another_thread_alive_is_not_refused():
    """A thread of the user's may still end the wait, so nothing is certain."""
    signal = Signal.remote()
    started = threading.Event()

    def send_later():
        started.wait(10)
        signal.send.remote()

    helper = threading.Thread(target=send_later)
    helper.start()
    waiting = wait_for_signal.remote(signal)
    threading.Timer(0.3, started.set).start()
    assert ray.get(waiting) == "signalled"
    helper.join()


def test_deep_recursion_of_tasks_does_not_use_up_the_stack():
    """A thousand nested calls exceed Python's limit of recursion if they all run in one thread."""

    @ray.remote
    def depth(n):
        return 0 if n == 0 else 1 + ray.get(depth.remote(n - 1))

    assert ray.get(depth.remote(300)) == 300


def test_long_chain_of_tasks_runs():
    """Chains are followed without recursion."""
    ref = ray.put(0)
    for _ in range(3000):
        ref = inc.remote(ref)
    assert ray.get(ref) == 3000


@ray.remote
def inc(x):
    return x + 1


def test_await_in_the_drivers_event_loop_goes_on_meanwhile():
    """The loop is not blocked by what it awaits, and a task may use an event loop of its own."""

    @ray.remote
    def uses_asyncio():
        return asyncio.run(asyncio.sleep(0.05, "slept"))

    async def main():
        ticks = 0
        ref = uses_asyncio.remote()
        future = asyncio.ensure_future(ref.as_future())
        while not future.done():
            ticks += 1
            await asyncio.sleep(0.005)
        assert ray.get(uses_asyncio.remote()) == "slept"
        return future.result(), ticks

    value, ticks = asyncio.run(main())
    assert value == "slept"
    assert ticks > 2


def test_await_that_is_cancelled_is_given_up():
    """Its wait goes, and with it the reason to start calls at once; the value is still there for others."""
    from ray._core import session

    signal = Signal.remote()

    async def main():
        waiting = wait_for_signal.remote(signal)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(waiting.as_future(), 0.05)
        assert session.core.scheduler.loose == 0
        signal.send.remote()
        return await waiting

    assert asyncio.run(main()) == "signalled"


def test_fork_has_no_part_in_the_session():
    """A forked child is told so; the parent goes on."""
    ref = double.remote(4)
    assert ray.get(ref) == 8
    pid = os.fork()
    if pid == 0:
        try:
            ray.get(ref)
        except ray.exceptions.RaySystemError as error:
            os._exit(0 if "forked" in str(error) else 2)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert ray.get([ref, double.remote(5)]) == [8, 10]


def test_threaded_actor_runs_calls_side_by_side(gate):
    """`max_concurrency` calls at once."""

    @ray.remote(max_concurrency=2)
    class Pair:
        def __init__(self):
            self.barrier = threading.Barrier(2)

        def meet(self):
            return self.barrier.wait(10) in (0, 1)

    pair = Pair.remote()
    first, second = pair.meet.remote(), pair.meet.remote()
    assert ray.wait([first, second], num_returns=2, timeout=10)[1] == []
    assert ray.get([first, second]) == [True, True]


def test_ctrl_c_in_a_task_stops_the_program():
    """A KeyboardInterrupt is the user's, not the task's error."""

    @ray.remote
    def interrupted():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ray.get(interrupted.remote())
    assert ray.get(double.remote(1)) == 2


def test_actor_ends_with_its_last_handle(tally):
    """Its instance is freed, and its name with it."""

    @ray.remote(name="mortal")
    class Mortal:
        def ping(self):
            return "pong"

        def __del__(self):
            tally.add()

    actor = Mortal.remote()
    assert ray.get(actor.ping.remote()) == "pong"
    del actor
    wait_for(lambda: tally.count() == 1)
    with pytest.raises(ValueError):
        ray.get_actor("mortal")


def test_kill_with_a_restart_left_makes_a_fresh_instance():
    """`no_restart=False` runs the constructor again."""

    @ray.remote(max_restarts=1)
    class Counter:
        def __init__(self, start):
            self.n = start

        def add(self):
            self.n += 1
            return self.n, ray.get_runtime_context().was_current_actor_reconstructed

    counter = Counter.remote(10)
    assert [ray.get(counter.add.remote()) for _ in range(2)] == [(11, False), (12, False)]
    ray.kill(counter, no_restart=False)
    assert ray.get(counter.add.remote()) == (11, True)
    ray.kill(counter, no_restart=False)
    with pytest.raises(ray.exceptions.ActorDiedError, match="killed by ray.kill"):
        ray.get(counter.add.remote())


def test_exit_actor_fails_its_call_and_later_ones():
    """An actor may leave by itself."""

    @ray.remote
    class Leaver:
        def leave(self):
            ray.actor.exit_actor()

    leaver = Leaver.remote()
    for _ in range(2):
        with pytest.raises(ray.exceptions.ActorDiedError, match=r"exit_actor\(\) was called"):
            ray.get(leaver.leave.remote())
    with pytest.raises(TypeError, match="outside of an actor"):
        ray.actor.exit_actor()


def test_request_that_never_fits_is_refused_with_the_reason():
    """No node will join: the task fails at once and says what is lacking."""
    with pytest.raises(ray.exceptions.TaskUnschedulableError, match=r"CPU: asked 99, there are 2.*\nhint: ask for less"):
        ray.get(double.options(num_cpus=99).remote(1))
    actor = Signal.options(resources={"unicorn": 1}).remote()
    with pytest.raises(ray.exceptions.ActorUnschedulableError, match="unicorn: asked 1, there are 0"):
        ray.get(actor.send.remote())


def test_environment_variables_are_put_back_after_the_call(monkeypatch):
    """They are the process's own, so they are there only while the call runs."""
    monkeypatch.setenv("SHADE", "light")

    @ray.remote(runtime_env={"env_vars": {"SHADE": "dark", "FRESH": "yes"}})
    def read():
        return os.environ["SHADE"], os.environ["FRESH"]

    assert ray.get(read.remote()) == ("dark", "yes")
    assert os.environ["SHADE"] == "light"
    assert "FRESH" not in os.environ


def test_explain_says_what_a_reference_waits_for():
    """`ray.util.state.explain` answers here, too."""
    from ray.util.state import explain

    signal = Signal.remote()
    waiting = wait_for_signal.remote(signal)
    ray.wait([waiting], timeout=0.1)
    assert "waits for Signal.wait" in explain(waiting).text
    assert "is alive: it runs Signal.wait" in explain(signal).text
    signal.send.remote()
    ray.get(waiting)
    assert "nothing in this session waits for it" in explain(waiting).text
    assert "local mode" in explain().text


def test_reference_as_a_future_of_threads():
    """`ref.future()` gives a concurrent future."""
    assert double.remote(5).future().result(timeout=10) == 10


def test_runtime_context_tells_driver_and_task_apart():
    """In one process the context is that of the call."""

    @ray.remote
    class Actor:
        def ids(self):
            context = ray.get_runtime_context()
            return context.get_task_id(), context.get_actor_id(), context.current_actor._actor_id.hex()

    context = ray.get_runtime_context()
    assert context.get_task_id() is None
    assert context.get_actor_id() is None
    actor = Actor.remote()
    task_id, actor_id, own_id = ray.get(actor.ids.remote())
    assert task_id is not None
    assert actor_id == own_id == actor._actor_id.hex()
    assert context.worker.mode == ray.LOCAL_MODE


def test_shutdown_leaves_no_thread(no_runtime):
    """Threads and descriptors go, those of calls that still waited, too."""
    before = Snapshot.take()
    ray.init(local_mode=True, num_cpus=1)
    signal = Signal.remote()
    ref = double.remote(1)
    assert ray.get(ref) == 2
    assert ray.wait([wait_for_signal.remote(signal)], timeout=0.05)[0] == []
    ray.shutdown()
    before.check()
    with pytest.raises(ValueError, match="belongs to no session or to one that has ended"):
        ray.init(local_mode=True)
        ray.get(ref)


def test_variable_turns_local_mode_on():
    """RAY_LOCAL_MODE=1 needs no change of the program."""
    code = "import ray, os; print(ray.get(ray.remote(lambda: os.getpid()).remote()) == os.getpid())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ, "RAY_LOCAL_MODE": "1"})
    assert done.stdout.strip() == "True"
