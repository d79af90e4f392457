"""Which call runs when, and in which thread. Holds the state of local mode; what a call does is in `execution`, threads are in `threads`.

Invariants
1. A call is in exactly one place: waiting for arguments, in its actor's mailbox, among `ready_tasks`, or running. `pending` holds it until it is done.
2. `ready_methods` holds at most the head of each mailbox.
3. Results are stored before a call leaves `pending`: who does not find it there finds its values.
"""

from __future__ import annotations

import contextvars
import itertools
import logging
import os
import threading
import time
from collections import deque

from ray._core.errors import system_error
from ray._core.generators import DynamicObjectRefGenerator
from ray._core.local import execution, stalls
from ray._core.local.calls import DONE, QUEUED, RUNNING, Call
from ray._core.local.farewell import say_farewell
from ray._core.local.threads import IDLE_HELPERS_MAX, PATIENCE_S, Helper, Keeper

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Any

    from ray._core.local.actors import LocalActor
    from ray._core.local.core import LocalCore
    from ray._core.local.execution import Outcome
    from ray._core.local.streams import Stream
    from ray._native import CompletionQueue, LocalValue, ObjectRef

    Key = int | tuple[int, int]
    """What is waited for: a call by its number, or one item of a stream."""

INLINE_DEPTH_MAX = 16
"""Calls on top of each other in one thread; a deeper one gets a thread, and with it Python's whole limit of recursion."""
RECORDS_MAX = 10_000
"""Runs of calls that the timeline remembers."""
RECHECK_S = 0.2
"""How often a blocked thread looks whether anything still goes on."""
WARN_AFTER_S = 5.0

logger = logging.getLogger("ray")


class Wait:
    """A thread that waits for calls."""

    __slots__ = ("call", "deadline", "done", "keys", "need", "order", "path", "warned")

    def __init__(self, call: Call | None, keys: list[Key], need: int, deadline: float | None) -> None:
        self.call = call
        self.keys = keys
        self.need = need
        self.deadline = deadline
        self.done = 0
        self.order = deque(keys)
        self.path: list[Call] = []
        self.warned = False

    def is_over(self) -> bool:
        """Whether enough calls are done. The thread may still sleep."""
        return self.done >= self.need


class _Thread(threading.local):
    """What the scheduler knows of a thread."""

    depth = 0
    cpus = 0.0
    """It is a helper, and its task has this part of `busy`."""


def _cpus_of(call: Call) -> float:
    return call.site.cpus if call.actor is None else 0.0


