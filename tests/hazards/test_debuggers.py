"""Debuggers, tracing and coverage inside of tasks and actors, and the exit handlers that they rely on."""

import json
import os
import re
import socket
import subprocess
import sys
import threading

import pytest

import ray
from support import run_script, start_script

pytestmark = pytest.mark.limit(60)

TASKS = """
import os, pdb, sys, ray
ray.init(num_cpus=1, include_dashboard=False)

@ray.remote
def pause():
    value = 41
    breakpoint()
    return value + 1

@ray.remote
def trace():
    pdb.set_trace()
    return "traced"

@ray.remote
def post_mortem():
    try:
        1 / 0
    except ZeroDivisionError:
        pdb.post_mortem()
    return "went on"

@ray.remote
class Actor:
    def pause(self):
        breakpoint()

def show(ref):
    try:
        print("value", ray.get(ref), flush=True)
    except Exception as error:
        print(type(error).__name__, str(error).replace("\\n", " / "), flush=True)
"""


def test_breakpoint_in_a_task_or_actor_is_a_clear_error():
    """`breakpoint()` in a worker neither hangs nor quits silently: the error names the call, why, and what to do, and shows the user's line."""
    done = run_script(TASKS + "show(pause.remote())\nshow(Actor.remote().pause.remote())\n")
    assert done.rc == 0, done
    task, actor = done.stdout.splitlines()
    assert task.startswith("RayTaskError(RuntimeError)") and "breakpoint() in pause can't start pdb" in task, done
    assert "breakpoint() in Actor.pause" in actor, done
    for line in (task, actor):
        assert "no terminal" in line and "hint: " in line and "debugpy" in line, done
    assert re.search(r'File ".*driver_\w+\.py", line \d+, in pause / +breakpoint\(\)', task), done


def test_pdb_called_directly_in_a_task_is_a_clear_error():
    """`pdb.set_trace()` finds no terminal: its BdbQuit says so; `post_mortem` returns."""
    done = run_script(TASKS + "show(trace.remote())\nshow(post_mortem.remote())\n")
    assert done.rc == 0, done
    assert re.search(r"RayTaskError\(BdbQuit\).*no terminal.*hint: ", done.stdout), done
    assert "value went on" in done.stdout, done


@pytest.mark.parametrize(("variable", "expected"), [("0", "value 42"), ("own_debugger.stop", "value 42")])
def test_breakpoint_goes_where_the_environment_says(variable, expected, tmp_path):
    """PYTHONBREAKPOINT holds in workers: 0 turns breakpoints off, a name is called."""
    (tmp_path / "own_debugger.py").write_text("import sys\ndef stop():\n    print('own debugger at', sys._getframe(1).f_lineno, file=sys.stderr)\n")
    with start_script(TASKS + "show(pause.remote())\n", cwd=tmp_path, env={"PYTHONBREAKPOINT": variable}) as script:
        done = script.finish()
    assert (done.rc, expected in done.stdout) == (0, True), done
    assert ("own debugger at" in done.output) == (variable != "0"), done


def test_breakpoint_in_the_driver_is_pythons_own(tmp_path):
    """In the driver `breakpoint()` is pdb on its terminal, with the runtime up."""
    code = """
import ray
ray.init(num_cpus=1, include_dashboard=False)
value = ray.get(ray.put(41))
breakpoint()
print("end", value)
"""
    with start_script(code, cwd=tmp_path, stdin=subprocess.PIPE) as script:
        script.popen.stdin.write(b"value = ray.get(ray.remote(lambda x: x + 1).remote(value))\ncontinue\n")
        script.popen.stdin.close()
        done = script.finish()
    assert (done.rc, "end 42" in done.stdout) == (0, True), done


@pytest.mark.runtime(num_cpus=1)
def test_trace_function_of_a_task_sees_its_lines():
    """`sys.settrace` and `sys.setprofile` in a task trace the user's code under its file and lines; the worker goes on afterwards."""

    def traced(n):
        total = 0
        for i in range(n):
            total += i
        return total

    @ray.remote
    def trace():
        lines, calls = set(), []

        def on_event(frame, event, arg):
            if frame.f_code.co_name == "traced" and event == "line":
                lines.add((os.path.basename(frame.f_code.co_filename), frame.f_lineno - frame.f_code.co_firstlineno))
            return on_event

        sys.settrace(on_event)
        threading.settrace(on_event)
        sys.setprofile(lambda frame, event, arg: calls.append(event))
        try:
            result = traced(3)
        finally:
            sys.setprofile(None)
            threading.settrace(None)
            sys.settrace(None)
        return result, sorted(lines), "call" in calls

    name = os.path.basename(__file__)
    assert ray.get(trace.remote()) == (3, [(name, n) for n in (1, 2, 3, 4)], True)
    assert ray.get(trace.remote())[0] == 3


COVERED = """
import os, sys, time, ray
ray.init(num_cpus=1, include_dashboard=False)

@ray.remote
def task(x):
    if x > 1:
        return "big"
    return "MISSED"

@ray.remote
class Actor:
    def method(self):
        return "method"
    def unused(self):
        return "MISSED"

@ray.remote
class AsyncActor:
    async def method(self):
        return "awaited"

actors = [Actor.remote(), AsyncActor.remote(), Actor.options(max_concurrency=2).remote()]
print(ray.get([task.remote(2), *[actor.method.remote() for actor in actors]]))
"""


