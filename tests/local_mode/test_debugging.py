"""What local mode is for: debuggers, tracers and patches reach into tasks."""

import subprocess
import sys
import textwrap
import traceback
from unittest import mock

import pytest

import ray
from support import Tally

pytestmark = pytest.mark.runtime(num_cpus=2, local_mode=True)


@ray.remote
def divide(a, b):
    remainder = a % 3
    return a / b + remainder


def test_post_mortem_of_get_ends_in_the_frame_of_the_task():
    """`pdb.pm()` after a failed `ray.get` stands where the task raised."""
    with pytest.raises(ZeroDivisionError) as caught:
        ray.get(divide.remote(7, 0))
    frame, line = list(traceback.walk_tb(caught.value.__traceback__))[-1]
    assert frame.f_code.co_name == "divide"
    assert frame.f_locals == {"a": 7, "b": 0, "remainder": 1}
    assert line == frame.f_code.co_firstlineno + 3


def test_tracer_of_the_driver_sees_the_lines_of_tasks_under_their_own_file():
    """Coverage and steppers work by such a tracer."""
    seen = []

    def trace(frame, event, arg):
        if frame.f_code.co_name == "divide":
            seen.append((frame.f_code.co_filename, event))
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        ray.get(divide.remote(6, 2))
    finally:
        sys.settrace(before)
    assert seen == [(__file__, "call"), (__file__, "line"), (__file__, "line"), (__file__, "return")]


def test_patch_of_a_module_reaches_the_task():
    """Tasks use the modules of the test's process."""

    @ray.remote
    def joined():
        import os.path

        return os.path.join("a", "b")

    with mock.patch("os.path.join", lambda *parts: "patched"):
        assert ray.get(joined.remote()) == "patched"


def debug(code: str, commands: str, tally: Tally) -> str:
    script = textwrap.dedent(code).replace("TALLY", repr(tally.path))
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, input=textwrap.dedent(commands), capture_output=True, text=True, timeout=60)
    return done.stdout + done.stderr


def test_breakpoint_in_a_task_shows_the_drivers_frames_too(tally):
    """`where` goes from the task through `ray.get` to the driver; `c` goes on."""
    said = debug(
        """
        import ray
        ray.init(local_mode=True)

        @ray.remote
        def work(x):
            y = x + 1
            breakpoint()
            return y

        def the_driver():
            print("result", ray.get(work.remote(41)))

        the_driver()
        """,
        "p 'y', y\nwhere\nc\n",
        tally,
    )
    assert "('y', 42)" in said
    assert "the_driver()" in said
    assert "result 42" in said


def test_calls_are_not_started_behind_a_driver_that_is_at_a_prompt(tally):
    """Two prompts would compete for one terminal; without a prompt the call would have been started by then."""
    said = debug(
        """
        import ray, time
        from support import Tally, wait_for
        ray.init(local_mode=True)
        tally = Tally(TALLY)
        work = ray.remote(lambda: tally.add())
        first = work.remote()
        wait_for(lambda: tally.count() == 1)  # helpers are warm, and take what nobody takes
        ref = work.remote()
        breakpoint()
        print("result", ray.get(ref))
        """,
        "time.sleep(0.5)\np 'runs', tally.count()\nc\n",
        tally,
    )
    assert "('runs', 1)" in said
    assert "result 2" in said
