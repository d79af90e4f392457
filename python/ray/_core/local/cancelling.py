"""`ray.cancel` in local mode. What has not started never starts, and coroutines are cancelled. Code that runs in a thread can't be interrupted here: with `force`
its result is thrown away, else it can ask `is_canceled()`."""

from __future__ import annotations

import os

from ray._core.local import execution
from ray._core.local.calls import QUEUED, WAITING

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ray._core.local.calls import Call
    from ray._core.local.core import LocalCore
    from ray._native import ObjectRef


def cancel(core: LocalCore, reference: ObjectRef[Any], force: bool, recursive: bool) -> None:
    """Cancel the call that makes an object, if it has not ended.

    Raises:
        ValueError: It is an actor's, and `force` is asked for.
    """
    with core.scheduler.lock:
        core.scheduler.check()
        call = core.scheduler.pending.get(core.objects.call_of(reference))
        if call is None or call.is_constructor:
            return
        if call.actor is not None and force:
            raise ValueError(
                f"force=True can't be used on a call of an actor, here {call.name}: it would end the actor, and with it the calls of others\n"
                "hint: use ray.cancel(ref) without force, or ray.kill(actor)"
            )
        _cancel(core, call, force, recursive, _who(core))


def _who(core: LocalCore) -> str:
    call = execution.running.get()
    return f"the driver (pid {os.getpid()})" if call is None else f"{call.name} (task {core.scheduler.task_hex(call.number)})"


def _cancel(core: LocalCore, call: Call, force: bool, recursive: bool, by: str) -> None:
    scheduler, actor = core.scheduler, call.actor
    call.cancelled_by = call.cancelled_by or by
    if recursive:
        with_caller = by if by.endswith(_WITH_CALLER) else by + _WITH_CALLER
        for child in [child for key, child in scheduler.pending.items() if key == child.number and child.parent is call and not child.is_constructor]:
            if child.number in scheduler.pending:  # the end of one may have ended others
                _cancel(core, child, force, recursive, with_caller)
    if call.state in (WAITING, QUEUED):
        _withdraw(core, call)
        _end(core, call)
    elif actor is not None and actor.is_async:
        core.loop_of(actor).cancel(call)
    elif force and actor is None:
        _end(core, call)
    elif call.stream is not None:
        scheduler.give_credit(call.stream)  # one that waits for its reader looks, and stops


_WITH_CALLER = ", together with the call that made it"


def _withdraw(core: LocalCore, call: Call) -> None:
    """Take a call that has not started out of its queue."""
    scheduler = core.scheduler
    if call.actor is not None:
        scheduler.ready_methods.pop(call.number, None)
        call.actor.mailbox.remove(call)
    elif call.state == QUEUED:
        same = scheduler.ready_tasks[call.site.cpus]
        del same[call.number]
        if not same:
            del scheduler.ready_tasks[call.site.cpus]


def _end(core: LocalCore, call: Call) -> None:
    core.scheduler.store_error(call, execution.cancelled_value(core, call))
    core.scheduler.settle(call)
