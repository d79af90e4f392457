"""Error records: whatever the user's exception does, the reader sees names, text and traceback."""

import pickle
import sys
import threading
import types

import pytest

from ray import exceptions
from ray._core.errors import ActorExit, decode_exception, encode_exception, system_error
from ray.exceptions import RayTaskError


class Wide(Exception):
    def __init__(self, a, b):
        super().__init__(f"{a} and {b}")
        self.a = a


class Doubling(Exception):
    def __init__(self, text):
        super().__init__(f"prefix: {text}")


class Slotted(Exception):
    __slots__ = ("__private", "extra")

    def __init__(self, extra):
        super().__init__(extra)
        self.extra = extra
        self.__private = extra

    def private(self):
        return self.__private


class BadReduce(Exception):
    def __reduce__(self):
        return Wide, (1,)


class BadText(Exception):
    def __str__(self):
        raise RuntimeError("no text")


class TwoBases(ValueError, OSError):
    def __init__(self, code):
        super().__init__(code, "two")


class Frozen(Exception):
    def __setattr__(self, name, value):
        raise AttributeError(f"frozen: {name}")


def sent(error, **options):
    """Raise an error in a function, send it, and give what arrives."""
    record = {"task_name": "work", "pid": 42, "node": "n1", "attempt": 0, **options}
    try:
        raise error
    except BaseException as raised:
        data = encode_exception(raised, **record)
    assert isinstance(data, bytes)
    return decode_exception(data)


def test_plain_error_arrives_with_story():
    """Class, arguments, name of the task, process, user's line."""
    error = sent(ValueError("boom", 3))
    assert isinstance(error, ValueError)
    assert isinstance(error, RayTaskError)
    assert error.cause.args == ("boom", 3)
    assert (error.function_name, error.pid) == ("work", 42)
    text = str(error)
    assert text.startswith("ray::work() (pid=42, node=n1)\n")
    assert "test_errors_roundtrip.py" in text
    assert text.endswith("ValueError: ('boom', 3)")


def test_attempt_shows_in_the_text_of_retries():
    """The first attempt is not mentioned."""
    assert "attempt=2" in str(sent(ValueError("x"), attempt=2))
    assert "attempt" not in str(sent(ValueError("x")))


