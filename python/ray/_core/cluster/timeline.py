"""`ray.timeline`: what ran where and when, from the records that processes keep of their calls (crates/ray-shm/src/events.rs), in the trace format of Chrome.

Perfetto (ui.perfetto.dev) and chrome://tracing open it. Each node is a process of the trace, each worker and each driver a thread, or several where calls run
side by side. How a call came to its worker is told in the row of its caller, as asynchronous slices: from when it was made until it was sent, and until it
began. An arrow leads from there to where it ran.
"""

from __future__ import annotations

from collections import defaultdict

from ray import _native
from ray._core.cluster.facts import described

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

    from ray._native import Core

    Event = dict[str, Any]
    Record = dict[str, Any]

NODE = 0
"""The process number of the daemon in questions."""
_NODE_BITS, _COUNTER_BITS = 16, 24  # of a process's number, see crates/ray-proto/src/ids.rs

_STEPS = (("task:deserialize_arguments", "rail_load"), ("task:execute", "rail_animation"), ("task:store_outputs", "rail_idle"))
"""What a call does, one after another, with Chrome's names of colours. Compat: Ray's names of both."""


def timeline_of(core: Core) -> list[Event]:
    """Make the trace of a cluster.

    Args:
        core: The engine of a process of it; an observer's will do.
    """
    records, nodes = _collect(core)
    return trace(records, nodes, (job["driver_proc"] for job in core.jobs()))


def _collect(core: Core) -> tuple[list[Record], list[dict[str, Any]]]:
    """Gather the records of all living nodes, of the drivers on this one, and of this process, with their times in microseconds since 1970. And the nodes."""
    nodes = core.nodes()
    records: list[Record] = []
    for node in nodes:
        slot: int | None = 0 if not node["death"] else None
        while slot is not None:
            slot = _ask(core, NODE, ("records", node["index"], slot), records)
    for driver in _drivers(core):
        _ask(core, driver, ("records", 0, 0), records)
    return records, nodes


def _ask(core: Core, whom: int, subject: tuple[Any, ...], records: list[Record]) -> int | None:
    """Add what is answered. The slot to ask for next; None: there is none, or no answer, as of what has died or is stopped."""
    following: int | None = None
    for fact in _native.ask_about(core, whom, subject) or []:
        if fact["fact"] == "records":
            for record in fact["records"]:
                record["times"] = [time + fact["epoch_offset_us"] for time in record["times"]]
            records.extend(fact["records"])
            following = fact["next"]
    return following


def _drivers(core: Core) -> list[int]:
    facts = _native.ask_about(core, NODE, ("everything",)) or []
    found = [fact["proc"] for fact in facts if fact["fact"] == "process" and fact["role"] == "driver" and not fact["stopped"]]
    return found if core.proc_id in found else [*found, core.proc_id]


def trace(records: Iterable[Record], nodes: Iterable[dict[str, Any]], drivers: Iterable[int]) -> list[Event]:
    """Make a trace.

    Args:
        records: Entries of the facts about records.
        nodes: Entries of `Core.nodes`.
        drivers: Numbers of processes that are drivers.

    Returns:
        Its events: of the rows, then of the calls in the order in which they began.
    """
    sent: dict[tuple[bytes, int], Record] = {}
    ran: list[Record] = []
    for record in records:
        if record["fact"] == "sent":
            sent[record["task_id"], record["attempt"]] = record
        else:
            ran.append(record)
    ran.sort(key=lambda record: (record["times"][0], -record["times"][3]))
    rows = _Rows(nodes, drivers)
    events: list[Event] = []
    for record in ran:
        row = rows.of_run(record)
        events.extend(_run_events(record, row, rows.arguments(record)))
        request = sent.get((record["task_id"], record["attempt"]))
        if request is not None:
            events.extend(_request_events(record, request, rows.of_caller(request), row))
    return [*rows.events(), *events]


