"""The timeline of a cluster: calls on every node, each in the row of its worker."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import ray
from support import wait_for
from support.clusters import HEAD, on

pytestmark = pytest.mark.limit(60)


@ray.remote
def work(x):
    return x


def runs(events, name):
    return [event for event in events if event["ph"] == "X" and event["cat"] == f"task::{name}"]


def test_timeline_has_calls_of_both_nodes(nodes, n2):
    """A call here and a call there: two processes of the trace, and an arrow from the driver's row."""
    ray.get([on(work, n2, name="there").remote(1), on(work, HEAD, name="here").remote(2)])
    wait_for(lambda: runs(ray.timeline(), "there") and runs(ray.timeline(), "here"), 10)
    events = ray.timeline()
    (there,), (here,) = runs(events, "there"), runs(events, "here")
    names = {event["pid"]: event["args"]["name"] for event in events if event["ph"] == "M" and event["name"] == "process_name"}
    assert len(names) >= 2
    assert (there["args"]["node_id"], here["args"]["node_id"]) == (n2.id, nodes.head_id)
    arrow = {event["ph"]: event for event in events if event.get("id") == f"{there['args']['task_id']}:0" and event["ph"] in "sf"}
    assert (arrow["f"]["pid"], arrow["f"]["tid"]) == (there["pid"], there["tid"])
    assert arrow["s"]["pid"] == here["pid"] != there["pid"]
    assert arrow["s"]["ts"] <= arrow["f"]["ts"]


def test_timeline_command_writes_a_file(nodes, n2):
    """`ray timeline --address`: the calls of all nodes, by someone who is no driver."""
    ray.get(on(work, n2, name="for_the_command").remote(1))
    wait_for(lambda: runs(ray.timeline(), "for_the_command"), 10)
    command = [sys.executable, "-m", "ray.scripts.scripts", "timeline", "--address", nodes.address]
    output = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout
    path = Path(re.search(r"written to (\S+)", output).group(1))
    try:
        events = json.loads(path.read_text())
    finally:
        path.unlink()
    assert runs(events, "for_the_command")
