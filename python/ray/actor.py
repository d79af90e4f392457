"""Actors: classes whose instances live in a process of their own, and the handles to them.

The way of a call: `handle.method` is made once and kept in the handle's `__dict__`; its `remote` is replaced at the first call by the
native template itself, so that later calls run no Python code of ours.

Invariants:
1. A method object holds the native reference of the actor, never the Python handle: no cycle, so that dropping the last handle ends
   the actor at once.
2. A handle carries a description of the class (`ray._core.calls.actor_spec`), never the class.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, TypeVar, Union

from ray._core import session
from ray._core.calls.actor_spec import ActorSpec, MethodSpec, builtin_method, describe_class, spec_from_fields, spec_from_pickle
from ray._core.calls.decorators import method
from ray._core.calls.options import (
    DEFAULT_ASYNC_CONCURRENCY,
    VARIANTS_MAX,
    UnknownOptionError,
    actor_resources,
    check_actor_options,
    check_is_generator,
    check_method_options,
    check_named,
    check_namespace,
    may_overtake,
    options_key,
)
from ray._core.calls.signatures import CallSignature, signature_of
from ray._core.calls.strategies import strategy_of
from ray._core.errors import ActorExit
from ray._core.ids import ActorID

if TYPE_CHECKING:
    from typing import NoReturn

    from typing_extensions import Unpack

    from ray._core.calls.decorators import ActorCallOptions, MethodCallOptions
    from ray._native import CallTemplate, ObjectRef

__all__ = [
    "ActorClass",
    "ActorClassInheritanceException",
    "ActorHandle",
    "ActorMethod",
    "ActorProxy",
    "exit_actor",
    "get_actor",
    "kill",
    "method",
]

T = TypeVar("T")


class ActorClassInheritanceException(TypeError):
    """A class was derived from an actor class. Derive from the plain class, and decorate the derived one."""


class ActorMethod:
    """A method of an actor, made by attribute access on a handle."""

    def __init__(self, epoch: int, ref: ObjectRef[Any], actor: ActorSpec, spec: MethodSpec, name: str | None = None) -> None:
        self._epoch = epoch
        self._ref = ref
        self._actor = actor
        self._spec = spec
        self._name = name
        self._variants: dict[Any, ActorMethod] = {}

    def remote(self, /, *args: Any, **kwargs: Any) -> Any:
        """Call the method.

        Args:
            *args: Arguments of the method. A reference stands for its value.
            **kwargs: Keyword arguments of the method.

        Returns:
            A reference to the result; a list of them for `num_returns` above 1, None for 0. An `ObjectRefGenerator` of a generator method.

        Raises:
            TypeError: The arguments don't fit the method, or can't be pickled.
            PendingCallsLimitExceeded: As many calls are unfinished as `max_pending_calls` allows.
        """
        template = self._bind()
        self.__dict__["remote"] = template  # found before the class's function from now on
        session.tell_at_end(self)
        return template(*args, **kwargs)

    def forget_engine(self) -> None:
        """Let go of the template: the session has ended, and the actor with it."""
        self.__dict__.pop("remote", None)

    def _bind(self) -> CallTemplate:
        from ray._core.serialization import dumps_payload

        spec, actor = self._spec, self._actor
        retries = actor.max_task_retries if spec.max_task_retries is None else spec.max_task_retries
        payload = {
            "kind": "method",
            "name": spec.name,
            "retry_exceptions": spec.retry_exceptions,
        }
        core = session.core
        if core is None or self._epoch != session.epoch:
            ended = f"the session that this actor {actor.class_name} belongs to has ended\nhint: create it again after ray.init()"
            raise RuntimeError(session.why_lost() or ended)
        return session.template_class().method(
            core,
            self._ref,
            payload=dumps_payload(payload),
            name=self._name or f"{actor.class_name}.{spec.name}",
            num_returns=spec.num_returns,
            backpressure=spec.backpressure or actor.backpressure,
            max_task_retries=retries,
            retry_exceptions=bool(spec.retry_exceptions),
            max_pending_calls=actor.max_pending_calls,
            group=actor.group_number(spec.concurrency_group),
            unordered=actor.unordered,
            min_args=spec.signature.min_args,
            max_args=spec.signature.max_args,
            binder=spec.signature.bind,
        )

    def options(self, **options: Unpack[MethodCallOptions]) -> ActorMethod:
        """Give the same method with other options.

        Args:
            **options: Options of `ray.method`, and `name`, which is shown for the call.

        Returns:
            A method object. Equal options give the same one, so this may stand in a loop.

        Raises:
            TypeError: An option of the wrong type, or unknown.
            ValueError: A bad value.
            NotImplementedError: An option that is not available yet.
        """
        key = options_key(options)
        found = self._variants.get(key) if key is not None else None
        if found is None:
            found = self._variant(dict(options))
            if key is not None:
                if len(self._variants) >= VARIANTS_MAX:
                    self._variants.pop(next(iter(self._variants)), None)
                self._variants[key] = found
        return found

    def _variant(self, options: dict[str, Any]) -> ActorMethod:
        try:
            check_method_options(options, in_options=True)
        except UnknownOptionError as e:  # Compat: an unknown name is a TypeError here, as in a Python call
            raise TypeError(str(e)) from None
        check_is_generator(options.get("num_returns"), self._spec.is_generator, f"{self._actor.class_name}.{self._spec.name}")
        group = options.get("concurrency_group")
        if group and group not in self._actor.groups:
            raise ValueError(f"{self._actor.class_name} has no concurrency group {group!r}, only: {', '.join(self._actor.groups) or 'none'}")
        return ActorMethod(self._epoch, self._ref, self._actor, self._spec.replace(options), options.get("name") or self._name)

    def bind(self, /, *args: Any, **kwargs: Any) -> NoReturn:
        """Build a graph node. Not available yet.

        Raises:
            NotImplementedError: Always.
        """
        raise NotImplementedError(f"{self!r}.bind(): graphs are not available yet\nhint: use .remote()")

    if not TYPE_CHECKING:  # to a type checker it is not callable

        def __call__(self, /, *_args: Any, **_kwargs: Any) -> NoReturn:
            """Refuse a direct call.

            Raises:
                TypeError: Always.
            """
            raise TypeError(f"actor methods can't be called directly\nhint: write object.{self._spec.name}.remote(...)")

    def __repr__(self) -> str:
        return f"ActorMethod({self._actor.class_name}.{self._spec.name})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild_method, (ActorHandle(self._ref, self._actor), self._spec.name)


def _rebuild_method(handle: ActorHandle[Any], name: str) -> ActorMethod:
    found: ActorMethod = getattr(handle, name)
    return found


class ActorHandle(Generic[T]):
    """A handle to an actor. Copies may be passed to tasks and other actors; when the last one is gone, the actor ends.

    Made by `ActorClass.remote`, `ray.get_actor`, and when a handle arrives in another process.
    """

    def __init__(self, ref: ObjectRef[Any], spec: ActorSpec) -> None:
        self._ray_ref = ref
        self._ray_spec = spec
        self._ray_epoch = session.epoch

    def __getattr__(self, name: str) -> ActorMethod:
        if name.startswith("_ray_"):  # the handle itself is not complete: copy and pickle ask so
            raise AttributeError(name)
        spec = self._ray_spec.methods.get(name) or builtin_method(name)
        if spec is None:
            raise AttributeError(_no_method(self._ray_spec, name))
        found = self.__dict__[name] = ActorMethod(self._ray_epoch, self._ray_ref, self._ray_spec, spec)
        return found

    @property
    def _actor_id(self) -> ActorID:
        return ActorID(self._ray_ref.actor_id_binary())

    @property
    def _ray_actor_id(self) -> ActorID:
        return self._actor_id

    def __dir__(self) -> list[str]:
        return sorted(self._ray_spec.methods)

    def __repr__(self) -> str:
        return f"Actor({self._ray_spec.class_name}, {self._ray_ref.actor_id_binary().hex()})"

    def __hash__(self) -> int:
        return hash(self._ray_ref)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ActorHandle) and self._ray_ref == other._ray_ref

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild_handle, (self._ray_ref, self._ray_spec.pickled)


def _rebuild_handle(ref: ObjectRef[Any], pickled_spec: bytes) -> ActorHandle[Any]:
    return ActorHandle(ref, spec_from_pickle(pickled_spec))


def _no_method(spec: ActorSpec, name: str) -> str:
    import difflib

    text = f"'ActorHandle' object has no attribute {name!r}: the actor class {spec.class_name} has no such method"
    if name in spec.hidden:
        return f"{text}\nhint: {name!r} is not a method, and only methods can be reached through a handle; add one that returns it"
    close = difflib.get_close_matches(name, spec.methods, n=1)
    return f"{text}\nhint: did you mean {close[0]!r}?" if close else text


ActorProxy = Union[ActorHandle[T], type[T]]  # noqa: UP007  an alias with a parameter, evaluated at run time
"""Annotation for a handle whose `@ray.method` methods a type checker shall see."""


class _ClassExport:
    """An actor's class as it is sent: read once, pickled once per engine and set of options. Shared by all variants of one actor class."""

    __slots__ = ("_described", "_epoch", "_init", "_payloads", "cls", "groups")

    def __init__(self, cls: type, groups: dict[str, int]) -> None:
        self.cls = cls
        self.groups = groups
        self._described: tuple[ActorSpec, bool] | None = None
        self._init: CallSignature | None = None
        self._epoch = session.epoch
        self._payloads: dict[Any, bytes] = {}

    @property
    def described(self) -> tuple[ActorSpec, bool]:
        """The spec, and whether the class is asynchronous. Late: while a class that names itself is unpickled, it is still empty."""
        if self._described is None:
            self._described = describe_class(self.cls, self.groups)
        return self._described

    @property
    def init(self) -> CallSignature:
        """Signature of the constructor."""
        if self._init is None:
            cls: Any = self.cls
            constructor = cls.__init__ if cls.__init__ is not object.__init__ else cls.__new__
            own = constructor is not object.__new__
            self._init = signature_of(constructor, skip_first=True) if own else CallSignature(())
        return self._init

    def payload(self, spec: ActorSpec, max_concurrency: int) -> bytes:
        from ray._core.serialization import dumps_payload

        if self._epoch != session.epoch:
            self._epoch, self._payloads = session.epoch, {}
        key = (max_concurrency, spec.max_task_retries, spec.max_pending_calls, spec.backpressure, spec.unordered)
        data = self._payloads.get(key)
        if data is None:
            fields = {
                **spec.fields(),
                "kind": "class",
                "cls": self.cls,
                "max_concurrency": max_concurrency,
                "is_async": self.described[1],
                "concurrency_groups": self.groups,
            }
            data = self._payloads[key] = dumps_payload(fields)
        return data