class _Rows:
    """Which row of the trace each process has. Calls that overlap get rows of their own."""

    def __init__(self, nodes: Iterable[dict[str, Any]], drivers: Iterable[int]) -> None:
        self._nodes = {node["index"]: node for node in nodes}
        self._drivers = frozenset(drivers)
        self._rows: dict[tuple[int, int], tuple[int, int]] = {}
        self._names: list[Event] = []
        self._free_from: dict[int, list[int]] = defaultdict(list)
        self._next: dict[int, int] = defaultdict(int)
        for index, node in sorted(self._nodes.items()):
            name = f"Node {described(node)['NodeManagerAddress']}"
            self._names += [_meta("process_name", index, 0, name=name), _meta("process_sort_index", index, 0, sort_index=index)]

    def _row(self, process: int, lane: int, pid: int) -> tuple[int, int]:
        key = (process, lane)
        if key not in self._rows:
            node = _node_of(process)
            self._next[node] += 1
            self._rows[key] = node, self._next[node]
            name = f"{'driver' if process in self._drivers else 'worker'}:{self.worker_id(process)} (pid {pid})" + (f" #{lane + 1}" if lane else "")
            self._names += [_meta("thread_name", *self._rows[key], name=name), _meta("thread_sort_index", *self._rows[key], sort_index=self._next[node])]
        return self._rows[key]

    def of_run(self, record: Record) -> tuple[int, int]:
        """The row for a call that ran; calls come in the order of their beginning."""
        began, _, _, ended = record["times"]
        lanes = self._free_from[record["by"]]
        lane = next((lane for lane, free in enumerate(lanes) if free <= began), len(lanes))
        lanes[lane : lane + 1] = [ended]
        return self._row(record["by"], lane, record["pid"])

    def of_caller(self, request: Record) -> tuple[int, int]:
        """The row of who made a call."""
        return self._row(request["by"], 0, request["pid"])

    def worker_id(self, process: int) -> str:
        """The id of a process as users see it."""
        node = self._nodes.get(_node_of(process))
        return (process.to_bytes(8, "big") + (node["node_id"][:20] if node else bytes(20))).hex()

    def arguments(self, record: Record) -> dict[str, Any]:
        """What is said of a call when one clicks on it."""
        node = self._nodes.get(_node_of(record["by"]))
        return {
            "name": record["name"],
            "task_id": record["task_id"].hex(),
            "job_id": record["task_id"][20:].hex(),
            "attempt_number": record["attempt"],
            "func_or_class_name": record["name"],
            "worker_id": self.worker_id(record["by"]),
            "node_id": node["node_id"].hex() if node else "",
            "failed": record["failed"],
        }

    def events(self) -> list[Event]:
        """The names of the rows."""
        return self._names


def _node_of(process: int) -> int:
    return (process >> _COUNTER_BITS) & ((1 << _NODE_BITS) - 1)


def _meta(what: str, pid: int, tid: int, **arguments: Any) -> Event:
    return {"ph": "M", "name": what, "pid": pid, "tid": tid, "args": arguments}


def _run_events(record: Record, row: tuple[int, int], arguments: dict[str, Any]) -> Iterator[Event]:
    times = record["times"]
    whole = (f"task::{record['name']}", record["name"], "terrible" if record["failed"] else "generic_work", times[0], times[3])
    steps = [(step, step, colour, begin, end) for (step, colour), begin, end in zip(_STEPS, times, times[1:], strict=False)]
    for kind, name, colour, begin, end in (whole, *steps):
        yield {"ph": "X", "cat": kind, "name": name, "pid": row[0], "tid": row[1], "ts": begin, "dur": end - begin, "cname": colour, "args": arguments}


def _request_events(record: Record, request: Record, caller: tuple[int, int], row: tuple[int, int]) -> Iterator[Event]:
    began, ended = record["times"][0], record["times"][3]
    submitted, sent = request["times"]
    key = f"{record['task_id'].hex()}:{record['attempt']}"
    name = record["name"]
    for step, begin, end in ((name, submitted, max(sent, ended)), ("submitted", submitted, sent), ("sent", sent, max(sent, began))):
        slice_of = {"cat": "submit", "name": step, "id": key, "pid": caller[0], "tid": caller[1]}
        yield {"ph": "b", "ts": begin, **slice_of}
        yield {"ph": "e", "ts": end, **slice_of}
    arrow = {"cat": "submit", "name": "starts", "id": key}
    yield {"ph": "s", "ts": sent, "pid": caller[0], "tid": caller[1], **arrow}
    yield {"ph": "f", "bp": "e", "ts": max(sent, began), "pid": row[0], "tid": row[1], **arrow}
