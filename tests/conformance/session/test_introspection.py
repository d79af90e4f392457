"""What `ray.nodes()`, `ray.cluster_resources()` and `ray.available_resources()` tell."""

import pytest

import ray
from support import wait_for

pytestmark = pytest.mark.runtime(num_cpus=3, num_gpus=1, resources={"widget": 3}, labels={"zone": "north"})

KEYS = {
    "NodeID",
    "Alive",
    "NodeManagerAddress",
    "NodeManagerHostname",
    "NodeManagerPort",
    "ObjectManagerPort",
    "ObjectStoreSocketName",
    "RayletSocketName",
    "MetricsAgentPort",
    "DashboardAgentListenPort",
    "MetricsExportPort",
    "NodeName",
    "RuntimeEnvAgentPort",
    "DeathReason",
    "DeathReasonMessage",
    "alive",
    "Resources",
    "Labels",
}


@ray.remote
class Holder:
    def ready(self):
        return True


@pytest.fixture(autouse=True)
def _all_free():
    wait_for(lambda: ray.available_resources() == ray.cluster_resources(), 30)


def test_nodes_have_rays_keys():
    """Programs read a node by these keys."""
    (node,) = ray.nodes()
    assert set(node) >= KEYS


def test_node_that_lives_has_no_reason_of_death():
    """Alive under both spellings, and no reason of death."""
    (node,) = ray.nodes()
    assert (node["Alive"], node["alive"], node["DeathReason"], node["DeathReasonMessage"]) == (True, True, 0, "")


def test_node_id_is_a_label():
    """The node's id is among its labels, beside those that were given."""
    (node,) = ray.nodes()
    assert node["Labels"]["ray.io/node-id"] == node["NodeID"]
    assert node["Labels"]["zone"] == "north"


def test_node_is_a_resource_by_its_address():
    """Every node has one unit of a resource named after its address, the head's node one more."""
    (node,) = ray.nodes()
    assert node["Resources"][f"node:{node['NodeManagerAddress']}"] == 1.0
    assert node["Resources"]["node:__internal_head__"] == 1.0


def test_resources_of_the_cluster_are_those_of_its_node():
    """One node: the totals are its own."""
    (node,) = ray.nodes()
    assert ray.cluster_resources() == node["Resources"]


def test_resources_are_floats():
    """All amounts are floats; memory is in bytes."""
    total = ray.cluster_resources()
    assert all(type(amount) is float for amount in total.values())
    assert total["memory"] > 10_000_000
    assert total["object_store_memory"] > 10_000_000


def test_resources_have_what_was_given():
    """CPUs, GPUs and custom ones."""
    total = ray.cluster_resources()
    assert (total["CPU"], total["GPU"], total["widget"]) == (3.0, 1.0, 3.0)


def test_resource_that_is_used_up_is_not_available():
    """What is wholly taken is left out, the rest is told."""
    holder = Holder.options(num_cpus=1, num_gpus=1, resources={"widget": 1.5}).remote()
    ray.get(holder.ready.remote())
    wait_for(lambda: "GPU" not in ray.available_resources(), 10)
    available = ray.available_resources()
    assert (available["CPU"], available["widget"]) == (2.0, 1.5)
    assert ray.cluster_resources()["GPU"] == 1.0


def test_resources_come_back_when_an_actor_ends():
    """The last handle goes, and all is free again."""
    holder = Holder.options(num_cpus=2).remote()
    ray.get(holder.ready.remote())
    wait_for(lambda: ray.available_resources()["CPU"] == 1.0, 10)
    del holder
    wait_for(lambda: ray.available_resources().get("CPU") == 3.0, 30)


def test_memory_that_an_actor_asks_for_is_taken():
    """Asking for memory takes it off what is available."""
    before = ray.available_resources()["memory"]
    holder = Holder.options(memory=100 * 1024 * 1024).remote()
    ray.get(holder.ready.remote())
    wait_for(lambda: ray.available_resources()["memory"] == before - 100 * 1024 * 1024, 10)


def test_introspection_works_inside_of_a_task():
    """A task sees the same cluster."""

    @ray.remote(num_cpus=0)
    def look():
        return ray.nodes()[0]["NodeID"], ray.cluster_resources()

    assert ray.get(look.remote()) == (ray.nodes()[0]["NodeID"], ray.cluster_resources())
