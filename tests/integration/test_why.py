"""`ray.util.state.explain` and `ray why`: the cause of each stuck or dead situation can be found from the text alone."""

import os
import signal
import subprocess
import sys
import threading

import pytest

import ray
from ray.util.state import explain
from support import Gate, wait_for

pytestmark = [pytest.mark.runtime(num_cpus=2, resources={"slot": 1}), pytest.mark.limit(20)]


@ray.remote
def pass_through(gate):
    gate.pass_through()
    return "through"


@ray.remote
def identity(value):
    return value


@ray.remote(num_cpus=0)
class Worker:
    """An actor that waits, asks others, or ends, as it is told."""

    def __init__(self, *needed):
        self.peer = None

    def pid(self):
        return os.getpid()

    def meet(self, peers):
        self.peer = peers[0]

    def wait_at(self, gate):
        gate.pass_through()

    def ask_peer(self):
        return ray.get(self.peer.ask_peer.remote())

    def wait_for(self, refs):
        return ray.get(refs[0])

    def leave(self, code):
        os._exit(code)


@pytest.fixture
def gate(tmp_path):
    gate = Gate(tmp_path / "gate")
    yield gate
    gate.open()


def arrived(gate, count=1):
    return wait_for(lambda: len(gate.pids()) >= count and gate.pids())


def text_when(what, words):
    """The explanation once it says `words`: states change on their way there."""

    def found():
        text = explain(what).text
        return text if words in text else None

    return wait_for(found, what=f"{words!r} in the explanation")


def test_task_behind_busy_cpus_names_who_holds_them(gate):
    """A task that waits for a CPU is told which processes hold the CPUs, and what they run."""
    running = [pass_through.remote(gate) for _ in range(2)]
    pids = arrived(gate, 2)
    waiting = identity.remote(1)
    text = text_when(waiting, "it waits for a worker and {CPU: 1}: of {CPU: 2} {CPU: 0} are free")
    for pid in pids:
        assert f"(pid {pid}) holds {{CPU: 1}} runs pass_through" in text
    gate.open()
    assert ray.get([*running, waiting]) == ["through", "through", 1]


def test_task_behind_others_of_its_kind_tells_the_line(gate):
    """Of many calls of one function, a late one is told how many are before it."""
    fresh = pass_through.options(num_cpus=0.9)  # a class of its own: nothing is sent ahead yet
    refs = [fresh.remote(gate) for _ in range(10)]
    arrived(gate, 2)
    assert "it is in line behind 7 calls of its kind" in text_when(refs[-1], "in line behind")
    gate.open()
    ray.get(refs)


def test_infeasible_task_says_what_is_lacking():
    """A request that the node can never meet is called that, with the closest fix."""
    found = explain(identity.options(num_gpus=2).remote(1))
    assert "can never be satisfied here" in found.text and "GPU: asked 2, the whole node has 0" in found.text and "ray.init(num_gpus=...)" in found.text


def test_infeasible_actor_says_what_is_lacking():
    """The same for an actor, and for the calls to it."""
    actor = Worker.options(resources={"magnet": 1}).remote()
    for what in (actor, actor.pid.remote()):
        assert "magnet: asked 1, the whole node has 0" in text_when(what, "can never be satisfied")


def test_actor_without_room_names_the_actor_that_holds_it(gate):
    """An actor that waits for a resource is told which process holds it."""
    first = Worker.options(resources={"slot": 1}).remote()
    pid = ray.get(first.pid.remote())
    second = Worker.options(resources={"slot": 1}).remote()
    text = text_when(second, "of {slot: 1} {slot: 0} are free")
    assert "has not started" in text and f"(pid {pid}) holds {{slot: 1}}" in text
    del first
    ray.get(second.pid.remote())


def test_argument_that_is_late_is_followed(gate):
    """A task that waits for its argument is traced to the call that makes it, over several steps."""
    last = identity.remote(identity.remote(pass_through.remote(gate)))
    (pid,) = arrived(gate)
    text = explain(last).text
    assert text.count("it waits for its arguments:") == 2 and f"(pid {pid}) holds {{CPU: 1}} runs pass_through" in text
    gate.open()
    ray.get(last)


