"""Nodes of one cluster: which there are, what they offer, and where calls go."""

import os
import socket

import pytest

import ray
from ray._core.cluster import door
from ray.cluster_utils import Cluster
from ray.exceptions import ActorUnschedulableError, TaskUnschedulableError
from ray.experimental.internal_kv import _internal_kv_get, _internal_kv_put
from ray.util.scheduling_strategies import DoesNotExist, Exists, In, NodeAffinitySchedulingStrategy, NodeLabelSchedulingStrategy, NotIn
from ray.util.state import explain
from support import Gate, wait_for
from support.processes import is_alive, tree_pids

pytestmark = pytest.mark.limit(40)


@ray.remote
def where():
    return ray.get_runtime_context().get_node_id()


@ray.remote(num_cpus=0)
class Where:
    def node(self):
        return ray.get_runtime_context().get_node_id()

    def daemon(self):
        return os.getppid()


@pytest.fixture
def cluster(no_runtime):
    made = Cluster(initialize_head=True, connect=True, head_node_args={"num_cpus": 1, "labels": {"zone": "a"}})
    yield made
    ray.shutdown()
    made.shutdown()


@pytest.fixture
def other(cluster):
    """A second node."""
    return cluster.add_node(num_cpus=2, num_gpus=1, resources={"special": 1}, labels={"zone": "b", "disk": "ssd"}, node_name="second")


def affinity(node, soft=False):
    return NodeAffinitySchedulingStrategy(node.node_id, soft=soft)


def test_nodes_are_listed_with_what_they_are(cluster, other):
    head, second = ray.nodes()
    assert (head["NodeID"], second["NodeID"]) == (cluster.head_node.node_id, other.node_id)
    assert (second["Alive"], second["alive"], second["NodeManagerAddress"], second["NodeManagerHostname"]) == (True, True, "127.0.0.1", socket.gethostname())
    assert (second["NodeManagerPort"], second["NodeName"], second["DeathReasonMessage"]) == (other.node_manager_port, "second", "")
    assert second["Labels"] == {"zone": "b", "disk": "ssd", "ray.io/node-id": other.node_id}
    assert {"CPU": 2.0, "GPU": 1.0, "special": 1.0}.items() <= second["Resources"].items()
    assert "node:__internal_head__" in head["Resources"]
    assert "node:__internal_head__" not in second["Resources"]


def test_resources_are_those_of_all_nodes_and_follow_them(cluster, other):
    wait_for(lambda: ray.cluster_resources().get("CPU") == 3.0)
    assert ray.cluster_resources()["special"] == 1.0
    holder = Where.options(resources={"special": 1}, num_cpus=1).remote()
    assert ray.get(holder.node.remote()) == other.node_id
    wait_for(lambda: "special" not in ray.available_resources() and ray.available_resources()["CPU"] == 2.0)
    ray.kill(holder)
    wait_for(lambda: ray.available_resources().get("special") == 1.0)
    cluster.remove_node(other)
    wait_for(lambda: ray.cluster_resources() == ray.nodes()[0]["Resources"])
    assert [node["Alive"] for node in ray.nodes()] == [True, False]


def test_task_goes_where_its_resources_are(other):
    assert ray.get(where.options(resources={"special": 0.1}).remote()) == other.node_id
    assert ray.get(where.options(num_gpus=1).remote()) == other.node_id


def test_node_affinity_is_kept(cluster, other):
    for node in (cluster.head_node, other):
        assert ray.get([where.options(scheduling_strategy=affinity(node)).remote() for _ in range(5)]) == [node.node_id] * 5
        assert ray.get(Where.options(scheduling_strategy=affinity(node)).remote().node.remote()) == node.node_id


def test_affinity_to_a_node_that_is_gone_fails_or_goes_elsewhere(cluster, other):
    cluster.remove_node(other, allow_graceful=False)
    wait_for(lambda: not ray.nodes()[1]["Alive"])
    with pytest.raises(TaskUnschedulableError):
        ray.get(where.options(scheduling_strategy=affinity(other)).remote())
    with pytest.raises(ActorUnschedulableError):
        ray.get(Where.options(scheduling_strategy=affinity(other)).remote().node.remote())
    assert ray.get(where.options(scheduling_strategy=affinity(other, soft=True)).remote()) == cluster.head_node.node_id


def test_affinity_to_a_node_that_never_was_fails(cluster):
    strategy = NodeAffinitySchedulingStrategy("ab" * 28, soft=False)
    with pytest.raises(TaskUnschedulableError):
        ray.get(where.options(scheduling_strategy=strategy).remote())
    with pytest.raises(ValueError):
        where.options(scheduling_strategy=NodeAffinitySchedulingStrategy("ff" * 28, soft=False)).remote()


