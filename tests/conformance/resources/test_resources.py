"""A task runs only while its resources are free."""

import pytest

import ray
from support import Gate, wait_for

pytestmark = [pytest.mark.runtime(num_cpus=4, resources={"slot": 2}), pytest.mark.limit(20)]


@ray.remote
def hold(gate):
    return gate.pass_through()


def settled(gate, count):
    """The number of arrivals once at least `count` have come and no more follow for a while."""
    wait_for(lambda: len(gate.pids()) >= count, 30)
    probe = ray.remote(num_cpus=0)(lambda: None)
    ray.get([probe.remote() for _ in range(5)])
    return len(gate.pids())


def test_cpus_limit_running_tasks(gate):
    """With four CPUs, four of six tasks run; the rest follow when these end."""
    refs = [hold.remote(gate) for _ in range(6)]
    assert settled(gate, 4) == 4
    assert len(set(gate.pids())) == 4
    gate.open()
    assert len(ray.get(refs)) == 6


def test_cpus_two_per_task_halve_concurrency(gate):
    """A task that asks for two CPUs counts twice."""
    refs = [hold.options(num_cpus=2).remote(gate) for _ in range(4)]
    assert settled(gate, 2) == 2
    gate.open()
    ray.get(refs)


def test_cpus_fractions_add_up(gate):
    """Half a CPU each: eight at once."""
    refs = [hold.options(num_cpus=0.5).remote(gate) for _ in range(9)]
    assert settled(gate, 8) == 8
    gate.open()
    ray.get(refs)


def test_cpus_zero_runs_beside_a_full_node(gate):
    """A task that needs no CPU runs although all are taken."""
    refs = [hold.remote(gate) for _ in range(4)]
    wait_for(lambda: len(gate.pids()) == 4, 30)
    assert ray.get(ray.remote(num_cpus=0)(lambda: "free").remote()) == "free"
    gate.open()
    ray.get(refs)


def test_custom_resource_limits_running_tasks(gate):
    """A custom resource is counted like CPUs, and taken while the task runs."""
    refs = [hold.options(resources={"slot": 1}).remote(gate) for _ in range(4)]
    assert settled(gate, 2) == 2
    wait_for(lambda: ray.available_resources().get("slot", 0) == 0)
    gate.open()
    ray.get(refs)
    wait_for(lambda: ray.available_resources().get("slot") == 2)


def test_resource_of_a_failed_task_is_returned():
    """A task that raises gives its resources back, as one that returns does."""

    @ray.remote(resources={"slot": 2})
    def fail():
        raise ValueError("failed")

    for _ in range(3):
        with pytest.raises(ValueError):
            ray.get(fail.remote())
    wait_for(lambda: ray.available_resources().get("slot") == 2)


def test_actor_default_takes_no_cpu_while_it_lives():
    """An actor that asks for nothing holds no CPU: more of them than CPUs can live at once."""

    @ray.remote
    class Actor:
        def ping(self):
            return "pong"

    actors = [Actor.remote() for _ in range(6)]
    assert ray.get([actor.ping.remote() for actor in actors]) == ["pong"] * 6
    assert ray.available_resources()["CPU"] == 4


def test_actor_with_resources_holds_them_until_it_ends():
    """What an actor asks for is taken while it lives, idle or not."""

    @ray.remote(num_cpus=1, resources={"slot": 2})
    class Actor:
        def ping(self):
            return "pong"

    actor = Actor.remote()
    ray.get(actor.ping.remote())
    wait_for(lambda: ray.available_resources().get("slot", 0) == 0 and ray.available_resources()["CPU"] == 3)
    second = Actor.remote()
    ping = second.ping.remote()
    assert ray.wait([ping], timeout=0.3)[0] == []
    ray.kill(actor)
    assert ray.get(ping, timeout=30) == "pong"


def test_cpu_of_a_task_blocked_in_get_is_lent(tmp_path):
    """A worker that waits for a task gives its CPU back meanwhile: four waiting parents leave room for children."""
    children = Gate(tmp_path / "children")

    @ray.remote
    def parent():
        return ray.get(hold.remote(children))

    refs = [parent.remote() for _ in range(4)]
    wait_for(lambda: len(children.pids()) == 4, 40)
    children.open()
    assert len(set(ray.get(refs))) == 4


def test_short_tasks_overtake_a_long_one(gate):
    """A hundred short tasks submitted behind a long one don't wait for it."""

    @ray.remote
    def work(i):
        if i == 0:
            gate.pass_through()
        return i

    refs = [work.remote(i) for i in range(101)]
    assert ray.get(refs[1:], timeout=30) == list(range(1, 101))
    assert ray.wait(refs[:1], timeout=0)[0] == []
    gate.open()
    assert ray.get(refs[0]) == 0


def test_task_that_never_fits_stays_pending():
    """A request larger than the node stays pending and harms nobody."""
    ref = ray.remote(resources={"slot": 3})(lambda: 1).remote()
    assert ray.get(ray.remote(lambda: 2).remote()) == 2
    assert ray.wait([ref], timeout=0.3) == ([], [ref])


def test_available_resources_come_back_when_idle():
    """When nothing runs, everything is available."""
    ray.get([ray.remote(lambda: 1).remote() for _ in range(20)])
    wait_for(lambda: ray.available_resources().get("CPU") == 4)
