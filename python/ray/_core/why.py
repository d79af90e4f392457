"""Why something waits, or what ended it: a walk over the records that the engine itself decides from.

Each fact has one writer, and the walk asks that one: an object's owner, the process that runs a call, the node for actors and resources. The engine
threads answer, so a process whose Python is busy answers too. What is told is true at the moment of asking, step by step.
"""

from __future__ import annotations

import dataclasses

from ray import _native
from ray._core import session

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from ray._native import Core

    Fact = dict[str, Any]

NODE = 0
NAMED = 6
"""Members of a list that are told one by one; the others are counted."""
DEEPEST = 40
SHORT_LINE = 3
"""Calls that wait for each other in a row and are told one by one."""
_INDEX_BYTES = 4


@dataclasses.dataclass(frozen=True)
class Explanation:
    """What something waits for, or what ended it.

    Attributes:
        text: The whole answer: one line per fact, indented under what it explains.
        causes: Where the walk ended: what has to change for the wait to end, or what ended it.
        cycle: Calls that wait for each other in a circle, empty if there is none.
    """

    text: str
    causes: tuple[str, ...]
    cycle: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.text


def explain(core: Core, subject: tuple[str, Any]) -> Explanation:
    """Explain one thing.

    Args:
        core: The engine to ask through.
        subject: ("object", 28 bytes), ("actor", 28 bytes of its handle's object), ("process", number), ("group", 18 bytes), or ("everything", None).

    Returns:
        The explanation.

    Raises:
        RaySystemError: The session is over.
    """
    if session.is_local():
        local: Any = core
        text: str = local.explain(subject)
        return Explanation(text, tuple(line.strip() for line in text.splitlines()[-1:]))
    walk = _Walk(core)
    kind, what = subject
    match kind:
        case "object":
            walk.object(what, 0)
        case "actor":
            walk.actor(what, 0)
        case "process":
            walk.process(what, 0)
        case "group":
            walk.group(what, 0)
        case _:
            walk.everything()
    return Explanation("\n".join(walk.lines), tuple(dict.fromkeys(walk.causes)), tuple(walk.cycle))


def subject_from_hex(text: str, node_id: bytes) -> tuple[str, Any]:
    """Find out what an id in hex is the id of.

    Args:
        text: Id of an object, task, actor, worker or placement group, as Ray prints them.
        node_id: Id of this session's node.

    Returns:
        A subject for `explain`.

    Raises:
        ValueError: It is none of these.
    """
    try:
        raw = bytes.fromhex(text)
    except ValueError:
        raw = b""
    match len(raw):
        case 28 if raw[8:] == node_id[:20]:
            return "process", int.from_bytes(raw[:8], "big")
        case 28 if raw[24:] == _ACTOR_INDEX:
            return "actor", raw
        case 28:
            return "object", raw
        case 24:
            return "object", raw + (1).to_bytes(_INDEX_BYTES, "little")
        case 16:
            return "actor", _handle_of(raw)
        case 18:
            return "group", raw
    raise ValueError(
        f"{text!r} is no id of an object (56 hex digits), task (48), actor (32), placement group (36) or worker (56)\nhint: ref.hex(), or an id from an error's text"
    )


_ACTOR_INDEX = ((1 << 24) - 1).to_bytes(_INDEX_BYTES, "little")


def _handle_of(actor_id: bytes) -> bytes:
    """Give the object of an actor's handle. Layout: crates/ray-proto/src/ids.rs."""
    job = int.from_bytes(actor_id[12:], "little")
    owner = (job << 40) | int.from_bytes(actor_id[6:12], "big")  # the lowest byte of the job stands in both
    task = b"\0\0\0" + actor_id[:5] + owner.to_bytes(8, "big") + b"\0\0\0\0" + job.to_bytes(4, "little")
    return task + _ACTOR_INDEX


def _owner_of(object_id: bytes) -> int:
    return int.from_bytes(object_id[8:16], "big")


def _age(us: int) -> str:
    return f"{us / 1e6:.1f} s"


def _by_kind(facts: Iterable[Fact]) -> dict[str, list[Fact]]:
    kinds: dict[str, list[Fact]] = {}
    for fact in facts:
        kinds.setdefault(fact["fact"], []).append(fact)
    return kinds


