"""Workers whose memory grows from call to call are replaced between two calls; those that are needed, or only look large, stay."""

import os

import pytest

import ray
from support import is_alive, wait_for

GROWTH_MB = 40
pytestmark = [pytest.mark.runtime(num_cpus=2, _system_config={"worker_growth_mb": GROWTH_MB}), pytest.mark.limit(30)]


@ray.remote
def leak(megabytes, own=False):
    """Keep so much for ever, as a leaky extension does."""
    import builtins

    builtins.leaked = [*getattr(builtins, "leaked", []), *(b"x" * (1 << 20) for _ in range(megabytes))]
    return os.getpid(), [ray.put("mine")] if own else []


@ray.remote
def fragment(count):
    """Free everything but a little at the end of the heap: the C library keeps the pages until it is told to trim."""
    import builtins

    blocks = [bytes(4096) for _ in range(count)]
    builtins.kept = [*getattr(builtins, "kept", []), blocks[-1]]
    del blocks
    return os.getpid(), private_mb(os.getpid())


def in_pool(name):
    """Workers of another environment are other processes."""
    return {"runtime_env": {"env_vars": {"POOL": name}}}


def until_a_leak_was_found(meanwhile=lambda: None):
    """Let a worker leak, and do `meanwhile` beside it, until it is gone: then the node has looked at all workers more than once. Returns its pid."""
    first, _ = ray.get(leak.options(**in_pool("control")).remote(1))

    def replaced():
        meanwhile()
        return ray.get(leak.options(**in_pool("control")).remote(2))[0] != first

    wait_for(replaced, 20)
    return first


def test_worker_that_leaks_is_replaced():
    """A worker that keeps more with each call ends; the next call runs in another."""
    first = until_a_leak_was_found()
    wait_for(lambda: not is_alive(first))


def test_worker_that_leaks_under_load_is_replaced_without_losing_a_call():
    """While one caller keeps a worker busy with a long queue, the worker is still replaced; every call runs once."""

    @ray.remote(num_cpus=2, max_retries=0)
    def small_leak(i):
        import builtins
        import select

        builtins.leaked = [*getattr(builtins, "leaked", []), b"x" * (1 << 20)]
        select.select([], [], [], 0.01)
        return i, os.getpid()

    results = ray.get([small_leak.remote(i) for i in range(400)])
    assert [i for i, _ in results] == list(range(400))
    assert len({pid for _, pid in results}) >= 2


def test_worker_whose_objects_are_needed_stays():
    """A worker that owns an object of somebody else's is not ended for its size; the object stays readable."""
    owner, refs = ray.get(leak.options(**in_pool("owner")).remote(1, own=True))

    def grow():
        pid, more = ray.get(leak.options(**in_pool("owner")).remote(2, own=True))
        assert pid == owner
        refs.extend(more)

    until_a_leak_was_found(grow)
    assert is_alive(owner)
    assert set(ray.get(refs)) == {"mine"}


def test_worker_that_can_give_its_pages_back_stays():
    """Memory that is free but not returned goes back to the system before anything is decided."""
    call = fragment.options(**in_pool("fragments"))
    pid, _ = ray.get(call.remote(10))
    until_a_leak_was_found(lambda: ray.get(call.remote(10)))
    same, large_mb = ray.get(call.remote(2 * GROWTH_MB * 256))
    assert same == pid
    assert large_mb > 2 * GROWTH_MB, "freed and kept all the same"
    wait_for(lambda: private_mb(pid) < GROWTH_MB)
    ray.get(call.remote(10))  # it may meet the worker while the node decides, and run in another
    assert is_alive(pid)


def private_mb(pid):
    with open(f"/proc/{pid}/statm") as file:
        resident, shared = map(int, file.read().split()[1:3])
    return (resident - shared) * os.sysconf("SC_PAGE_SIZE") >> 20


def test_actor_is_never_replaced():
    """An actor keeps what it likes."""

    @ray.remote
    class Keeper:
        kept = ()

        def keep(self, megabytes):
            self.kept = [*self.kept, *(b"x" * (1 << 20) for _ in range(megabytes))]
            return os.getpid()

    keeper = Keeper.remote()
    pid = ray.get(keeper.keep.remote(1))
    until_a_leak_was_found(lambda: ray.get(keeper.keep.remote(2)))
    assert ray.get(keeper.keep.remote(1)) == pid
