"""How actors end, and how they come back."""

import os

import pytest

import ray
from ray.exceptions import ActorDiedError, ActorUnavailableError, RayActorError
from support import is_alive, wait_for

pytestmark = [pytest.mark.runtime(num_cpus=4), pytest.mark.limit(20)]


class Mortal:
    """An actor that can die and counts its calls."""

    def __init__(self, births=None):
        self.calls = 0
        if births is not None:
            births.add()

    def pid(self):
        self.calls += 1
        return os.getpid()

    def count(self):
        self.calls += 1
        return self.calls

    def die(self):
        os._exit(1)

    def die_once(self, tally):
        if tally.add() == 1:
            os._exit(1)
        return "survived"

    def leave(self):
        ray.actor.exit_actor()

    def restarted(self):
        return ray.get_runtime_context().was_current_actor_reconstructed


def usable(actor):
    """Whether the actor answers again; its pid then."""
    try:
        return ray.get(actor.pid.remote(), timeout=10)
    except RayActorError:
        return None


def test_actor_without_restarts_stays_dead():
    """After its process has died, every call raises ActorDiedError."""
    actor = ray.remote(Mortal).remote()
    with pytest.raises(RayActorError):
        ray.get(actor.die.remote())
    for _ in range(2):
        with pytest.raises(ActorDiedError):
            ray.get(actor.pid.remote())


def test_actor_restart_gives_a_fresh_instance(tally):
    """With max_restarts=1 the constructor runs again: a new process, state from the beginning."""
    actor = ray.remote(max_restarts=1)(Mortal).remote(tally)
    assert ray.get([actor.count.remote(), actor.count.remote()]) == [1, 2]
    pid = ray.get(actor.pid.remote())
    with pytest.raises(RayActorError):
        ray.get(actor.die.remote())
    assert wait_for(lambda: usable(actor), 30) != pid
    assert ray.get(actor.restarted.remote()) is True
    assert tally.count() == 2


def test_actor_first_life_is_not_a_restart():
    """An actor that never died says so."""
    assert ray.get(ray.remote(max_restarts=1)(Mortal).remote().restarted.remote()) is False


def test_actor_restarts_run_out():
    """After max_restarts deaths the next one is final."""
    actor = ray.remote(max_restarts=1)(Mortal).remote()
    wait_for(lambda: usable(actor), 30)
    with pytest.raises(RayActorError):
        ray.get(actor.die.remote())
    wait_for(lambda: usable(actor), 30)
    with pytest.raises(RayActorError):
        ray.get(actor.die.remote())
    with pytest.raises(ActorDiedError):
        ray.get(actor.pid.remote())


def test_actor_call_in_flight_without_retries_fails_when_restarting():
    """The call that was running fails, though the actor comes back."""
    actor = ray.remote(max_restarts=-1)(Mortal).remote()
    with pytest.raises((ActorDiedError, ActorUnavailableError)):
        ray.get(actor.die.remote())
    assert wait_for(lambda: usable(actor), 30)


def test_actor_call_in_flight_with_retries_is_repeated(tally):
    """With max_task_retries the running call is repeated on the new instance."""
    actor = ray.remote(max_restarts=1, max_task_retries=1)(Mortal).remote()
    assert ray.get(actor.die_once.remote(tally)) == "survived"
    assert tally.count() == 2


def test_method_retry_exceptions_repeats_a_raising_call(tally):
    """A method's retry_exceptions repeats it on the living actor."""

    @ray.remote(max_task_retries=2)
    class Actor:
        @ray.method(retry_exceptions=True)
        def flaky(self):
            if tally.add() < 3:
                raise ValueError("not yet")
            return os.getpid()

        def pid(self):
            return os.getpid()

    actor = Actor.remote()
    assert ray.get(actor.flaky.remote()) == ray.get(actor.pid.remote())
    assert tally.count() == 3


def test_kill_ends_the_process_and_its_calls(gate):
    """`ray.kill` ends the process at once; running and later calls raise ActorDiedError."""

    @ray.remote
    class Actor:
        def hold(self):
            gate.pass_through()

    actor = Actor.remote()
    running = actor.hold.remote()
    (pid,) = wait_for(gate.pids, 30)
    ray.kill(actor)
    with pytest.raises(ActorDiedError):
        ray.get(running)
    with pytest.raises(ActorDiedError):
        ray.get(actor.hold.remote())
    wait_for(lambda: not is_alive(pid))


