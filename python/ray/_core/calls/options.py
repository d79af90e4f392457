"""The options of tasks, actors and methods: one table each, their checks, and the resources that follow from them.

Rules: an unknown name is a ValueError, a wrong type a TypeError, a bad value a ValueError, and what is not built yet a NotImplementedError;
nothing is ignored silently. Checks run when decorating and at `.options()`, never per call.
"""

from __future__ import annotations

from ray._core.calls.strategies import check_fallbacks, check_label_selector, check_placement_group, check_strategy
from ray._core.cluster.accelerators import RESOURCES as DEVICES
from ray._core.cluster.accelerators import check_amount
from ray._core.environment import check_runtime_env

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any

    Check = Callable[[str, Any], None]

RESOURCE_PRECISION = 0.0001
"""Smallest step of a fractional resource. Source: Ray's documentation of fractional resources."""
ACCELERATOR_TYPE_AMOUNT = 0.001
"""Amount of "accelerator_type:X" that a task asks for: enough to be placed on such a node, too little to ever fill it."""
DEFAULT_MAX_RETRIES = 3
DEFAULT_ASYNC_CONCURRENCY = 1000
VARIANTS_MAX = 256
"""Sets of options that one function or method keeps ready; beyond that they are built anew."""

STREAMS = ("streaming", "dynamic")
"""Values of `num_returns` that only generators can have."""

_NONE = type(None)


class Option:
    """One row of an option table."""

    __slots__ = ("check", "default", "types")

    def __init__(self, types: tuple[type, ...], default: Any = None, check: Check | None = None) -> None:
        self.types = types
        self.default = default
        self.check = check


# Checks of values. Each gets the option's name and a value of the right type.


def _amount(name: str, value: Any) -> None:
    if value is None:
        return
    if value < 0:
        raise ValueError(f"the quantity of resource {name} cannot be negative, got {value!r}")
    if abs(value / RESOURCE_PRECISION - round(value / RESOURCE_PRECISION)) > 1e-6:
        raise ValueError(f"the quantity of resource {name} has steps of {RESOURCE_PRECISION}, got {value!r}")


def _gpus(name: str, value: Any) -> None:
    _amount(name, value)
    if value is not None and value > 1 and value != int(value):
        raise ValueError(f"{name} above 1 must be a whole number, got {value!r}")


def _resources(name: str, value: Any) -> None:
    for key, amount in (value or {}).items():
        if not isinstance(key, str):
            raise TypeError(f"{name} must map names to numbers, got the name {key!r}")
        if key in ("CPU", "GPU"):
            raise ValueError(f"{name} cannot hold {key!r}\nhint: use num_{key.lower()}s={amount!r}")
        if key in ("memory", "object_store_memory"):
            raise ValueError(f"{name} cannot hold {key!r}\nhint: use {key}={amount!r}")
        if isinstance(amount, bool) or not isinstance(amount, (int, float)):
            raise TypeError(f"{name}[{key!r}] must be a number, got {type(amount).__name__}: {amount!r}")
        _amount(key, amount)
        if key in DEVICES:
            check_amount(key, amount)


def _count(least: int, meaning: str = "") -> Check:
    def check(name: str, value: Any) -> None:
        if value is not None and value < least:
            raise ValueError(f"{name} must be at least {least}{meaning}, got {value!r}")

    return check


_UNBOUNDED = _count(-1, " (-1 means without limit)")


def _num_returns(name: str, value: Any) -> None:
    if isinstance(value, str):
        if value not in STREAMS:
            raise ValueError(f'{name} must be a non-negative integer, "streaming", "dynamic" or None, got {value!r}')
    elif value is not None and value < 0:
        raise ValueError(f"{name} must be >= 0, got {value!r}")


def _backpressure(name: str, value: Any) -> None:
    if value == 0:
        raise ValueError(f"{name} must be at least 1, or -1 for no limit, got 0\nhint: 1 makes an item when the one before it is read")
    _count(-1)(name, value)


