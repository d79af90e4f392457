"""What a handle must know about an actor's class: its methods, their parameters and their options, but not the class itself.

It travels with every handle and in the payload of the actor, as built-in values, so that a reader needs none of the user's modules.
"""

from __future__ import annotations

import copy
import functools
import types

from ray._core.calls.signatures import CallSignature, is_async_generator, is_coroutine, is_generator, signature_of
from ray._core.errors import ActorExit

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

METHOD_OPTIONS_ATTRIBUTE = "__ray_method_options__"
"""Where `@ray.method` leaves its options on the function."""

_SKIPPED = frozenset(["__class_getitem__", "__init_subclass__", "__new__", "__subclasshook__"])
_CYTHON_FUNCTIONS = frozenset(["cyfunction", "cython_function_or_method"])


class MethodSpec:
    """One method of an actor."""

    __slots__ = ("backpressure", "concurrency_group", "is_generator", "max_task_retries", "name", "num_returns", "record", "retry_exceptions", "signature")

    def __init__(
        self,
        name: str,
        signature: CallSignature,
        num_returns: int | str = 1,
        max_task_retries: int | None = None,
        retry_exceptions: bool | tuple[type[BaseException], ...] = False,
        concurrency_group: str | None = None,
        is_generator: bool = False,
        backpressure: int | None = None,
    ) -> None:
        self.name = name
        self.signature = signature
        self.num_returns = num_returns
        self.max_task_retries = max_task_retries
        self.retry_exceptions = retry_exceptions
        self.concurrency_group = concurrency_group
        self.is_generator = is_generator
        self.backpressure = backpressure
        self.record: bool | None = None
        """Whether the timeline has its calls; None: as the actor says."""

    def replace(self, options: dict[str, Any]) -> MethodSpec:
        """Give the same method with other options, as given to `@ray.method` or `.options()`."""
        changed = copy.copy(self)
        backpressure = options.get("_generator_backpressure_num_objects")
        if backpressure is not None:
            changed.backpressure = backpressure
        if options.get("enable_task_events") is not None:
            changed.record = options["enable_task_events"]
        for key in ("num_returns", "max_task_retries", "retry_exceptions", "concurrency_group"):
            value = options.get(key)
            if value is not None and value != "":  # Compat: an empty group is none
                setattr(changed, key, tuple(value) if isinstance(value, (list, tuple)) else value)
        return changed

    def fields(self) -> dict[str, Any]:
        """Everything but the name, as built-in values."""
        return {
            "num_returns": self.num_returns,
            "max_task_retries": self.max_task_retries,
            "retry_exceptions": self.retry_exceptions,
            "concurrency_group": self.concurrency_group,
            "is_generator": self.is_generator,
            "backpressure": self.backpressure,
            "record": self.record,
            "params": self.signature.params,
        }


class ActorSpec:
    """An actor's class, as its handles know it."""

    def __init__(self, class_name: str, methods: dict[str, MethodSpec], hidden: tuple[str, ...], groups: tuple[str, ...]) -> None:
        self.class_name = class_name
        self.methods = methods
        self.hidden = hidden
        self.groups = groups
        self.max_task_retries = 0
        self.max_pending_calls = -1
        self.backpressure = -1
        self.unordered = False
        self.record = True

    def with_calls(self, max_task_retries: int, max_pending_calls: int, backpressure: int = -1, unordered: bool = False, record: bool = True) -> ActorSpec:
        """Give the same class with the actor's own options for calls."""
        own = (self.max_task_retries, self.max_pending_calls, self.backpressure, self.unordered, self.record)
        if (max_task_retries, max_pending_calls, backpressure, unordered, record) == own:
            return self
        changed = ActorSpec(self.class_name, self.methods, self.hidden, self.groups)
        changed.max_task_retries, changed.max_pending_calls, changed.backpressure = max_task_retries, max_pending_calls, backpressure
        changed.unordered, changed.record = unordered, record
        return changed

    def group_number(self, group: str | None) -> int:
        """Give the number by which the engine knows a concurrency group; None is the default one."""
        return 0 if group is None else 1 + self.groups.index(group)

    def fields(self) -> dict[str, Any]:
        """Everything, as built-in values."""
        return {
            "class_name": self.class_name,
            "methods": {name: method.fields() for name, method in self.methods.items()},
            "hidden": self.hidden,
            "groups": self.groups,
            "max_task_retries": self.max_task_retries,
            "max_pending_calls": self.max_pending_calls,
            "backpressure": self.backpressure,
            "unordered": self.unordered,
            "record": self.record,
        }

    @functools.cached_property
    def pickled(self) -> bytes:
        """The fields as bytes: made once, sent with every handle."""
        import pickle

        fields = self.fields()
        if any(isinstance(method.retry_exceptions, tuple) for method in self.methods.values()):
            import cloudpickle  # classes of the user's script

            data: bytes = cloudpickle.dumps(fields)
            return data
        return pickle.dumps(fields, protocol=5)


