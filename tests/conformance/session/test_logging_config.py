"""`ray.LoggingConfig`: how a program and its workers log."""

import json

import pytest

import ray
from support.scripts import run_script

pytestmark = pytest.mark.limit(60)

PROGRAM = """
import logging, sys, ray
ray.init(num_cpus=1, include_dashboard=False, logging_config=ray.LoggingConfig({config}))
logger = logging.getLogger("of.the.program")

@ray.remote
def speak():
    logger.info("said by the task", extra={{"colour": "green"}})
    return 1

@ray.remote
class Speaker:
    def speak(self):
        logger.info("said by the actor")
        return 1

logger.info("said by the driver", extra={{"size": 5}})
logger.debug("said to nobody")
ray.get(speak.remote())
ray.get(Speaker.remote().speak.remote())
"""


def line_with(text, output):
    found = [line for line in output.splitlines() if text in line]
    assert found, output
    return found[0]


def record_with(text, output):
    line = line_with(text, output)
    return json.loads(line[line.index("{") :])


def test_logging_json_lines_hold_the_context():
    """One object per line: where it was said, with the program's own fields."""
    output = run_script(PROGRAM.format(config='encoding="JSON"')).output
    driver = record_with("said by the driver", output)
    assert (driver["levelname"], driver["message"], driver["size"]) == ("INFO", "said by the driver", 5)
    assert {"asctime", "filename", "lineno", "job_id", "worker_id", "node_id", "timestamp_ns"} <= set(driver)
    assert "task_id" not in driver
    task = record_with("said by the task", output)
    assert (task["colour"], task["task_name"], task["job_id"]) == ("green", "speak", driver["job_id"])
    assert task["worker_id"] != driver["worker_id"]
    assert len(task["task_id"]) == 48
    actor = record_with("said by the actor", output)
    assert actor["task_name"] == "Speaker.speak"
    assert len(actor["actor_id"]) == 32
    assert "said to nobody" not in output


def test_logging_text_lines_hold_the_context():
    """The usual line, with fields behind it."""
    output = run_script(PROGRAM.format(config='encoding="TEXT", log_level="DEBUG"')).output
    driver = line_with("said by the driver", output)
    assert "INFO" in driver
    assert "job_id=" in driver
    assert "size=5" in driver
    task = line_with("said by the task", output)
    assert "task_id=" in task
    assert "colour=green" in task
    assert "said to nobody" in output


def test_logging_further_attributes_are_shown():
    """Those of Python's records that are asked for."""
    output = run_script(PROGRAM.format(config='encoding="JSON", additional_log_standard_attrs=["name", "process"]')).output
    driver = record_with("said by the driver", output)
    assert driver["name"] == "of.the.program"
    assert isinstance(driver["process"], int)


def test_logging_encoding_that_there_is_not_is_refused():
    """TEXT and JSON."""
    with pytest.raises(ValueError, match="encoding"):
        ray.LoggingConfig(encoding="XML")


def test_logging_attribute_that_there_is_not_is_refused():
    """Only attributes that records have."""
    with pytest.raises(ValueError, match="no_such_attribute"):
        ray.LoggingConfig(additional_log_standard_attrs=["no_such_attribute"])


def test_logging_config_survives_as_a_dict():
    """to_dict and from_dict."""
    config = ray.LoggingConfig(encoding="JSON", log_level="WARNING", additional_log_standard_attrs=["name"])
    fields = config.to_dict()
    assert (fields["encoding"], fields["log_level"], list(fields["additional_log_standard_attrs"])) == ("JSON", "WARNING", ["name"])
    assert ray.LoggingConfig.from_dict(fields) == config


def test_logging_config_has_defaults():
    """TEXT at INFO."""
    config = ray.LoggingConfig()
    assert (config.encoding, config.log_level, list(config.additional_log_standard_attrs)) == ("TEXT", "INFO", [])
