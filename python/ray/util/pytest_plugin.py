"""The pytest plug-in: a runtime for tests, shared or fresh or in local mode, and a check that tests of the shared one leave nothing behind in it.

pytest loads this module in every run in the environment, so it imports nothing of the runtime until a fixture is used.

Fixtures (each gives the module `ray`, with a session running):
    ray_shared: One session for the whole run, started at first use, and again after a test has ended it. After each test that uses it a leak check runs.
    ray_fresh: A session of the test's own.
    ray_local: A session of the test's own in local mode: tasks and actors run in the test's process.

Settings: `ray_init` in the ini file holds options of `ray.init`, for example `ray_init = num_cpus=2 include_dashboard=False`. For others than plain values
override the fixture `ray_init_options`, a dict. `@pytest.mark.ray_init(num_cpus=1)` adds options for `ray_fresh` and `ray_local` of one test.
Sessions are the tests' own, even where a cluster runs, unless `address` names it.
`@pytest.mark.ray_allow_leaks` turns the leak check off for a test, a class or a module.

Example:
    >>> def test_squares(ray_shared):
    ...     assert ray_shared.get(square.remote(3)) == 9
"""

from __future__ import annotations

import ast
import gc
import time
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Mapping
    from types import ModuleType

    from ray._core.introspection import Holding

SETTLE_S = 3.0
"""How long what a test has let go of may take to end: workers report, actors exit."""
NAMED_MAX = 10

_TASK_ID_DIGITS = 48
_FIXTURES = ("ray_shared", "ray_fresh", "ray_local")
_BEFORE = pytest.StashKey["frozenset[Holding]"]()
_FAILED = pytest.StashKey[bool]()
_SHARED = pytest.StashKey["dict[str, Any]"]()
"""Options of the shared session, once it is wanted."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare the setting."""
    parser.addini("ray_init", "options of ray.init for the fixtures ray_shared, ray_fresh and ray_local: name=value ...", type="args", default=[])


def pytest_configure(config: pytest.Config) -> None:
    """Declare the markers."""
    config.addinivalue_line("markers", "ray_init(**options): options of ray.init for this test's ray_fresh or ray_local")
    config.addinivalue_line("markers", "ray_allow_leaks: the test may leave objects, actors and calls behind in the session of ray_shared")


@pytest.fixture(scope="session")
def ray_init_options(pytestconfig: pytest.Config) -> dict[str, Any]:
    """Options of `ray.init`, from the ini file. Override it to compute them."""
    return parse_options(pytestconfig.getini("ray_init"))


def parse_options(words: list[str]) -> dict[str, Any]:
    """Read the ini setting.

    Args:
        words: "name=value" each; a value that is no literal of Python is a text.

    Returns:
        The options.

    Raises:
        UsageError: A word without "=".
    """
    options: dict[str, Any] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals or not name.isidentifier():
            raise pytest.UsageError(f"ray_init in the ini file holds {word!r}\nhint: write name=value, for example num_cpus=2")
        try:
            options[name] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            options[name] = text
    return options


@pytest.fixture(scope="session")
def ray_shared(request: pytest.FixtureRequest, ray_init_options: dict[str, Any]) -> Iterator[ModuleType]:
    """The session of the run."""
    ray = _ray()
    request.session.stash[_SHARED] = ray_init_options
    _start_shared(request.session)
    yield ray
    del request.session.stash[_SHARED]
    ray.shutdown()


def _start_shared(session: pytest.Session) -> None:
    """Start the session of the run; again, if a test has ended it."""
    options = session.stash.get(_SHARED, None)
    if options is not None and not _ray().is_initialized():
        _init(options)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """See to the session before the test's fixtures need it."""
    wanted = [name for name in _FIXTURES if name in getattr(item, "fixturenames", ())]
    if len(wanted) > 1:
        pytest.fail(f"the test asks for {' and '.join(wanted)}, but a process has one session at a time\nhint: choose one of them", pytrace=False)
    if wanted == ["ray_shared"]:
        _start_shared(item.session)


@pytest.fixture
def ray_fresh(request: pytest.FixtureRequest, ray_init_options: dict[str, Any]) -> Iterator[ModuleType]:
    """A session of the test's own."""
    yield from _own_session(request, ray_init_options)


@pytest.fixture
def ray_local(request: pytest.FixtureRequest, ray_init_options: dict[str, Any]) -> Iterator[ModuleType]:
    """A session of the test's own in local mode."""
    yield from _own_session(request, {**ray_init_options, "local_mode": True})


def _own_session(request: pytest.FixtureRequest, options: Mapping[str, Any]) -> Iterator[ModuleType]:
    ray = _ray()
    marker = request.node.get_closest_marker("ray_init")
    ray.shutdown()  # a process has one session: the shared one starts again when it is next wanted
    _init({**options, **(marker.kwargs if marker else {})})
    yield ray
    ray.shutdown()


def _init(options: Mapping[str, Any]) -> None:
    """Start a session of the tests' own, even where a cluster runs, unless they name one."""
    _ray().init(**{"address": "local", **options})


def _ray() -> ModuleType:
    import ray

    return ray


# The leak check


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, Any]:
    """Note what is there before the test's body runs: what fixtures of wider scopes keep is theirs."""
    if _is_checked(item):
        item.stash[_BEFORE] = frozenset(_holdings())
    result = yield
    return result


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, Any]:
    """Note whether the test failed: the frames of its error keep its variables."""
    report: Any = yield
    item.stash[_FAILED] = item.stash.get(_FAILED, False) or not report.passed
    return report


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, Any, Any]:
    """Fail the test if it has left something behind."""
    result = yield
    before = item.stash.get(_BEFORE, None)
    if before is None or item.stash.get(_FAILED, False):
        return result
    getattr(item, "funcargs", {}).clear()  # pytest keeps the values of fixtures a little longer than the fixtures
    left = _left_behind(before)
    if left:
        pytest.fail(_describe(left), pytrace=False)
    return result


def _is_checked(item: pytest.Item) -> bool:
    return "ray_shared" in getattr(item, "fixturenames", ()) and item.get_closest_marker("ray_allow_leaks") is None


def _holdings() -> list[Holding]:
    from ray._core.introspection import holdings

    return holdings()


def _left_behind(before: frozenset[Holding]) -> list[Holding]:
    """What is there beyond `before`, once things have settled."""
    until = time.monotonic() + SETTLE_S
    left = _beyond(before)
    while left and time.monotonic() < until:
        gc.collect()  # a cycle that only the collector frees is no leak
        time.sleep(0.01)
        left = _beyond(before)
    return left


def _beyond(before: frozenset[Holding]) -> list[Holding]:
    known = {holding.id for holding in before}
    # The results of a call that was there before are no news.
    return [holding for holding in _holdings() if holding.id not in known and holding.id[:_TASK_ID_DIGITS] not in known]


def _describe(left: list[Holding]) -> str:
    lines = [f"the test has left {len(left)} thing{'s' * (len(left) > 1)} behind in the shared session of ray:"]
    lines += [f"  {holding}" for holding in left[:NAMED_MAX]]
    if len(left) > NAMED_MAX:
        lines.append(f"  and {len(left) - NAMED_MAX} more")
    lines.append(
        "hint: something outlives the test and refers to them, such as a global, a class attribute or a cache; get or wait for what was started, and let go of"
        " handles of actors or ray.kill() them. If it is meant to be: @pytest.mark.ray_allow_leaks"
    )
    return "\n".join(lines)