def check_is_generator(num_returns: Any, is_generator: bool, name: str) -> None:
    """Refuse "streaming" and "dynamic" for what is no generator function.

    Raises:
        ValueError: It is none.
    """
    if num_returns in STREAMS and not is_generator:
        raise ValueError(f"num_returns={num_returns!r} can only be used with generator functions (functions that use 'yield'), and {name} is none")


def _retry_exceptions(name: str, value: Any) -> None:
    if isinstance(value, bool) or value is None:
        return
    for item in value:
        if not (isinstance(item, type) and issubclass(item, BaseException)):
            raise ValueError(f"{name} must be a bool or a list of exception classes, got the item {item!r}")


def _lifetime(name: str, value: Any) -> None:
    if value not in (None, "detached", "non_detached"):
        raise ValueError(f"{name} must be 'detached', 'non_detached' or None, got {value!r}")


def _actor_name(_name: str, value: Any) -> None:
    if value == "":
        raise ValueError("the name of an actor cannot be an empty string\nhint: pass None for an actor without a name")


def check_namespace(_name: str, value: Any) -> None:
    """Refuse the empty namespace."""
    if value == "":
        raise ValueError('"" is not a valid namespace\nhint: pass None for the namespace of the job')


def _groups(name: str, value: Any) -> None:
    if isinstance(value, list) and value:
        raise ValueError(f"{name} must be a dict of group name to number of threads, got {value!r}")
    for key, size in (value or {}).items() if isinstance(value, dict) else ():
        if not isinstance(key, str):
            raise TypeError(f"{name} must map names to integers, got the name {key!r}")
        if isinstance(size, bool) or not isinstance(size, int):
            raise TypeError(f"{name}[{key!r}] must be an int, got {type(size).__name__}: {size!r}")
        if size < 1:
            raise ValueError(f"{name}[{key!r}] must be at least 1, got {size!r}")


def _later(unset: tuple[Any, ...]) -> Check:
    def check(name: str, value: Any) -> None:
        if not any(value is u or value == u for u in unset):
            raise NotImplementedError(f"the option {name}={value!r} is not available yet")

    return check


def _no_store_memory(name: str, _value: Any) -> None:
    raise ValueError(f"{name} can't be set for tasks")


def _actor_store_memory(name: str, value: Any) -> None:
    _count(0)(name, value)
    _later((None, 0))(name, value)


def _env(_name: str, value: Any) -> None:
    check_runtime_env(value)


_NUMBER = (float, int, _NONE)
_INT = (int, _NONE)
_STR = (str, _NONE)
_ANY: tuple[type, ...] = (object,)

_SHARED: dict[str, Option] = {
    "_labels": Option((dict, _NONE), None, _later((None, {}))),
    "accelerator_type": Option(_STR),
    "enable_task_events": Option((bool,), True),
    "fallback_strategy": Option((list, _NONE), None, check_fallbacks),
    "label_selector": Option((dict, _NONE), None, check_label_selector),
    "memory": Option(_NUMBER, None, _count(0)),
    "name": Option(_STR),
    "num_cpus": Option(_NUMBER, None, _amount),
    "num_gpus": Option(_NUMBER, None, _gpus),
    "placement_group": Option(_ANY, "default", check_placement_group),
    "placement_group_bundle_index": Option((int,), -1),
    "placement_group_capture_child_tasks": Option((bool, _NONE), None),
    "resources": Option((dict, _NONE), None, _resources),
    "runtime_env": Option((dict, _NONE), None, _env),
    "scheduling_strategy": Option(_ANY, None, check_strategy),
}

TASK_OPTIONS: dict[str, Option] = {
    **_SHARED,
    "_generator_backpressure_num_objects": Option(_INT, None, _backpressure),
    "_num_objects_per_yield": Option(_INT, 1, _later((None, 1))),
    "max_calls": Option(_INT, 0, _count(0)),
    "max_retries": Option(_INT, DEFAULT_MAX_RETRIES, _UNBOUNDED),
    "num_returns": Option((int, str, _NONE), None, _num_returns),
    "object_store_memory": Option(_INT, None, _no_store_memory),
    "retry_exceptions": Option((bool, list, tuple), False, _retry_exceptions),
}

