"""`ray.experimental.get_object_locations`: where objects are."""

import pytest

import ray
from ray.experimental import get_local_object_locations, get_object_locations, set_resource

pytestmark = pytest.mark.runtime(num_cpus=2)
BYTES = 5_000_000


@pytest.mark.parametrize("locations", [get_object_locations, get_local_object_locations])
def test_location_of_a_large_object_is_its_node(locations):
    """Node, size, and that it is in memory."""
    ref = ray.put(b"x" * BYTES)
    found = locations([ref])[ref]
    assert found["node_ids"] == [ray.get_runtime_context().get_node_id()]
    assert found["object_size"] >= BYTES
    assert found["did_spill"] is False


def test_location_of_a_large_result_is_its_node():
    """The result of a task, made by another process."""
    ref = ray.remote(lambda: b"x" * BYTES).remote()
    ray.wait([ref])
    assert get_object_locations([ref])[ref]["node_ids"] == [ray.get_runtime_context().get_node_id()]


def test_location_of_an_object_that_is_not_ready_is_nowhere(gate):
    """A task that has not ended."""

    @ray.remote
    def wait():
        gate.pass_through()

    ref = wait.remote()
    assert get_object_locations([ref])[ref]["node_ids"] == []
    gate.open()
    ray.get(ref)


def test_location_within_no_time_is_refused():
    """Owners need a moment to answer."""
    with pytest.raises(ray.exceptions.GetTimeoutError):
        get_object_locations([ray.put(1)], timeout_ms=0)


def test_resources_of_a_running_node_are_fixed():
    """What a node offers can't be changed."""
    with pytest.raises(DeprecationWarning):
        set_resource("widget", 1)
