"""Set-up shared by the black-box tests: the runtime of a module, limits, leak checks, and Ray's known differences.

A module that wants a runtime says so once: `pytestmark = pytest.mark.runtime(num_cpus=4)`. It starts before the module's first
test, ends after its last, and is started afresh when a test has lost it. Modules without the mark start their own.
"""

import faulthandler
import os
import signal
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
sys.path.insert(0, str(TESTS))
# Workers import `support` by name.
os.environ["PYTHONPATH"] = os.pathsep.join([str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])])

from support import Gate, Snapshot, Tally, init, is_own  # noqa: E402

BLACK_BOX = ("conformance", "chaos", "integration", "local_mode", "contract", "hazards", "hosts", "scale", "cluster")
TERMINAL = pytest.StashKey[int]()
FAILED = pytest.StashKey[bool]()


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "runtime(**options): ray.init options shared by the tests of a module")
    config.addinivalue_line("markers", "limit(seconds): longest time one test may take")
    config.addinivalue_line("markers", "slow: left out unless chosen with -m")
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # started in the background by a shell; programs under test would inherit it
        signal.signal(signal.SIGINT, signal.default_int_handler)
    with config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        config.stash[TERMINAL] = os.dup(2)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.option.markexpr:
        slow = [item for item in items if item.get_closest_marker("slow")]
        config.hook.pytest_deselected(items=slow)
        items[:] = [item for item in items if item not in slow]
    black_box = [item for item in items if _is_black_box(item)]
    if black_box and is_own() and os.environ.get("RAY_LOCAL_MODE") == "1":
        _skip_in_local_mode(black_box)
    if black_box and is_own():
        os.environ.setdefault("RAY_ADDRESS", "local")  # a cluster on this machine is none of the tests' business
    if not black_box or is_own():
        return
    differences = _differences()
    for item in black_box:
        name = _name(item)
        if name.startswith(("chaos/", "cluster/", "contract/", "hazards/", "hosts/", "local_mode/", "scale/")):
            item.add_marker(pytest.mark.skip(reason="promises of this project's engine, not of Ray's"))
        elif (found := differences.get(name)) is not None:
            item.add_marker(pytest.mark.xfail(reason=found["reason"], run=not found.get("hangs", False), strict=not found.get("sometimes", False)))


def _name(item: pytest.Item) -> str:
    return item.nodeid.split("tests/", 1)[-1].split("[")[0]


def _skip_in_local_mode(items: list[pytest.Item]) -> None:
    """RAY_LOCAL_MODE=1 runs the conformance tests in local mode, but for those that one process can't keep."""
    import tomllib

    entries = tomllib.loads((TESTS / "conformance" / "local_mode.toml").read_text())["does_not_apply"]
    reasons = {name: entry["reason"] for entry in entries for name in entry["tests"]}
    for item in items:
        name = _name(item)
        reason = "starts processes of its own" if not name.startswith("conformance/") else reasons.get(name) or reasons.get(name.split("::")[0])
        if reason is not None:
            item.add_marker(pytest.mark.skip(reason=f"local mode: {reason}"))


def _differences() -> dict[str, dict[str, object]]:
    import tomllib

    entries = tomllib.loads((TESTS / "conformance" / "differences.toml").read_text())["difference"]
    return {entry["test"]: entry for entry in entries}


def _is_black_box(item: pytest.Item) -> bool:
    return item.path.is_relative_to(TESTS) and item.path.relative_to(TESTS).parts[0] in BLACK_BOX


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """No test may hang: first an exception in the main thread, then the end of the whole run with every stack."""
    if not _is_black_box(item):
        return (yield)
    marker = item.get_closest_marker("limit")
    limit_s = (marker.args[0] if marker else 20.0) * (1.0 if is_own() else 6.0)

    def expired(*_: object) -> None:
        pytest.fail(f"still running after {limit_s} s")

    before = signal.signal(signal.SIGALRM, expired)
    signal.setitimer(signal.ITIMER_REAL, limit_s)
    faulthandler.dump_traceback_later(limit_s + 20.0, exit=True, file=item.config.stash[TERMINAL])
    try:
        return (yield)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        faulthandler.cancel_dump_traceback_later()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report = yield
    if report.failed:
        item.session.stash[FAILED] = True
    return report


@pytest.fixture(scope="module", autouse=True)
def _module_runtime(request: pytest.FixtureRequest) -> Iterator[None]:
    if not _is_black_box(request.node):
        yield
        return
    import ray

    # By value: a worker that had to import the test's module would import pytest with it, half a second each time.
    ray.cloudpickle.register_pickle_by_value(request.module)
    ray.shutdown()
    before = Snapshot.take()
    yield
    ray.shutdown()
    if is_own():
        before.check()


@pytest.fixture(autouse=True)
def _runtime(request: pytest.FixtureRequest, _module_runtime: None) -> None:
    marker = request.node.get_closest_marker("runtime")
    if marker is None:
        return
    import ray

    if request.session.stash.get(FAILED, False) and is_own():
        request.session.stash[FAILED] = False
        ray.shutdown()  # one failure must not spread to the tests behind it
    if not ray.is_initialized():
        init(**marker.kwargs)


@pytest.fixture
def no_runtime() -> Iterator[None]:
    """No runtime before and none after: for tests that start their own."""
    import ray

    ray.shutdown()
    yield
    ray.shutdown()


@pytest.fixture
def no_leak(no_runtime: None) -> Iterator[Snapshot]:
    """The test must leave this process as it found it. (Ray keeps threads and descriptors; only the test's body counts there.)"""
    import ray

    before = Snapshot.take()
    yield before
    ray.shutdown()
    if is_own():
        before.check()


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    """A closed gate; it opens at the latest when the test ends."""
    made = Gate(tmp_path / f"gate-{uuid.uuid4().hex[:8]}")
    yield made
    made.open()


@pytest.fixture
def tally(tmp_path: Path) -> Tally:
    """An empty tally."""
    return Tally(tmp_path / "tally")
