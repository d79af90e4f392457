"""Option tables, their checks, and the resources that follow. No engine needed."""

import pytest

from ray._core.calls.actor_spec import describe_class, spec_from_fields, spec_from_pickle
from ray._core.calls.decorators import method
from ray._core.calls.options import (
    ACTOR_OPTIONS,
    METHOD_OPTIONS,
    TASK_OPTIONS,
    actor_resources,
    assemble_resources,
    check_actor_options,
    check_method_options,
    check_named,
    check_task_options,
    may_overtake,
    options_key,
)
from ray._core.calls.signatures import signature_of
from ray._core.environment import canonical_env, check_runtime_env
from ray.actor import ActorClass
from ray.remote_function import RemoteFunction, remote


def test_tables_have_rays_sizes():
    """22 task options, 27 actor options, 8 method options."""
    assert (len(TASK_OPTIONS), len(ACTOR_OPTIONS), len(METHOD_OPTIONS)) == (22, 27, 8)


def test_defaults_pass_their_own_checks():
    """Spelling a default out changes nothing."""
    check_task_options({name: option.default for name, option in TASK_OPTIONS.items() if name != "object_store_memory"})
    check_actor_options({name: option.default for name, option in ACTOR_OPTIONS.items()})
    check_method_options({name: option.default for name, option in METHOD_OPTIONS.items()})


def test_unknown_option_names_the_closest():
    """A typing mistake is answered with the option that was meant."""
    with pytest.raises(ValueError, match=r"unknown option num_cpu for remote functions\nhint: did you mean 'num_cpus'"):
        check_task_options({"num_cpu": 1})
    with pytest.raises(ValueError, match="did you mean 'max_restarts'"):
        check_actor_options({"max_restart": 1})


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"num_cpus": -1}, ValueError),
        ({"num_cpus": "1"}, TypeError),
        ({"num_cpus": 0.00001}, ValueError),
        ({"num_gpus": 1.5}, ValueError),
        ({"memory": -1}, ValueError),
        ({"memory": "1"}, TypeError),
        ({"resources": {"CPU": 1}}, ValueError),
        ({"resources": {"memory": 1}}, ValueError),
        ({"resources": {"a": -1}}, ValueError),
        ({"resources": {"a": "x"}}, TypeError),
        ({"resources": {1: 1}}, TypeError),
        ({"resources": [1]}, TypeError),
        ({"accelerator_type": 1}, TypeError),
        ({"name": 5}, TypeError),
        ({"num_returns": -1}, ValueError),
        ({"num_returns": "x"}, ValueError),
        ({"num_returns": 1.5}, TypeError),
        ({"_generator_backpressure_num_objects": 0}, ValueError),
        ({"_generator_backpressure_num_objects": "1"}, TypeError),
        ({"max_retries": -2}, ValueError),
        ({"max_retries": 1.5}, TypeError),
        ({"retry_exceptions": 1}, TypeError),
        ({"retry_exceptions": [1]}, ValueError),
        ({"max_calls": -1}, ValueError),
        ({"object_store_memory": 1}, ValueError),
        ({"runtime_env": 5}, TypeError),
        ({"runtime_env": {"env_vars": {"a": 1}}}, TypeError),
        ({"runtime_env": {"pip": ["x"]}}, NotImplementedError),
        ({"scheduling_strategy": "x"}, ValueError),
        ({"scheduling_strategy": object()}, ValueError),
        ({"placement_group": object()}, TypeError),
        ({"placement_group": "x"}, ValueError),
        ({"placement_group_bundle_index": "1"}, TypeError),
        ({"label_selector": {"a": "b c"}}, ValueError),
        ({"fallback_strategy": [5]}, ValueError),
        ({"fallback_strategy": [{}]}, ValueError),
        ({"fallback_strategy": [{"resources": {"x": 1}}]}, ValueError),
        ({"fallback_strategy": [{"label_selector": 5}]}, ValueError),
        ({"fallback_strategy": [{"label_selector": {"a": "b c"}}]}, ValueError),
        ({"fallback_strategy": {"label_selector": {}}}, TypeError),
        ({"enable_task_events": 5}, TypeError),
        ({"max_restarts": 1}, ValueError),
    ],
    ids=str,
)
def test_task_option_bad_value_is_refused(options, error):
    """Each mistake has its kind of error, raised when decorating."""
    with pytest.raises(error):
        remote(**options)(lambda: 1)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"max_restarts": -2}, ValueError),
        ({"max_restarts": "x"}, TypeError),
        ({"max_task_retries": -2}, ValueError),
        ({"max_concurrency": -1}, ValueError),
        ({"max_concurrency": 1.5}, TypeError),
        ({"max_pending_calls": -2}, ValueError),
        ({"concurrency_groups": 5}, TypeError),
        ({"concurrency_groups": {"a": 0}}, ValueError),
        ({"concurrency_groups": {"a": "x"}}, TypeError),
        ({"lifetime": "x"}, ValueError),
        ({"name": ""}, ValueError),
        ({"namespace": ""}, ValueError),
        ({"get_if_exists": True}, ValueError),
        ({"get_if_exists": None}, TypeError),
        ({"num_returns": 1}, ValueError),
        ({"max_calls": 1}, ValueError),
    ],
    ids=str,
)
def test_actor_option_bad_value_is_refused(options, error):
    """Each mistake has its kind of error, raised when decorating."""
    with pytest.raises(error):
        remote(**options)(type("A", (), {}))


