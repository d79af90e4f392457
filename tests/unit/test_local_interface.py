"""Local mode stands where the native engine stands: its classes have what the native ones have, with the same parameters."""

import inspect

import pytest

from ray import _native
from ray._core.local.calls import LocalTemplate
from ray._core.local.core import LocalCore
from ray._core.local.streams import LocalStream, Producer

# How the native engine starts, what a worker's main loop needs of it, and what reads the output of workers.
NOT_IN_LOCAL_MODE = {
    *("start", "connect", "observe", "attach", "next_log"),
    *("work_fd", "set_async_variable", "set_groups", "leave_actor", "stop_calls", "take_cancelled", "wait_until_unneeded"),
}


def public(cls: type) -> set[str]:
    return {name for name in dir(cls) if not name.startswith("_")}


@pytest.mark.parametrize(
    ("native", "local", "left_out"),
    [
        (_native.Core, LocalCore, NOT_IN_LOCAL_MODE),
        (_native.CallTemplate, LocalTemplate, set()),
        (_native.ResultStream, LocalStream, set()),
        (_native.PendingCall, Producer, {"prepare", "finish", "fail", "is_stream", "finish_stream", "key", "finish_cancelled"}),
    ],
    ids=["Core", "CallTemplate", "ResultStream", "PendingCall"],
)
def test_local_class_has_the_members_of_the_native_one(native: type, local: type, left_out: set[str]) -> None:
    names = public(native) - left_out
    instance = {"name", "node_id"}  # set when made
    assert names - public(local) - instance == set()
    assert left_out - public(native) == set(), "no longer needed"
    for name in names - instance:
        member = getattr(native, name)
        if callable(member):
            theirs = list(inspect.signature(member).parameters)
            assert list(inspect.signature(getattr(local, name)).parameters) == theirs, name