def test_long_line_of_calls_is_told_by_its_ends(gate):
    """Of a hundred steps, each of which waits for the one before, only what holds up the first is of interest."""
    step = pass_through.remote(gate)
    for _ in range(100):
        step = identity.remote(step)
    (pid,) = arrived(gate)
    text = explain(step).text
    assert "a line of 99 calls" in text and f"(pid {pid}) holds {{CPU: 1}} runs pass_through" in text and text.count("\n") < 12, text
    gate.open()
    ray.get(step)


def test_actor_whose_constructor_lacks_an_argument_says_so(gate):
    """An actor that is not created yet, and a call to it, are traced to the missing argument."""
    actor = Worker.remote(pass_through.remote(gate))
    arrived(gate)
    for what in (actor, actor.pid.remote()):
        text = text_when(what, "runs pass_through")
        assert "has not been created; its constructor waits for its arguments" in text
    gate.open()
    ray.get(actor.pid.remote())


def test_actor_in_its_constructor_is_called_that(gate):
    """An actor whose constructor runs long is in its constructor, in a process with a pid."""

    @ray.remote
    class Slow:
        def __init__(self, gate):
            gate.pass_through()

        def ping(self):
            return 1

    actor = Slow.remote(gate)
    (pid,) = arrived(gate)
    assert f"(pid {pid})" in text_when(actor, "is in its constructor")
    assert "is in its constructor" in explain(actor.ping.remote()).text
    gate.open()
    ray.get(actor.ping.remote())


def test_call_behind_a_long_call_names_that_call(gate):
    """A call in line at a busy actor is told what the actor runs, since when, and how many are in line."""
    actor = Worker.remote()
    first = actor.wait_at.remote(gate)
    (pid,) = arrived(gate)
    second = actor.pid.remote()
    text = text_when(second, "1 calls in line behind")
    assert "behind 1 other calls of the same caller" in text and f"(pid {pid}) runs Worker.wait_at" in text
    gate.open()
    assert ray.get([first, second])[1] == pid


def test_two_actors_that_wait_for_each_other_are_a_circle():
    """A deadlock is found and its members are named with their pids."""
    a, b = Worker.remote(), Worker.remote()
    pids = ray.get([a.pid.remote(), b.pid.remote()])
    ray.get([a.meet.remote([b]), b.meet.remote([a])])
    stuck = a.ask_peer.remote()
    wait_for(lambda: explain(stuck).cycle)
    found = explain(stuck)
    assert set(found.cycle) == {f"Worker.ask_peer in pid {pid}" for pid in pids}
    assert "a circle: " in found.text and "hint:" in found.text and found.causes[0] in found.text


def test_actor_that_waits_for_itself_is_a_circle():
    """The smallest deadlock has one member."""
    actor = Worker.remote()
    pid = ray.get(actor.pid.remote())
    ray.get(actor.meet.remote([actor]))
    stuck = actor.ask_peer.remote()
    wait_for(lambda: explain(stuck).cycle == (f"Worker.ask_peer in pid {pid}",))


def test_tasks_are_no_circle_because_they_share_a_worker(gate):
    """A chain of waits that ends at a computing call is told without a circle."""
    late = pass_through.remote(gate)
    outer = Worker.remote().wait_for.remote([late])
    arrived(gate)
    found = explain(outer)
    wait_for(lambda: "runs pass_through" in explain(outer).text)
    assert found.cycle == ()
    gate.open()
    assert ray.get(outer) == "through"


def test_stopped_worker_is_called_stopped(gate):
    """A call on a process in state T says so, with the command that continues it."""
    ref = pass_through.remote(gate)
    (pid,) = arrived(gate)
    os.kill(pid, signal.SIGSTOP)
    text = text_when(ref, "is stopped (state T)")
    assert f"kill -CONT {pid}" in text
    os.kill(pid, signal.SIGCONT)
    gate.open()
    assert ray.get(ref) == "through"


