"""The error tree: bases, constructors, texts, pickling, and the double nature of task errors."""

import pickle
import traceback

import pytest

from ray import exceptions
from ray.exceptions import ActorDiedError, RayError, RayTaskError

HEX = "ab" * 28
SAMPLES = {
    "ActorAlreadyExistsError": ("m",),
    "ActorHandleNotFoundError": ("m",),
    "ActorUnavailableError": ("m", b"\x01" * 16),
    "ActorUnschedulableError": ("m",),
    "AuthenticationError": ("m",),
    "CrossLanguageError": ("m",),
    "NodeDiedError": ("m",),
    "ObjectFetchTimedOutError": (HEX, None, "site"),
    "ObjectFreedError": (HEX, None, "site"),
    "ObjectLostError": (HEX, None, "site"),
    "ObjectReconstructionFailedError": (HEX, None, "why"),
    "OutOfMemoryError": ("m",),
    "OwnerDiedError": (HEX, None, "site"),
    "RayCgraphCapacityExceeded": ("m",),
    "RayChannelError": ("m",),
    "RayChannelTimeoutError": ("m",),
    "RayDirectTransportError": ("m",),
    "RaySystemError": ("m", "tb"),
    "RayTaskError": ("f", "text of the traceback", ValueError("boom")),
    "ReferenceCountingAssertionError": (HEX, None, "site"),
    "RpcError": ("m", 5),
    "StreamingGeneratorReplayInconsistentError": ("m",),
    "TaskUnschedulableError": ("m",),
    "UnserializableException": ("tb",),
}
BASES = {
    "ActorAlreadyExistsError": ("ValueError", "RayError"),
    "ActorDiedError": ("RayActorError",),
    "ActorHandleNotFoundError": ("ValueError", "RayError"),
    "ActorUnavailableError": ("RayActorError",),
    "GetTimeoutError": ("RayError", "TimeoutError"),
    "ObjectFetchTimedOutError": ("ObjectLostError",),
    "ObjectFreedError": ("ObjectLostError",),
    "ObjectReconstructionFailedError": ("ObjectLostError",),
    "OwnerDiedError": ("ObjectLostError",),
    "RayCgraphCapacityExceeded": ("RaySystemError",),
    "RayChannelError": ("RaySystemError",),
    "RayChannelTimeoutError": ("RayChannelError", "TimeoutError"),
    "RayDirectTransportError": ("RaySystemError",),
    "RayError": ("Exception",),
    "ReferenceCountingAssertionError": ("ObjectLostError", "AssertionError"),
    "StreamingGeneratorReplayInconsistentError": ("RaySystemError",),
}


class UserError(Exception):
    code = 5

    def __init__(self, a, b):
        super().__init__(f"{a}-{b}")
        self.a = a

    def describe(self):
        return f"user {self.a}"


def task_error(cause):
    return RayTaskError("f", f"ray::f()\n{type(cause).__name__}: {cause}", cause, pid=7, ip="1.2.3.4")


def test_tree_has_42_types():
    """As many as Ray 2.60."""
    assert len(exceptions.__all__) == 42
    assert all(issubclass(getattr(exceptions, name), RayError) for name in exceptions.__all__)


@pytest.mark.parametrize("name", exceptions.__all__)
def test_bases_are_rays(name):
    """Programs catch by base class."""
    wanted = BASES.get(name, ("RayError",))
    found = {base.__name__ for base in getattr(exceptions, name).__mro__}
    assert found.issuperset(wanted)


@pytest.mark.parametrize("name", exceptions.__all__)
def test_every_error_survives_plain_pickle(name):
    """Type, text, arguments and attributes stay."""
    error = getattr(exceptions, name)(*SAMPLES.get(name, ()))
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert (str(copy), repr(copy.args)) == (str(error), repr(error.args))
    assert set(vars(copy)) == set(vars(error))


@pytest.mark.parametrize("name", [n for n in exceptions.__all__ if n not in SAMPLES])
def test_error_without_arguments_can_be_made(name):
    """As tests of user code do."""
    str(getattr(exceptions, name)())


def test_actor_error_tells_its_facts():
    """Id, text and flags."""
    error = exceptions.RayActorError(actor_id="aa", error_msg="what happened", actor_init_failed=True)
    assert (error.actor_id, str(error), error.actor_init_failed, error.preempted) == ("aa", "what happened", True, False)


