"""Accelerators besides GPUs: which devices a call gets, and how it learns of them."""

import os

import pytest

import ray
from support import wait_for

AMOUNTS = {"TPU": 4, "neuron_cores": 4, "NPU": 2, "HPU": 2, "RBLN": 2}
VARIABLES = {
    "TPU": "TPU_VISIBLE_CHIPS",
    "neuron_cores": "NEURON_RT_VISIBLE_CORES",
    "NPU": "ASCEND_RT_VISIBLE_DEVICES",
    "HPU": "HABANA_VISIBLE_MODULES",
    "RBLN": "RBLN_DEVICES",
}
pytestmark = [pytest.mark.runtime(num_cpus=8, resources=AMOUNTS), pytest.mark.limit(30)]


def seen(resource, variable):
    return ray.get_runtime_context().get_accelerator_ids()[resource], os.environ.get(variable)


@ray.remote(num_cpus=0)
class Holder:
    def seen(self, resource, variable):
        return seen(resource, variable)


@pytest.fixture(autouse=True)
def _all_free():
    wait_for(lambda: all(ray.available_resources().get(name) == amount for name, amount in AMOUNTS.items()), 30)


@pytest.mark.parametrize("resource", AMOUNTS)
def test_accelerator_task_sees_its_device(resource):
    """A task with one unit sees one id, in the context and in the family's variable."""
    ids, variable = ray.get(ray.remote(resources={resource: 1})(seen).remote(resource, VARIABLES[resource]))
    assert len(ids) == 1
    assert 0 <= int(ids[0]) < AMOUNTS[resource]
    assert variable == ids[0]


@pytest.mark.parametrize("resource", AMOUNTS)
def test_accelerator_actors_never_share_whole_ones(resource):
    """As many actors as there are devices hold different ones."""
    actors = [Holder.options(resources={resource: 1}).remote() for _ in range(AMOUNTS[resource])]
    got = ray.get([actor.seen.remote(resource, VARIABLES[resource]) for actor in actors])
    assert sorted(int(ids[0]) for ids, _ in got) == list(range(AMOUNTS[resource]))
    assert all(variable == ids[0] for ids, variable in got)


def test_accelerator_task_with_two_sees_two():
    """Two cores, both in the variable."""
    ids, variable = ray.get(ray.remote(resources={"neuron_cores": 2})(seen).remote("neuron_cores", VARIABLES["neuron_cores"]))
    assert len(set(ids)) == 2
    assert variable == ",".join(ids)


def test_accelerator_fractions_share_a_device():
    """Two halves are one device."""
    actors = [Holder.options(resources={"NPU": 0.5}).remote() for _ in range(2)]
    first, second = ray.get([actor.seen.remote("NPU", VARIABLES["NPU"]) for actor in actors])
    assert first == second


@pytest.mark.parametrize(("resource", "amount"), [("TPU", 0.5), ("TPU", 3), ("neuron_cores", 0.5), ("HPU", 0.5), ("RBLN", 1.5)])
def test_accelerator_amount_that_no_call_can_get_is_refused(resource, amount):
    """Most devices can't be shared, and chips come in certain numbers."""
    with pytest.raises(ValueError, match=resource):
        ray.remote(seen).options(resources={resource: amount})


def test_accelerator_that_is_shared_comes_whole_above_one():
    """A half of one device is fine; one and a half can't be told to a library."""
    with pytest.raises(ValueError, match="NPU"):
        ray.remote(seen).options(resources={"NPU": 1.5})


def test_accelerator_chips_are_told_how_they_are_arranged():
    """A process that sees only some of a host's chips."""

    @ray.remote(num_cpus=0, resources={"TPU": 2})
    def bounds():
        return os.environ.get("TPU_CHIPS_PER_HOST_BOUNDS"), os.environ.get("TPU_HOST_BOUNDS")

    assert ray.get(bounds.remote()) == ("1,2,1", "1,1,1")


def test_accelerator_families_are_apart():
    """Devices of two families at once; the others have none."""

    @ray.remote(num_cpus=0, resources={"TPU": 1, "HPU": 1})
    def ids():
        return ray.get_runtime_context().get_accelerator_ids()

    found = ray.get(ids.remote())
    assert (len(found["TPU"]), len(found["HPU"]), found["NPU"], found["GPU"]) == (1, 1, [], [])


def test_accelerator_variable_that_the_user_keeps_stays():
    """RAY_EXPERIMENTAL_NOSET_... leaves the variable to the program."""
    variables = {"RAY_EXPERIMENTAL_NOSET_ASCEND_RT_VISIBLE_DEVICES": "1", "ASCEND_RT_VISIBLE_DEVICES": "own"}
    task = ray.remote(resources={"NPU": 1}, runtime_env={"env_vars": variables})(seen)
    ids, variable = ray.get(task.remote("NPU", VARIABLES["NPU"]))
    assert len(ids) == 1
    assert variable == "own"