ACTOR_OPTIONS: dict[str, Option] = {
    **_SHARED,
    "_actor_generator_backpressure_num_objects": Option(_INT, None, _backpressure),
    "allow_out_of_order_execution": Option((bool, _NONE), None),
    "concurrency_groups": Option((dict, list, _NONE), None, _groups),
    "enable_tensor_transport": Option((bool, _NONE), None, _later((None, False))),
    "get_if_exists": Option((bool,), False),
    "lifetime": Option(_STR, None, _lifetime),
    "max_concurrency": Option(_INT, None, _count(0)),
    "max_pending_calls": Option(_INT, -1, _UNBOUNDED),
    "max_restarts": Option(_INT, 0, _UNBOUNDED),
    "max_task_retries": Option(_INT, 0, _UNBOUNDED),
    "name": Option(_STR, None, _actor_name),
    "namespace": Option(_STR, None, check_namespace),
    "object_store_memory": Option(_INT, None, _actor_store_memory),
}

METHOD_OPTIONS: dict[str, Option] = {
    "_generator_backpressure_num_objects": Option(_INT, None, _backpressure),
    "_num_objects_per_yield": Option(_INT, 1, _later((None, 1))),
    "concurrency_group": Option(_STR),
    "enable_task_events": Option((bool, _NONE), None),
    "max_task_retries": Option(_INT, None, _UNBOUNDED),
    "num_returns": Option((int, str, _NONE), None, _num_returns),
    "retry_exceptions": Option((bool, list, tuple, _NONE), None, _retry_exceptions),
    "tensor_transport": Option(_STR, None, _later((None,))),
}

METHOD_CALL_OPTIONS: dict[str, Option] = {**METHOD_OPTIONS, "name": Option(_STR)}
"""What `handle.method.options()` takes."""


class UnknownOptionError(ValueError):
    """An option that does not exist."""


def unknown_option(name: str, owner: str, valid: Iterable[str]) -> str:
    """Text for an option that does not exist, with the closest one that does."""
    import difflib

    names = sorted(n for n in valid if not n.startswith("_"))
    close = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"unknown option {name} for {owner}\nhint: {hint}valid options: {', '.join(names)}"


def _check(options: Mapping[str, Any], table: Mapping[str, Option], owner: str) -> None:
    for name, value in options.items():
        option = table.get(name)
        if option is None:
            raise UnknownOptionError(unknown_option(name, owner, table))
        if not isinstance(value, option.types):
            wanted = " or ".join("None" if t is _NONE else t.__name__ for t in option.types)
            raise TypeError(f"the option {name!r} of {owner} must be {wanted}, got {type(value).__name__}: {value!r}")
        if option.check is not None:
            option.check(name, value)


def check_task_options(options: Mapping[str, Any], in_options: bool = False) -> None:
    """Check options of a remote function.

    Args:
        options: Only those that the user gave.
        in_options: They come from `.options()`, where `max_calls` is not allowed.

    Raises:
        ValueError: Unknown name or bad value.
        TypeError: Wrong type.
        NotImplementedError: Not built yet.
    """
    _check(options, TASK_OPTIONS, "remote functions")
    if in_options and "max_calls" in options:
        raise ValueError("max_calls can't be set in .options()\nhint: set it in @ray.remote(max_calls=...)")


def check_actor_options(options: Mapping[str, Any], in_options: bool = False) -> None:
    """Check options of an actor class.

    Args:
        options: Only those that the user gave.
        in_options: They come from `.options()`, where `concurrency_groups` is not allowed.

    Raises:
        ValueError: Unknown name or bad value.
        TypeError: Wrong type.
        NotImplementedError: Not built yet.
    """
    _check(options, ACTOR_OPTIONS, "actors")
    if in_options and "concurrency_groups" in options:
        raise ValueError("concurrency_groups can't be set in .options()\nhint: set them in @ray.remote(concurrency_groups=...)")


