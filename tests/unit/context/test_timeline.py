"""The trace of `ray.timeline`: from records of calls to events of Chrome's format."""

from ray._core.cluster.timeline import trace

NODE = {"index": 0, "node_id": bytes(range(28)), "address": "10.0.0.1:6379", "host": "h", "death": "", "labels": {}, "total": {}}
OTHER = {**NODE, "index": 1, "node_id": bytes(28), "address": "10.0.0.2:7000"}
DRIVER, WORKER, REMOTE = 1 << 40, (1 << 40) | 5, (1 << 40) | (1 << 24) | 5


def task_id(number: int) -> bytes:
    return number.to_bytes(8, "big") + DRIVER.to_bytes(8, "big") + bytes(4) + (1).to_bytes(4, "little")


def ran(number, times, by=WORKER, **more):
    record = {"fact": "ran", "task_id": task_id(number), "by": by, "pid": 7, "thread": 7, "caller": DRIVER, "attempt": 0, "name": "f", "failed": False}
    return {**record, "times": times, **more}


def sent(number, times, attempt=0):
    return {"fact": "sent", "task_id": task_id(number), "by": DRIVER, "pid": 1, "thread": 1, "caller": DRIVER, "attempt": attempt, "name": "", "times": times}


def made(records, nodes=(NODE,)):
    events = trace(records, nodes, [DRIVER])
    return [e for e in events if e["ph"] == "M"], [e for e in events if e["ph"] == "X"], [e for e in events if e["ph"] in "besf"]


def test_trace_of_nothing_names_the_nodes():
    names, runs, requests = made([], [NODE, OTHER])
    assert {e["args"].get("name") for e in names if e["name"] == "process_name"} == {"Node 10.0.0.1", "Node 10.0.0.2"}
    assert (runs, requests) == ([], [])


def test_call_is_a_slice_with_its_steps_inside():
    _, runs, requests = made([ran(1, [100, 110, 150, 160])])
    assert [(e["name"], e["ts"], e["dur"]) for e in runs] == [
        ("f", 100, 60),
        ("task:deserialize_arguments", 100, 10),
        ("task:execute", 110, 40),
        ("task:store_outputs", 150, 10),
    ]
    assert runs[0]["cat"] == "task::f"
    assert len({(e["pid"], e["tid"]) for e in runs}) == 1
    assert runs[0]["args"]["task_id"] == task_id(1).hex()
    assert runs[0]["args"]["job_id"] == "01000000"
    assert runs[0]["args"]["worker_id"] == (WORKER.to_bytes(8, "big") + NODE["node_id"][:20]).hex()
    assert requests == [], "nothing is known of how it was made"


def test_request_leads_from_its_caller_to_the_worker():
    _, runs, requests = made([sent(1, [50, 90]), ran(1, [100, 110, 150, 160])])
    slices = [(e["name"], e["ph"], e["ts"]) for e in requests if e["ph"] in "be"]
    assert slices == [
        ("f", "b", 50),
        ("f", "e", 160),
        ("submitted", "b", 50),
        ("submitted", "e", 90),
        ("sent", "b", 90),
        ("sent", "e", 100),
    ]
    start, end = [e for e in requests if e["ph"] in "sf"]
    assert (start["ts"], end["ts"], start["id"]) == (90, 100, end["id"])
    assert (end["pid"], end["tid"]) == (runs[0]["pid"], runs[0]["tid"]) != (start["pid"], start["tid"])


def test_attempts_are_told_apart():
    _, _, requests = made([sent(1, [50, 60]), sent(1, [50, 90], attempt=1), ran(1, [100, 100, 100, 110], attempt=1)])
    assert [e["ts"] for e in requests if e["ph"] == "s"] == [90]


def test_calls_side_by_side_get_rows_of_their_own():
    _, runs, _ = made([ran(1, [100, 100, 200, 200]), ran(2, [150, 150, 170, 170]), ran(3, [210, 210, 220, 220])])
    row = {e["args"]["task_id"]: e["tid"] for e in runs}
    first, second, third = (row[task_id(number).hex()] for number in (1, 2, 3))
    assert first != second
    assert third == first


def test_calls_on_another_node_are_in_its_process():
    names, runs, _ = made([ran(1, [1, 1, 2, 2]), ran(2, [1, 1, 2, 2], by=REMOTE)], [NODE, OTHER])
    assert {e["pid"] for e in runs} == {0, 1}
    rows = {(e["pid"], e["tid"]): e["args"]["name"] for e in names if e["name"] == "thread_name"}
    assert all(text.startswith("worker:") for text in rows.values())


def test_failed_call_says_so():
    _, runs, _ = made([ran(1, [1, 2, 3, 4], failed=True)])
    assert runs[0]["args"]["failed"] is True
    assert runs[0]["cname"] == "terrible"
