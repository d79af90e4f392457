"""Neither idling nor `max_calls` ends a worker while somebody needs an object that it owns."""

import os

import pytest

import ray
from support import is_alive, wait_for

WORKERS = 6
pytestmark = [pytest.mark.runtime(num_cpus=2, _system_config={"idle_worker_s": 0.05, "warm_workers": 0}), pytest.mark.limit(20)]


@ray.remote(num_cpus=0.1)
def put_when_all_are_there(gate):
    gate.pass_through()
    return os.getpid(), [ray.put("small"), ray.put(b"large" * 100_000)]


@ray.remote(num_cpus=0.1)
def pass_through(gate):
    return gate.pass_through()


def owners_and_their_refs(gate):
    pending = [put_when_all_are_there.remote(gate) for _ in range(WORKERS)]
    wait_for(lambda: len(gate.pids()) == WORKERS)
    gate.open()
    return dict(ray.get(pending))


def idle_workers_were_reaped(tmp_path):
    """Start workers beyond the owners, let them idle, and see the surplus go: by then the owners' turn has come, too."""
    from support import Gate

    crowd = Gate(tmp_path / f"crowd-{os.urandom(4).hex()}")
    refs = [pass_through.remote(crowd) for _ in range(3 * WORKERS)]
    pids = wait_for(lambda: crowd.pids() if len(crowd.pids()) == 3 * WORKERS else None)
    crowd.open()
    ray.get(refs)
    return pids


def test_idle_owners_outlive_the_surplus(gate, tmp_path):
    """All workers but the owners are reaped; every object stays readable, in the driver and in tasks. Then the owners go as well."""
    refs = owners_and_their_refs(gate)
    assert len(refs) == WORKERS
    others = set(idle_workers_were_reaped(tmp_path)) - set(refs)
    wait_for(lambda: not any(is_alive(pid) for pid in others))
    assert all(is_alive(pid) for pid in refs)
    read = ray.remote(lambda box: ray.get(box))
    for small, large in refs.values():
        assert ray.get(small) == "small"
        assert ray.get(read.remote([large]))[0] == b"large" * 100_000
    pids = set(refs)
    refs.clear()
    del small, large
    wait_for(lambda: sum(is_alive(pid) for pid in pids) <= 2)


def test_idle_borrower_that_keeps_a_reference_is_not_reaped(gate, tmp_path):
    """A worker whose module keeps a reference of somebody else's keeps the object alive, and itself."""

    @ray.remote
    def keep(box):
        import builtins

        builtins.kept = box
        return os.getpid()

    keeper = ray.get(keep.remote([ray.put("kept")]))
    others = set(idle_workers_were_reaped(tmp_path)) - {keeper}
    wait_for(lambda: sum(is_alive(pid) for pid in others) <= 2)
    assert is_alive(keeper)


@pytest.mark.parametrize("nested", [False, True])
def test_max_calls_waits_until_its_objects_are_not_needed(nested):
    """A worker that has had its last call goes on serving what it owns, directly or inside a container, and ends after that."""

    @ray.remote(max_calls=1)
    def make():
        inner = ray.put("inner")
        return os.getpid(), [ray.put([inner]) if nested else inner]

    worker, (ref,) = ray.get(make.remote())
    others = ray.get([make.remote() for _ in range(3)])
    assert worker not in [pid for pid, _ in others], "it takes no more calls"
    pids = [pid for pid, _ in others]
    del others
    wait_for(lambda: not any(is_alive(pid) for pid in pids))
    assert is_alive(worker)
    value = ray.get(ref)
    del ref
    if nested:
        assert ray.get(value[0]) == "inner"
        assert is_alive(worker)
        del value
    wait_for(lambda: not is_alive(worker))


def test_max_calls_waits_for_a_borrower_in_another_worker():
    """The reference may be with an actor only: the caller has dropped its own."""

    @ray.remote(max_calls=1)
    def make():
        return os.getpid(), [ray.put("needed")]

    @ray.remote
    class Borrower:
        def take(self, made):
            self.worker, (self.ref,) = made
            return self.worker

        def read(self):
            return ray.get(self.ref)

        def drop(self):
            self.ref = None

    borrower = Borrower.remote()
    worker = ray.get(borrower.take.remote(make.remote()))
    control = ray.get(make.remote())[0]
    wait_for(lambda: not is_alive(control))
    assert is_alive(worker)
    assert ray.get(borrower.read.remote()) == "needed"
    ray.get(borrower.drop.remote())
    wait_for(lambda: not is_alive(worker))
