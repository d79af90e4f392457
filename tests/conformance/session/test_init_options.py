"""What the options of `ray.init` bring about."""

import logging
import os

import pytest

import ray

STORE_BYTES = 100 * 1024 * 1024
pytestmark = pytest.mark.runtime(
    num_cpus=3,
    num_gpus=2,
    resources={"widget": 2},
    labels={"zone": "north"},
    object_store_memory=STORE_BYTES,
    namespace="own-namespace",
    logging_level=logging.ERROR,
    runtime_env={"env_vars": {"COLOUR_OF_JOB": "green", "SIZE_OF_JOB": "7"}},
)


def test_init_resources_are_the_clusters():
    """CPU, GPU and custom quantities are what was asked for."""
    total = ray.cluster_resources()
    assert (total["CPU"], total["GPU"], total["widget"]) == (3.0, 2.0, 2.0)
    assert total["object_store_memory"] == pytest.approx(STORE_BYTES, rel=0.01)
    assert total["memory"] > 0


def test_init_available_resources_never_exceed_the_total():
    """What is available is part of what there is."""
    total, available = ray.cluster_resources(), ray.available_resources()
    assert all(available[name] <= total[name] for name in available)


def test_init_labels_are_the_nodes():
    """The node carries the labels given."""
    (node,) = ray.nodes()
    assert node["Labels"]["zone"] == "north"


def test_init_node_is_listed_alive():
    """`ray.nodes()` shows the one node, its resources and its id."""
    (node,) = ray.nodes()
    assert node["Alive"]
    assert node["Resources"]["widget"] == 2
    assert node["NodeID"] == ray.get_runtime_context().get_node_id()


def test_init_namespace_holds_in_workers():
    """The job's namespace is the same in the driver, tasks and actors."""

    @ray.remote
    def namespace():
        return ray.get_runtime_context().namespace

    assert ray.get_runtime_context().namespace == "own-namespace"
    assert ray.get(namespace.remote()) == "own-namespace"


def test_init_env_vars_reach_all_workers():
    """The job's variables are set in tasks and actors, not in the driver."""

    @ray.remote
    def task():
        return os.environ["COLOUR_OF_JOB"], os.environ["SIZE_OF_JOB"]

    @ray.remote
    class Actor:
        def read(self):
            return ray.get(task.remote())

    assert ray.get(task.remote()) == ("green", "7")
    assert ray.get(Actor.remote().read.remote()) == ("green", "7")
    assert "COLOUR_OF_JOB" not in os.environ


def test_init_env_vars_are_merged_with_a_tasks_own():
    """A task's variables come on top of the job's and win where both set one."""

    @ray.remote(runtime_env={"env_vars": {"SIZE_OF_JOB": "8", "SHAPE": "round"}})
    def task():
        return [os.environ.get(name) for name in ("COLOUR_OF_JOB", "SIZE_OF_JOB", "SHAPE")]

    assert ray.get(task.remote()) == ["green", "8", "round"]


def test_init_custom_resource_can_be_taken():
    """A fraction of a custom resource can be asked for."""

    @ray.remote(resources={"widget": 0.5}, num_cpus=0)
    def task():
        return ray.get_runtime_context().get_assigned_resources()

    assert ray.get(task.remote()).get("widget") == 0.5