def test_kill_with_restart_brings_the_actor_back():
    """`no_restart=False` uses up one restart."""
    actor = ray.remote(max_restarts=1)(Mortal).remote()
    pid = ray.get(actor.pid.remote())
    ray.kill(actor, no_restart=False)
    assert wait_for(lambda: usable(actor) not in (None, pid), 30)


def test_kill_default_ignores_restarts_left():
    """`ray.kill` is final even if restarts are left."""
    actor = ray.remote(max_restarts=5)(Mortal).remote()
    ray.get(actor.pid.remote())
    ray.kill(actor)

    def final():
        try:
            ray.get(actor.pid.remote())
        except ActorDiedError:
            return True
        except ActorUnavailableError:
            return False
        return False

    wait_for(final, 30)


def test_kill_of_something_else_raises_value_error():
    """Only actors can be killed; the message points to `ray.cancel`."""
    for target in (3, ray.put(1), None):
        with pytest.raises(ValueError, match="cancel"):
            ray.kill(target)


def test_kill_twice_is_harmless():
    """Killing a dead actor does nothing."""
    actor = ray.remote(Mortal).remote()
    ray.get(actor.pid.remote())
    ray.kill(actor)
    ray.kill(actor)


def test_exit_actor_fails_its_call_and_later_ones():
    """An actor that leaves by itself is dead for good, restarts or not; earlier results stay."""
    actor = ray.remote(max_restarts=3)(Mortal).remote()
    pid = ray.get(actor.pid.remote())
    kept = actor.count.remote()
    with pytest.raises(ActorDiedError):
        ray.get(actor.leave.remote())
    with pytest.raises(ActorDiedError):
        ray.get(actor.pid.remote())
    assert ray.get(kept) == 2
    wait_for(lambda: not is_alive(pid))


def test_exit_actor_outside_an_actor_raises_type_error():
    """`exit_actor` in the driver or a task is a mistake."""
    with pytest.raises(TypeError):
        ray.actor.exit_actor()


def test_actor_out_of_scope_ends_its_process():
    """When the last handle is gone, the process ends."""
    actor = ray.remote(Mortal).remote()
    pid = ray.get(actor.pid.remote())
    del actor
    wait_for(lambda: not is_alive(pid), 15)


def test_actor_out_of_scope_finishes_queued_calls_first(tally):
    """Calls made before the last handle went away are still run, and their results can be read."""

    @ray.remote
    class Actor:
        def note(self, i):
            tally.add(i)
            return i

    refs = [Actor.remote().note.remote(0)]
    actor = Actor.remote()
    refs += [actor.note.remote(i) for i in range(1, 50)]
    del actor
    assert ray.get(refs) == list(range(50))
    assert tally.count() == 50


def test_actor_stays_alive_while_a_copy_of_the_handle_exists():
    """A handle inside a stored object keeps the actor alive."""
    actor = ray.remote(Mortal).remote()
    stored = ray.put([actor])
    pid = ray.get(actor.pid.remote())
    del actor
    (again,) = ray.get(stored)
    assert ray.get(again.pid.remote()) == pid


def test_constructor_that_raises_fails_every_call():
    """A failed constructor arrives as ActorDiedError with the user's message, not as the user's class."""

    @ray.remote
    class Broken:
        def __init__(self):
            raise ValueError("bad start")

        def ping(self):
            return "pong"

    actor = Broken.remote()
    for ref in [actor.ping.remote(), actor.ping.remote()]:
        with pytest.raises(ActorDiedError, match="bad start") as caught:
            ray.get(ref)
        assert not isinstance(caught.value, ValueError)
        assert caught.value.actor_init_failed
    with pytest.raises(ActorDiedError, match="bad start"):
        ray.get(actor.ping.remote())


def test_constructor_with_failed_argument_fails_every_call():
    """A constructor whose argument failed never runs; its calls say why."""

    @ray.remote
    def fail():
        raise ValueError("bad ingredient")

    @ray.remote
    class Actor:
        def __init__(self, _):
            pass

        def ping(self):
            return "pong"

    with pytest.raises(ActorDiedError, match="bad ingredient"):
        ray.get(Actor.remote(fail.remote()).ping.remote())