def check_named(options: Mapping[str, Any]) -> None:
    """Check what depends on several options of an actor together.

    Raises:
        ValueError: `get_if_exists` without a name.
    """
    if options.get("get_if_exists") and not options.get("name"):
        raise ValueError("get_if_exists needs the name of the actor\nhint: add name=...")


def may_overtake(allowed: bool | None, is_async: bool, max_concurrency: int) -> bool:
    """Tell whether a call that waits for its arguments may be overtaken by the caller's later ones.

    Compat: None means that it may where calls run side by side anyway, and there it can't be forbidden.

    Args:
        allowed: The option `allow_out_of_order_execution`.
        is_async: The actor's class is asynchronous.
        max_concurrency: Calls that run at once.

    Raises:
        ValueError: It is forbidden for an actor that runs calls side by side.
    """
    side_by_side = is_async or max_concurrency > 1
    if allowed is False and side_by_side:
        kind = "async actor" if is_async else f"actor with max_concurrency={max_concurrency}"
        raise ValueError(
            f"allow_out_of_order_execution=False can't be kept by an {kind}: its calls run side by side\n"
            "hint: leave the option out, or use max_concurrency=1 and no coroutine methods"
        )
    return side_by_side if allowed is None else allowed


def check_method_options(options: Mapping[str, Any], in_options: bool = False) -> None:
    """Check options of an actor method.

    Args:
        options: Only those that the user gave.
        in_options: They come from `.options()` of a method, where `name` is allowed too.

    Raises:
        ValueError: Unknown name or bad value.
        TypeError: Wrong type.
        NotImplementedError: Not built yet.
    """
    _check(options, METHOD_CALL_OPTIONS if in_options else METHOD_OPTIONS, "actor methods")


def assemble_resources(options: Mapping[str, Any], default_cpus: float) -> dict[str, float]:
    """Turn the resource options into one dict.

    Args:
        options: Checked options.
        default_cpus: CPUs if `num_cpus` is not given.

    Returns:
        Amounts above zero, by resource name ("CPU", "GPU", "memory" in bytes, custom names).
    """
    num_cpus = options.get("num_cpus")
    found = {"CPU": default_cpus if num_cpus is None else num_cpus, "GPU": options.get("num_gpus") or 0, "memory": options.get("memory") or 0}
    found.update(options.get("resources") or {})
    if options.get("accelerator_type"):
        found[f"accelerator_type:{options['accelerator_type']}"] = ACCELERATOR_TYPE_AMOUNT
    return {name: float(amount) for name, amount in found.items() if amount > 0}


def actor_resources(options: Mapping[str, Any]) -> tuple[dict[str, float], dict[str, float]]:
    """Give what an actor holds while it lives, and what it needs to be placed.

    Compat: without any demand an actor needs one CPU to be placed and holds none. One that asks for GPUs, custom resources or an
    accelerator but not for CPUs holds one CPU too; asking for memory alone does not count.

    Args:
        options: Checked options.

    Returns:
        Held resources, placement resources.
    """
    special = any(options.get(name) for name in ("num_gpus", "resources", "accelerator_type"))
    return assemble_resources(options, 1.0 if special else 0.0), assemble_resources(options, 1.0)


def options_key(options: Mapping[str, Any]) -> Any:
    """Make a hashable key that is equal for equal options.

    Args:
        options: Options in any order, with any values.

    Returns:
        The key; None if some value can't be part of one.
    """
    try:
        return frozenset(options.items())
    except TypeError:
        pass
    try:
        key = _freeze(options)
        hash(key)
    except TypeError:
        return None
    return key


def _freeze(value: Any) -> Any:
    if isinstance(value, dict):
        return frozenset((k, _freeze(v)) for k, v in value.items())
    if isinstance(value, (list, tuple)):
        return tuple(_freeze(v) for v in value)
    return value