def test_coverage_measures_tasks_and_actors(tmp_path):
    """`coverage run` with subprocesses measured counts the lines that workers ran: their data is saved when the session ends."""
    pytest.importorskip("coverage")
    (tmp_path / ".coveragerc").write_text("[run]\nparallel = true\nconcurrency = thread\npatch = subprocess\nsource = .\n")
    program = tmp_path / "program.py"
    program.write_text(COVERED)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")}

    def coverage(*arguments):
        done = subprocess.run([sys.executable, "-m", "coverage", *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=50)
        assert done.returncode == 0, done
        return done.stdout

    assert "['big', 'method', 'awaited', 'method']" in coverage("run", "program.py")
    coverage("combine")
    coverage("json", "-o", "report.json")
    missing = json.loads((tmp_path / "report.json").read_text())["files"]["program.py"]["missing_lines"]
    assert [COVERED.splitlines()[number - 1].strip() for number in missing] == ['return "MISSED"', 'return "MISSED"']


@pytest.mark.parametrize("end", ["", "ray.shutdown()", "sys.exit(0)", "os.kill(os.getpid(), 9)"])
def test_exit_handlers_of_workers_at_rest_run_when_the_session_ends(end, tmp_path):
    """What a task or an actor registered with atexit runs in its worker, once, however the driver ends; a busy worker is ended without."""
    done = start_script(
        """
import atexit, os, sys, threading, ray
ray.init(num_cpus=2, include_dashboard=False)

def note(word):
    with open("handlers", "a") as file:
        file.write(word + "\\n")

@ray.remote
def task():
    atexit.register(note, "task")

@ray.remote
class Actor:
    def register(self, word):
        atexit.register(note, word)
    def forever(self):
        open("running", "w").close()
        threading.Event().wait()

@ray.remote
class AsyncActor:
    async def register(self, word):
        atexit.register(note, word)

actor, busy, asynchronous, threaded = Actor.remote(), Actor.remote(), AsyncActor.remote(), Actor.options(max_concurrency=2).remote()
ray.get([task.remote(), actor.register.remote("actor"), busy.register.remote("busy"), asynchronous.register.remote("async"), threaded.register.remote("threaded")])
ref = busy.forever.remote()
while not os.path.exists("running"):
    ray.wait([ref], timeout=0.01)
"""
        + end
        + "\n",
        cwd=tmp_path,
    )
    with done as script:
        finished = script.finish(20, survive_s=5)
    assert finished.rc == (-9 if "kill" in end else 0), finished
    assert sorted((tmp_path / "handlers").read_text().split()) == ["actor", "async", "task", "threaded"]


def test_exit_handler_of_a_worker_that_hangs_holds_nobody_up(tmp_path):
    """Exit handlers that never end, use the session, or raise do not keep the driver from ending."""
    done = run_script(
        """
import atexit, threading, ray
ray.init(num_cpus=3, include_dashboard=False)

@ray.remote
class Actor:
    def register(self, handler):
        atexit.register(handler)

ref = ray.put(1)
def use():
    try:
        ray.get(ray.put(2))
    except ray.exceptions.RayError:
        print("told")

actors = [Actor.remote() for _ in range(3)]
ray.get([actor.register.remote(handler) for actor, handler in zip(actors, [lambda: threading.Event().wait(), use, lambda: 1 / 0])])
"""
    )
    assert done.rc == 0, done
    assert "told" in done.output, done
    assert done.elapsed_s < 10


class DebugClient:
    """As much of the debug adapter protocol as a test needs."""

    def __init__(self, address):
        self.socket = socket.create_connection(address, 20)
        self.file = self.socket.makefile("rwb")
        self.number = 0

    def send(self, command, **arguments):
        self.number += 1
        body = json.dumps({"seq": self.number, "type": "request", "command": command, "arguments": arguments}).encode()
        self.file.write(b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
        self.file.flush()

    def read_until(self, kind, name):
        while True:
            length = 0
            while (line := self.file.readline().strip()) or not length:
                if line.lower().startswith(b"content-length"):
                    length = int(line.split(b":")[1])
            message = json.loads(self.file.read(length))
            if message["type"] == kind and message.get("event" if kind == "event" else "command") == name:
                return message


@pytest.mark.runtime(num_cpus=2)
def test_debugpy_attaches_to_a_task():
    """debugpy listens in a task, a client attaches, stops at a breakpoint in the user's file, reads a variable and lets it go on."""
    pytest.importorskip("debugpy")

    @ray.remote
    class Mailbox:
        def __init__(self):
            self.address = None

        def put(self, address):
            self.address = address

        def take(self):
            return self.address

    @ray.remote
    def debugged(mailbox):
        import debugpy

        address = debugpy.listen(("127.0.0.1", 0))
        ray.get(mailbox.put.remote(address))
        debugpy.wait_for_client()
        secret = "seen by the debugger"
        debugpy.breakpoint()
        return len(secret)

    mailbox = Mailbox.remote()
    result = debugged.remote(mailbox)
    while (address := ray.get(mailbox.take.remote())) is None:
        ready, _ = ray.wait([result], timeout=0.05)
        assert not ready, ray.get(result)
    client = DebugClient(tuple(address))
    client.send("initialize", adapterID="test", pathFormat="path")
    client.send("attach", justMyCode=False)
    client.read_until("event", "initialized")
    client.send("configurationDone")
    stopped = client.read_until("event", "stopped")
    client.send("stackTrace", threadId=stopped["body"]["threadId"])
    frame = client.read_until("response", "stackTrace")["body"]["stackFrames"][0]
    client.send("evaluate", expression="secret", frameId=frame["id"])
    value = client.read_until("response", "evaluate")["body"]["result"]
    client.send("continue", threadId=stopped["body"]["threadId"])
    assert ray.get(result, timeout=20) == len("seen by the debugger")
    client.file.close()
    client.socket.close()
    assert (frame["name"], os.path.basename(frame["source"]["path"])) == ("debugged", os.path.basename(__file__))
    assert value == "'seen by the debugger'"
