"""The rest of `ray.get_runtime_context()`: names, labels, folders, addresses, environments, and the older spellings."""

import json
import os

import pytest

import ray
from support import wait_for

pytestmark = pytest.mark.runtime(num_cpus=4, labels={"zone": "north"}, namespace="known", runtime_env={"env_vars": {"OF_JOB": "yes"}})


def plain_function():
    return ray.get_runtime_context().get_task_function_name(), ray.get_runtime_context().get_task_name()


@ray.remote
class Teller:
    def __init__(self):
        self.of_constructor = ray.get_runtime_context().get_task_name()

    def names(self):
        context = ray.get_runtime_context()
        return context.get_task_function_name(), context.get_task_name(), self.of_constructor

    def ask(self, name):
        found = getattr(ray.get_runtime_context(), name)
        return found() if callable(found) else found


def test_context_function_name_is_not_the_tasks_name():
    """A task that is named otherwise still tells its function; both are the function's where nothing is said."""
    function_name, task_name = ray.get(ray.remote(plain_function).options(name="special").remote())
    assert function_name.endswith("plain_function")
    assert task_name == "special"


def test_context_function_name_in_an_actor_is_the_methods():
    """A method tells its class and its own name; so does the constructor."""
    function_name, task_name, of_constructor = ray.get(Teller.remote().names.remote())
    assert function_name.endswith("Teller.names")
    assert task_name == "Teller.names"
    assert of_constructor == "Teller.__init__"


def test_context_function_name_in_the_driver_is_none():
    """The driver runs no task."""
    assert ray.get_runtime_context().get_task_function_name() is None
    assert ray.get_runtime_context().get_task_name() is None


def test_context_node_labels_are_the_nodes():
    """The labels that were given, and the node's id."""
    labels = ray.get_runtime_context().get_node_labels()
    assert labels["zone"] == "north"
    assert labels["ray.io/node-id"] == ray.get_runtime_context().get_node_id()
    assert ray.get(Teller.remote().ask.remote("get_node_labels")) == labels


def test_context_session_is_the_same_everywhere():
    """Name and folder of the session, in the driver and in an actor."""
    context = ray.get_runtime_context()
    teller = Teller.remote()
    assert ray.get(teller.ask.remote("get_session_name")) == context.get_session_name()
    assert ray.get(teller.ask.remote("get_temp_dir")) == context.get_temp_dir()
    assert context.get_session_name().startswith("session_")
    assert os.path.isabs(context.get_temp_dir())


def test_context_namespace_is_the_jobs():
    """The namespace that was given, in the driver and in an actor."""
    assert ray.get_runtime_context().namespace == "known"
    assert ray.get(Teller.remote().ask.remote("namespace")) == "known"


def test_context_address_is_text():
    """The cluster's address."""
    assert isinstance(ray.get_runtime_context().gcs_address, str)
    assert ray.get_runtime_context().gcs_address


def test_context_environment_is_the_jobs():
    """The environment that was given, as a dict and as JSON."""
    context = ray.get_runtime_context()
    assert context.runtime_env["env_vars"] == {"OF_JOB": "yes"}
    assert json.loads(context.get_runtime_env_string())["env_vars"] == {"OF_JOB": "yes"}


def test_context_has_no_placement_group_outside_of_one():
    """No group in the driver, nor in an actor outside of groups."""
    assert ray.get_runtime_context().get_placement_group_id() is None
    assert ray.get(Teller.remote().ask.remote("get_placement_group_id")) is None
    assert ray.get(Teller.remote().ask.remote("should_capture_child_tasks_in_placement_group")) is False


def test_context_of_a_new_actor_is_not_reconstructed():
    """It was started once."""
    assert ray.get(Teller.remote().ask.remote("was_current_actor_reconstructed")) is False


def test_context_of_a_restarted_actor_is_reconstructed(tmp_path):
    """It was started again after its process had died."""

    @ray.remote(max_restarts=1, max_task_retries=1)
    class Fragile:
        def pid(self):
            return os.getpid()

        def restarted(self):
            return ray.get_runtime_context().was_current_actor_reconstructed

    actor = Fragile.remote()
    pid = ray.get(actor.pid.remote())
    os.kill(pid, 9)
    wait_for(lambda: ray.get(actor.pid.remote()) != pid, 30)
    assert ray.get(actor.restarted.remote()) is True


def test_context_resources_of_an_actor_are_what_it_holds():
    """An actor holds what it asked for."""
    teller = Teller.options(num_cpus=2).remote()
    assert ray.get(teller.ask.remote("get_assigned_resources")) == {"CPU": 2.0}


def test_context_name_of_an_actor_without_one_is_empty():
    """An actor without a name has the empty one, and outside of actors there is none."""
    assert ray.get(Teller.remote().ask.remote("get_actor_name")) == ""
    assert ray.get_runtime_context().get_actor_name() is None


def test_context_older_spellings_give_id_objects():
    """`job_id` and `node_id` are objects with the same ids as the newer methods tell."""
    context = ray.get_runtime_context()
    assert context.job_id.hex() == context.get_job_id()
    assert context.node_id.hex() == context.get_node_id()
    found = context.get()
    assert found["job_id"] == context.job_id
    assert found["node_id"] == context.node_id
    assert found["namespace"] == "known"


def test_context_accelerators_are_listed_by_family():
    """Every family is there, without devices in the driver."""
    found = ray.get_runtime_context().get_accelerator_ids()
    assert {"GPU", "TPU", "neuron_cores", "NPU", "HPU", "RBLN"} <= set(found)
    assert all(ids == [] for ids in found.values())


def test_context_resources_in_the_driver_are_none():
    """The driver is no task: it holds nothing that could be told."""
    with pytest.raises((RuntimeError, AssertionError)):
        ray.get_runtime_context().get_assigned_resources()


def test_context_task_id_changes_with_each_call():
    """Two calls of one actor, two ids."""
    teller = Teller.remote()
    first, second = ray.get([teller.ask.remote("get_task_id") for _ in range(2)])
    assert first != second
    assert len(first) == 48
