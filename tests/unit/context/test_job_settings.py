"""What a job says of itself: the arguments of `ray.init`, `JobConfig` and the environment put together, and how its records are written."""

import json
import logging
import sys

import pytest

from ray import LoggingConfig
from ray._core.config import job, json_of
from ray._core.config.logging_config import ContextFilter, JsonFormatter, TextFormatter, apply, forget
from ray.job_config import JobConfig

NOTHING = {"job_config": None, "runtime_env": None, "namespace": None, "logging_config": None}


def settled(**given):
    return job.settled({**NOTHING, **given})


def test_argument_goes_before_the_job_config():
    config = JobConfig(runtime_env={"env_vars": {"A": "1"}}, ray_namespace="config")
    both = settled(job_config=config, namespace="argument", runtime_env={"env_vars": {"B": "2"}})
    assert (both.ray_namespace, both.runtime_env) == ("argument", {"env_vars": {"B": "2"}})
    alone = settled(job_config=config)
    assert (alone.ray_namespace, alone.runtime_env) == ("config", {"env_vars": {"A": "1"}})


def test_users_job_config_is_not_changed():
    config = JobConfig(metadata={"a": "1"})
    settled(job_config=config, namespace="n", logging_config=LoggingConfig())
    assert (config.ray_namespace, config.py_logging_config, config.metadata) == (None, None, {"a": "1"})


def test_job_config_comes_from_the_environment(monkeypatch):
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps({"metadata": {"a": "1", "b": "2"}, "runtime_env": {"env_vars": {"A": "1"}}}))
    found = settled(job_config=JobConfig(metadata={"b": "3"}))
    assert (found.metadata, found.runtime_env) == ({"a": "1", "b": "3"}, {"env_vars": {"A": "1"}})


@pytest.mark.parametrize("text", ["{", "[]", "5"])
def test_environment_that_holds_no_object_is_refused(text, monkeypatch):
    monkeypatch.setenv("RAY_OVERRIDE_RESOURCES", text)
    with pytest.raises(ValueError, match="RAY_OVERRIDE_RESOURCES"):
        json_of("RAY_OVERRIDE_RESOURCES")


def test_encoding_comes_from_the_environment_unless_it_is_given(monkeypatch):
    monkeypatch.setenv("RAY_LOGGING_CONFIG_ENCODING", "JSON")
    assert settled().py_logging_config == LoggingConfig(encoding="JSON")
    assert settled(logging_config=LoggingConfig()).py_logging_config == LoggingConfig()


def test_search_path_goes_before_the_drivers():
    config = JobConfig(code_search_path=["/own"])
    assert job.engine_config(config, ["/driver"], True)["sys_path"] == ["/own", "/driver"]
    config._py_driver_sys_path = ["/instead"]
    assert job.engine_config(config, ["/driver"], True)["sys_path"] == ["/own", "/instead"]


def test_settings_hold_only_what_was_said():
    assert job.settings(settled(), "/s") == {"session_dir": "/s"}
    found = job.settings(settled(job_config=JobConfig(metadata={"a": "1"}, default_actor_lifetime="detached"), logging_config=LoggingConfig()), "/s")
    assert found["default_actor_lifetime"] == "detached"
    assert json.loads(found["job_metadata"]) == {"a": "1"}
    assert job.logging_of(found) == LoggingConfig()
    assert job.logging_of({}) is None


def record(**extra):
    made = logging.LogRecord("of.a.test", logging.WARNING, __file__, 12, "said %s", ("so",), None)
    made.__dict__.update(extra)
    return made


def test_json_formatter_writes_one_object():
    found = json.loads(JsonFormatter(["name"]).format(record(colour="green", job_id="01")))
    assert (found["message"], found["levelname"], found["lineno"], found["name"]) == ("said so", "WARNING", 12, "of.a.test")
    assert (found["colour"], found["job_id"]) == ("green", "01")


def test_json_formatter_writes_tracebacks_and_odd_values():
    try:
        raise KeyError("k")
    except KeyError:
        made = record(odd={1, 2})
        made.exc_info = sys.exc_info()
    found = json.loads(JsonFormatter([]).format(made))
    assert "KeyError" in found["exc_text"]
    assert found["odd"] == "{1, 2}"


def test_text_formatter_adds_fields_behind_the_line():
    line = TextFormatter(["name"]).format(record(colour="green", job_id="01"))
    assert "WARNING test_job_settings.py:12 -- said so" in line
    assert "name=of.a.test" in line
    assert "job_id=01" in line
    assert "colour=green" in line


def test_context_of_a_process_without_a_session_is_empty():
    made = record()
    assert ContextFilter().filter(made)
    assert not hasattr(made, "job_id")


def test_logging_is_applied_once_and_taken_away():
    root, own = logging.getLogger(), logging.getLogger("ray")
    before = (root.level, list(root.handlers), own.level, list(own.handlers), own.propagate)
    try:
        apply(LoggingConfig(encoding="JSON", log_level="ERROR"))
        apply(LoggingConfig(log_level="ERROR"))
        assert len(root.handlers) == len(before[1]) + 1
        assert root.level == logging.ERROR
        forget()
        assert (root.level, list(root.handlers), own.level, list(own.handlers), own.propagate) == before
    finally:
        forget()
