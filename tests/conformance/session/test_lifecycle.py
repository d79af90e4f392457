"""Starting and stopping the runtime, again and again, in one process."""

import os
import tempfile

import pytest

import ray
from support import init

pytestmark = pytest.mark.usefixtures("no_runtime")


@ray.remote
def one():
    return 1


def test_init_twice_raises_unless_told_to_ignore():
    """A second `init` is a RuntimeError; with ignore_reinit_error it leaves the first session alone."""
    init(num_cpus=1)
    ref = ray.put("still here")
    with pytest.raises(RuntimeError, match="ignore_reinit_error"):
        init(num_cpus=1)
    init(num_cpus=3, ignore_reinit_error=True)
    assert ray.get(ref) == "still here"
    assert ray.cluster_resources()["CPU"] == 1


def test_shutdown_without_init_is_harmless():
    """`shutdown` may be called at any time, any number of times."""
    ray.shutdown()
    ray.shutdown()
    assert not ray.is_initialized()


@pytest.mark.limit(30)
def test_init_and_shutdown_repeated_work():
    """Functions and classes defined once work in every session, and sessions are fresh."""

    @ray.remote
    class Counter:
        def __init__(self):
            self.count = 0

        def add(self):
            self.count += 1
            return self.count

    for _ in range(3):
        assert not ray.is_initialized()
        init(num_cpus=1)
        assert ray.is_initialized()
        assert ray.get(one.remote()) == 1
        assert ray.get(Counter.remote().add.remote()) == 1
        ray.shutdown()


def test_first_call_starts_the_runtime():
    """Without `init`, the first use starts a session."""
    assert ray.get(ray.put("started")) == "started"
    assert ray.is_initialized()


def test_first_task_starts_the_runtime():
    """Without `init`, the first remote call starts a session too."""
    assert ray.get(one.remote()) == 1
    assert ray.is_initialized()


def test_context_leaves_with_its_block():
    """The context that `init` returns shuts the session down when its `with` block ends."""
    with init(num_cpus=1) as context:
        assert context.address_info["node_id"] == ray.get_runtime_context().get_node_id()
        assert context["session_dir"] == context.address_info["session_dir"]
        assert ray.is_initialized()
    assert not ray.is_initialized()


def test_context_tells_versions():
    """The context knows the Python and the Ray version that it was made with."""
    import platform

    context = init(num_cpus=1)
    assert context.python_version == platform.python_version()
    assert context.ray_version == ray.__version__


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"num_cpu": 1}, RuntimeError),
        ({"num_cpus": -1}, ValueError),
        ({"resources": {"x": -1}}, ValueError),
        ({"object_store_memory": 1000}, ValueError),
        ({"namespace": 3}, TypeError),
        ({"runtime_env": {"env_vars": {"A": 1}}}, TypeError),
    ],
)
def test_init_bad_option_raises_and_starts_nothing(options, error):
    """A wrong option is refused with the right type, and the next `init` works."""
    with pytest.raises(error):
        init(**options)
    assert not ray.is_initialized()


def test_ref_of_an_ended_session_is_refused():
    """A ref that outlived its session raises instead of hanging, before and after a new session starts."""
    init(num_cpus=1)
    ref = ray.put("gone")
    ray.shutdown()
    init(num_cpus=1)
    with pytest.raises((ValueError, ray.exceptions.RayError)) as caught:
        ray.get(ref, timeout=5)
    assert not isinstance(caught.value, ray.exceptions.GetTimeoutError)


def test_handle_of_an_ended_session_is_refused():
    """An actor handle that outlived its session raises instead of hanging."""

    @ray.remote
    class Actor:
        def ping(self):
            return "pong"

    init(num_cpus=1)
    actor = Actor.remote()
    assert ray.get(actor.ping.remote()) == "pong"
    ray.shutdown()
    init(num_cpus=1)
    with pytest.raises(Exception) as caught:  # noqa: B017 (Ray raises a bare Exception here)
        ray.get(actor.ping.remote(), timeout=5)
    assert not isinstance(caught.value, ray.exceptions.GetTimeoutError)


def test_temp_dir_holds_the_session():
    """With `_temp_dir` the session's folder lies below it."""
    with tempfile.TemporaryDirectory(prefix="t-", dir="/tmp") as folder:
        context = init(num_cpus=1, _temp_dir=folder)
        assert context.address_info["session_dir"].startswith(folder)
        assert ray.get(one.remote()) == 1
        ray.shutdown()


def test_init_without_num_cpus_takes_the_machines():
    """By default there are as many CPUs as the process may use."""
    init()
    assert ray.cluster_resources()["CPU"] == len(os.sched_getaffinity(0))
