"""Small utilities: `log_once`, the node's address, joblib, older import paths."""

import ipaddress
import queue as standard

import pytest

import ray
import ray.util.debug

np = pytest.importorskip("numpy")
pytestmark = pytest.mark.runtime(num_cpus=2)


def test_log_once_is_true_once_per_key():
    """Once for each key and process, until it is reset."""
    ray.util.debug.reset_log_once()
    assert [ray.util.log_once("a"), ray.util.log_once("a"), ray.util.log_once("b")] == [True, False, True]
    ray.util.debug.reset_log_once("a")
    assert [ray.util.log_once("a"), ray.util.log_once("b")] == [True, False]


def test_log_once_is_of_each_process():
    """A task has not asked yet."""
    ray.util.log_once("everywhere")
    assert ray.get(ray.remote(lambda: ray.util.log_once("everywhere in tasks")).remote())


def test_node_ip_address_is_that_of_the_node():
    """The same as `ray.nodes` tells, in the driver and in a task."""
    own = ray.nodes()[0]["NodeManagerAddress"]
    assert ipaddress.ip_address(ray.util.get_node_ip_address())
    assert ray.get(ray.remote(ray.util.get_node_ip_address).remote()) in (own, ray.util.get_node_ip_address())


def test_node_instance_id_is_empty_without_a_cloud():
    """Whoever starts nodes in a cloud may say it."""
    assert not ray.util.get_node_instance_id()


def test_older_import_paths_of_the_queue():
    """`ray.experimental.queue` is the same."""
    from ray.experimental.queue import Empty, Full, Queue

    assert Queue is ray.util.queue.Queue
    assert issubclass(Empty, standard.Empty)
    assert issubclass(Full, standard.Full)


@pytest.mark.limit(60)
def test_joblib_runs_on_the_cluster():
    """`register_ray` makes "ray" a backend; results in order, errors as they are."""
    joblib = pytest.importorskip("joblib")
    from ray.util.joblib import register_ray

    register_ray()
    with joblib.parallel_backend("ray"):
        assert joblib.Parallel()(joblib.delayed(pow)(i, 2) for i in range(20)) == [i * i for i in range(20)]
        with pytest.raises(ZeroDivisionError):
            joblib.Parallel(n_jobs=2)(joblib.delayed(divmod)(1, i) for i in range(3))


@pytest.mark.limit(60)
def test_joblib_takes_large_arguments():
    """One array for many calls."""
    joblib = pytest.importorskip("joblib")
    from ray.util.joblib import register_ray

    register_ray()
    data = np.ones(500_000)
    with joblib.parallel_backend("ray", n_jobs=2):
        assert joblib.Parallel()(joblib.delayed(np.dot)(data, data) for _ in range(6)) == [500_000.0] * 6
