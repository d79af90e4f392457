"""What a call site must know about a function's parameters: how many positional arguments are plainly right, and a check for the rest.

A signature travels with actor handles, so it is kept as built-in values only: no defaults, no annotations, no user classes.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_POSITIONAL_ONLY, _POSITIONAL_OR_KEYWORD, _VAR_POSITIONAL, _KEYWORD_ONLY, _VAR_KEYWORD = range(5)  # the values of inspect.Parameter.kind
_CO_VARARGS, _CO_VARKEYWORDS = 0x04, 0x08
_CO_GENERATOR, _CO_COROUTINE, _CO_ITERABLE_COROUTINE, _CO_ASYNC_GENERATOR = 0x20, 0x80, 0x100, 0x200


class CallSignature:
    """The parameters of a callable.

    Args:
        params: For each parameter its name, its kind as in `inspect.Parameter.kind`, and whether it has a default. None: anything goes.
    """

    __slots__ = ("_signature", "max_args", "min_args", "params")

    def __init__(self, params: tuple[tuple[str, int, bool], ...] | None) -> None:
        self.params = params
        self._signature: Any = None
        self.min_args, self.max_args = _positional_range(params)

    def bind(self, *args: Any, **kwargs: Any) -> Any:
        """Check arguments.

        Returns:
            The bound arguments; None if the signature is unknown.

        Raises:
            TypeError: They don't fit.
        """
        if self.params is None:
            return None
        if self._signature is None:
            import inspect

            self._signature = inspect.Signature(
                [
                    inspect.Parameter(name, inspect._ParameterKind(kind), default=None if has_default else inspect.Parameter.empty)
                    for name, kind, has_default in self.params
                ]
            )
        return self._signature.bind(*args, **kwargs)

    def check(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Check arguments, without building anything in the plain case.

        Raises:
            TypeError: They don't fit.
        """
        if not kwargs and self.min_args <= len(args) and (self.max_args is None or len(args) <= self.max_args):
            return
        self.bind(*args, **kwargs)


def _positional_range(params: tuple[tuple[str, int, bool], ...] | None) -> tuple[int, int | None]:
    """Give the numbers of positional arguments that need no other check; an empty range if a keyword is required."""
    if params is None:
        return 0, None
    positional = [default for _, kind, default in params if kind in (_POSITIONAL_ONLY, _POSITIONAL_OR_KEYWORD)]
    if any(kind == _KEYWORD_ONLY and not default for _, kind, default in params):
        return 1, 0
    unbounded = any(kind == _VAR_POSITIONAL for _, kind, _ in params)
    return positional.count(False), None if unbounded else len(positional)


def signature_of(function: Callable[..., Any], skip_first: bool = False) -> CallSignature:
    """Read the parameters of a function.

    Args:
        function: Any callable.
        skip_first: Leave out the first parameter (`self`, `cls`).

    Returns:
        Its signature; one that accepts everything if Python can't tell.
    """
    code = getattr(function, "__code__", None)
    if code is None or hasattr(function, "__wrapped__") or hasattr(function, "__signature__"):
        params = _inspect_params(function)
    else:
        params = _code_params(function, code)
    if skip_first and params and params[0][1] in (_POSITIONAL_ONLY, _POSITIONAL_OR_KEYWORD):
        params = params[1:]
    return CallSignature(params)


def _inspect_params(function: Callable[..., Any]) -> tuple[tuple[str, int, bool], ...] | None:
    import inspect

    try:
        found = inspect.signature(function).parameters.values()
    except (ValueError, TypeError):
        return None
    return tuple((p.name, int(p.kind), p.default is not p.empty) for p in found)


def _code_params(function: Any, code: Any) -> tuple[tuple[str, int, bool], ...]:
    """Do the same from the code object: `inspect` would be the largest import before a first task."""
    names, count, kwonly = code.co_varnames, code.co_argcount, code.co_kwonlyargcount
    first_default = count - len(function.__defaults__ or ())
    params = [(names[i], _POSITIONAL_ONLY if i < code.co_posonlyargcount else _POSITIONAL_OR_KEYWORD, i >= first_default) for i in range(count)]
    at = count + kwonly
    if code.co_flags & _CO_VARARGS:
        params.append((names[at], _VAR_POSITIONAL, False))
        at += 1
    defaults = function.__kwdefaults__ or {}
    params += [(name, _KEYWORD_ONLY, name in defaults) for name in names[count : count + kwonly]]
    if code.co_flags & _CO_VARKEYWORDS:
        params.append((names[at], _VAR_KEYWORD, False))
    return tuple(params)


def _flags(function: Any) -> int:
    while hasattr(function, "func") and hasattr(function, "keywords"):  # functools.partial
        function = function.func
    code = getattr(getattr(function, "__func__", function), "__code__", None)
    return int(getattr(code, "co_flags", 0))


def is_coroutine(function: Any) -> bool:
    """Whether calling the function gives an awaitable."""
    marked = getattr(function, "_is_coroutine_mark", None) is not None  # inspect.markcoroutinefunction, Python 3.12
    return marked or bool(_flags(function) & (_CO_COROUTINE | _CO_ITERABLE_COROUTINE))


def is_async_generator(function: Any) -> bool:
    """Whether calling the function gives an asynchronous generator."""
    return bool(_flags(function) & _CO_ASYNC_GENERATOR)


def is_generator(function: Any) -> bool:
    """Whether calling the function gives a generator, synchronous or not."""
    return bool(_flags(function) & (_CO_GENERATOR | _CO_ASYNC_GENERATOR))