def test_actor_died_from_constructor_carries_the_users_text():
    """And says that the constructor failed."""
    error = ActorDiedError.from_task_error(task_error(ValueError("no disk")))
    assert error.actor_init_failed
    assert "ValueError: no disk" in str(error)
    assert not ActorDiedError().actor_init_failed


def test_task_error_is_an_instance_of_the_users_class():
    """Named after both, and caught as either."""
    error = task_error(UserError(1, 2)).as_instanceof_cause()
    assert isinstance(error, UserError)
    assert isinstance(error, RayTaskError)
    assert type(error).__name__ == "RayTaskError(UserError)"
    assert str(error) == "ray::f()\nUserError: 1-2"
    assert error.as_instanceof_cause() is error


def test_task_error_attributes_go_to_the_cause():
    """Data, class attributes, methods; what only the task error knows stays reachable."""
    error = task_error(UserError(1, 2)).as_instanceof_cause()
    assert (error.a, error.code, error.describe()) == (1, 5, "user 1")
    assert (error.function_name, error.pid, error.cause.args) == ("f", 7, ("1-2",))
    error.noted = 3
    assert error.noted == 3
    with pytest.raises(AttributeError, match="missing"):
        _ = error.missing


def test_task_error_of_builtin_keeps_its_fields():
    """Those live in C structures, not in `__dict__`."""
    error = task_error(FileNotFoundError(2, "gone", "a/b")).as_instanceof_cause()
    assert (error.errno, error.strerror, error.filename) == (2, "gone", "a/b")
    decode = task_error(UnicodeDecodeError("utf8", b"abc", 1, 2, "why")).as_instanceof_cause()
    assert (decode.start, decode.reason) == (1, "why")
    assert task_error(StopIteration(3)).as_instanceof_cause().value == 3


def test_task_error_arguments_are_rays():
    """`args` holds the cause, as on Ray."""
    error = task_error(KeyError("k")).as_instanceof_cause()
    assert error.args == (error.cause,)


@pytest.mark.parametrize("cause", [BaseException("b"), Exception("e"), RayError("r")], ids=["base", "exception", "ray"])
def test_task_error_of_a_wider_class_stays_plain(cause):
    """Where RayTaskError is an instance already, or must not become one."""
    error = task_error(cause)
    assert error.as_instanceof_cause() is error


def test_task_error_of_a_class_that_forbids_deriving_stays_plain():
    """The user's class may refuse; the error is raised all the same."""

    class Final(Exception):
        def __init_subclass__(cls):
            raise TypeError("final")

    error = task_error(Final("x"))
    assert error.as_instanceof_cause() is error


def test_task_error_keeps_the_chain_of_its_cause():
    """`raise ... from ...` in user code shows on both."""
    cause = ValueError("outer")
    cause.__cause__ = KeyError("inner")
    error = task_error(cause).as_instanceof_cause()
    assert error.__cause__ is cause.__cause__


def test_task_error_can_be_raised_noted_and_printed():
    """It is an exception like any other."""
    error = task_error(ValueError("last")).as_instanceof_cause()
    if hasattr(error, "add_note"):
        error.add_note("seen in the driver")
    with pytest.raises(ValueError) as caught:
        raise error.with_traceback(None)
    assert "ValueError: last" in "".join(traceback.format_exception(type(caught.value), caught.value, caught.value.__traceback__))


def test_task_error_with_both_natures_survives_plain_pickle():
    """Test runners and process pools do that."""
    error = task_error(UserError(1, 2)).as_instanceof_cause()
    error.noted = 3
    copy = pickle.loads(pickle.dumps(error))
    assert isinstance(copy, UserError)
    assert (copy.a, copy.noted, str(copy), copy.cause.args) == (1, 3, str(error), ("1-2",))


def test_from_ray_exception_gives_the_cause():
    """Other errors are given back."""
    cause = ValueError("x")
    assert RayError.from_ray_exception(task_error(cause)) is cause
    assert RayError.from_ray_exception(cause) is cause
    assert str(RayError.from_bytes(RayError("bytes").to_bytes())) == "bytes"
