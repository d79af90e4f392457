"""Names, namespaces and lifetimes of actors, and who gets which when several ask."""

import os

import pytest

import ray
from ray.exceptions import ActorDiedError
from support import is_alive, wait_for

pytestmark = [pytest.mark.runtime(num_cpus=4), pytest.mark.limit(20)]


@ray.remote(num_cpus=0)
class Named:
    def __init__(self, value=0, fail=False):
        if fail:
            raise ValueError("no start")
        self.value = value

    def get(self):
        return self.value

    def pid(self):
        return os.getpid()

    def name(self):
        return ray.get_runtime_context().get_actor_name()

    def restarted(self):
        return ray.get_runtime_context().was_current_actor_reconstructed


@ray.remote(num_cpus=0)
class Other:
    def other(self):
        return "other"


def is_free(name, **where):
    try:
        ray.get_actor(name, **where)
    except ValueError:
        return True
    return False


def test_list_of_names_is_empty_without_names():
    """No name, no entry; anonymous actors have none."""
    actor = Named.remote()
    ray.get(actor.get.remote())
    assert ray.util.list_named_actors() == []


def test_list_of_names_gives_strings_or_dicts():
    """Names of the own namespace; with all namespaces, each with its own."""
    keep = [Named.options(name="a").remote(), Named.options(name="b", namespace="elsewhere").remote()]
    ray.get([actor.get.remote() for actor in keep])
    assert ray.util.list_named_actors() == ["a"]
    everything = ray.util.list_named_actors(all_namespaces=True)
    assert {"name": "b", "namespace": "elsewhere"} in everything
    own = ray.get_runtime_context().namespace
    assert {"name": "a", "namespace": own} in everything and len(everything) == 2


def test_list_of_names_is_the_same_in_a_task():
    """A task is in its driver's namespace."""
    keep = Named.options(name="seen").remote()
    ray.get(keep.get.remote())

    @ray.remote(num_cpus=0)
    def names():
        return ray.util.list_named_actors()

    assert "seen" in ray.get(names.remote())


def test_list_of_names_forgets_the_dead():
    """A killed actor's name goes from the list."""
    actor = Named.options(name="mortal").remote()
    ray.get(actor.get.remote())
    ray.kill(actor)
    wait_for(lambda: "mortal" not in ray.util.list_named_actors())


def test_name_of_an_actor_is_known_inside():
    """`get_actor_name` gives it, "" without one."""
    named, anonymous = Named.options(name="inside").remote(), Named.remote()
    assert ray.get([named.name.remote(), anonymous.name.remote()]) == ["inside", ""]


def test_name_taken_is_refused_at_the_creation():
    """ValueError at `.remote()`, and nothing is created."""
    first = Named.options(name="taken").remote(1)
    with pytest.raises(ValueError, match="taken"):
        Named.options(name="taken").remote(2)
    assert ray.get(ray.get_actor("taken").get.remote()) == 1
    del first


def test_name_taken_in_another_namespace_is_free_here():
    """Names are per namespace."""
    keep = [Named.options(name="twice", namespace=space).remote(space) for space in ("one", "two")]
    assert ray.get([ray.get_actor("twice", namespace=space).get.remote() for space in ("one", "two")]) == ["one", "two"]
    assert is_free("twice")
    del keep


def test_get_if_exists_creates_the_first():
    """Nobody has the name yet: an actor is made with these arguments."""
    actor = Named.options(name="first", get_if_exists=True).remote(1)
    assert ray.get(actor.get.remote()) == 1


def test_get_if_exists_needs_a_name():
    """Without a name there is nothing to find."""
    with pytest.raises(ValueError):
        Named.options(get_if_exists=True).remote()


def test_get_if_exists_gives_what_is_there_whatever_its_class():
    """The handle knows the methods of the actor that exists."""
    keep = Other.options(name="of another class").remote()
    found = Named.options(name="of another class", get_if_exists=True).remote(3)
    assert found == keep
    assert ray.get(found.other.remote()) == "other"


def test_get_if_exists_after_a_death_makes_a_new_one():
    """A dead actor does not count."""
    first = Named.options(name="phoenix", get_if_exists=True).remote(1)
    ray.get(first.get.remote())
    ray.kill(first)
    wait_for(lambda: is_free("phoenix"))
    second = Named.options(name="phoenix", get_if_exists=True).remote(2)
    assert ray.get(second.get.remote()) == 2


def test_get_if_exists_by_many_at_once_gives_one():
    """Eight tasks ask at the same time: one actor."""

    @ray.remote(num_cpus=0)
    def join(i):
        return ray.get(Named.options(name="race", get_if_exists=True, lifetime="detached").remote(i).pid.remote())

    assert len(set(ray.get([join.remote(i) for i in range(8)]))) == 1
    ray.kill(ray.get_actor("race"))


def test_name_is_free_again_after_a_failed_start():
    """A constructor that raised keeps no name."""
    actor = Named.options(name="failed").remote(fail=True)
    with pytest.raises(ActorDiedError):
        ray.get(actor.get.remote())
    wait_for(lambda: is_free("failed"))
    again = Named.options(name="failed").remote(5)
    assert ray.get(again.get.remote()) == 5


