"""Waits that can't end: when everything that is left of the program waits, say so instead of hanging.

That it can't end is certain only if no thread but those of local mode is left that could do something; otherwise the wait is explained in the log, once.
"""

from __future__ import annotations

import threading

from ray._core.local.calls import QUEUED, RUNNING, WAITING
from ray.exceptions import RaySystemError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ray._core.local.actors import LocalActor
    from ray._core.local.calls import Call
    from ray._core.local.scheduler import Key, Scheduler, Wait

_HINT = (
    "hint: only a later line of the program could end this wait: run that line before ray.get, wait with ray.get(..., timeout=...), or run without local mode"
)


class LocalModeDeadlockError(RaySystemError):
    """A wait that nothing in the program can end any more. Local mode raises it where a cluster would wait for ever."""

    def __str__(self) -> str:
        return str(self.client_exc)


def is_stalled(scheduler: Scheduler, certain: bool) -> bool:
    """Tell whether nothing goes on. Called under the scheduler's lock by a thread that is about to wait.

    Args:
        scheduler: The scheduler.
        certain: Threads that local mode knows nothing about count as busy.

    Returns:
        True if every thread waits without a time limit, and nothing can be started.
    """
    if scheduler.has_startable():
        return False
    quiet = {scheduler.keeper.ident, *(helper.ident for helper in scheduler.idle_helpers)}
    for wait in scheduler.blocked.values():
        if wait.deadline is not None or wait.is_over():
            return False
    quiet.update(scheduler.blocked)
    loops = {actor.loop.thread.ident: actor.loop for actor in scheduler.actors.values() if actor.loop is not None}
    ours = {call.thread for call in scheduler.pending.values() if call.state == RUNNING}
    main = threading.main_thread().ident
    for thread in threading.enumerate():
        if thread.ident in quiet:
            continue
        if thread.ident in loops:
            if not loops[thread.ident].is_idle():
                return False
        elif certain or thread.ident in ours or thread.ident == main:
            return False
    return True


def deadlock(scheduler: Scheduler, wait: Wait) -> LocalModeDeadlockError:
    """Make the error for a wait that can't end."""
    return LocalModeDeadlockError(f"this wait can never end: everything that is left of the program waits (local mode)\n{explain(scheduler, wait)}\n{_HINT}")


def warning(scheduler: Scheduler, wait: Wait, after_s: float) -> str:
    """Make the message for a wait that may not end."""
    return f"a wait has lasted {after_s:g} s, and no call goes on (local mode): another thread of the program may end it\n{explain(scheduler, wait)}\n{_HINT}"


def explain(scheduler: Scheduler, wait: Wait) -> str:
    """Say what a wait waits for, what that waits for, and so on.

    Returns:
        A line for each step.
    """
    who = "the driver" if wait.call is None else wait.call.name
    return "\n".join(_chain(scheduler, who, _first_pending(scheduler, wait.keys)))


def tell(scheduler: Scheduler, subject: tuple[str, Any]) -> str:
    """Answer `ray.util.state.explain`.

    Args:
        scheduler: The scheduler.
        subject: As in `ray._core.why.explain`.

    Returns:
        A line for each fact.
    """
    kind, what = subject
    with scheduler.lock:
        if kind in ("object", "actor"):
            number = int.from_bytes(what[:8], "big")
            actor = scheduler.actors.get(number)
            if actor is not None:
                return _tell_actor(scheduler, actor)
            call = scheduler.pending.get(number)
            if kind == "actor" or call is None:
                return f"{kind} {what.hex()}: nothing in this session waits for it; it is ready, was freed, or was never made"
            return "\n".join([f"object {what.hex()}:", *_chain(scheduler, "who asks", call)])
        lines = [f"local mode: everything runs in this process; {len(scheduler.waits)} threads wait, {len(scheduler.pending)} calls are not done"]
        lines += [explain(scheduler, wait) for wait in scheduler.waits]
        return "\n".join(lines)


def _tell_actor(scheduler: Scheduler, actor: LocalActor) -> str:
    name = f"the actor {actor.class_name} ({scheduler.core.objects.actor_id(actor.number).hex()})"
    if actor.death is not None:
        return f"{name} is dead"
    runs = ", ".join(sorted(call.name for call in actor.running)) or "nothing"
    return f"{name} is {'alive' if actor.is_alive else 'not constructed yet'}: it runs {runs}, and {len(actor.mailbox)} calls are in line"


def _chain(scheduler: Scheduler, who: str, call: Call | None) -> list[str]:
    lines = []
    seen: set[int] = set()
    while call is not None:
        lines.append(f"  {who} waits for {call.name} (task {scheduler.task_hex(call.number)})")
        if call.number in seen:
            lines.append("  and so on, in a circle")
            break
        seen.add(call.number)
        who, call, why = _next(scheduler, call)
        if why:
            lines.append(f"  {why}")
    return lines


def _next(scheduler: Scheduler, call: Call) -> tuple[str, Call | None, str]:
    """What a call waits for: (its name, the next call, what else is to be said)."""
    if call.state == WAITING:
        return f"an argument of {call.name}", _first_pending(scheduler, list(map(scheduler.key_of, call.arguments))), ""
    if call.state == QUEUED and call.actor is not None:
        busy = next(iter(call.actor.running), None) or call.actor.mailbox[0]
        if busy is call:
            return call.name, None, ""
        return f"{call.name}, which is queued in its actor,", busy, ""
    inner = next((wait for wait in scheduler.waits if wait.call is call), None)
    if inner is not None:
        return call.name, _first_pending(scheduler, inner.keys), ""
    if call.actor is not None and call.actor.is_async:
        return call.name, None, f"{call.name} is suspended in the event loop of its actor, where nothing is left that could wake it"
    return call.name, None, f"{call.name} is {call.state}"


def _first_pending(scheduler: Scheduler, keys: list[Key]) -> Call | None:
    return next((scheduler.pending[key] for key in keys if key in scheduler.pending), None)
