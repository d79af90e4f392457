"""`ray.timeline()`: a trace of what ran, for chrome://tracing and Perfetto."""

import json
import time

import pytest

import ray
from support import wait_for

pytestmark = [pytest.mark.runtime(num_cpus=2), pytest.mark.limit(40)]


@ray.remote
def traced_task(x):
    return x


@ray.remote
def traced_failure():
    raise ValueError("on purpose")


@ray.remote(enable_task_events=False)
def untraced_task():
    return 1


@ray.remote
class TracedActor:
    def method(self):
        return 1

    @ray.method(enable_task_events=False)
    def untraced_method(self):
        return 1


def slices(part):
    """Calls whose category holds `part`."""
    return [event for event in ray.timeline() if event["ph"] == "X" and event["cat"].startswith("task::") and part in event["cat"]]


def test_timeline_has_a_slice_for_each_task():
    """As many as there were calls, with times in microseconds since 1970."""
    began = time.time()
    ray.get([traced_task.remote(i) for i in range(5)])
    ended = time.time()
    wait_for(lambda: len(slices("traced_task")) >= 5, 30)
    for event in slices("traced_task"):
        assert began * 1e6 - 1e6 <= event["ts"] <= ended * 1e6 + 1e6
        assert 0 <= event["dur"] <= (ended - began) * 1e6 + 1e6


def test_timeline_events_have_what_viewers_need():
    """The keys of Chrome's format, and the ids of the task."""
    ref = traced_task.remote(1)
    ray.get(ref)
    wanted = ref.task_id().hex()
    wait_for(lambda: any(event["args"].get("task_id") == wanted for event in slices("traced_task")), 30)
    event = next(event for event in slices("traced_task") if event["args"].get("task_id") == wanted)
    assert {"cat", "name", "pid", "tid", "ts", "dur", "ph", "args", "cname"} <= set(event)


def test_timeline_has_actor_methods_and_constructors():
    """Methods of actors, and the constructor."""
    actor = TracedActor.remote()
    ray.get(actor.method.remote())
    wait_for(lambda: slices("TracedActor.method") and slices("TracedActor.__init__"), 30)


def test_timeline_tells_the_steps_of_a_call():
    """Reading the arguments, running, storing the results."""
    ray.get(traced_task.remote(2))
    wait_for(lambda: {"task:deserialize_arguments", "task:execute", "task:store_outputs"} <= {event["name"] for event in ray.timeline()}, 30)


def test_timeline_has_calls_that_failed():
    """An error ends a call as a result does."""
    with pytest.raises(ValueError, match="on purpose"):
        ray.get(traced_failure.remote())
    wait_for(lambda: slices("traced_failure"), 30)


def test_timeline_leaves_out_what_asks_for_it():
    """`enable_task_events=False`, for functions and for methods."""
    actor = TracedActor.remote()
    ray.get([untraced_task.remote(), actor.untraced_method.remote(), actor.method.remote(), traced_task.options(name="the_last_one").remote(0)])
    wait_for(lambda: slices("the_last_one") and slices("TracedActor.method"), 30)
    assert slices("untraced") == []


def test_timeline_shows_the_name_of_the_call():
    """`options(name=...)` is what is shown."""
    ray.get(traced_task.options(name="renamed_for_the_trace").remote(1))
    wait_for(lambda: slices("renamed_for_the_trace"), 30)


def test_timeline_goes_to_a_file(tmp_path):
    """With a name it is written as JSON, and nothing is returned."""
    ray.get(traced_task.remote(4))
    wait_for(lambda: slices("traced_task"), 30)
    path = tmp_path / "trace.json"
    assert ray.timeline(str(path)) is None
    events = json.loads(path.read_text())
    assert isinstance(events, list)
    assert any("traced_task" in event.get("cat", "") for event in events)


def test_timeline_keeps_the_calls_of_a_worker_that_was_killed():
    """What an actor had done is told after its death."""
    actor = TracedActor.options(name="to_be_killed").remote()
    ray.get(actor.method.options(name="before_the_kill").remote())
    wait_for(lambda: slices("before_the_kill"), 30)
    ray.kill(actor)
    assert slices("before_the_kill")