def test_stopped_owner_does_not_stop_the_answer(gate):
    """When the owner of the object is stopped itself, the explanation says that instead of hanging."""

    @ray.remote
    def own():
        return [ray.put("mine"), pass_through.remote(gate)], os.getpid()

    (_, nested), owner = ray.get(own.remote())
    arrived(gate)
    os.kill(owner, signal.SIGSTOP)
    text = text_when(nested, "is stopped (state T)")
    assert "belongs to a process that does not answer" in text and f"kill -CONT {owner}" in text
    os.kill(owner, signal.SIGCONT)
    gate.open()
    assert ray.get(nested) == "through"


def test_worker_blocked_in_get_is_followed(gate):
    """A task that waits inside itself is traced to what it waits for, and lends its CPU meanwhile."""

    @ray.remote
    def outer(refs):
        return ray.get(refs[0])

    inner = pass_through.remote(gate)
    ref = outer.remote([inner])
    text = text_when(ref, "in get or wait for")
    assert "lends its CPU" in text and "runs pass_through" in text
    gate.open()
    assert ray.get(ref) == "through"


def test_awaiting_coroutine_is_followed(gate):
    """A call of an async actor that awaits a reference is traced to it."""

    @ray.remote
    class Async:
        async def read(self, refs):
            return await refs[0]

    late = pass_through.remote(gate)
    ref = Async.remote().read.remote([late])
    text = text_when(ref, "awaiting for")
    assert "runs Async.read" in text and "runs pass_through" in text
    gate.open()
    assert ray.get(ref) == "through"


def test_actor_that_exited_tells_its_code():
    """A dead actor, a call to it, and its id in hex all give the exit code and the pid."""
    actor = Worker.remote()
    pid = ray.get(actor.pid.remote())
    call = actor.leave.remote(7)
    ray.wait([call])
    for what in (actor, call, actor.pid.remote(), actor._actor_id.hex()):
        assert f"the process (pid {pid}) exited with code 7" in text_when(what, "exited with code")


def test_killed_actor_says_by_whom():
    """ray.kill is named as what ended the actor."""
    actor = Worker.remote()
    ray.get(actor.pid.remote())
    ray.kill(actor)
    assert "killed by ray.kill" in text_when(actor, "is dead")


def test_actor_that_restarts_lists_its_deaths():
    """A restarted actor is alive and tells how it died before."""
    actor = Worker.options(max_restarts=1, max_task_retries=1).remote()
    pid = ray.get(actor.pid.remote())
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: ray.get(actor.pid.remote()) != pid)
    text = explain(actor).text
    assert "is alive" in text and f"death 1: the process (pid {pid}) was ended by signal 9 (SIGKILL)" in text


def test_raising_constructor_is_quoted():
    """An actor whose constructor raised shows the user's exception."""

    @ray.remote
    class Broken:
        def __init__(self):
            raise ValueError("no such model")

    actor = Broken.remote()
    assert "ValueError: no such model" in text_when(actor, "is dead")


def test_failed_tasks_are_quoted():
    """An object that holds an error says which: the user's exception, or how the worker died."""

    @ray.remote(max_retries=0)
    def fail(how):
        if how == "raise":
            raise KeyError("lost")
        os.kill(os.getpid(), signal.SIGSEGV)

    raised, died = fail.remote("raise"), fail.remote("die")
    ray.wait([raised, died], num_returns=2)
    assert "KeyError: 'lost'" in explain(raised).text
    assert "signal 11 (SIGSEGV)" in explain(died).text


def test_object_of_a_dead_owner_tells_how_the_owner_died():
    """A reference whose owner is gone is traced to the owner's death."""
    actor = Worker.remote()

    @ray.remote(num_cpus=0)
    class Owner:
        def make(self):
            return [pass_through.options(resources={"magnet": 1}).remote(None)], os.getpid()

    owner = Owner.remote()
    (ref,), pid = ray.get(owner.make.remote())
    os.kill(pid, signal.SIGKILL)
    assert f"the process (pid {pid}) was ended by signal 9" in text_when(ref, "signal 9")
    del actor