def test_get_if_exists_with_name_passes():
    """The two belong together."""
    check_named({"get_if_exists": True, "name": "x"})


def test_options_that_belong_to_the_decorator_are_refused_later():
    """max_calls and concurrency_groups can't change per call."""
    with pytest.raises(ValueError, match="max_calls"):
        check_task_options({"max_calls": 1}, in_options=True)
    with pytest.raises(ValueError, match="concurrency_groups"):
        check_actor_options({"concurrency_groups": {"a": 1}}, in_options=True)


@pytest.mark.parametrize(
    ("options", "resources"),
    [
        ({}, {"CPU": 1.0}),
        ({"num_cpus": 0}, {}),
        ({"num_gpus": 0.5}, {"CPU": 1.0, "GPU": 0.5}),
        ({"num_cpus": 0.5, "resources": {"a": 2, "b": 0}, "memory": 1000}, {"CPU": 0.5, "a": 2.0, "memory": 1000.0}),
        ({"accelerator_type": "V100"}, {"CPU": 1.0, "accelerator_type:V100": 0.001}),
    ],
    ids=str,
)
def test_task_resources_follow_the_options(options, resources):
    """One CPU by default; zeros are left out."""
    assert assemble_resources(options, 1.0) == resources


@pytest.mark.parametrize(
    ("options", "held", "placement"),
    [
        ({}, {}, {"CPU": 1.0}),
        ({"num_cpus": 0}, {}, {}),
        ({"num_cpus": 2}, {"CPU": 2.0}, {"CPU": 2.0}),
        ({"num_gpus": 1}, {"CPU": 1.0, "GPU": 1.0}, {"CPU": 1.0, "GPU": 1.0}),
        ({"num_gpus": 1, "num_cpus": 0}, {"GPU": 1.0}, {"GPU": 1.0}),
        ({"resources": {"a": 1}}, {"CPU": 1.0, "a": 1.0}, {"CPU": 1.0, "a": 1.0}),
        ({"memory": 1000}, {"memory": 1000.0}, {"CPU": 1.0, "memory": 1000.0}),
    ],
    ids=str,
)
def test_actor_resources_follow_the_options(options, held, placement):
    """As observed on Ray: one CPU to be placed, none to run, unless something special is asked for."""
    assert actor_resources(options) == (held, placement)


