"""Exceptions of user code on their way to the caller."""

import traceback

import pytest

import ray
from ray.exceptions import RayError, RayTaskError

pytestmark = pytest.mark.runtime(num_cpus=4)


class Custom(Exception):
    def __init__(self, message, code):
        super().__init__(message, code)
        self.code = code


@ray.remote
def fail(error):
    raise error


def raised(ref):
    with pytest.raises(Exception) as caught:  # noqa: B017 (each test looks at the exact type)
        ray.get(ref)
    return caught.value


def test_error_is_of_both_families():
    """What `get` raises is a RayTaskError and an instance of the user's class."""
    error = raised(fail.remote(ValueError("both")))
    assert isinstance(error, RayTaskError)
    assert isinstance(error, RayError)
    assert isinstance(error, ValueError)


def test_error_type_is_named_after_both():
    """Its type is called RayTaskError(ValueError)."""
    assert type(raised(fail.remote(ValueError("named")))).__name__ == "RayTaskError(ValueError)"


def test_error_cause_is_the_users_exception():
    """`.cause` is the exception itself, with its arguments."""
    error = raised(fail.remote(ValueError("cause", 1)))
    assert type(error.cause) is ValueError
    assert error.cause.args == ("cause", 1)


def test_error_attributes_reach_the_cause():
    """Attributes of the user's exception can be read on what was raised."""
    assert raised(fail.remote(Custom("with code", 17))).code == 17


def test_error_of_a_subclass_is_caught_by_its_base():
    """`except` clauses for base classes match."""
    error = raised(fail.remote(FileNotFoundError(2, "missing", "some/path")))
    assert isinstance(error, OSError)
    assert error.filename == "some/path"


def test_error_text_holds_function_and_users_traceback():
    """The text names the function, the line that raised, and the message."""

    @ray.remote
    def outer_function():
        def inner_function():
            raise ValueError("look here")

        inner_function()

    text = str(raised(outer_function.remote()))
    assert "outer_function" in text
    assert "inner_function" in text
    assert "ValueError: look here" in text
    assert "test_task_errors.py" in text


def test_error_text_shows_users_frames_only():
    """The traceback in the text starts with the user's code: at most three frames of the runtime."""

    @ray.remote
    def f():
        raise ValueError("short")

    text = str(raised(f.remote()))
    frames = [line for line in text.splitlines() if line.lstrip().startswith('File "')]
    foreign = [line for line in frames if "test_task_errors.py" not in line]
    assert len(foreign) <= 3, text


def test_error_through_nested_tasks_keeps_its_type_and_story():
    """An error that passes through two tasks is still the user's, and its text shows each station."""

    @ray.remote
    def bottom():
        raise KeyError("from the bottom")

    @ray.remote
    def middle():
        return ray.get(bottom.remote())

    @ray.remote
    def top():
        return ray.get(middle.remote())

    error = raised(top.remote())
    assert isinstance(error, KeyError)
    text = str(error)
    assert all(word in text for word in ("top", "middle", "bottom", "from the bottom"))


def test_error_caught_inside_a_task_is_handled_there():
    """A task can catch the error of a task it started by the user's type."""

    @ray.remote
    def careful():
        try:
            ray.get(fail.remote(ZeroDivisionError("caught inside")))
        except ZeroDivisionError as error:
            return type(error).__name__

    assert ray.get(careful.remote()) == "RayTaskError(ZeroDivisionError)"


def test_error_chained_by_raise_from_keeps_its_cause():
    """`raise ... from ...` survives: the text tells both."""

    @ray.remote
    def f():
        try:
            raise KeyError("root cause")
        except KeyError as error:
            raise ValueError("follow-up") from error

    error = raised(f.remote())
    assert isinstance(error, ValueError)
    assert "root cause" in str(error)
    assert "follow-up" in str(error)


def test_error_chain_is_readable_by_program():
    """The user's exception arrives with its own `__cause__`."""

    @ray.remote
    def f():
        try:
            raise KeyError("root cause")
        except KeyError as error:
            raise ValueError("follow-up") from error

    cause = raised(f.remote()).cause
    assert isinstance(cause.__cause__, KeyError)


def test_error_of_an_actor_method_names_it():
    """The text of a method's error names the method."""

    @ray.remote
    class Actor:
        def method_that_fails(self):
            raise ValueError("in a method")

    error = raised(Actor.remote().method_that_fails.remote())
    assert isinstance(error, ValueError)
    assert "method_that_fails" in str(error)


def test_error_with_wide_constructor_keeps_its_type():
    """An exception whose constructor takes more than it passes on still arrives as its class."""

    class Wide(Exception):
        def __init__(self, a, b):
            super().__init__(f"{a} and {b}")

    @ray.remote
    def f():
        raise Wide(1, 2)

    error = raised(f.remote())
    assert isinstance(error, Wide)
    assert "1 and 2" in str(error)


def test_error_returned_or_stored_is_a_value():
    """An exception that is returned or put is not raised."""
    got = ray.get([ray.remote(lambda: ValueError("returned")).remote(), ray.put(KeyError("stored"))])
    assert [type(one) for one in got] == [ValueError, KeyError]


def test_error_printed_by_traceback_ends_with_the_message():
    """The last line of a printed traceback is the user's error."""
    error = raised(fail.remote(ValueError("last line")))
    printed = "".join(traceback.format_exception(type(error), error, error.__traceback__)).strip()
    assert printed.splitlines()[-1].endswith("ValueError: last line")


def test_error_system_exit_in_a_task_is_a_failure():
    """`sys.exit` in a task ends the task, not the driver."""
    import sys

    @ray.remote(max_retries=0)
    def leave():
        sys.exit(3)

    assert isinstance(raised(leave.remote()), RayError)
    assert ray.get(ray.remote(lambda: "goes on").remote()) == "goes on"


def test_error_keyboard_interrupt_raised_by_a_task_does_not_stop_the_driver():
    """A task that raises KeyboardInterrupt fails; the driver sees an error of the runtime."""
    error = raised(ray.remote(max_retries=0)(lambda: (_ for _ in ()).throw(KeyboardInterrupt())).remote())
    assert isinstance(error, Exception)


def test_error_group_arrives_as_a_group():
    """Exception groups keep their members."""
    import sys

    if sys.version_info < (3, 11):
        pytest.skip("needs ExceptionGroup")
    error = raised(fail.remote(ExceptionGroup("several", [ValueError("one"), KeyError("two")])))  # noqa: F821
    assert [type(member) for member in error.cause.exceptions] == [ValueError, KeyError]


def test_error_frozen_and_slotted_exceptions_arrive():
    """Exceptions of unusual shape still arrive as their class."""

    class Slotted(Exception):
        __slots__ = ("extra",)

        def __init__(self, extra):
            super().__init__(extra)
            self.extra = extra

    @ray.remote
    def f():
        raise Slotted("thin")

    error = raised(f.remote())
    assert isinstance(error, Slotted)
    assert error.cause.extra == "thin"


def test_error_survives_plain_pickle():
    """What `get` raised can be pickled and read back as the same families: test runners and pools do that."""
    import pickle

    error = pickle.loads(pickle.dumps(raised(fail.remote(ValueError("pickled")))))
    assert isinstance(error, ValueError)
    assert isinstance(error, RayTaskError)