class _Walk:
    def __init__(self, core: Core) -> None:
        self.core = core
        self.lines: list[str] = []
        self.causes: list[str] = []
        self.cycle: list[str] = []
        self._path: list[tuple[Any, str]] = []
        self._told: set[Any] = set()

    # ---- saying

    def _say(self, depth: int, text: str) -> None:
        first, *more = text.splitlines() or [""]
        self.lines.append("  " * depth + first)
        self.lines.extend("  " * depth + "  " + line for line in more)

    def _cause(self, depth: int, text: str) -> None:
        self._say(depth, text)
        self.causes.append(text)

    def _enter(self, key: Any, member: str, depth: int, label: str = "the same") -> bool:
        """False: it was told already, or it closes a circle, which is said."""
        keys = [known for known, _ in self._path]
        if key in keys:
            members = [name for _, name in self._path[keys.index(key) :] if name]
            self.cycle = members
            ring = " -> ".join([*members, members[0]]) if members else label
            self._cause(depth, f"a circle: {ring}. Each waits for the next, so none of them can go on.")
            self._say(depth, "hint: don't wait inside these calls for each other: pass the reference on, or make the actor async or threaded")
            return False
        if key in self._told:
            self._say(depth, f"{label}: see above")
            return False
        if depth > DEEPEST:
            self._say(depth, "and so on: it goes deeper than is told here")
            return False
        self._told.add(key)
        self._path.append((key, member))
        return True

    def _leave(self) -> None:
        self._path.pop()

    # ---- asking

    def _ask(self, whom: int, *subject: Any) -> list[Fact] | None:
        return _native.ask_about(self.core, whom, subject)

    def _node(self, *subject: Any) -> dict[str, list[Fact]]:
        return _by_kind(self._ask(NODE, *subject) or [])

    def _who(self, proc: int) -> str:
        facts = self._node("process", proc)
        for fact in facts.get("process", []):
            return f"the driver (pid {fact['pid']})" if fact["role"] == "driver" else f"the worker with pid {fact['pid']}"
        return "a process that has ended"

    # ---- objects and calls

    def object(self, object_id: bytes, depth: int) -> None:
        name = f"object {object_id.hex()}"
        if not self._enter(("object", object_id), "", depth):
            return
        facts = self._ask_owner(object_id)
        if facts is None:
            self._say(depth, f"{name} belongs to a process that does not answer:")
            self.process(_owner_of(object_id), depth + 1)
        else:
            self._object_facts(name, object_id, _by_kind(facts), depth)
        self._leave()

    def _ask_owner(self, object_id: bytes) -> list[Fact] | None:
        """What an object's owner knows of it; None if it does not answer."""
        owner = _owner_of(object_id)
        return self._ask(owner, "object", object_id) if self._reachable(owner) else None

    def _missing(self, object_id: bytes) -> list[bytes]:
        """The arguments that the call which makes an object waits for."""
        return [one for fact in _by_kind(self._ask_owner(object_id) or []).get("needs_arguments", []) for one in fact["missing"]]

    def _reachable(self, proc: int) -> bool:
        """Asking the dead and the stopped would only cost time."""
        return any(not fact["stopped"] for fact in self._node("process", proc).get("process", []))

    def _object_facts(self, name: str, object_id: bytes, kinds: dict[str, list[Fact]], depth: int) -> None:
        for fact in kinds.get("ready", []):
            if fact["is_error"]:
                self._cause(depth, f"{name} is ready: its call failed with {_describe(fact['error'])}")
            else:
                self._cause(depth, f"{name} is ready: nothing waits for it")
        for _ in kinds.get("unknown", []):
            self._cause(depth, f"{name} is not known to its owner, {self._who(_owner_of(object_id))}: it was freed, or never made")
        if "handle" in kinds:
            self.actor(object_id, depth)
        for fact in kinds.get("awaits_group", []):
            self._say(depth, f"{name} becomes ready with its placement group:")
            self.group(fact["group"], depth + 1)
        for fact in kinds.get("call", []):
            self._call(fact, object_id, kinds, depth)

    def _call(self, call: Fact, object_id: bytes, kinds: dict[str, list[Fact]], depth: int) -> None:
        caller = self._who(_owner_of(object_id))
        again = f", attempt {call['attempt'] + 1}" if call["attempt"] else ""
        self._say(depth, f"{call['name']} (task {object_id[:24].hex()}{again}) has not finished; called by {caller} {_age(call['age_us'])} ago")
        for fact in kinds.get("cancel_asked", []):
            how = " by force" if fact["force"] else ""
            self._say(depth + 1, f"it was cancelled{how} {_age(fact['age_us'])} ago by {fact['by']}, and goes on until its code notices")
        for fact in kinds.get("needs_arguments", []):
            self._say(depth + 1, "it waits for its arguments:")
            self._arguments(fact["missing"], depth + 2)
        for fact in kinds.get("needs_worker", []):
            self._needs_worker(_owner_of(object_id), fact, depth + 1)
        for fact in kinds.get("at_worker", []):
            if fact["ahead"]:
                self._say(depth + 1, f"it is in line at a worker behind {len(fact['ahead'])} calls")
            self.process(fact["worker"], depth + 1)
        for fact in kinds.get("at_actor", []):
            before = f" behind {fact['ahead']} other calls of the same caller" if fact["ahead"] else ""
            self._say(depth + 1, f"it {'was sent to' if fact['sent'] else 'waits for'} its actor{before}:")
            self.actor(fact["actor"], depth + 2)

    def _arguments(self, missing: list[bytes], depth: int) -> None:
        """Of a long line of calls, each of which waits for the one before, only the first is told: what it waits for holds up the others."""
        line = missing[:1]
        while len(missing) == 1 and len(before := self._missing(line[-1])) == 1 and before[0] not in line:
            line += before
        if len(line) > SHORT_LINE:
            self._told.update(("object", one) for one in line[:-1])
            self._say(depth, f"a line of {len(line) - 1} calls, each of which waits for the one before it, down to:")
            self.object(line[-1], depth)
        else:
            self._objects(missing, depth)

    def _objects(self, ids: list[bytes], depth: int) -> None:
        for one in ids[:NAMED]:
            self.object(one, depth)
        if len(ids) > NAMED:
            self._say(depth, f"and {len(ids) - NAMED} more")

    def _needs_worker(self, owner: int, fact: Fact, depth: int) -> None:
        if fact["ahead"]:
            self._say(depth, f"it is in line behind {fact['ahead']} calls of its kind, which {len(fact['workers'])} workers run now")
        self._request(self._node("class", owner, fact["class"]), depth)

    def _request(self, kinds: dict[str, list[Fact]], depth: int) -> None:
        """What is asked for, what there is, and who holds the rest."""
        wants = (kinds.get("wants") or [{"shape": "?", "infeasible": ""}])[0]
        if wants["infeasible"]:
            return self._cause(depth, wants["infeasible"])
        for fact in kinds.get("in_group", []):
            if not self._group_is_there(fact["group"], fact["bundle"], depth):
                return None
        for room in kinds.get("room", []):
            self._say(depth, f"it waits for a worker and {{{wants['shape']}}}: of {{{room['total']}}} {{{room['available']}}} are free")
            if room["trouble"]:
                return self._cause(depth + 1, f"no worker could be started: {room['trouble']}")
            if room["starting_workers"]:
                self._say(depth + 1, f"{room['starting_workers']} workers are starting")
        return self._holders(kinds.get("process", []), depth + 1)

    def _holders(self, holders: list[Fact], depth: int) -> None:
        for fact in holders[:NAMED]:
            self.process(fact["proc"], depth)
        if len(holders) > NAMED:
            self._say(depth, f"and {len(holders) - NAMED} more processes hold resources")

    # ---- placement groups

    def group(self, group_id: bytes, depth: int) -> None:
        name = f"placement group {group_id.hex()}"
        if not self._enter(("group", group_id), "", depth, name):
            return
        facts = self._node("group", group_id).get("group", [])
        if not facts:
            self._cause(depth, f"{name} is not known: it was removed long ago, or never created")
        for fact in facts:
            info = fact["info"]
            named = f" {info['name']!r}" if info["name"] else ""
            state = f"placement group{named} {group_id.hex()} ({info['strategy']}, {len(info['bundles'])} bundles) is {info['state']}"
            self._cause(depth, f"{state}: {info['why']}" if info["why"] else state)
            for at, node in enumerate(info["nodes"][:NAMED] if info["state"] != "REMOVED" else []):
                self._say(depth + 1, f"bundle {at} {info['bundles'][at]}: " + ("has no node" if node is None else f"on node {node}"))
        self._leave()

    def _group_is_there(self, group_id: bytes, bundle: int, depth: int) -> bool:
        """Say what of a group is asked for. False: the group itself is what is waited for."""
        which = "any bundle" if bundle < 0 else f"bundle {bundle}"
        infos = [fact["info"] for fact in self._node("group", group_id).get("group", [])]
        if infos and infos[0]["state"] == "CREATED":
            self._say(depth, f"it is to run in {which} of placement group {group_id.hex()}, which is there")
            return True
        self._say(depth, f"it is to run in {which} of its placement group, which is not whole:")
        self.group(group_id, depth + 1)
        return False

    # ---- actors

    def actor(self, handle_id: bytes, depth: int) -> None:
        actor_id = _actor_id(handle_id)
        if not self._enter(("actor", handle_id), "", depth):
            return
        kinds = self._node("actor", handle_id)
        facts = kinds.get("actor", [])
        if not facts or facts[0]["life"] == "uncreated":
            self._uncreated(handle_id, actor_id, depth)
        for fact in facts:
            self._actor_life(f"the actor {fact['class_name']} ({actor_id})", fact, kinds, depth)
        self._leave()

    def _actor_life(self, name: str, fact: Fact, kinds: dict[str, list[Fact]], depth: int) -> None:
        match fact["life"]:
            case "dead":
                self._cause(depth, f"{name} is dead: {_describe(fact['cause'])}")
            case "waiting":
                self._say(depth, f"{name} has not started" + (" again" if fact["deaths"] else ""))
                self._request(kinds, depth + 1)
            case "starting":
                self._say(depth, f"{name} is in its constructor:")
                self.process(fact["process"], depth + 1)
            case "alive":
                self._say(depth, f"{name} is alive:")
                self.process(fact["process"], depth + 1)
        for number, how in enumerate(fact["deaths"], 1):
            self._say(depth + 1, f"death {number}: {how}")

    def _uncreated(self, handle_id: bytes, actor_id: str, depth: int) -> None:
        """Tell of an actor that the node has not heard of, or only from others: its creator knows."""
        missing = self._missing(handle_id)
        if not missing:
            return self._cause(depth, f"the actor {actor_id} is not known: it was never created, or it ended and every handle to it is gone")
        self._say(depth, f"the actor {actor_id} has not been created; its constructor waits for its arguments:")
        return self._objects(missing, depth + 1)

    # ---- processes

    def process(self, proc: int, depth: int) -> None:
        kinds = self._node("process", proc)
        for fact in kinds.get("died", []):
            self._cause(depth, fact["how"])
        if not kinds.get("process") and not kinds.get("died"):
            self._cause(depth, "the process is not known: it ended long ago, or was never part of this session")
        for fact in kinds.get("process", []):
            if self._enter(("process", proc), "", depth, f"the process with pid {fact['pid']}"):
                self._living(fact, depth)
                self._leave()

    def _living(self, fact: Fact, depth: int) -> None:
        who = "the driver" if fact["role"] == "driver" else {"starting": "a worker that is starting", "idle": "an idle worker"}.get(fact["role"], "the worker")
        who = f"{who} (pid {fact['pid']})"
        holds = "" if fact["held"] == "nothing" else f" holds {{{fact['held']}}}" + (" but lends its CPU, since it waits" if fact["blocked"] else "")
        if fact["stopped"]:
            self._cause(depth, f"{who}{holds} is stopped (state T): nothing in it runs")
            return self._say(depth, f"hint: kill -CONT {fact['pid']}")
        inside = None if fact["role"] == "starting" else self._ask(fact["proc"], "process", fact["proc"])
        if inside is None:
            return self._cause(depth, f"{who}{holds} does not answer")
        return self._inside(fact["pid"], f"{who}{holds}", _by_kind(inside), depth)

    def _inside(self, pid: int, who: str, kinds: dict[str, list[Fact]], depth: int) -> None:
        runs, waits = kinds.get("runs", []), kinds.get("waits", [])
        queued = sum(fact["calls"] for fact in kinds.get("queued", []))
        behind = f", with {queued} calls in line behind" if queued else ""
        if not runs and not waits:
            return self._cause(depth, f"{who} runs nothing at the moment{behind}")
        for run in runs[:NAMED]:
            mine = [wait for wait in waits if wait["call"] == (run["caller"], run["task"])]
            waiting = "" if mine else " and computes, or waits for something outside of ray"
            tell = self._say if mine else self._cause
            tell(depth, f"{who} runs {run['name']} for {_age(run['age_us'])}{behind}{waiting}")
            for wait in mine:
                self._wait(wait, f"{run['name']} in pid {pid}", depth + 1)
        if len(runs) > NAMED:
            self._say(depth, f"and runs {len(runs) - NAMED} more calls")
        for wait in waits:
            if wait["call"] is None:
                self._say(depth, f"{who} has a thread that waits:" if wait["blocks"] else f"{who} has a future that waits:")
                self._wait(wait, f"a thread of pid {pid}", depth + 1)
        return None

    def _wait(self, wait: Fact, name: str, depth: int) -> None:
        few = f"{wait['missing']} of {len(wait['ids'])} objects" if len(wait["ids"]) > 1 else "an object"
        how = "in get or wait" if wait["blocks"] else "awaiting"
        self._say(depth, f"{how} for {_age(wait['age_us'])}, for {few}:")
        self._path.append((("wait", name, len(self._path)), name))
        self._objects(wait["ids"], depth + 1)
        self._leave()

    def everything(self) -> None:
        """Every process that is not idle: what it runs and waits for."""
        processes = self._node("everything").get("process", [])
        idle = sum(fact["role"] == "idle" for fact in processes)
        for fact in processes:
            if fact["role"] not in ("idle", "observer") and ("process", fact["proc"]) not in self._told:
                self.process(fact["proc"], 0)
        if idle:
            self._say(0, f"{idle} workers are idle")


def _actor_id(handle_id: bytes) -> str:
    owner = handle_id[8:16]
    job = int.from_bytes(owner[:2], "big").to_bytes(4, "little")
    return (handle_id[3:8] + b"\0" + owner[2:] + job).hex()


def _describe(error: BaseException | None) -> str:
    return "an error too large to show here" if error is None else f"{type(error).__name__}: {error}"