@pytest.mark.parametrize(
    ("error", "check"),
    [
        (Wide(1, 2), lambda e: (e.a, e.cause.args) == (1, ("1 and 2",))),
        (Doubling("x"), lambda e: e.cause.args == ("prefix: x",)),
        (Slotted("s"), lambda e: (e.cause.extra, e.cause.private()) == ("s", "s")),
        (BadReduce("r"), lambda e: e.cause.args == ("r",)),
        (BadText("t"), lambda e: e.cause.args == ("t",)),
        (TwoBases(5), lambda e: (e.errno, e.strerror) == (5, "two")),
        (Frozen("f"), lambda e: e.cause.args == ("f",)),
        (FileNotFoundError(2, "gone", "a/b"), lambda e: (e.errno, e.filename) == (2, "a/b")),
        (ImportError("i", name="n", path="p"), lambda e: (e.name, e.path) == ("n", "p")),
        (StopIteration(3), lambda e: e.value == 3),
        (KeyError("k"), lambda e: e.cause.args == ("k",)),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_error_of_unusual_shape_is_caught_by_its_class(error, check):
    """Constructors are not called again, fields of C level and slots arrive."""
    arrived = sent(error)
    assert isinstance(arrived, type(error))
    assert check(arrived)


def test_error_with_unpicklable_parts_arrives_without_them():
    """The class and the other parts stay; the lost part is described."""
    error = Wide(1, 2)
    error.lock = threading.Lock()
    arrived = sent(error)
    assert isinstance(arrived, Wide)
    assert arrived.a == 1
    assert "not picklable" in arrived.lock
    assert isinstance(sent(ValueError(threading.Lock(), "rest")), ValueError)
    assert sent(ValueError(threading.Lock(), "rest")).cause.args[1] == "rest"


def test_error_of_a_local_class_arrives():
    """Classes that only exist in a function travel by value."""

    class Local(ValueError):
        pass

    arrived = sent(Local("l"))
    assert type(arrived.cause).__name__ == "Local"
    assert isinstance(arrived, ValueError)


def test_error_of_an_unpicklable_class_arrives_as_its_base():
    """The nearest class that the reader has stands for it; name and text stay."""
    lock = threading.Lock()

    class Holder(LookupError):
        held = lock

    arrived = sent(Holder("h"))
    assert isinstance(arrived, LookupError)
    assert (type(arrived.cause).__name__, str(arrived.cause)) == ("Holder", "h")
    assert type(arrived).__name__ == "RayTaskError(Holder)"


@pytest.fixture
def module():
    """A module that the writer has and the reader lacks."""
    made = types.ModuleType("only_over_there")
    source = "class Base(OSError): pass\nclass Far(Base):\n    def __str__(self): return 'far text'\nclass Thing: pass\n"
    exec(compile(source, "only_over_there.py", "exec"), made.__dict__)
    sys.modules[made.__name__] = made
    yield made
    sys.modules.pop(made.__name__, None)


def test_error_class_that_the_reader_lacks_arrives_as_its_base(module):
    """`except OSError` still works, and the text is the one of the class over there."""
    data = encode_exception(module.Far(2, "gone"), task_name="t", pid=1, node="n", attempt=0)
    del sys.modules["only_over_there"]
    arrived = decode_exception(data)
    assert isinstance(arrived, OSError)
    assert (type(arrived.cause).__name__, type(arrived.cause).__module__, str(arrived.cause)) == ("Far", "only_over_there", "far text")
    assert arrived.errno == 2
    assert "far text" in str(arrived)


def test_error_part_whose_class_the_reader_lacks_is_stood_for(module):
    """The error is rebuilt around it."""
    error = ValueError("v")
    error.thing = module.Thing()
    data = encode_exception(error, task_name="t", pid=1, node="n", attempt=0)
    del sys.modules["only_over_there"]
    arrived = decode_exception(data)
    assert isinstance(arrived, ValueError)
    assert "only_over_there.Thing" in repr(arrived.thing)


def test_error_that_arrived_survives_plain_pickle():
    """Even when the cause itself does not pickle."""
    error = Wide(1, 2)
    error.lock = threading.Lock()
    arrived = pickle.loads(pickle.dumps(sent(error)))
    assert isinstance(arrived, Wide)
    assert isinstance(arrived, RayTaskError)
    assert (arrived.a, arrived.function_name) == (1, "work")


def test_error_chain_arrives():
    """Causes and contexts, in the text and as objects."""
    try:
        try:
            raise KeyError("root")
        except KeyError as root:
            raise ValueError("outer") from root
    except ValueError as outer:
        arrived = sent(outer)
    assert isinstance(arrived.cause.__cause__, KeyError)
    assert arrived.cause.__suppress_context__
    assert isinstance(arrived.__cause__, KeyError)
    assert "root" in str(arrived)
    assert "direct cause" in str(arrived)


def test_error_context_arrives():
    """An error in an `except` block remembers what it interrupted."""
    try:
        try:
            raise KeyError("first")
        except KeyError:
            raise ValueError("second")  # noqa: B904
    except ValueError as second:
        arrived = sent(second)
    assert isinstance(arrived.cause.__context__, KeyError)
    assert arrived.cause.__cause__ is None


def test_error_chain_in_a_circle_ends():
    """A cause that leads back to the error is cut."""
    first, second = ValueError("a"), KeyError("b")
    first.__context__, second.__context__ = second, first
    assert isinstance(sent(first), ValueError)


def test_error_group_arrives_as_a_group():
    """Members keep their classes."""
    if sys.version_info < (3, 11):
        pytest.skip("needs exception groups")
    arrived = sent(ExceptionGroup("several", [Wide(1, 2), KeyError("k")]))  # noqa: F821
    assert [type(member) for member in arrived.cause.exceptions] == [Wide, KeyError]
    assert "several" in str(arrived)


def test_error_of_base_class_arrives_plain():
    """KeyboardInterrupt and its like are not mixed into an Exception."""
    arrived = sent(KeyboardInterrupt("stop"))
    assert type(arrived) is RayTaskError
    assert isinstance(arrived.cause, KeyboardInterrupt)


def test_error_of_a_dependency_passes_through():
    """An error that no user code touched keeps its record, byte for byte."""
    original = sent(ValueError("from below"))
    original.__traceback__ = None
    data = encode_exception(original, task_name="above", pid=1, node="n", attempt=0)
    assert data == original.record
    assert "above" not in str(decode_exception(data))


def test_error_of_a_nested_task_tells_both_stations():
    """Raised again by user code, it is wrapped; the cause stays the user's exception."""
    arrived = sent(sent(KeyError("bottom"), task_name="inner"), task_name="outer")
    assert isinstance(arrived.cause, KeyError)
    assert type(arrived).__name__ == "RayTaskError(KeyError)"
    text = str(arrived)
    assert text.index("ray::outer()") < text.index("ray::inner()") < text.index("bottom")


def test_error_text_shows_few_frames_of_the_runtime():
    """User frames first; of ours at most three."""

    def user():
        describe(5, {})

    from ray._core.calls.actor_spec import describe_class as describe

    try:
        user()
    except AttributeError as error:
        text = str(decode_exception(encode_exception(error, task_name="t", pid=1, node="n", attempt=0)))
    frames = [line for line in text.splitlines() if line.lstrip().startswith("File ")]
    assert "test_errors_roundtrip" in frames[0]
    assert 1 <= len([line for line in frames if "test_errors_roundtrip" not in line]) <= 3


def test_record_that_is_damaged_becomes_a_system_error():
    """Decoding never raises."""
    assert isinstance(decode_exception(b"nonsense"), exceptions.RaySystemError)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("worker_crashed", exceptions.WorkerCrashedError),
        ("actor_died", exceptions.ActorDiedError),
        ("actor_init_failed", exceptions.ActorDiedError),
        ("actor_unavailable", exceptions.ActorUnavailableError),
        ("owner_died", exceptions.OwnerDiedError),
        ("object_lost", exceptions.ObjectLostError),
        ("object_freed", exceptions.ObjectFreedError),
        ("store_full", exceptions.ObjectStoreFullError),
        ("disk_full", exceptions.OutOfDiskError),
        ("out_of_memory", exceptions.OutOfMemoryError),
        ("daemon_died", exceptions.LocalRayletDiedError),
        ("cancelled", exceptions.TaskCancelledError),
        ("pending_calls", exceptions.PendingCallsLimitExceeded),
        ("get_timeout", exceptions.GetTimeoutError),
        ("something_new", exceptions.RaySystemError),
    ],
)
def test_system_error_has_its_type_and_the_whole_evidence(code, kind):
    """The engine's text reaches the user unshortened, and through pickle."""
    fields = {"code": code, "message": "exit code 3\nlast line", "actor_id": "ab" * 16, "task_id": "cd" * 24, "object_id": "ef" * 28}
    error = system_error(fields)
    assert type(error) is kind
    assert "exit code 3\nlast line" in str(error)
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    if isinstance(error, exceptions.RayActorError):
        assert error.actor_id == "ab" * 16


def test_system_error_unschedulable_tells_actors_from_tasks():
    """By whether there is an actor."""
    assert type(system_error({"code": "unschedulable", "message": "m"})) is exceptions.TaskUnschedulableError
    assert type(system_error({"code": "unschedulable", "message": "m", "actor_id": "ab" * 16})) is exceptions.ActorUnschedulableError


def test_system_error_of_a_constructor_carries_the_users_error():
    """Its text and chain; the user's class is not what arrives."""
    cause = sent(ValueError("no disk"), task_name="A.__init__")
    error = system_error({"code": "actor_init_failed", "message": "m", "actor_id": "ab" * 16, "class_name": "A"}, cause)
    assert type(error) is exceptions.ActorDiedError
    assert error.actor_init_failed
    assert not isinstance(error, ValueError)
    assert "ValueError: no disk" in str(error)
    assert isinstance(error.__cause__, ValueError)
    assert error.actor_id == "ab" * 16


def test_actor_exit_passes_except_exception():
    """User code that catches everything does not stop it."""
    assert issubclass(ActorExit, SystemExit)
    assert not issubclass(ActorExit, Exception)
