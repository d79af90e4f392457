"""`ray.job_config.JobConfig`: what holds for everything that a program starts."""

import os
import uuid

import pytest

import ray
from ray.job_config import JobConfig

CONFIG = JobConfig(
    runtime_env={"env_vars": {"FROM_JOB_CONFIG": "yes"}},
    metadata={"owner": "tests"},
    ray_namespace="of-the-job-config",
    default_actor_lifetime="detached",
)
pytestmark = pytest.mark.runtime(num_cpus=2, job_config=CONFIG)


def test_job_config_environment_reaches_tasks():
    """Its environment is that of all tasks."""

    @ray.remote
    def read():
        return os.environ.get("FROM_JOB_CONFIG")

    assert ray.get(read.remote()) == "yes"


def test_job_config_namespace_is_the_jobs():
    """Named actors are found in its namespace."""
    assert ray.get_runtime_context().namespace == "of-the-job-config"


def test_job_config_lifetime_is_that_of_actors():
    """An actor that says nothing of its lifetime outlives its last handle; one that does, does not."""

    @ray.remote(num_cpus=0)
    class Named:
        def pid(self):
            return os.getpid()

    name = uuid.uuid4().hex
    handle = Named.options(name=name).remote()
    pid = ray.get(handle.pid.remote())
    del handle
    again = ray.get_actor(name)
    assert ray.get(again.pid.remote()) == pid
    ray.kill(again)


def test_job_config_keeps_what_it_was_given():
    """Fields and setters."""
    config = JobConfig(code_search_path=["a", "b"], metadata={"k": "v"})
    config.set_metadata("k2", "v2")
    config.set_ray_namespace("ns")
    config.set_default_actor_lifetime("detached")
    config.set_runtime_env({"env_vars": {"A": "1"}})
    assert config.code_search_path == ["a", "b"]
    assert config.metadata == {"k": "v", "k2": "v2"}
    assert config.ray_namespace == "ns"
    assert config.runtime_env == {"env_vars": {"A": "1"}}


def test_job_config_refuses_an_unknown_lifetime():
    """There are two lifetimes."""
    with pytest.raises(ValueError, match="actor.lifetime"):
        JobConfig(default_actor_lifetime="eternal")


def test_job_config_search_path_is_a_list():
    """A text is no list of folders."""
    with pytest.raises(TypeError):
        JobConfig(code_search_path="folder")  # type: ignore[arg-type]


def test_job_config_is_made_from_json():
    """Fields that a job's description has."""
    config = JobConfig.from_json({"runtime_env": {"env_vars": {"A": "1"}}, "metadata": {"m": "x"}, "ray_namespace": "n", "code_search_path": ["p"]})
    assert config.runtime_env == {"env_vars": {"A": "1"}}
    assert (config.metadata, config.ray_namespace, config.code_search_path) == ({"m": "x"}, "n", ["p"])


def test_init_context_is_a_mapping_of_addresses():
    """What `ray.init` returned reads as a mapping, and as attributes."""
    context = ray.init(ignore_reinit_error=True)
    assert context["node_id"] == context.address_info["node_id"] == ray.get_runtime_context().get_node_id()
    assert set(context) == set(context.address_info)
    assert len(context) == len(context.address_info)
    assert context.ray_version == ray.__version__
    assert context.python_version.count(".") == 2


def test_init_context_has_rays_keys():
    """Programs read these."""
    keys = {"node_ip_address", "gcs_address", "address", "session_dir", "node_id", "raylet_socket_name", "object_store_address", "webui_url"}
    assert keys <= set(ray.init(ignore_reinit_error=True).address_info)