def test_options_key_is_equal_for_equal_options():
    """Order and mutable values don't matter."""
    first = {"num_cpus": 1, "resources": {"a": 1, "b": 2}, "retry_exceptions": [ValueError]}
    second = {"retry_exceptions": [ValueError], "resources": {"b": 2, "a": 1}, "num_cpus": 1}
    assert options_key(first) == options_key(second) != options_key({"num_cpus": 1})
    assert options_key({"scheduling_strategy": bytearray()}) is None


def test_variants_of_a_remote_function_are_interned():
    """`.options()` with equal options gives the same object; the function keeps its own."""
    f = remote(lambda: 1)
    assert f.options(num_cpus=2, resources={"a": 1}) is f.options(resources={"a": 1}, num_cpus=2)
    assert f.options(num_cpus=2) is not f.options(num_cpus=3)
    assert f.options(num_cpus=2).options(name="x")._default_options == {"num_cpus": 2, "name": "x"}


def test_empty_runtime_env_in_options_keeps_the_decorated_one():
    """As on Ray: None and {} mean "not given"."""
    f = remote(runtime_env={"env_vars": {"A": "1"}})(lambda: 1)
    assert f.options(runtime_env={})._default_options == {"runtime_env": {"env_vars": {"A": "1"}}}


@pytest.mark.parametrize("arguments", [((), {}), ((5,), {}), ((lambda: 1,), {"num_cpus": 1})], ids=["nothing", "number", "both"])
def test_decorator_written_wrongly_raises(arguments):
    """Both of Ray's kinds of error are served."""
    with pytest.raises(AssertionError):
        remote(*arguments[0], **arguments[1])
    with pytest.raises(TypeError):
        remote(*arguments[0], **arguments[1])


def test_decorator_tells_functions_from_classes():
    """And refuses the rest."""
    assert isinstance(remote(lambda: 1), RemoteFunction)
    assert isinstance(remote(type("A", (), {})), ActorClass)
    for other in (len, remote(lambda: 1)):
        with pytest.raises(TypeError):
            remote(other)


def test_decorated_function_keeps_its_metadata():
    """Name, module and documentation are those of the function."""

    @remote
    def f(x):
        """Doc."""

    assert (f.__name__, f.__doc__, f.__module__, f.__wrapped__(1)) == ("f", "Doc.", __name__, None)


def test_asynchronous_functions_are_refused():
    """With a plain sentence."""

    async def coroutine(): ...

    async def generator():
        yield 1

    for function in (coroutine, generator):
        with pytest.raises(ValueError, match="async"):
            remote(function)


def test_streams_are_for_generator_functions():
    """What does not use `yield` can't give its results one after another."""

    def plain(): ...

    def generator():
        yield 1

    for returns in ("streaming", "dynamic"):
        with pytest.raises(ValueError, match="generator"):
            remote(num_returns=returns)(plain)
        assert remote(num_returns=returns)(generator)
    assert remote(generator)
    assert remote(num_returns=2)(generator)


def test_method_options_are_checked():
    """`@ray.method` refuses what it does not know."""
    with pytest.raises(AssertionError, match="num_returns"):
        method(num_return=2)
    with pytest.raises(ValueError):
        method(num_returns=-1)
    with pytest.raises(TypeError):
        method(concurrency_group=5)


class Base:
    def inherited(self, x): ...

    def hidden_below(self): ...


class Described(Base):
    constant = 3
    hidden_below = None  # type: ignore[assignment]

    def __init__(self, a): ...

    @method(num_returns=2, concurrency_group="io")
    def plain(self, a, b=1, *, c=2): ...

    @staticmethod
    def static(a): ...

    @classmethod
    def of_class(cls, a): ...

    @property
    def width(self): ...

    def generator(self):
        yield 1

    def __len__(self):
        return 1


