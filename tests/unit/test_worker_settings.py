"""Settings of workers: where they come from, and what is refused."""

import pytest

from ray._core import config, host


def test_settings_come_from_the_argument_then_the_environment(monkeypatch):
    monkeypatch.setenv("RAY_memory_usage_threshold", "0.9")
    monkeypatch.setenv("RAY_task_oom_retries", "3")
    found = config.worker_settings({"task_oom_retries": 5, "enforce_memory_requests": True, "warm_workers": 1})
    assert found == {"memory_usage_threshold": "0.9", "task_oom_retries": "5", "enforce_memory_requests": "1"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("memory_usage_threshold", 0),
        ("memory_usage_threshold", 1.1),
        ("memory_monitor_refresh_ms", -1),
        ("memory_limit_bytes", 0),
        ("memory_limit_bytes", "much"),
        ("task_oom_retries", -2),
        ("worker_growth_mb", 0.5),
    ],
)
def test_value_that_cannot_be_used_is_refused_with_its_source(name, value, monkeypatch):
    with pytest.raises(ValueError, match=rf"_system_config\['{name}'\] is .*can't be used"):
        config.worker_settings({name: value})
    monkeypatch.setenv(f"RAY_{name}", str(value))
    with pytest.raises(ValueError, match=f"environment variable RAY_{name} "):
        config.worker_settings({})


def test_memory_cgroup_is_the_one_with_the_lowest_limit(tmp_path, monkeypatch):
    for folder, limit in (("", "max"), ("outer", "4000"), ("outer/inner", "9000")):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / "memory.max").write_text(limit)
    read = host._read
    monkeypatch.setattr(host, "_read", lambda path: "0::/outer/inner" if path == "/proc/self/cgroup" else read(path))
    assert host.memory_cgroup(str(tmp_path)) == f"{tmp_path}/outer"
    assert host.cgroup_memory_bytes(str(tmp_path)) == 4000
