"""The pytest plug-in, run by pytest on small test files in processes of their own."""

import subprocess
import sys
from pathlib import Path

import pytest
import tomllib

ROOT = Path(__file__).parents[2]
pytest_plugins = ("pytester",)


@pytest.fixture
def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch):
    """Write a test file, and run it with the plug-in whether or not the package is installed here with its entry points."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "python"))

    def run(code: str, ini: str = "ray_init = num_cpus=1 include_dashboard=False") -> pytest.RunResult:
        pytester.makeini(f"[pytest]\n{ini}\n")
        pytester.makepyfile("import ray\nimport pytest\nKEPT = []\n" + code)
        return pytester.runpytest_subprocess("-p", "ray.util.pytest_plugin", "--strict-markers", "-v", timeout=60)

    return run


def test_plugin_is_declared_and_its_module_exists() -> None:
    """pytest finds it by the entry point, which names a module that can be imported."""
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["pytest11"]
    assert declared == {"ray": "ray.util.pytest_plugin"}


def test_plugin_loads_nothing_of_the_runtime() -> None:
    """Every pytest run in the environment imports it, so it may cost next to nothing."""
    code = "import sys, pytest; before = set(sys.modules); import ray.util.pytest_plugin; print(*sorted(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONPATH": str(ROOT / "python")})
    loaded = done.stdout.split()
    assert "ray.util.pytest_plugin" in loaded
    for heavy in ("ray._native", "ray._core.launch", "cloudpickle", "numpy", "asyncio"):
        assert heavy not in loaded


def test_shared_session_is_one_for_all_tests(run) -> None:
    """Tests of one run see the same node, with the options of the ini file."""
    result = run(
        """
NODES = set()

@pytest.mark.parametrize("i", range(3))
def test_node(ray_shared, i):
    assert ray_shared is ray
    NODES.add(ray.get_runtime_context().get_node_id())
    assert len(NODES) == 1
    assert ray.cluster_resources()["CPU"] == 1
"""
    )
    result.assert_outcomes(passed=3)


def test_shared_session_options_may_come_from_a_fixture(run) -> None:
    """`ray_init_options` can be overridden."""
    result = run(
        """
@pytest.fixture(scope="session")
def ray_init_options():
    return {"num_cpus": 3}

def test_cpus(ray_shared):
    assert ray.cluster_resources()["CPU"] == 3
"""
    )
    result.assert_outcomes(passed=1)


def test_ini_with_a_bad_word_is_refused(run) -> None:
    """A mistake in the ini file is named."""
    result = run("def test_it(ray_shared): pass\n", ini="ray_init = num_cpus")
    assert "write name=value" in result.stdout.str() + result.stderr.str()
    assert result.ret != 0


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("KEPT.append(ray.put(bytes(1000)))", "object *(1,0?? bytes)"),
        ("KEPT.append(Counter.remote()); ray.get(KEPT[-1].add.remote())", "actor Counter (handle *"),
        ("KEPT.append(forever.remote())", "call forever, not finished (task *"),
    ],
    ids=["object", "actor", "call"],
)
def test_leak_fails_the_test_that_left_it(run, pytester: pytest.Pytester, body: str, told: str) -> None:
    """What outlives a test is named in its failure; the next test is not blamed for it."""
    pytester.makeconftest("from ray.util import pytest_plugin\npytest_plugin.SETTLE_S = 0.5\n")
    result = run(
        f"""
@ray.remote
class Counter:
    def add(self):
        return 1

@ray.remote
def forever():
    import time
    time.sleep(1000)

def test_leaks(ray_shared):
    {body}

def test_after(ray_shared):
    ray.put(1)
"""
    )
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(["*test has left 1 thing* behind in the shared session of ray:", f"*{told}", "hint: *ray_allow_leaks*"])


def test_leak_check_lets_tidy_tests_pass(run) -> None:
    """References in local variables, in fixtures, in cycles and of wider fixtures are no leaks."""
    result = run(
        """
@ray.remote
class Counter:
    def add(self):
        return 1

@ray.remote
def double(x):
    return 2 * x

@pytest.fixture(scope="module")
def counter(ray_shared):
    return Counter.remote()

@pytest.fixture
def data(ray_shared):
    return ray.put([1])

def test_variables(ray_shared):
    refs = [double.remote(i) for i in range(10)]
    assert ray.get(refs)[1] == 2
    double.remote(1)

def test_wider_fixture(counter):
    assert ray.get(counter.add.remote()) == 1

def test_fixture(data):
    assert ray.get(data) == [1]

def test_cycle(ray_shared):
    class Node: pass
    node = Node()
    node.self, node.ref = node, ray.put(1)

def test_handle(ray_shared):
    ray.get(Counter.remote().add.remote())
"""
    )
    result.assert_outcomes(passed=5)


def test_leak_check_is_off_with_the_marker_and_for_failures(run) -> None:
    """The marker turns it off; a failed test is told its failure only."""
    result = run(
        """
@pytest.mark.ray_allow_leaks
def test_allowed(ray_shared):
    KEPT.append(ray.put(1))

def test_fails(ray_shared):
    KEPT.append(ray.put(1))
    assert not KEPT
"""
    )
    result.assert_outcomes(passed=1, failed=1)


def test_fresh_session_is_its_own_and_the_shared_one_returns(run) -> None:
    """A fresh session has its own options and node; the next test of the shared one finds it running."""
    result = run(
        """
NODES = []

def test_first(ray_shared):
    NODES.append(ray.get_runtime_context().get_node_id())

@pytest.mark.ray_init(num_cpus=2)
def test_fresh(ray_fresh):
    assert ray.get_runtime_context().get_node_id() not in NODES
    assert ray.cluster_resources()["CPU"] == 2

def test_shared_again(ray_shared):
    assert ray.get(ray.put(1)) == 1
"""
    )
    result.assert_outcomes(passed=3)


def test_local_session_runs_in_the_tests_process(run) -> None:
    """`ray_local` needs no other process, and patches reach the task."""
    result = run(
        """
import os

@ray.remote
def where():
    return os.getpid(), os.uname()

def test_local(ray_local, monkeypatch):
    monkeypatch.setattr(os, "uname", lambda: "patched")
    assert ray.get(where.remote()) == (os.getpid(), "patched")

def test_after():
    assert not ray.is_initialized()
"""
    )
    result.assert_outcomes(passed=2)


def test_two_kinds_of_session_in_one_test_are_refused(run) -> None:
    """A process has one session at a time."""
    result = run("def test_both(ray_shared, ray_local): pass\n")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*asks for ray_shared and ray_local*"])


def test_example_of_the_guide_runs(run) -> None:
    """What docs/testing.md shows is what the plug-in does."""
    guide = (ROOT / "docs" / "testing.md").read_text()
    example = guide.split("```python\n")[1].split("```")[0]
    run(example).assert_outcomes(passed=2)