def spec_from_fields(fields: dict[str, Any]) -> ActorSpec:
    """Rebuild a spec.

    Args:
        fields: What `ActorSpec.fields` gave; other keys are ignored.

    Returns:
        An equal spec.
    """
    methods = {}
    for name, method in fields["methods"].items():
        options = {key: value for key, value in method.items() if key not in ("params", "record")}
        methods[name] = MethodSpec(name, CallSignature(method["params"]), **options)
        methods[name].record = method["record"]
    spec = ActorSpec(fields["class_name"], methods, fields["hidden"], fields["groups"])
    return spec.with_calls(fields["max_task_retries"], fields["max_pending_calls"], fields["backpressure"], fields["unordered"], fields["record"])


@functools.lru_cache(maxsize=256)
def spec_from_pickle(data: bytes) -> ActorSpec:
    """Rebuild a spec from `ActorSpec.pickled`. Handles of one class share one spec."""
    import pickle

    return spec_from_fields(pickle.loads(data))


# Reading a class


def _attributes(cls: type) -> Iterator[tuple[str, Any]]:
    """Yield the attributes as lookup on an instance finds them, raw, without the machinery of Python and typing."""
    seen = {}
    for base in reversed(cls.__mro__):
        if base.__module__ in ("builtins", "typing", "abc"):
            continue
        seen.update({name: value for name, value in vars(base).items() if name not in _SKIPPED})
    yield from seen.items()


def _as_function(raw: object) -> tuple[Callable[..., Any], bool] | None:
    """Give the function behind a class attribute and whether its first parameter is filled by Python; None if it is not a method."""
    if isinstance(raw, staticmethod):
        return raw.__func__, False
    if isinstance(raw, classmethod):
        return raw.__func__, True
    if isinstance(raw, functools.partialmethod):
        return None
    if isinstance(raw, types.FunctionType) or type(raw).__name__ in _CYTHON_FUNCTIONS:
        return raw, True  # type: ignore[return-value]
    return None


def describe_class(cls: type, groups: dict[str, int]) -> tuple[ActorSpec, bool]:
    """Read a class that is to become an actor.

    Args:
        cls: The user's class.
        groups: Its concurrency groups and their sizes.

    Returns:
        Its spec, and whether it is asynchronous (has a coroutine or an asynchronous generator).

    Raises:
        ValueError: A method names a concurrency group that the class does not have.
    """
    methods: dict[str, MethodSpec] = {}
    hidden = []
    is_async = False
    for name, raw in _attributes(cls):
        found = _as_function(raw)
        if found is None:
            if not name.startswith("__"):
                hidden.append(name)
            continue
        function, skip_first = found
        is_async = is_async or is_coroutine(function) or is_async_generator(function)
        options = getattr(raw, METHOD_OPTIONS_ATTRIBUTE, None) or getattr(function, METHOD_OPTIONS_ATTRIBUTE, {})
        generates = is_generator(function)
        default_returns = "streaming" if generates else 1
        method = MethodSpec(name, signature_of(function, skip_first), default_returns, is_generator=generates).replace(options)
        if method.concurrency_group is not None and method.concurrency_group not in groups:
            raise ValueError(f"the method {name!r} of {cls.__name__} is in the concurrency group {method.concurrency_group!r}, which is not defined")
        methods[name] = method
    return ActorSpec(cls.__name__, methods, tuple(hidden), tuple(groups)), is_async


# Methods that every actor has


def _ready(_instance: object) -> bool:
    return True


def _call(instance: object, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return function(instance, *args, **kwargs)


def _terminate(_instance: object) -> None:
    raise ActorExit(0)


BUILTIN_METHODS: dict[str, Callable[..., Any]] = {"__ray_call__": _call, "__ray_ready__": _ready, "__ray_terminate__": _terminate}
"""Methods that the worker runs itself, with the instance as first argument."""


def builtin_method(name: str) -> MethodSpec | None:
    """Give the spec of a method that every actor has."""
    function = BUILTIN_METHODS.get(name)
    return None if function is None else MethodSpec(name, signature_of(function, skip_first=True))