def test_labels_choose_the_node(cluster, other):
    first, second = cluster.head_node.node_id, other.node_id
    for hard, expected in [
        ({"zone": In("b", "c")}, second),
        ({"zone": NotIn("b")}, first),
        ({"disk": Exists()}, second),
        ({"disk": DoesNotExist()}, first),
        ({"zone": In("a", "b"), "disk": Exists()}, second),
    ]:
        assert ray.get(where.options(scheduling_strategy=NodeLabelSchedulingStrategy(hard)).remote()) == expected
    for selector, expected in [({"zone": "b"}, second), ({"zone": "!b"}, first), ({"zone": "in(b,c)"}, second), ({"zone": "!in(b,c)"}, first)]:
        assert ray.get(where.options(label_selector=selector).remote()) == expected
        assert ray.get(Where.options(label_selector=selector).remote().node.remote()) == expected


def test_soft_labels_choose_where_there_is_a_choice(cluster, other):
    wish = NodeLabelSchedulingStrategy({}, soft={"zone": In("b")})
    assert ray.get(where.options(scheduling_strategy=wish).remote()) == other.node_id
    vain = NodeLabelSchedulingStrategy({}, soft={"zone": In("nowhere")})
    assert ray.get(where.options(scheduling_strategy=vain).remote()) in (cluster.head_node.node_id, other.node_id)


def test_fallbacks_are_tried_in_their_order(cluster, other):
    """The first set of labels with room, and a later one rather than none."""
    first, second = cluster.head_node.node_id, other.node_id

    wish = {"label_selector": {"zone": "b"}, "fallback_strategy": [{"label_selector": {"zone": "a"}}]}
    holders = [Where.options(num_cpus=1, **wish).remote() for _ in range(3)]
    assert ray.get([holder.node.remote() for holder in holders]) == [second, second, first]
    del holders
    wait_for(lambda: ray.available_resources().get("CPU") == 3, 10.0, "room on both nodes again")

    def chosen(selector, *fallbacks):
        options = {"label_selector": selector, "fallback_strategy": [{"label_selector": one} for one in fallbacks]}
        actor = Where.options(**options).remote()
        return {ray.get(where.options(**options).remote()), ray.get(actor.node.remote())}

    assert chosen({"zone": "b"}, {"zone": "a"}) == {second}
    assert chosen({"zone": "x"}, {"zone": "b"}) == {second}
    assert chosen({"zone": "x"}, {"disk": "none"}, {"zone": "a"}) == {first}
    assert chosen({"zone": "x"}, {}) <= {first, second}
    never = where.options(label_selector={"zone": "x"}, fallback_strategy=[{"label_selector": {"zone": "y"}}]).remote()
    assert "2 without label zone=x, or label zone=y" in wait_for(lambda: (found := explain(never).text) and "zone" in found and found, 5.0)


def test_what_runs_elsewhere_is_explained(cluster, other, tmp_path):
    """The worker is on another node, which is asked."""
    gate = Gate(tmp_path / "gate")

    @ray.remote
    def hold(gate):
        gate.pass_through()

    held = hold.options(label_selector={"zone": "b"}).remote(gate)
    wait_for(gate.pids, 10.0, "the task is running")
    text = explain(held).text
    gate.open()
    assert ray.get(held) is None
    assert "runs hold" in text and "not known" not in text, text


def test_spread_uses_every_node(cluster, other):
    cluster.add_node(num_cpus=2)
    actors = [Where.options(scheduling_strategy="SPREAD").remote() for _ in range(6)]
    assert len(set(ray.get([actor.node.remote() for actor in actors]))) == 3


def test_worker_knows_its_node_and_the_clusters_address(cluster, other):
    @ray.remote
    def facts():
        context = ray.get_runtime_context()
        return context.gcs_address, context.get_node_labels()["zone"], context.namespace

    context = ray.get_runtime_context()
    assert ray.get(facts.options(scheduling_strategy=affinity(other)).remote()) == (cluster.address, "b", context.namespace)
    assert (context.gcs_address, context.get_node_labels()["zone"]) == (cluster.address, "a")


def test_pairs_are_the_same_on_every_node(other):
    @ray.remote
    def read_and_write():
        return _internal_kv_get("key", namespace="test"), _internal_kv_put("key", "there", namespace="test")

    assert _internal_kv_put("key", "here", namespace="test") is False
    assert ray.get(read_and_write.options(scheduling_strategy=affinity(other)).remote()) == (b"here", True)
    assert _internal_kv_get("key", namespace="test") == b"there"


@pytest.mark.parametrize("graceful", [True, False])
def test_node_that_is_removed_leaves_no_process(cluster, other, graceful):
    actor = Where.options(scheduling_strategy=affinity(other)).remote()
    ray.get(actor.node.remote())
    below = tree_pids(other.pid)
    assert below
    cluster.remove_node(other, allow_graceful=graceful)
    wait_for(lambda: not any(map(is_alive, below)), 5.0)
    cluster.wait_for_nodes()


def test_cluster_that_is_shut_down_leaves_nothing(no_leak):
    cluster = Cluster(initialize_head=True, connect=True)
    node = cluster.add_node()
    ray.get(where.options(scheduling_strategy=affinity(node)).remote())
    pids = tree_pids(cluster.head_node.pid) | tree_pids(node.pid)
    ray.shutdown()
    assert cluster.remaining_processes_alive()
    cluster.shutdown()
    wait_for(lambda: not any(map(is_alive, pids)), 5.0)
    assert [one for one in door.clusters() if str(os.getpid()) in one.session] == []
