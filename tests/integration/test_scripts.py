"""Programs as users write and start them."""

import subprocess
from pathlib import Path

import pytest

from support import run_script, start_script
from support.scripts import Script

pytestmark = pytest.mark.limit(30)

HELLO = """
import ray

@ray.remote
def hello(name):
    return f"hello {name}"

print(ray.get([hello.remote(name) for name in ("world", "moon")]))
"""


@pytest.mark.parametrize("inline", [True, False])
def test_script_hello_world_without_init_works(inline):
    """The shortest program runs from `python -c` and from a file, and ends by itself with code 0."""
    done = run_script(HELLO, inline=inline)
    assert (done.rc, done.stdout.strip()) == (0, "['hello world', 'hello moon']"), done


def test_script_started_from_elsewhere_imports_its_neighbours(tmp_path: Path):
    """A script started with a path from another directory finds the modules beside it, in workers too."""
    project, elsewhere = tmp_path / "project", tmp_path / "elsewhere"
    (project / "parts").mkdir(parents=True)
    elsewhere.mkdir()
    (project / "parts" / "__init__.py").write_text("")
    (project / "parts" / "maths.py").write_text(
        "class Number:\n    def __init__(self, n):\n        self.n = n\n\ndef square(x):\n    return Number(x.n ** 2)\n"
    )
    (project / "main.py").write_text(
        "import ray\nfrom parts.maths import Number, square\nray.init(num_cpus=1, include_dashboard=False)\n"
        "result = ray.get(ray.remote(square).remote(Number(7)))\nprint(result.n, type(result) is Number)\n"
    )
    with Script([str(project / "main.py")], elsewhere) as script:
        done = script.finish()
    assert (done.rc, done.stdout.strip()) == (0, "49 True"), done


def test_script_run_as_a_package_works(tmp_path: Path):
    """`python -m package` with relative imports works."""
    package = tmp_path / "program"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "work.py").write_text("import ray\n\n@ray.remote\ndef triple(x):\n    return 3 * x\n")
    (package / "__main__.py").write_text(
        "import ray\nfrom .work import triple\n\nclass Local:\n    value = 5\n\n@ray.remote\nclass Adder:\n    def add(self, x):\n        return x + Local.value\n\n"
        "ray.init(num_cpus=2, include_dashboard=False)\nprint(ray.get(Adder.remote().add.remote(triple.remote(4))))\n"
    )
    with Script(["-m", "program"], tmp_path) as script:
        done = script.finish()
    assert (done.rc, done.stdout.strip()) == (0, "17"), done


def test_script_read_from_stdin_works(tmp_path: Path):
    """`python - < program` works."""
    source = tmp_path / "program.py"
    source.write_text(HELLO)
    with source.open() as stdin, Script(["-"], tmp_path, stdin=stdin) as script:
        done = script.finish()
    assert (done.rc, done.stdout.strip()) == (0, "['hello world', 'hello moon']"), done


@pytest.mark.parametrize(
    ("statement", "code"), [("sys.exit()", 0), ("sys.exit(3)", 3), ("sys.exit('words')", 1), ("raise RuntimeError('uncaught')", 1), ("1 / 0", 1)]
)
def test_script_exit_code_is_the_programs(statement, code):
    """However the program ends, its exit code is Python's, and nothing is left."""
    done = run_script(
        f"""
import sys, ray
ray.init(num_cpus=1, include_dashboard=False)
ref = ray.remote(lambda: 1).remote()
assert ray.get(ref) == 1
{statement}
"""
    )
    assert done.rc == code, done


def test_script_task_error_uncaught_shows_the_users_line_last():
    """An uncaught task error ends with code 1 and the user's error in the last line."""
    done = run_script(
        """
import ray
ray.init(num_cpus=1, include_dashboard=False)

@ray.remote
def fail():
    raise ValueError("the reason")

ray.get(fail.remote())
"""
    )
    assert done.rc == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.endswith("ValueError: the reason"), done.stderr


def test_script_ends_with_unfinished_tasks():
    """A program may end while its tasks still run; they end with it."""
    done = run_script(
        """
import threading, ray
ray.init(num_cpus=2, include_dashboard=False)

@ray.remote
def forever():
    threading.Event().wait()

refs = [forever.remote() for _ in range(5)]
ray.wait(refs, timeout=0.5)
print("leaving")
"""
    )
    assert (done.rc, "leaving" in done.stdout) == (0, True), done


def test_script_atexit_and_finalizers_may_use_refs():
    """Handlers that run at exit, and objects that die at exit holding refs, do no harm."""
    done = run_script(
        """
import atexit, ray

class Owner:
    def __init__(self, ref):
        self.ref = ref
    def __del__(self):
        self.ref = None

@ray.remote
class Actor:
    def ping(self):
        return 1

def at_exit():
    print("initialized at exit:", ray.is_initialized())

ray.init(num_cpus=1, include_dashboard=False)
atexit.register(at_exit)
keep = [Owner(ray.put(1)), Owner(Actor.remote())]
ray.get(keep[1].ref.ping.remote())
"""
    )
    assert done.rc == 0, done
    assert "initialized at exit:" in done.stdout
    assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr, done.stderr


def test_script_threads_of_the_user_may_outlive_main(tmp_path: Path):
    """A non-daemon thread that uses the runtime after the main thread's end finishes its work."""
    done = run_script(
        """
import threading, ray
ray.init(num_cpus=1, include_dashboard=False)

@ray.remote
def f(x):
    return x + 1

def work():
    threading.main_thread().join()
    print("thread got", ray.get(f.remote(1)))

threading.Thread(target=work).start()
"""
    )
    assert (done.rc, "thread got 2" in done.stdout) == (0, True), done


def test_script_two_programs_side_by_side_do_not_meet(tmp_path: Path):
    """Two programs at once each have their own runtime; the first one's end does not disturb the second."""
    code = """
import sys, ray
ray.init(num_cpus=1, include_dashboard=False, namespace="same")

@ray.remote
class Keeper:
    def value(self):
        return sys.argv[1]

keeper = Keeper.options(name="keeper").remote()
print("ready", flush=True)
sys.stdin.readline()
print(ray.get(ray.get_actor("keeper").value.remote()))
"""

    with (
        start_script(code.replace("sys.argv[1]", "'first'"), cwd=tmp_path, stdin=subprocess.PIPE) as first,
        start_script(code.replace("sys.argv[1]", "'second'"), cwd=tmp_path, stdin=subprocess.PIPE) as second,
    ):
        for one in (first, second):
            one.wait_for_output("ready")
        for one, word in ((first, "first"), (second, "second")):
            one.popen.stdin.write(b"\n")
            one.popen.stdin.close()
            done = one.finish()
            assert (done.rc, done.stdout.split()) == (0, ["ready", word]), done


def test_script_import_alone_starts_nothing_and_is_light():
    """`import ray` starts no thread or process and does not import numpy."""
    done = run_script(
        """
import os, sys, ray
print(len(os.listdir("/proc/self/task")), "numpy" in sys.modules, ray.is_initialized())
"""
    )
    assert (done.rc, done.stdout.split()) == (0, ["1", "False", "False"]), done