class Scheduler:
    """The calls, actors and waits of a session."""

    def __init__(self, core: LocalCore, cpus: float, epoch_offset_us: int) -> None:
        self.core = core
        self._epoch_offset_us = epoch_offset_us
        self.cpus = cpus
        self.lock = threading.Condition()
        self.pending: dict[Key, Call] = {}
        self.ready_tasks: dict[float, dict[int, Call]] = {}
        """By the CPUs that they take."""
        self.ready_methods: dict[int, Call] = {}
        self.dependents: dict[Key, list[Call]] = {}
        self.actors: dict[int, LocalActor] = {}
        self.waits: list[Wait] = []
        self.records: deque[dict[str, Any]] = deque(maxlen=RECORDS_MAX)
        self.waiting: dict[Key, list[Wait]] = {}
        self.blocked: dict[int | None, Wait] = {}
        self.watchers: dict[Key, dict[int, tuple[CompletionQueue, int]]] = {}
        self._watch_numbers = itertools.count(1)
        self.loose = 0
        """Waits that no call may hold up: those with a time limit, and futures. While there are some, calls are started at once."""
        self.busy = 0.0
        """CPUs of the tasks that run in helpers and do not wait. So no more of them run at once than on a cluster, whatever they do."""
        self.idle_helpers: list[Helper] = []
        self.keeper = Keeper(self._serve_overdue, self._actor_unneeded)
        self.keeper_armed = False
        self.over = False
        self._thread = _Thread()

    # Submitting

    def submit(self, call: Call) -> None:
        """Accept a call."""
        with self.lock:
            self.check()
            self.pending[call.number] = call
            for key in map(self.key_of, call.arguments):
                if key in self.pending:
                    call.missing += 1
                    self.dependents.setdefault(key, []).append(call)
            if call.is_constructor and call.actor is not None:
                call.actor.mailbox.appendleft(call)
            elif call.actor is not None:
                call.actor.mailbox.append(call)
            if not call.missing:
                self._arguments_ready(call)
            if self.loose:
                self._serve()
            if self.blocked:
                self.lock.notify_all()
            self._arm_keeper()

    def _arguments_ready(self, call: Call) -> None:
        call.queue()
        if call.actor is None:
            self.ready_tasks.setdefault(call.site.cpus, {})[call.number] = call
        else:
            self.refresh(call.actor)

    def refresh(self, actor: LocalActor) -> None:
        """Make the actor's next call startable, if it may start."""
        while (head := actor.next_call()) is not None:
            if not actor.is_async:
                self.ready_methods[head.number] = head
                return
            self._claim(head)
            head.thread = None
            self.core.loop_of(actor).start(head)

    def _arm_keeper(self) -> None:
        """Let the keeper look after what is ready. It is woken once per patience, not per call."""
        if not self.keeper_armed and (self.ready_tasks or self.ready_methods):
            self.keeper_armed = True
            if not self.keeper.is_alive():
                self.keeper.start()
            self.keeper.wake()

    # Starting

    def has_startable(self) -> bool:
        """Whether some call could be started in a helper now."""
        return bool(self.ready_methods) or any(self._fits(cpus) for cpus in self.ready_tasks)

    def _fits(self, cpus: float) -> bool:
        return not cpus or self.busy + cpus <= self.cpus + 1e-6

    def _claim(self, call: Call) -> None:
        """The caller runs this call."""
        call.state = RUNNING
        call.began_us = self._wall_us()
        call.thread = threading.get_ident()
        call.run += 1
        actor = call.actor
        if actor is None:
            same = self.ready_tasks[call.site.cpus]
            del same[call.number]
            if not same:
                del self.ready_tasks[call.site.cpus]
            return
        self.ready_methods.pop(call.number, None)
        actor.mailbox.popleft()
        actor.running.add(call)
        if not actor.is_async:
            self.refresh(actor)

    def _serve(self, queued_before: float | None = None) -> None:
        """Start what can be started in helpers; with a moment, only what was queued before."""
        while self.ready_methods:
            call = next(iter(self.ready_methods.values()))
            if queued_before is not None and call.queued_at > queued_before:
                break
            self._start_in_helper(call)
        for cpus, calls in list(self.ready_tasks.items()):
            while calls and self._fits(cpus):
                call = next(iter(calls.values()))
                if queued_before is not None and call.queued_at > queued_before:
                    break
                self._start_in_helper(call)

    def _start_in_helper(self, call: Call) -> None:
        self._claim(call)
        self.busy += _cpus_of(call)
        if self.idle_helpers:
            helper = self.idle_helpers.pop()
        else:
            helper = Helper(self._run_in_helper)
            helper.start()
        call.thread = helper.ident
        helper.inbox.put(call)

    def _serve_overdue(self) -> float | None:
        """Start what nobody has taken for too long. Returns when to look again, None: not before the next call."""
        with self.lock:
            self._serve(time.monotonic() - PATIENCE_S)
            if self.ready_tasks or self.ready_methods:
                return PATIENCE_S
            self.keeper_armed = False
            return None

    # Running

    def _run_in_helper(self, call: Call, helper: Helper) -> bool:
        run = call.run
        self._thread.cpus = _cpus_of(call)
        outcome = execution.perform(self.core, call)
        with self.lock:
            self.busy -= self._thread.cpus
            self.finished(call, run, outcome)
            stays = not self.over and len(self.idle_helpers) < IDLE_HELPERS_MAX
            if stays:
                self.idle_helpers.append(helper)
            return stays

    def _run_here(self, call: Call) -> None:
        run = call.run
        self._thread.depth += 1
        try:
            outcome = contextvars.Context().run(execution.perform, self.core, call)
        finally:
            self._thread.depth -= 1
        self.finished(call, run, outcome)
        if outcome.interrupt is not None:
            raise outcome.interrupt

    def finished(self, call: Call, run: int, outcome: Outcome) -> None:
        """A call has ended, unless it was given up meanwhile."""
        if outcome.left is not None and call.actor is not None:
            say_farewell(call.actor.instance)
        with self.lock:
            if not self.is_current(call, run):
                return
            self._record(call, outcome.error is not None)
            actor = call.actor
            if outcome.left is not None and actor is not None:
                self.end_actor(actor, outcome.left)
            elif outcome.error is not None and call.is_constructor and actor is not None:
                text = f"the actor {actor.class_name} died because its constructor raised an exception"
                self.bury(actor, self.actor_error(actor, "actor_init_failed", text, outcome.error))
            elif outcome.error is not None and outcome.retryable and call.may_retry():
                self._retry(call)
            else:
                if call.is_constructor and actor is not None:
                    actor.is_alive = True
                self._store(call, outcome)
                self.settle(call)

    def _wall_us(self) -> int:
        """Microseconds since 1970, by the date at the start of the session: a clock that is set meanwhile tears no records apart."""
        return self._epoch_offset_us + time.monotonic_ns() // 1000

    def _record(self, call: Call, failed: bool) -> None:
        """Note a run for the timeline."""
        if call.site.__dict__.get("fields", {}).get("record", True):  # a payload that can't be read says nothing
            ended = self._wall_us()
            task_id = self.core.objects.task_id(call.number)
            where = {"by": 1, "pid": os.getpid(), "task_id": task_id, "attempt": call.attempt, "name": call.name}
            self.records.append({"fact": "ran", "times": [call.began_us, call.began_us, ended, ended], "failed": failed, **where})

    def _retry(self, call: Call) -> None:
        call.attempt += 1
        call.queue()
        if call.actor is None:
            self._arguments_ready(call)
        else:
            call.actor.running.discard(call)
            call.actor.mailbox.appendleft(call)
            self.refresh(call.actor)
        if self.loose:
            self._serve()
        self.lock.notify_all()
        self._arm_keeper()

    def _store(self, call: Call, outcome: Outcome) -> None:
        objects = self.core.objects
        if call.stream is not None and outcome.error is None:
            self._end_stream(call, outcome.end)
        elif outcome.error is None:
            for index, value in enumerate(outcome.values, 1):
                objects.store(call.number, index, value)
        else:
            self.store_error(call, outcome.error, outcome)

    def store_error(self, call: Call, error: LocalValue, outcome: Outcome | None = None) -> None:
        """All results of a call are this error."""
        frames = None if outcome is None else outcome.frames
        if call.stream is not None:
            self._end_stream(call, error if outcome is None else None, error, frames)
        for index in range(1, call.site.num_returns + 1):
            self.core.objects.store(call.number, index, error, frames)

    def settle(self, call: Call) -> None:
        """A call is done: its results are stored. Tell everybody."""
        call.state = DONE
        call.args, call.arguments, call.handle = None, [], None
        self._ready(call.number)
        if call.stream is not None:
            for key in list(call.stream.awaited):
                self._ready(key)
        if call.actor is not None:
            call.actor.running.discard(call)
            self.refresh(call.actor)
        if self.loose:
            self._serve()
        self.lock.notify_all()
        self._arm_keeper()

    def _ready(self, key: Key) -> None:
        """What was waited for is there."""
        del self.pending[key]
        for wait in self.waiting.pop(key, ()):
            wait.done += 1
        for queue, token in self.watchers.pop(key, {}).values():
            self.loose -= 1
            queue.complete(token)
        for dependent in self.dependents.pop(key, ()):
            dependent.missing -= 1
            if not dependent.missing and dependent.state != DONE:
                self._arguments_ready(dependent)

    # Streams

    def is_current(self, call: Call, run: int) -> bool:
        """Whether a run of a call still matters."""
        return not self.over and self.pending.get(call.number) is call and call.run == run

    def add_item(self, call: Call, run: int, value: LocalValue) -> None:
        """A call has made one more item."""
        with self.lock:
            if self.is_current(call, run) and call.stream is not None:
                self._append_item(call, call.stream, value)

    def _append_item(self, call: Call, stream: Stream, value: LocalValue, frames: TracebackType | None = None) -> None:
        stream.made += 1
        ref = self.core.objects.reference(call.number, stream.made)
        self.core.objects.store(call.number, stream.made, value, frames)
        if stream.has_reader:
            stream.items.append(ref)
        key = (call.number, stream.made)
        if key in stream.awaited:
            stream.awaited.remove(key)
            self._ready(key)
            self.lock.notify_all()

    def await_item(self, call: Call) -> ObjectRef[Any]:
        """Give a reference to the next item of a call that goes on. It is ready when that is made, or when there will be none."""
        assert call.stream is not None, "a call that gives its results one after another"
        key = (call.number, call.stream.made + 1)
        call.stream.awaited.add(key)
        self.pending[key] = call
        return self.core.objects.reference(*key)

    def give_credit(self, stream: Stream) -> None:
        """The reader has taken an item, or is gone."""
        for wait in stream.credit_waits:
            wait.done = 1
        for queue, token in stream.credit_watchers:
            queue.complete(token)
        stream.credit_watchers.clear()
        if stream.credit_waits:
            self.lock.notify_all()

    def wait_for_credit(self, call: Call, permit: Callable[[], bool | None]) -> bool:
        """Block a producer until its reader wants more.

        Returns:
            False: nobody reads.
        """
        assert call.stream is not None, "a call that gives its results one after another"
        started = time.monotonic()
        wait = Wait(call, [], 1, None)
        with self.lock:
            self.waits.append(wait)
            call.stream.credit_waits.append(wait)
            try:
                while (answer := permit()) is None:
                    wait.done = 0
                    self._block(wait, started)
            finally:
                call.stream.credit_waits.remove(wait)
                self.waits.remove(wait)
            return answer

    def _end_stream(self, call: Call, end: LocalValue | None, error: LocalValue | None = None, frames: TracebackType | None = None) -> None:
        """The call has ended. `end`: the error that its end object gets; `error`: its last item."""
        stream = call.stream
        assert stream is not None, "a call that gives its results one after another"
        objects = self.core.objects
        if error is not None:
            self._append_item(call, stream, error, frames)
        if end is None:
            end = objects.pickle(DynamicObjectRefGenerator(list(stream.items)) if stream.gathers else None)
        stream.end_value = end
        objects.store_end(call.number, end)
        if stream.gathers:
            stream.items.clear()
        self.give_credit(stream)

    # Waiting

    def key_of(self, ref: ObjectRef[Any]) -> Key:
        """Say what has to be waited for to have an object. It is ready when that is not in `pending`."""
        number = self.core.objects.call_of(ref)
        call = self.pending.get(number)
        if call is None or call.stream is None:
            return number
        index = self.core.objects.index_of(ref)
        return number if index is None else (number, index)

    def task_hex(self, number: int) -> str:
        """Give the id of a call in hex."""
        return self.core.objects.task_id(number).hex()

    def is_ready(self, key: Key) -> bool:
        """Whether it need not be waited for any more."""
        return key not in self.pending

    def watch(self, key: Key, queue: CompletionQueue, token: int) -> int | None:
        """Complete `token` when something is ready.

        Returns:
            The number of the wait; None if it already is.
        """
        with self.lock:
            if key not in self.pending:
                return None
            number = next(self._watch_numbers)
            self.watchers.setdefault(key, {})[number] = (queue, token)
            self.loose += 1
            self._serve()
            return number

    def unwatch(self, number: int) -> None:
        """Give a wait up; one that is over is no matter."""
        with self.lock:
            for watchers in self.watchers.values():
                if watchers.pop(number, None) is not None:
                    self.loose -= 1
                    return

    def wait(self, keys: list[Key], need: int, timeout_s: float | None) -> bool:
        """Block until `need` of them are ready, running them here if nothing else can be meant.

        Args:
            keys: What to wait for, one for each object.
            need: How many.
            timeout_s: Seconds, None without limit.

        Returns:
            False if the time was over before.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        wait = Wait(execution.running.get(), keys, need, deadline)
        may_run_here = deadline is None and need == len(keys) and self._thread.depth < INLINE_DEPTH_MAX and not execution.in_event_loop()
        with self.lock:
            wait.done = sum(key not in self.pending for key in keys)
            if wait.is_over():
                return True
            for key in keys:
                if key in self.pending:
                    self.waiting.setdefault(key, []).append(wait)
            self.waits.append(wait)
        try:
            return self._wait(wait, may_run_here)
        finally:
            with self.lock:
                self.waits.remove(wait)
                for key in keys:
                    waits = self.waiting.get(key)
                    if waits is not None and wait in waits:
                        waits.remove(wait)

    def _wait(self, wait: Wait, may_run_here: bool) -> bool:
        started = time.monotonic()
        while True:
            with self.lock:
                self.check()
                if wait.is_over():
                    return True
                call = self._take_for(wait) if may_run_here else None
                if call is None:
                    if wait.deadline is not None and time.monotonic() >= wait.deadline:
                        return False
                    self._block(wait, started)
            if call is not None:
                self._run_here(call)

    def _take_for(self, wait: Wait) -> Call | None:
        """Claim the call that a wait needs next: one of its own, or one that these depend on."""
        while wait.path and wait.path[-1].state == DONE:
            wait.path.pop()
        while wait.order and wait.order[0] not in self.pending:
            wait.order.popleft()
        starts = [wait.path[-1]] if wait.path else []
        for start in (*starts, *(self.pending[key] for key in wait.order if key in self.pending)):
            call = self._descend(wait, start)
            if call is not None:
                self._claim(call)
                return call
        return None

    def _descend(self, wait: Wait, call: Call) -> Call | None:
        """Follow what a call waits for to one that can be started; None if that runs already."""
        path = []
        found: Call | None = call
        while found is not None:
            path.append(found)
            if found.missing:
                found = next((self.pending[key] for key in map(self.key_of, found.arguments) if key in self.pending), None)
            elif found.stream is not None:
                return None  # it runs ahead of its reader, in a helper
            elif found.number in self.ready_methods or (found.actor is None and found.state == QUEUED):
                wait.path += path
                return found
            elif found.state == QUEUED and found.actor is not None and not found.actor.running:
                head = found.actor.mailbox[0]
                found = None if head is found else head
            else:
                found = None
        return None

    def _block(self, wait: Wait, started: float) -> None:
        """Let others work until something has changed."""
        me = threading.get_ident()
        counted = self._thread.cpus
        self.blocked[me] = wait
        self.busy -= counted
        self.loose += wait.deadline is not None
        try:
            self._serve()
            timeout_s = RECHECK_S if wait.deadline is None else wait.deadline - time.monotonic()
            if wait.deadline is None:
                self._refuse_stall(wait, started)
            self.lock.wait(max(0.0, timeout_s))
        finally:
            self.loose -= wait.deadline is not None
            self.busy += counted
            del self.blocked[me]

    def _refuse_stall(self, wait: Wait, started: float) -> None:
        """Raise if the wait can never end; warn, once, if it looks so."""
        if stalls.is_stalled(self, certain=True):
            raise stalls.deadlock(self, wait)
        waited_s = time.monotonic() - started
        if waited_s > WARN_AFTER_S and not wait.warned and stalls.is_stalled(self, certain=False):
            wait.warned = True
            logger.warning("%s", stalls.warning(self, wait, waited_s))

    # Actors

    def actor_error(self, actor: LocalActor, code: str, text: str, cause: LocalValue | None = None) -> LocalValue:
        """Make the value that the calls of an actor get."""
        fields = {"actor_id": self.core.objects.actor_id(actor.number).hex(), "class_name": actor.class_name, "message": text}
        return self.core.objects.failed(code, fields, cause)

    def end_actor(self, actor: LocalActor, why: str) -> None:
        """An actor ends for a reason other than its constructor."""
        self.bury(actor, self.actor_error(actor, "actor_died", f"the actor {actor.class_name} is dead: {why}"))

    def bury(self, actor: LocalActor, death: LocalValue) -> None:
        """The actor is gone: its calls fail, and later ones will."""
        actor.death = death
        self._drop_instance(actor)
        calls = [*actor.running, *actor.mailbox]
        actor.mailbox.clear()
        for call in calls:
            self.ready_methods.pop(call.number, None)
            self.store_error(call, death)
            self.settle(call)

    def kill(self, actor: LocalActor, no_restart: bool) -> None:
        """End an actor at once, or restart it. A call that runs in a thread can't be stopped: its result is thrown away."""
        with self.lock:
            if actor.death is not None:
                return
            if no_restart or actor.restarts_left == 0:
                self.end_actor(actor, "it was killed by ray.kill")
                return
            actor.restarts_left -= actor.restarts_left > 0
            interrupted, actor.is_alive = list(actor.running), False
            actor.running.clear()
            self._drop_instance(actor)
            actor.incarnation += 1
            unavailable = self.actor_error(
                actor, "actor_unavailable", f"the actor {actor.class_name} was killed by ray.kill during the call and is being restarted"
            )
            for call in sorted(interrupted, key=lambda call: -call.number):
                if call.may_retry():
                    call.attempt += 1
                    call.queue()
                    actor.mailbox.appendleft(call)
                else:
                    self.store_error(call, unavailable)
                    self.settle(call)
            self.core.construct(actor)
            self._serve()

    def _drop_instance(self, actor: LocalActor) -> None:
        actor.instance = None
        if actor.loop is not None:
            loop, actor.loop = actor.loop, None
            loop.loop.call_soon_threadsafe(loop.loop.stop)

    def _actor_unneeded(self, number: int) -> None:
        leaving = None
        with self.lock:
            actor = self.actors.get(number)
            if actor is None or self.core.objects.is_actor_referred(number):
                return
            if actor.death is None and not actor.detached:
                leaving = actor.instance
                self.end_actor(actor, "every handle to it went out of scope")
            if actor.death is not None:
                del self.actors[number]
        say_farewell(leaving)

    # The end

    def check(self) -> None:
        """Refuse to go on after the end.

        Raises:
            RayError: The session has ended.
        """
        if self.over:
            raise system_error({"code": "daemon_died", "message": "the session has ended: ray.shutdown() was called"})

    def end(self) -> None:
        """Stop everything that can be stopped; what waits is told."""
        with self.lock:
            self.over = True
            never_run = [call.name for key, call in self.pending.items() if key == call.number and not call.run and not call.is_constructor]
            watchers = [entry for entries in self.watchers.values() for entry in entries.values()]
            self.watchers.clear()
            actors, helpers = list(self.actors.values()), self.idle_helpers
            loops = [actor.loop for actor in actors if actor.loop is not None]
            self.idle_helpers = []
            self.actors.clear()
            self.lock.notify_all()
        if never_run:
            names = ", ".join(list(dict.fromkeys(never_run))[:5])
            logger.warning("the session ended before %d calls that nothing waited for were run: %s", len(never_run), names)
        for queue, token in watchers:
            queue.complete(token)
        for helper in helpers:
            helper.inbox.put(None)
        for loop in loops:
            loop.end()
        self.keeper.end()
        for helper in helpers:
            if helper is not threading.current_thread():
                helper.join()
        for actor in actors:
            actor.instance = None
        self.pending.clear()