def test_name_is_free_again_after_a_failed_argument():
    """Nor does one whose argument failed."""

    @ray.remote(num_cpus=0)
    def fail():
        raise ValueError("bad argument")

    actor = Named.options(name="no argument").remote(fail.remote())
    with pytest.raises(ActorDiedError):
        ray.get(actor.get.remote())
    wait_for(lambda: is_free("no argument"))


def test_name_is_not_taken_by_a_creation_that_is_refused():
    """Arguments that can't be pickled: nothing is created, and the name is free."""
    import threading

    with pytest.raises(TypeError):
        Named.options(name="unpicklable").remote(threading.Lock())
    assert is_free("unpicklable")
    actor = Named.options(name="unpicklable").remote(1)
    assert ray.get(actor.get.remote()) == 1


def test_name_is_found_while_the_constructor_runs(gate):
    """A pending actor can be looked up; calls wait."""

    @ray.remote(num_cpus=0)
    class Slow:
        def __init__(self, gate):
            gate.pass_through()

        def ping(self):
            return "pong"

    actor = Slow.options(name="slow").remote(gate)
    ref = ray.get_actor("slow").ping.remote()
    wait_for(gate.pids)
    assert ray.wait([ref], timeout=0) == ([], [ref])
    gate.open()
    assert ray.get(ref) == "pong"
    del actor


@pytest.mark.parametrize("options", [{"name": 3}, {"lifetime": "for ever"}, {"name": "x", "namespace": 3}])
def test_bad_names_and_lifetimes_are_refused(options):
    """A name and a namespace are strings, a lifetime one of two."""
    with pytest.raises((TypeError, ValueError)):
        Named.options(**options).remote()


def test_lifetime_non_detached_is_the_default():
    """Said or not, the actor goes with its last handle."""
    for options in ({"lifetime": None}, {"lifetime": "non_detached"}, {}):
        actor = Named.options(**options).remote()
        pid = ray.get(actor.pid.remote())
        del actor
        wait_for(lambda pid=pid: not is_alive(pid), 15)


def test_detached_actor_without_a_name_lives_on():
    """Nobody can find it, but it lives without handles as long as it is needed by itself."""
    actor = Named.options(lifetime="detached").remote(1)
    pid = ray.get(actor.pid.remote())
    assert ray.get(actor.get.remote()) == 1
    ray.kill(actor)
    wait_for(lambda: not is_alive(pid), 15)


def test_detached_actor_made_in_a_task_outlives_it():
    """The worker that created it may go."""

    @ray.remote(num_cpus=0, max_calls=1)
    def make():
        return ray.get(Named.options(name="from a task", lifetime="detached").remote(8).pid.remote())

    pid = ray.get(make.remote())
    found = ray.get_actor("from a task")
    assert ray.get([found.get.remote(), found.pid.remote()]) == [8, pid]
    ray.kill(found)


def test_detached_actor_made_by_an_actor_outlives_it():
    """So may the actor that created it."""

    @ray.remote(num_cpus=0)
    class Maker:
        def make(self):
            ray.get(Named.options(name="orphan", lifetime="detached").remote(9).get.remote())

    maker = Maker.remote()
    ray.get(maker.make.remote())
    ray.kill(maker)
    assert ray.get(ray.get_actor("orphan").get.remote()) == 9
    ray.kill(ray.get_actor("orphan"))


def test_detached_actor_with_references_reads_them():
    """Values given inside a container can be read by a detached actor."""

    @ray.remote(num_cpus=0)
    class Reader:
        def __init__(self, refs):
            self.refs = refs

        def read(self):
            return ray.get(self.refs)

    @ray.remote(num_cpus=0)
    def made(i):
        return i

    refs = [ray.put(1), made.remote(2), ray.put("x" * 200_000)]
    reader = Reader.options(name="reader", lifetime="detached").remote(refs)
    assert ray.get(reader.read.remote()) == [1, 2, "x" * 200_000]
    ray.kill(reader)


def test_detached_actor_restarts():
    """`max_restarts` holds for it as for others."""

    @ray.remote(num_cpus=0, max_restarts=1)
    class Mortal:
        def die(self):
            os._exit(1)

        def restarted(self):
            return ray.get_runtime_context().was_current_actor_reconstructed

    actor = Mortal.options(name="restarts", lifetime="detached").remote()
    assert ray.get(actor.restarted.remote()) is False
    with pytest.raises(ray.exceptions.RayActorError):
        ray.get(actor.die.remote())

    def restarted():
        try:
            return ray.get(ray.get_actor("restarts").restarted.remote(), timeout=10)
        except ray.exceptions.RayActorError:
            return False

    wait_for(restarted, 15)
    ray.kill(actor)


def test_reconstruction_flag_is_known_in_actors_only():
    """Outside of an actor there is no answer."""
    with pytest.raises((RuntimeError, AssertionError)):
        ray.get_runtime_context().was_current_actor_reconstructed  # noqa: B018
