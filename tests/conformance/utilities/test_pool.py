"""`ray.util.multiprocessing.Pool`: what programs for `multiprocessing.Pool` expect."""

import os
import threading

import pytest

import ray
from ray.util.multiprocessing import Pool, TimeoutError

pytestmark = [pytest.mark.runtime(num_cpus=4), pytest.mark.limit(30)]


def double(x):
    return 2 * x


def add(a, b=100):
    return a + b


def fail(x):
    raise ValueError(f"no {x}")


def fail_at_three(x):
    if x == 3:
        raise ValueError("no 3")
    return x


def pid(_=None):
    return os.getpid()


@pytest.fixture(scope="module")
def pool(_module_runtime):
    if not ray.is_initialized():
        ray.init(num_cpus=4, include_dashboard=False)
    made = Pool(2)
    yield made
    made.terminate()


def test_pool_apply(pool):
    """Positional and keyword arguments, one result."""
    assert pool.apply(double, (4,)) == 8
    assert pool.apply(add, (1,), {"b": 2}) == 3


def test_pool_calls_run_in_other_processes(pool):
    """Not in the caller's."""
    assert pool.apply(os.getpid) != os.getpid()


def test_pool_apply_raises_what_the_call_raised(pool):
    """The error itself."""
    with pytest.raises(ValueError, match="no 1"):
        pool.apply(fail, (1,))


def test_pool_apply_async(pool):
    """A result that is there later, with its state."""
    result = pool.apply_async(double, (4,))
    assert result.get(timeout=20) == 8
    assert result.ready()
    assert result.successful()
    failed = pool.apply_async(fail, (1,))
    failed.wait(20)
    assert failed.ready()
    assert not failed.successful()
    with pytest.raises(ValueError, match="no 1"):
        failed.get()


def test_pool_result_that_is_not_there(pool, gate):
    """TimeoutError of multiprocessing; `successful` is refused."""
    result = pool.apply_async(gate.pass_through)
    assert not result.ready()
    with pytest.raises(TimeoutError):
        result.get(timeout=0.05)
    with pytest.raises(ValueError):
        result.successful()
    gate.open()
    result.get(timeout=20)


def test_pool_callbacks(pool):
    """The callback gets the result, the other one the error."""
    got, done, failed = [], threading.Event(), threading.Event()
    pool.apply_async(double, (4,), callback=lambda value: (got.append(value), done.set()))
    pool.apply_async(fail, (4,), error_callback=lambda error: failed.set())
    assert done.wait(20)
    assert failed.wait(20)
    assert got == [8]


def test_pool_map_is_in_order(pool):
    """All results, in order, whatever the chunks."""
    for chunksize in (None, 1, 7, 1000):
        assert pool.map(double, range(50), chunksize=chunksize) == [2 * i for i in range(50)]
    assert pool.map(double, []) == []


def test_pool_map_takes_any_iterable(pool):
    """Generators and sets, too."""
    assert pool.map(double, (i for i in range(5))) == [0, 2, 4, 6, 8]
    assert pool.map(len, {"a"}) == [1]


def test_pool_map_raises_what_a_call_raised(pool):
    """One failed call fails the whole."""
    with pytest.raises(ValueError, match="no 3"):
        pool.map(fail_at_three, range(10))


def test_pool_map_async(pool):
    """The results later, and to the callback."""
    done = threading.Event()
    result = pool.map_async(double, range(10), callback=lambda values: done.set())
    assert result.get(timeout=20) == [2 * i for i in range(10)]
    assert done.wait(20)


def test_pool_starmap(pool):
    """Each element is the arguments of a call."""
    assert pool.starmap(add, [(1, 2), (3, 4)]) == [3, 7]
    assert pool.starmap_async(add, [(1, 2), (3,)]).get(timeout=20) == [3, 103]


def test_pool_imap_is_in_order(pool):
    """One by one, in order."""
    results = pool.imap(double, range(20), chunksize=3)
    assert next(results) == 0
    assert list(results) == [2 * i for i in range(1, 20)]


def test_pool_imap_unordered_gives_each_once(pool):
    """One by one, in any order."""
    assert sorted(pool.imap_unordered(double, range(20))) == [2 * i for i in range(20)]


def test_pool_imap_goes_on_after_an_error(pool):
    """The error takes the place of its result."""
    results = pool.imap(fail_at_three, range(5))
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="no 3"):
        next(results)
    assert next(results) == 4
    with pytest.raises(StopIteration):
        next(results)


def test_pool_imap_next_with_timeout(pool, gate):
    """TimeoutError, and the result is not lost."""
    results = pool.imap(lambda _: (gate.pass_through(), "done")[1], [1])
    with pytest.raises(TimeoutError):
        results.next(timeout=0.05)
    gate.open()
    assert results.next(timeout=20) == "done"


def test_pool_lambdas_and_closures(pool):
    """What pickle can't send can be called all the same."""
    factor = 3
    assert pool.map(lambda x: x * factor, range(4)) == [0, 3, 6, 9]


def test_pool_uses_its_processes():
    """As many processes as asked for, and no others."""
    with Pool(2) as pool:
        assert 1 <= len(set(pool.map(pid, range(40), chunksize=1))) <= 2


def test_pool_initializer_runs_in_each_process():
    """Before anything else, with its arguments."""

    def prepare(value):
        os.environ["POOL_TEST"] = value

    with Pool(2, initializer=prepare, initargs=("ready",)) as pool:
        assert set(pool.map(lambda _: os.environ.get("POOL_TEST"), range(8), chunksize=1)) == {"ready"}


def test_pool_maxtasksperchild_replaces_processes():
    """A process ends after so many chunks."""
    with Pool(1, maxtasksperchild=1) as pool:
        pids = {pool.apply(pid) for _ in range(3)}
    assert len(pids) == 3


def test_pool_closed_takes_no_more():
    """After `close`: ValueError; what was started is done."""
    pool = Pool(1)
    result = pool.map_async(double, range(5))
    pool.close()
    for call in (lambda: pool.apply(double, (1,)), lambda: pool.map(double, [1]), lambda: pool.imap(double, [1])):
        with pytest.raises(ValueError):
            call()
    pool.join()
    assert result.get(timeout=1) == [0, 2, 4, 6, 8]


def test_pool_join_before_close_is_refused():
    """ValueError: it would wait for ever."""
    pool = Pool(1)
    with pytest.raises(ValueError):
        pool.join()
    pool.terminate()
    pool.join()


def test_pool_context_ends_it():
    """After the block nothing is taken any more."""
    with Pool(1) as pool:
        assert pool.apply(double, (1,)) == 2
    with pytest.raises(ValueError):
        pool.apply(double, (1,))


def test_pool_bad_numbers_of_processes():
    """0, less, and more than the cluster has."""
    for bad in (0, -1, 1000):
        with pytest.raises(ValueError):
            Pool(bad)


def test_pool_is_as_large_as_the_cluster_by_default():
    """Without a number: one process per CPU."""
    with Pool() as pool:
        assert len(set(pool.map(pid, range(100), chunksize=1))) <= 4


def test_pool_remote_args_are_the_actors():
    """Options of the actors, such as an environment."""
    with Pool(1, ray_remote_args={"runtime_env": {"env_vars": {"POOL_VARIABLE": "set"}}}) as pool:
        assert pool.apply(lambda: os.environ.get("POOL_VARIABLE")) == "set"


def test_pool_older_import_path():
    """`ray.experimental.multiprocessing` is still imported by some."""
    from ray.experimental.multiprocessing import Pool as Older

    with Older(1) as pool:
        assert pool.map(double, [1, 2]) == [2, 4]