def test_freed_ready_and_unknown_objects_are_told_apart():
    """Ready, freed and never made: three different answers."""
    ref = ray.put(1)
    hex_id = ref.hex()
    assert "is ready: nothing waits for it" in explain(hex_id).text
    del ref
    assert "was freed, or never made" in text_when(hex_id, "not known")
    with pytest.raises(ValueError, match="is no id of an object"):
        explain("abc")
    with pytest.raises(TypeError, match="takes an ObjectRef"):
        explain(5)  # type: ignore[arg-type]


def test_task_and_worker_ids_are_understood(gate):
    """The ids that errors and the runtime context print are accepted."""

    @ray.remote
    def ids():
        gate.pass_through()

    ref = ids.remote()
    (pid,) = arrived(gate)
    assert f"(pid {pid})" in explain(ref.task_id().hex()).text
    gate.open()
    ray.get(ref)

    @ray.remote
    def who():
        context = ray.get_runtime_context()
        return context.get_worker_id(), os.getpid()

    worker_id, pid = ray.get(who.remote())
    assert f"(pid {pid})" in explain(worker_id).text


def test_everything_includes_threads_of_the_driver(gate):
    """Without an argument: every process that is not idle, the driver's waiting threads among them."""
    ref = pass_through.remote(gate)
    (pid,) = arrived(gate)
    thread = threading.Thread(target=ray.get, args=(ref,))
    thread.start()
    text = text_when(None, "has a thread that waits")
    assert f"the driver (pid {os.getpid()})" in text and f"(pid {pid})" in text
    gate.open()
    thread.join()


def why(*arguments):
    return subprocess.run([sys.executable, "-m", "ray.scripts.scripts", "why", *arguments], capture_output=True, text=True, timeout=15)


def test_command_explains_from_another_process(gate):
    """`ray why` finds the session of its user and answers like the function; mistakes are one line."""
    ref = pass_through.remote(gate)
    (pid,) = arrived(gate)
    session = os.path.basename(ray.init(ignore_reinit_error=True).address_info["session_dir"])
    assert session in why("--list").stdout.split()
    answer = why("--session", session, ref.hex())
    assert (answer.returncode, answer.stderr) == (0, "") and f"(pid {pid}) holds {{CPU: 1}} runs pass_through" in answer.stdout
    assert f"(pid {pid})" in why("--session", session).stdout
    assert why("--session", session, "zz").stderr.startswith("Error: 'zz' is no id")
    assert "there is no session 'nope'" in why("--session", "nope").stderr
    gate.open()
    ray.get(ref)


def test_cancelled_task_says_who_cancelled_it(gate):
    """A task that was cancelled is told so, and by whom: the driver, or a task on its own or its caller's behalf."""
    ref = pass_through.remote(gate)
    arrived(gate)
    ray.cancel(ref)
    text = text_when(ref, "is ready")
    assert f"was cancelled by the driver (pid {os.getpid()})" in text


def test_cancelled_task_that_goes_on_says_since_when(gate):
    """A task that takes no notice of its cancellation is told to have been cancelled, by whom and when."""

    @ray.remote
    def deaf(gate):
        while True:
            try:
                return gate.pass_through()
            except KeyboardInterrupt:
                continue

    ref = deaf.remote(gate)
    arrived(gate)
    ray.cancel(ref)
    text = text_when(ref, "it was cancelled")
    assert f"ago by the driver (pid {os.getpid()}), and goes on until its code notices" in text
    gate.open()
    ray.get(ref)


def test_cancelled_child_names_who_cancelled_its_caller(gate):
    """What was cancelled together with its caller says so."""

    @ray.remote(num_cpus=0)
    class Box:
        def __init__(self):
            self.kept = []

        def run(self, gate):
            self.kept.append(pass_through.remote(gate))
            return ray.get(self.kept[0])

        def give(self):
            return self.kept

    box = Box.options(max_concurrency=2).remote()
    ref = box.run.remote(gate)
    arrived(gate)
    (child,) = ray.get(box.give.remote())
    ray.cancel(ref)
    with pytest.raises(ray.exceptions.TaskCancelledError):
        ray.get(child)
    assert f"was cancelled by the driver (pid {os.getpid()}), together with the call that made it" in text_when(child, "is ready")
