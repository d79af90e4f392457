"""`LocalCore`: the engine of a session in local mode, with the interface of `ray._native.Core` (tests/unit/test_local_interface.py holds it to that)."""

from __future__ import annotations

import itertools
import math
import os
import platform
import threading
import time

from ray._core.calls.strategies import NODE_ID_LABEL
from ray._core.cluster.accelerators import RESOURCES as DEVICES
from ray._core.errors import system_error
from ray._core.generators import ObjectRefGenerator
from ray._core.local import cancelling, execution, stalls
from ray._core.local.actors import ActorLoop, LocalActor
from ray._core.local.calls import Call, CallSite
from ray._core.local.groups import LocalGroups, place_of
from ray._core.local.scheduler import Scheduler
from ray._core.local.streams import LocalStream
from ray._core.worker.payloads import callable_of, function_name
from ray._native import LocalObjects
from ray.exceptions import ActorAlreadyExistsError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from ray._native import CompletionQueue, LocalValue, ObjectRef


class LocalCore:
    """Objects, calls and actors of one process."""

    def __init__(
        self, resources: dict[str, float], namespace: str, job_env: str, labels: Mapping[str, str] | None = None, actor_lifetime: str = "non_detached"
    ) -> None:
        self.total = resources
        self.namespace = namespace
        self.job_env = job_env
        self.labels = labels or {}
        self.actor_lifetime = actor_lifetime
        self.node_id = os.urandom(28)
        self._numbers = itertools.count(1)
        self._driver_call = next(self._numbers)
        self._names: dict[tuple[str, str], LocalActor] = {}
        self._kept: dict[bytes, bytes] = {}
        self._groups = LocalGroups(resources, {**self.labels, NODE_ID_LABEL: self.node_id.hex()})
        self._started_ms = time.time_ns() // 1_000_000
        self.scheduler = Scheduler(self, resources.get("CPU", 0.0), self._started_ms * 1000 - time.monotonic_ns() // 1000)
        self.objects = LocalObjects(self.scheduler.keeper.note_unneeded, self.scheduler.unwatch)
        self.objects.install()

    def shutdown(self, exiting: bool) -> None:  # noqa: ARG002  there is no process to be waited for
        """End the session. Idempotent."""
        if not self.scheduler.over:
            self.scheduler.end()
            self.objects.close()
            self._names.clear()

    def mark_forked(self) -> None:
        """In the child of a fork: the session is the parent's, and so are its threads, one of which may hold the lock."""
        self.scheduler.over = True
        self.scheduler.lock = threading.Condition()
        self.objects.close()

    def is_alive(self) -> bool:
        """Until the end."""
        return not self.scheduler.over

    @property
    def proc_id(self) -> int:
        """The one process of the session."""
        return 1

    @property
    def daemon_pid(self) -> int:
        """There is no daemon: this process."""
        return os.getpid()

    # objects

    def put(self, value: Any) -> ObjectRef[Any]:
        """As `Core.put`."""
        self.scheduler.check()
        pickled = self.objects.pickle(value)
        number = next(self._numbers)
        ref = self.objects.reference(number, 0)
        self.objects.store(number, 0, pickled)
        return ref

    def get(self, refs: Sequence[ObjectRef[Any]], timeout_s: float | None) -> list[Any]:
        """As `Core.get`."""
        keys = list(map(self.scheduler.key_of, refs))
        if not self.scheduler.wait(keys, len(keys), timeout_s):
            ready = sum(map(self.scheduler.is_ready, keys))
            text = f"get timed out after {timeout_s} s: {ready} of {len(keys)} objects are ready"
            raise system_error({"code": "get_timeout", "message": text})
        return list(map(self.objects.value, refs))

    def wait(
        self,
        refs: Sequence[ObjectRef[Any]],
        num_returns: int,
        timeout_s: float | None,
        fetch_local: bool,  # noqa: ARG002  everything is here
    ) -> tuple[list[ObjectRef[Any]], list[ObjectRef[Any]]]:
        """As `Core.wait`."""
        if len(set(refs)) < len(refs):
            raise ValueError("ray.wait takes different ObjectRefs, got duplicates\nhint: pass list(set(refs))")
        keys = list(map(self.scheduler.key_of, refs))
        self.scheduler.wait(keys, num_returns, timeout_s)
        ready = [at for at, key in enumerate(keys) if self.scheduler.is_ready(key)][:num_returns]
        chosen = set(ready)
        return [refs[at] for at in ready], [ref for at, ref in enumerate(refs) if at not in chosen]

    def watch(self, queue: CompletionQueue, ref: ObjectRef[Any], token: int) -> int | None:
        """For `CompletionQueue.watch`."""
        return self.scheduler.watch(self.scheduler.key_of(ref), queue, token)

    # calls

    def submit(self, site: CallSite, args: tuple[Any, ...], kwargs: dict[str, Any], handle: ObjectRef[Any] | None, max_pending: int) -> Any:
        """Submit a call, for `LocalTemplate`.

        Args:
            site: Its call site.
            args: Positional arguments.
            kwargs: Keyword arguments.
            handle: The actor's handle object, None for a task.
            max_pending: Unfinished calls that the actor may have, -1 without limit.

        Returns:
            A reference, a list of them, None, or a generator, as `num_returns` says.
        """
        scheduler, objects = self.scheduler, self.objects
        scheduler.check()
        pickled, arguments = objects.pickle_args(args, kwargs)
        actor = None if handle is None else scheduler.actors.get(objects.call_of(handle))
        call = Call(next(self._numbers), site, pickled, arguments, actor)
        call.handle, call.parent = handle, execution.running.get()
        call.place = place_of(site.strategy, site.follows, self._place()) if actor is None else actor.place
        result = self._results(call)
        with scheduler.lock:
            failure = self._refusal(call, handle, actor, max_pending)
            if failure is None:
                scheduler.submit(call)
            else:
                scheduler.store_error(call, failure)
        return result

    def _results(self, call: Call) -> Any:
        """What the caller gets."""
        if call.stream is not None and call.stream.gathers:
            return self.objects.end(call.number)
        if call.stream is not None:
            stream: Any = LocalStream(self, call)
            return ObjectRefGenerator(stream)
        refs = [self.objects.reference(call.number, index) for index in range(1, call.site.num_returns + 1)]
        if not refs:
            return None
        return refs[0] if len(refs) == 1 else refs

    def _place(self) -> tuple[Any, ...]:
        """Where the caller is."""
        call = execution.running.get()
        return ("default",) if call is None else call.place

    def _refusal(self, call: Call, handle: ObjectRef[Any] | None, actor: LocalActor | None, max_pending: int) -> LocalValue | None:
        """The error of a call that can't run; None if it can.

        Raises:
            PendingCallsLimitExceeded: The actor has as many calls as it may have.
        """
        site = call.site
        if handle is None:
            refusal = self._groups.refusal(call.place)
            if refusal is not None:
                return self.objects.failed(refusal[0], {"message": f"{site.name}: {refusal[1]}"})
            text = self._infeasible(site.resources)
            return None if text is None else self.objects.failed("unschedulable", {"message": f"{site.name}: {text}"})
        if actor is None:
            return self.objects.failed("actor_died", {"actor_id": handle.actor_id_binary().hex(), "message": "the actor is unknown: it has ended"})
        if actor.death is not None:
            return actor.death
        if 0 <= max_pending <= sum(not call.is_constructor for call in (*actor.mailbox, *actor.running)):
            text = (
                f"{site.name}: {max_pending} calls of this process are pending, which is the actor's max_pending_calls.\n"
                "hint: wait for some of them, or raise max_pending_calls"
            )
            raise system_error({"code": "pending_calls", "message": text})
        return None

    def _infeasible(self, resources: dict[str, float]) -> str | None:
        lacks = [f"{name}: asked {need:g}, there are {self.total.get(name, 0.0):g}" for name, need in resources.items() if need > self.total.get(name, 0.0)]
        if not lacks:
            return None
        return f"the request can never be satisfied ({'; '.join(lacks)})\nhint: ask for less, or declare more with ray.init(num_cpus=..., num_gpus=..., resources={{...}})"

    # actors

    def create_actor(
        self,
        *,
        payload: bytes,
        class_name: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        resources: dict[str, float],
        placement_resources: dict[str, float],
        strategy: tuple[Any, ...] = ("default",),
        follows: bool = False,
        env: str,
        max_restarts: int,
        max_concurrency: int,
        is_async: bool,
        name: str,
        namespace: str,
        detached: bool,
        get_if_exists: bool,
    ) -> tuple[ObjectRef[Any], bytes | None]:
        """As `Core.create_actor`."""
        self.scheduler.check()
        with self.scheduler.lock:
            existing = self._living(namespace, name)
            if existing is not None and get_if_exists:
                return self.objects.actor(existing.number), existing.payload
            if existing is not None:
                raise ActorAlreadyExistsError(
                    f"there is an actor named {name!r} in this namespace already\nhint: get it with ray.get_actor, or pass get_if_exists=True"
                )
            pickled, arguments = self.objects.pickle_args(args, kwargs)
            number = next(self._numbers)
            actor = LocalActor(number, payload, class_name)
            actor.name, actor.namespace, actor.detached = name, namespace, detached
            actor.env, actor.resources = env, resources
            actor.place = place_of(strategy, follows, self._place())
            actor.restarts_left, actor.max_concurrency, actor.is_async = max_restarts, max_concurrency, is_async
            handle = self.objects.actor(number)
            self.scheduler.actors[number] = actor
            text, refusal = self._infeasible(placement_resources) or self._infeasible(resources), self._groups.refusal(actor.place)
            if refusal is not None:
                code = "actor_group_removed" if refusal[0] == "task_group_removed" else refusal[0]
                actor.death = self.scheduler.actor_error(actor, code, f"actor {class_name}: {refusal[1]}")
            elif text is not None:
                actor.death = self.scheduler.actor_error(actor, "unschedulable", f"actor {class_name}: {text}")
            else:
                if name:
                    self._names[namespace, name] = actor
                actor.creation = (pickled, arguments)
                self.construct(actor)
            return handle, None

    def construct(self, actor: LocalActor) -> None:
        """Submit the constructor of an actor that is new or is restarted."""
        assert actor.creation is not None, "kept while the actor may be restarted"
        site = CallSite(f"{actor.class_name}.__init__", actor.payload, num_returns=0)
        number = next(self._numbers) if actor.incarnation else actor.number
        call = Call(number, site, *actor.creation, actor)
        call.is_constructor, call.attempt, call.place = True, actor.incarnation, actor.place
        call.handle = self.objects.actor(actor.number)
        if actor.restarts_left == 0:
            actor.creation = None
        self.scheduler.submit(call)

    def loop_of(self, actor: LocalActor) -> ActorLoop:
        """Give the event loop of an async actor, starting it."""
        if actor.loop is None:
            actor.loop = ActorLoop(self, actor, self.scheduler.finished)
        return actor.loop

    def _living(self, namespace: str, name: str) -> LocalActor | None:
        actor = self._names.get((namespace, name))
        return None if actor is None or actor.death is not None else actor

    def get_actor(self, name: str, namespace: str) -> tuple[ObjectRef[Any], bytes] | None:
        """As `Core.get_actor`."""
        self.scheduler.check()
        with self.scheduler.lock:
            actor = self._living(namespace, name)
            return None if actor is None else (self.objects.actor(actor.number), actor.payload)

    def list_named_actors(self, all_namespaces: bool, namespace: str) -> list[tuple[str, str]]:
        """As `Core.list_named_actors`."""
        with self.scheduler.lock:
            living = [key for key, actor in self._names.items() if actor.death is None]
        return sorted(key for key in living if all_namespaces or key[0] == namespace)

    def kill_actor(self, actor: ObjectRef[Any], no_restart: bool) -> None:
        """As `Core.kill_actor`."""
        found = self.scheduler.actors.get(self.objects.call_of(actor))
        if found is not None:
            self.scheduler.kill(found, no_restart)

    def cancel(self, reference: ObjectRef[Any], force: bool, recursive: bool) -> None:
        """As `Core.cancel`."""
        cancelling.cancel(self, reference, force, recursive)

    def is_canceled(self) -> bool:
        """As `Core.is_canceled`."""
        call = execution.running.get()
        return call is not None and call.cancelled_by is not None

    def current_actor(self) -> tuple[ObjectRef[Any], bytes] | None:
        """As `Core.current_actor`, for the actor whose call this thread or coroutine runs."""
        call = execution.running.get()
        if call is None or call.actor is None:
            return None
        return self.objects.actor(call.actor.number), call.actor.payload

    # placement groups

    def create_group(
        self,
        *,
        bundles: list[dict[str, float]],
        selectors: list[list[tuple[str, list[str], bool]]],
        strategy: str,
        domain: str,
        name: str,
        namespace: str,
        detached: bool,
        soft_node: bytes,  # noqa: ARG002  there is one node
    ) -> bytes | None:
        """As `Core.create_group`."""
        self.scheduler.check()
        with self.scheduler.lock:
            described = {"name": name, "namespace": namespace, "strategy": strategy, "detached": detached, "bundles": bundles}
            return self._groups.create(self.objects.job_id(), selectors, domain, described)

    def remove_group(self, group: bytes) -> None:
        """As `Core.remove_group`."""
        self.scheduler.check()
        self._groups.remove(group)

    def group_ready(self, group: bytes, value: Any) -> ObjectRef[Any]:
        """As `Core.group_ready`. A group that does not fit never will: that is an error."""
        failure = self._groups.failure(group)
        if failure is None:
            return self.put(value)
        number = next(self._numbers)
        ref = self.objects.reference(number, 0)
        self.objects.store(number, 0, self.objects.failed(failure[0], {"message": failure[1]}))
        return ref

    def groups(self, group: bytes | None = None, name: tuple[str, str] | None = None) -> list[dict[str, Any]]:
        """As `Core.groups`."""
        self.scheduler.check()
        return self._groups.find(group, name)

    # introspection

    def running_name(self) -> str:
        """As `Core.running_name`."""
        call = execution.running.get()
        return "" if call is None else call.name

    def function_name(self) -> str | None:
        """For `ray._core.introspection.function_name`."""
        call = execution.running.get()
        if call is None or call.is_constructor:
            return None if call is None else call.name  # the class is known when it has run
        fields = call.site.fields
        return function_name(callable_of(fields, None if call.actor is None else call.actor.instance), fields)

    def holdings(self) -> list[tuple[str, bytes, str, int]]:
        """As `Core.holdings`."""
        with self.scheduler.lock:
            calls = [("call", self.objects.task_id(call.number), call.name, 0) for key, call in self.scheduler.pending.items() if key == call.number]
            living = [actor for actor in self.scheduler.actors.values() if actor.death is None]
            actors = [("actor", self.objects.actor(actor.number).binary(), actor.class_name, 0) for actor in living]
        return [*(("object", object_id, "", size) for object_id, size in self.objects.sizes()), *actors, *calls]

    def timeline(self) -> list[dict[str, Any]]:
        """For `ray.timeline`: all is one row, or several where calls ran side by side."""
        from ray._core.cluster.timeline import trace

        with self.scheduler.lock:
            return trace(list(self.scheduler.records), self.nodes(), [self.proc_id])

    def explain(self, subject: tuple[str, Any]) -> str:
        """For `ray._core.why.explain`."""
        return self._groups.tell(subject[1]) if subject[0] == "group" else stalls.tell(self.scheduler, subject)

    def table_sizes(self) -> tuple[int, int, int, int]:
        """As `Core.table_sizes`."""
        with self.scheduler.lock:
            return len(self.objects), len(self.scheduler.pending), 0, len(self.scheduler.waits)

    def resources(self) -> tuple[dict[str, float], dict[str, float]]:
        """As `Core.resources`. Nothing is held: resources are looked at, not counted."""
        self.scheduler.check()
        return dict(self.total), dict(self.total)

    def nodes(self) -> list[dict[str, Any]]:
        """As `Core.nodes`: this process."""
        total, available = self.resources()
        return [
            {
                "index": 0,
                "node_id": self.node_id,
                "address": "",
                "host": platform.node(),
                "pid": os.getpid(),
                "total": total,
                "available": available,
                "labels": dict(self.labels),
                "python": ".".join(platform.python_version_tuple()[:2]),
                "started_ms": self._started_ms,
                "death": "",
                "waiting": 0,
                "store_used": sum(size for _, size in self.objects.sizes()),
            }
        ]

    def jobs(self) -> list[dict[str, Any]]:
        """As `Core.jobs`: the one that this process is."""
        job = int.from_bytes(self.objects.job_id(), "little")
        times = {"started_ms": self._started_ms, "ended_ms": 0}
        return [{"job": job, "driver_proc": self.proc_id, "entrypoint": "", "namespace": self.namespace, **times}]

    # what a head keeps

    def kv_put(self, key: bytes, value: bytes, overwrite: bool) -> bool:
        """As `Core.kv_put`."""
        with self.scheduler.lock:
            existed = key in self._kept
            if overwrite or not existed:
                self._kept[key] = value
            return existed

    def kv_get(self, key: bytes) -> bytes | None:
        """As `Core.kv_get`."""
        return self._kept.get(key)

    def kv_del(self, key: bytes, is_prefix: bool) -> int:
        """As `Core.kv_del`."""
        with self.scheduler.lock:
            gone = self.kv_keys(key) if is_prefix else [key] if key in self._kept else []
            for one in gone:
                del self._kept[one]
            return len(gone)

    def kv_exists(self, key: bytes) -> bool:
        """As `Core.kv_exists`."""
        return key in self._kept

    def kv_keys(self, prefix: bytes) -> list[bytes]:
        """As `Core.kv_keys`."""
        return sorted(key for key in list(self._kept) if key.startswith(prefix))

    def context(self) -> dict[str, Any]:
        """As `Core.context`."""
        call = execution.running.get()
        actor = None if call is None else call.actor
        held = actor.resources if actor is not None else call.site.resources if call is not None else {}
        env = actor.env if actor is not None else call.site.env if call is not None else self.job_env
        return {
            "task_id": self.objects.task_id(self._driver_call if call is None else call.number),
            "in_task": call is not None,
            "actor_id": b"" if actor is None else self.objects.actor_id(actor.number),
            "task_name": "" if call is None else call.name,
            "resources": dict(held),
            "actor_name": "" if actor is None else actor.name,
            "attempt": 0 if call is None else call.attempt,
            "devices": {name: list(range(math.ceil(held[name]))) for name in DEVICES if held.get(name)},
            "payload": b"" if call is None else call.site.payload,
            "actor_lifetime": self.actor_lifetime,
            "worker_id": self.node_id[::-1],
            "node_id": self.node_id,
            "job_id": self.objects.job_id(),
            "placement_group": self._place()[1] if self._place()[0] == "group" else b"",
            "captures_children": bool(self._place()[0] == "group" and self._place()[3]),
            "was_restarted": actor is not None and actor.incarnation > 0,
            "namespace": self.namespace,
            "env": env,
        }