class ActorClass(Generic[T]):
    """A class whose instances are actors. Made by `ray.remote`.

    Example:
        >>> @ray.remote
        ... class Counter:
        ...     def __init__(self):
        ...         self.n = 0
        ...     def add(self):
        ...         self.n += 1
        ...         return self.n
        >>> counter = Counter.remote()
        >>> ray.get(counter.add.remote())
        1
    """

    _cls: type[T]
    _default_options: dict[str, Any]
    _export: _ClassExport

    def __init__(self, name: str, bases: tuple[Any, ...], attr: dict[str, Any]) -> None:  # noqa: ARG002  what `class` passes
        """Refuse to be a base: `class B(A)` with an actor class `A` makes Python call this.

        Raises:
            ActorClassInheritanceException: Always.
        """
        base = next((b for b in bases if isinstance(b, ActorClass)), None)
        raise ActorClassInheritanceException(
            f"the class {name!r} can't derive from the actor class {getattr(base, '__name__', base)!r}\n"
            "hint: derive from the undecorated class, and decorate the derived one"
        )

    @classmethod
    def from_class(cls, user_class: type[T], options: dict[str, Any]) -> ActorClass[T]:
        """Make an actor class.

        Args:
            user_class: The undecorated class.
            options: Options of `ray.remote` for actors.

        Returns:
            The actor class.

        Raises:
            ValueError: An unknown option or a bad value.
            TypeError: An option of the wrong type.
            NotImplementedError: An option that is not available yet.
        """
        check_actor_options(options)
        check_named(options)
        export = _ClassExport(user_class, dict(options.get("concurrency_groups") or {}))
        export.described  # noqa: B018  finds mistakes in the class now rather than at the first call
        return cls._make(user_class, options, export)

    @classmethod
    def _make(cls, user_class: type[T], options: dict[str, Any], export: _ClassExport) -> ActorClass[T]:
        made = cls.__new__(cls)
        made._cls, made._default_options, made._export = user_class, options, export
        made.__name__, made.__qualname__ = user_class.__name__, user_class.__qualname__  # type: ignore[attr-defined]
        made.__module__, made.__doc__ = user_class.__module__, user_class.__doc__
        return made

    def remote(self, /, *args: Any, **kwargs: Any) -> ActorHandle[T]:
        """Create an actor. Does not wait for its constructor: what that raises, the calls raise.

        Args:
            *args: Arguments of the constructor. A reference stands for its value.
            **kwargs: Keyword arguments of the constructor.

        Returns:
            A handle.

        Raises:
            TypeError: The arguments don't fit the constructor, or can't be pickled.
            ActorAlreadyExistsError: The name is taken (a ValueError).
        """
        return self._create(args, kwargs)

    def options(self, **actor_options: Unpack[ActorCallOptions]) -> ActorClass[T]:
        """Give the same class with other options.

        Args:
            **actor_options: Options of `ray.remote` for actors, except `concurrency_groups`.

        Returns:
            An actor class.

        Raises:
            ValueError: An unknown option or a bad value.
            TypeError: An option of the wrong type.
            NotImplementedError: An option that is not available yet.

        Example:
            >>> Counter.options(name="global", get_if_exists=True).remote()
        """
        check_actor_options(actor_options, in_options=True)
        given = {k: v for k, v in actor_options.items() if k != "runtime_env" or v}
        return self._make(self._cls, {**self._default_options, **given}, self._export)

    def _remote(self, args: Any = None, kwargs: Any = None, **actor_options: Any) -> ActorHandle[T]:
        """Create an actor with arguments and options in one call. Compat: used by libraries written for Ray."""
        actor_class = self.options(**actor_options) if actor_options else self
        return actor_class._create(tuple(args or ()), dict(kwargs or {}))

    def _create(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> ActorHandle[T]:
        from ray._core.environment import canonical_env

        options, export = self._default_options, self._export
        check_named(options)
        export.init.check(args, kwargs)
        core = session.auto_init()
        context = core.context()
        name, get_if_exists = options.get("name") or "", bool(options.get("get_if_exists"))
        namespace = options.get("namespace") or context["namespace"]
        found = core.get_actor(name, namespace) if get_if_exists else None
        if found is not None:
            return _handle_from_payload(*found)
        base_spec, is_async = export.described
        concurrency = options.get("max_concurrency") or (DEFAULT_ASYNC_CONCURRENCY if is_async else 1)
        spec = base_spec.with_calls(
            options.get("max_task_retries") or 0,
            self._max_pending_calls(),
            options.get("_actor_generator_backpressure_num_objects") or -1,
            may_overtake(options.get("allow_out_of_order_execution"), is_async, concurrency),
        )
        held, placement = actor_resources(options)
        ref, payload_of_other = core.create_actor(
            payload=export.payload(spec, concurrency),
            class_name=self._cls.__name__,
            args=args,
            kwargs=kwargs,
            resources=held,
            placement_resources=placement,
            strategy=strategy_of(options),
            env=canonical_env(options.get("runtime_env"), context["env"]),
            max_restarts=options.get("max_restarts") or 0,
            max_concurrency=concurrency,
            is_async=is_async,
            name=name,
            namespace=namespace,
            detached=options.get("lifetime") == "detached",
            get_if_exists=get_if_exists,
        )
        if payload_of_other is not None:  # somebody else was quicker
            return _handle_from_payload(ref, payload_of_other)
        return ActorHandle(ref, spec)

    def _max_pending_calls(self) -> int:
        return self._default_options.get("max_pending_calls") or -1  # Compat: 0 is without limit too

    def bind(self, /, *args: Any, **kwargs: Any) -> NoReturn:
        """Build a graph node. Not available yet.

        Raises:
            NotImplementedError: Always.
        """
        raise NotImplementedError(f"{self._cls.__name__}.bind(): graphs are not available yet\nhint: use .remote()")

    if not TYPE_CHECKING:  # to a type checker it is not callable

        def __call__(self, /, *_args: Any, **_kwargs: Any) -> NoReturn:
            """Refuse a direct call.

            Raises:
                TypeError: Always.
            """
            name = self._cls.__name__
            raise TypeError(f"the actor class {name} can't be instantiated directly\nhint: write {name}.remote(...)")

    @property
    def __ray_actor_class__(self) -> type[T]:
        """The undecorated class."""
        return self._cls

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """Give attributes of the undecorated class: constants, static methods, methods to test without an actor."""
            if name.startswith("__") or name in ("_cls", "_default_options", "_export"):
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
            return getattr(self._cls, name)

    def __repr__(self) -> str:
        return f"ActorClass({self._cls.__name__})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _new_actor_class, (), {"cls": self._cls, "options": self._default_options}

    def __setstate__(self, state: dict[str, Any]) -> None:
        options = state["options"]
        made = type(self)._make(state["cls"], options, _ClassExport(state["cls"], dict(options.get("concurrency_groups") or {})))
        self.__dict__.update(made.__dict__)


def _new_actor_class() -> ActorClass[Any]:
    return ActorClass.__new__(ActorClass)


def _handle_from_payload(ref: ObjectRef[Any], payload: bytes) -> ActorHandle[Any]:
    from ray._core.serialization import loads_payload

    return ActorHandle(ref, spec_from_fields(loads_payload(payload)))


def get_actor(name: str, namespace: str | None = None) -> ActorHandle[Any]:
    """Find a named actor.

    Args:
        name: The name it was created with.
        namespace: Its namespace; None is that of the job.

    Returns:
        A handle.

    Raises:
        ValueError: There is no living actor of that name in that namespace.

    Example:
        >>> Counter.options(name="global").remote()
        >>> ray.get_actor("global")
    """
    if not isinstance(name, str):
        raise TypeError(f"the name of an actor is a str, got {type(name).__name__}: {name!r}")
    if not name:
        raise ValueError("the name of an actor cannot be empty")
    if namespace is not None and not isinstance(namespace, str):
        raise TypeError(f"namespace must be a str or None, got {type(namespace).__name__}: {namespace!r}")
    check_namespace("namespace", namespace)
    core = session.auto_init()
    where = namespace or core.context()["namespace"]
    found = core.get_actor(name, where)
    if found is None:
        raise ValueError(
            f"there is no living actor named {name!r} in the namespace {where!r}\n"
            "hint: ray.util.list_named_actors(all_namespaces=True) shows all; pass namespace=... for another namespace"
        )
    return _handle_from_payload(*found)


def kill(actor: ActorHandle[Any], *, no_restart: bool = True) -> None:
    """Kill an actor at once. Its running calls, and those that wait, raise `ActorDiedError`; no exit handler runs.

    Args:
        actor: A handle.
        no_restart: False lets it restart if `max_restarts` allows.

    Raises:
        ValueError: Not a handle.
    """
    if not isinstance(actor, ActorHandle):
        raise ValueError(f"ray.kill takes an actor handle, got {type(actor).__name__}: {actor!r:.100}\nhint: to stop a task use ray.cancel(ref)")
    core = session.auto_init()
    if actor._ray_epoch != session.epoch:
        raise ValueError(f"{actor!r} belongs to a session that has ended, and ended with it")
    core.kill_actor(actor._ray_ref, no_restart)


def exit_actor() -> NoReturn:
    """End the actor that calls this, as intended: it does not restart. The running call and later ones raise `ActorDiedError`.

    Raises:
        TypeError: Not called in an actor.
    """
    if session.core is None or session.in_driver() or not session.core.context()["actor_id"]:
        raise TypeError("exit_actor() was called outside of an actor\nhint: to end one from outside use ray.kill(handle)")
    if not session.core.context()["in_task"]:  # a thread of the user's: the calls that run go on to their end
        session.core.leave_actor("it exited by itself: exit_actor() was called")
        session.core.stop_calls()
    raise ActorExit(0)


def current_actor_handle() -> ActorHandle[Any]:
    """Give a handle to the actor that calls this.

    Returns:
        The handle.

    Raises:
        RuntimeError: Not called in an actor.
    """
    found = None if session.in_driver() else session.auto_init().current_actor()
    if found is None:
        raise RuntimeError("this is only known inside an actor")
    return _handle_from_payload(*found)
