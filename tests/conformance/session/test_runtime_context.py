"""What `ray.get_runtime_context()` tells in the driver, in tasks and in actors."""

import pytest

import ray

pytestmark = pytest.mark.runtime(num_cpus=4)


def test_context_in_the_driver_has_job_and_node():
    """The driver has a job, a node and a worker id of Ray's lengths, and no task nor actor."""
    context = ray.get_runtime_context()
    assert (len(context.get_job_id()), len(context.get_node_id()), len(context.get_worker_id())) == (8, 56, 56)
    assert context.get_task_id() is None
    assert context.get_actor_id() is None


def test_context_in_a_task_has_task_and_the_same_job():
    """A task has an id and a name of its own in the driver's job, and no actor."""

    @ray.remote
    def report():
        context = ray.get_runtime_context()
        return context.get_task_id(), context.get_task_name(), context.get_actor_id(), context.get_job_id(), context.get_node_id()

    first, second = ray.get([report.remote(), report.remote()])
    driver = ray.get_runtime_context()
    assert first[0] != second[0]
    assert len(first[0]) == 48
    assert "report" in first[1]
    assert first[2:] == (None, driver.get_job_id(), driver.get_node_id())


def test_context_task_id_is_part_of_its_results_id():
    """The id of a task's result starts with the id of the task."""

    @ray.remote
    def report():
        return ray.get_runtime_context().get_task_id()

    ref = report.remote()
    assert ref.hex().startswith(ray.get(ref))


def test_context_in_an_actor_has_the_actors_id():
    """All calls of one actor see one actor id, the one its handle shows; its name is there too."""

    @ray.remote
    class Actor:
        def report(self):
            context = ray.get_runtime_context()
            return context.get_actor_id(), context.get_actor_name(), context.get_task_id()

    actor = Actor.options(name="known").remote()
    first, second = ray.get([actor.report.remote(), actor.report.remote()])
    assert first[0] == second[0]
    assert len(first[0]) == 32
    assert first[0] in repr(actor)
    assert first[1] == "known"
    assert first[2] != second[2]


def test_context_worker_id_belongs_to_the_process():
    """Calls of one actor share a worker id; another actor has another."""

    @ray.remote
    class Actor:
        def worker(self):
            return ray.get_runtime_context().get_worker_id()

    a, b = Actor.remote(), Actor.remote()
    ids = ray.get([a.worker.remote(), a.worker.remote(), b.worker.remote()])
    assert ids[0] == ids[1] != ids[2]


def test_context_assigned_resources_are_the_tasks():
    """A task sees what it was granted."""

    @ray.remote(num_cpus=2)
    def granted():
        return ray.get_runtime_context().get_assigned_resources()

    assert ray.get(granted.remote()) == {"CPU": 2.0}
    assert ray.get(granted.options(num_cpus=0.5).remote()) == {"CPU": 0.5}


def test_context_current_actor_is_a_usable_handle():
    """An actor can hand out its own handle."""

    @ray.remote
    class Actor:
        def __init__(self):
            self.mark = "mine"

        def own_handle(self):
            return ray.get_runtime_context().current_actor

        def read(self):
            return self.mark

    actor = Actor.remote()
    same = ray.get(actor.own_handle.remote())
    assert same == actor
    assert ray.get(same.read.remote()) == "mine"


def test_context_current_actor_outside_actors_raises():
    """Outside of an actor there is no current actor."""
    with pytest.raises(RuntimeError):
        _ = ray.get_runtime_context().current_actor


def test_context_runtime_env_of_a_task_is_readable():
    """A task sees the runtime environment it was started with."""

    @ray.remote(runtime_env={"env_vars": {"SEEN": "yes"}})
    def report():
        return ray.get_runtime_context().runtime_env["env_vars"]

    assert ray.get(report.remote())["SEEN"] == "yes"