def test_class_description_holds_methods_as_an_instance_finds_them():
    """Inherited, static, class and special methods; neither properties nor constants."""
    spec, is_async = describe_class(Described, {"io": 2})
    assert set(spec.methods) == {"__init__", "__len__", "generator", "inherited", "of_class", "plain", "static"}
    assert set(spec.hidden) == {"constant", "hidden_below", "width"}
    assert not is_async
    plain = spec.methods["plain"]
    assert (plain.num_returns, plain.concurrency_group, plain.signature.min_args, plain.signature.max_args) == (2, "io", 1, 2)
    generator = spec.methods["generator"]
    assert (generator.num_returns, generator.is_generator, plain.is_generator) == ("streaming", True, False)


def test_class_description_survives_the_wire():
    """Both ways of sending it give the same."""
    spec = describe_class(Described, {"io": 2})[0].with_calls(3, 100)
    for copy in (spec_from_fields({**spec.fields(), "cls": Described}), spec_from_pickle(spec.pickled)):
        assert copy.fields() == spec.fields()
        assert copy.max_pending_calls == 100


def test_class_description_finds_undefined_groups():
    """A method in a group that the class does not have is a mistake."""
    with pytest.raises(ValueError, match="io"):
        describe_class(Described, {})


def test_class_with_coroutine_is_asynchronous():
    """One `async def`, inherited or not, suffices."""

    class Asynchronous:
        async def work(self): ...

    class Derived(Asynchronous): ...

    assert describe_class(Derived, {})[1]


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda: 0, (0, 0)),
        (lambda a, b=1: 0, (1, 2)),
        (lambda a, *rest: 0, (1, None)),
        (lambda a, /, b, *, c=1: 0, (2, 2)),
        (lambda a, *, c: 0, (1, 0)),
        (lambda **names: 0, (0, 0)),
        (dict, (0, None)),
    ],
)
def test_positional_range_is_counted(function, expected):
    """A required keyword gives an empty range, so that every call is checked in full."""
    signature = signature_of(function)
    assert (signature.min_args, signature.max_args) == expected


def test_signature_binds_like_the_function():
    """The check accepts and refuses what the call would."""
    signature = signature_of(lambda a, b=1, *c, d, **e: 0)
    signature.check((1,), {"d": 2, "other": 3})
    for args, kwargs in [((), {"d": 1}), ((1,), {}), ((1,), {"a": 1, "d": 1})]:
        with pytest.raises(TypeError):
            signature.check(args, kwargs)


def test_runtime_env_merges_into_the_parents():
    """Variables add up, the child's win; nothing of its own means the parent's."""
    parent = canonical_env({"env_vars": {"B": "2", "A": "1"}})
    assert parent == '{"env_vars":{"A":"1","B":"2"}}'
    assert canonical_env({"env_vars": {"B": "3"}}, parent) == '{"env_vars":{"A":"1","B":"3"}}'
    assert canonical_env(None, parent) == canonical_env({"env_vars": {}}, parent) == parent
    check_runtime_env(None)


@pytest.mark.parametrize(
    ("allowed", "is_async", "concurrency", "overtakes"),
    [(None, False, 1, False), (False, False, 1, False), (True, False, 1, True), (None, True, 1, True), (None, False, 2, True), (True, True, 9, True)],
)
def test_calls_may_overtake_where_they_run_side_by_side(allowed, is_async, concurrency, overtakes):
    """Without allow_out_of_order_execution, calls may overtake exactly where several run at once."""
    assert may_overtake(allowed, is_async, concurrency) is overtakes


@pytest.mark.parametrize(("is_async", "concurrency", "kind"), [(True, 1, "async actor"), (False, 2, "max_concurrency=2")])
def test_order_of_calls_side_by_side_is_refused(is_async, concurrency, kind):
    """The message says why the order can't be kept."""
    with pytest.raises(ValueError, match=f"(?s){kind}.*hint:"):
        may_overtake(False, is_async, concurrency)
