"""Which exception type a death gives, for tasks and for actors."""

import os

import pytest

import ray
from ray.exceptions import ActorDiedError, RayActorError, RayError, WorkerCrashedError
from support import is_alive, wait_for

pytestmark = pytest.mark.runtime(num_cpus=2)


def test_exception_families_are_rays():
    """Programs catch these by base class."""
    names = {
        "ActorDiedError": "RayActorError",
        "ActorUnavailableError": "RayActorError",
        "RayActorError": "RayError",
        "RayTaskError": "RayError",
        "WorkerCrashedError": "RayError",
        "GetTimeoutError": "RayError",
        "ObjectLostError": "RayError",
        "OwnerDiedError": "ObjectLostError",
        "ObjectStoreFullError": "RayError",
        "OutOfMemoryError": "RayError",
        "PendingCallsLimitExceeded": "RayError",
        "TaskCancelledError": "RayError",
        "RuntimeEnvSetupError": "RayError",
        "RaySystemError": "RayError",
        "NodeDiedError": "RayError",
        "TaskUnschedulableError": "RayError",
        "ActorUnschedulableError": "RayError",
    }
    for name, base in names.items():
        assert issubclass(getattr(ray.exceptions, name), getattr(ray.exceptions, base)), name
    assert issubclass(ray.exceptions.GetTimeoutError, TimeoutError)


def test_death_of_a_task_gives_worker_crashed():
    """A worker that disappears fails its task with WorkerCrashedError."""

    @ray.remote(max_retries=0)
    def die():
        os._exit(4)

    with pytest.raises(WorkerCrashedError):
        ray.get(die.remote())


def test_death_of_an_actor_gives_actor_died():
    """An actor that disappears fails its running and its queued calls."""

    @ray.remote
    class Actor:
        def die(self):
            os._exit(4)

        def ping(self):
            return "pong"

    actor = Actor.remote()
    ray.get(actor.ping.remote())
    refs = [actor.die.remote(), actor.ping.remote(), actor.ping.remote()]
    for ref in refs:
        with pytest.raises(RayActorError):
            ray.get(ref)
    with pytest.raises(ActorDiedError) as caught:
        ray.get(actor.ping.remote())
    assert not caught.value.actor_init_failed


def test_death_passed_on_as_argument_fails_the_dependent():
    """A task whose argument's worker died fails with the same family."""

    @ray.remote(max_retries=0)
    def die():
        os._exit(4)

    @ray.remote
    def use(_):
        return 1

    with pytest.raises(WorkerCrashedError):
        ray.get(use.remote(die.remote()))


def test_death_inside_a_nested_task_is_the_outer_tasks_error():
    """A parent that does not catch its child's death fails with a RayTaskError that is also a WorkerCrashedError."""

    @ray.remote(max_retries=0)
    def die():
        os._exit(4)

    @ray.remote
    def parent():
        return ray.get(die.remote())

    with pytest.raises(WorkerCrashedError) as caught:
        ray.get(parent.remote())
    assert isinstance(caught.value, RayError)


def test_death_of_a_worker_harms_no_other_task():
    """Tasks beside and after a death give their results."""

    @ray.remote(max_retries=0)
    def maybe(i):
        if i == 3:
            os._exit(1)
        return i

    refs = [maybe.remote(i) for i in range(8)]
    with pytest.raises(WorkerCrashedError):
        ray.get(refs[3])
    rest = [i for i in range(8) if i != 3]
    assert ray.get([refs[i] for i in rest]) == rest


def test_death_of_an_owner_is_told_to_borrowers():
    """An object whose owner died counts as ready and raises OwnerDiedError."""

    @ray.remote
    class Owner:
        def make(self):
            return os.getpid(), [ray.put(b"x" * 2_000_000)]

    owner = Owner.remote()
    pid, (ref,) = ray.get(owner.make.remote())
    ray.kill(owner)
    wait_for(lambda: not is_alive(pid))
    assert ray.wait([ref], timeout=10) == ([ref], [])
    with pytest.raises(ray.exceptions.OwnerDiedError):
        ray.get(ref, timeout=10)
