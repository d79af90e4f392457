"""A call and its call site, as local mode keeps them."""

from __future__ import annotations

import functools
import time

from ray._core.local.streams import Stream
from ray._core.serialization import loads_payload
from ray._core.worker.payloads import retry_rule

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from ray._core.local.actors import LocalActor
    from ray._core.local.core import LocalCore
    from ray._core.worker.payloads import RetryRule
    from ray._native import LocalValue, ObjectRef

WAITING, QUEUED, RUNNING, DONE = "waiting for arguments", "queued", "running", "done"


class CallSite:
    """What all calls of one call site share."""

    def __init__(
        self, name: str, payload: bytes, num_returns: int | str = 1, max_retries: int = 0, env: str = "", resources: dict[str, float] | None = None
    ) -> None:
        self.name = name
        self.payload = payload
        self.stream = num_returns if isinstance(num_returns, str) else None
        """"streaming" or "dynamic" for a call that gives its results one after another."""
        self.num_returns = 0 if isinstance(num_returns, str) else num_returns
        self.window = -1
        self.max_retries = max_retries
        self.env = env
        self.resources = resources or {}
        self.strategy: tuple[Any, ...] = ("default",)
        self.follows = False

    @functools.cached_property
    def fields(self) -> dict[str, Any]:
        """The payload, read once: as in a worker, all calls of a site run one copy of the function."""
        return loads_payload(self.payload)

    @property
    def cpus(self) -> float:
        """CPUs that a call takes while it runs in a thread of its own."""
        return self.resources.get("CPU", 0.0)

    @property
    def retry_rule(self) -> RetryRule:
        """Exceptions that are retried; none while the payload could not be read."""
        return retry_rule(self.fields) if "fields" in self.__dict__ else False


class Call:
    """One call of a function, a method or a constructor, over all its attempts."""

    __slots__ = (
        "actor",
        "args",
        "arguments",
        "attempt",
        "began_us",
        "cancelled_by",
        "handle",
        "is_constructor",
        "missing",
        "number",
        "parent",
        "place",
        "queued_at",
        "run",
        "site",
        "state",
        "stream",
        "thread",
    )

    def __init__(self, number: int, site: CallSite, args: LocalValue, arguments: list[ObjectRef[Any]], actor: LocalActor | None = None) -> None:
        self.number = number
        self.site = site
        self.args: LocalValue | None = args
        self.arguments = arguments
        self.actor = actor
        self.place: tuple[Any, ...] = ("default",)
        self.parent: Call | None = None  # the call that submitted it
        self.cancelled_by: str | None = None
        self.handle: ObjectRef[Any] | None = None  # an actor lives as long as it has calls
        self.is_constructor = False
        self.missing = 0
        self.attempt = 0
        self.state = WAITING
        self.queued_at = 0.0
        self.began_us = 0
        self.stream: Stream | None = None if site.stream is None else Stream(site.stream == "dynamic", site.window)
        self.thread: int | None = None
        self.run = 0  # counts starts: what an earlier one says of itself no longer matters

    @property
    def name(self) -> str:
        """As users see it."""
        return self.site.name

    def queue(self) -> None:
        """It may be started now."""
        self.state = QUEUED
        self.queued_at = time.monotonic()

    def may_retry(self) -> bool:
        """Whether attempts are left."""
        return self.cancelled_by is None and (self.site.max_retries < 0 or self.attempt < self.site.max_retries)


class LocalTemplate:
    """A call site that can be called: stands for `ray._native.CallTemplate`."""

    def __init__(self, core: LocalCore, site: CallSite, arity: tuple[int, int | None, Callable[..., Any] | None]) -> None:
        self._core = core
        self._site = site
        self._min_args, self._max_args, self._binder = arity
        self._actor: ObjectRef[Any] | None = None
        self._max_pending_calls = -1

    @staticmethod
    def task(
        core: LocalCore,
        *,
        payload: bytes,
        name: str,
        num_returns: int | str,
        backpressure: int,
        max_retries: int,
        retry_exceptions: bool,  # noqa: ARG004  the payload says which
        max_calls: int,  # noqa: ARG004  there is no worker to be replaced
        resources: dict[str, float],
        strategy: tuple[Any, ...] = ("default",),
        follows: bool = False,
        env: str,
        min_args: int,
        max_args: int | None,
        binder: Callable[..., Any] | None,
    ) -> LocalTemplate:
        """As `CallTemplate.task`."""
        site = CallSite(name, payload, num_returns, max_retries, env, resources)
        site.window, site.strategy, site.follows = backpressure, strategy, follows
        return LocalTemplate(core, site, (min_args, max_args, binder))

    @staticmethod
    def method(
        core: LocalCore,
        actor: ObjectRef[Any],
        *,
        payload: bytes,
        name: str,
        num_returns: int | str,
        backpressure: int,
        max_task_retries: int,
        retry_exceptions: bool,  # noqa: ARG004  the payload says which
        max_pending_calls: int,
        group: int,  # noqa: ARG004  calls of a local actor run one after another, whatever their group
        unordered: bool,  # noqa: ARG004  the same
        min_args: int,
        max_args: int | None,
        binder: Callable[..., Any] | None,
    ) -> LocalTemplate:
        """As `CallTemplate.method`."""
        site = CallSite(name, payload, num_returns, max_task_retries)
        site.window = backpressure
        template = LocalTemplate(core, site, (min_args, max_args, binder))
        template._actor, template._max_pending_calls = actor, max_pending_calls
        return template

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        """Submit a call."""
        return self.submit(args, kwargs)

    def submit(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Submit a call.

        Args:
            args: Positional arguments.
            kwargs: Keyword arguments.

        Returns:
            A reference, a list of them, None, or a generator, as `num_returns` says.
        """
        fits = not kwargs and len(args) >= self._min_args and (self._max_args is None or len(args) <= self._max_args)
        if not fits and self._binder is not None:
            self._binder(*args, **kwargs)
        return self._core.submit(self._site, args, kwargs, self._actor, self._max_pending_calls)
