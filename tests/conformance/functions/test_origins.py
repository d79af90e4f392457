"""Functions and classes from every place users define them in, and what their workers see of the driver's surroundings."""

from pathlib import Path

from support import run_script

INIT = "import ray; ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)\n"


def test_origin_command_line_works():
    """Functions, classes and exceptions typed into `python -c` travel."""
    done = run_script(
        INIT
        + """
class Box:
    def __init__(self, value):
        self.value = value

class Oops(Exception):
    pass

@ray.remote
def double(box):
    return Box(box.value * 2)

@ray.remote
def fail():
    raise Oops("typed")

print(ray.get(double.remote(Box(21))).value)
try:
    ray.get(fail.remote())
except Oops as error:
    print("caught", isinstance(error, Oops))
""",
        inline=True,
    )
    assert (done.rc, done.stdout.split()) == (0, ["42", "caught", "True"]), done


def test_origin_main_script_classes_keep_their_identity():
    """Values of classes defined in the script itself come back as instances of the very same class."""
    done = run_script(
        INIT
        + """
import collections, dataclasses, enum

@dataclasses.dataclass
class Point:
    x: int

class Colour(enum.Enum):
    RED = 1

Pair = collections.namedtuple("Pair", "a b")

@ray.remote
class Echo:
    def echo(self, *values):
        return values

if __name__ == "__main__":
    point, colour, pair = ray.get(Echo.remote().echo.remote(Point(3), Colour.RED, Pair(1, 2)))
    print(type(point) is Point, point, colour is Colour.RED, type(pair) is Pair)
"""
    )
    assert (done.rc, done.stdout.strip()) == (0, "True Point(x=3) True True"), done


def test_origin_module_beside_the_script_is_importable(tmp_path: Path):
    """Workers import modules that lie beside the script, as the driver does."""
    (tmp_path / "neighbour.py").write_text("import ray\n\nSECRET = 7\n\n@ray.remote\ndef f(x):\n    return x + SECRET\n\nclass C:\n    pass\n")
    done = run_script(
        INIT
        + """
import neighbour

@ray.remote
def g():
    import neighbour as again
    return again.C()

print(ray.get(neighbour.f.remote(1)), type(ray.get(g.remote())) is neighbour.C)
""",
        cwd=tmp_path,
    )
    assert (done.rc, done.stdout.strip()) == (0, "8 True"), done


def test_origin_sys_path_entry_of_the_driver_reaches_workers(tmp_path: Path):
    """A folder in the driver's PYTHONPATH is importable in workers too."""
    (tmp_path / "extra").mkdir()
    (tmp_path / "extra" / "far_away.py").write_text("WORD = 'found'\n")
    done = run_script(
        INIT
        + """
@ray.remote
def f():
    import far_away
    return far_away.WORD

print(ray.get(f.remote()))
""",
        env={"PYTHONPATH": str(tmp_path / "extra")},
    )
    assert (done.rc, done.stdout.strip()) == (0, "found"), done


def test_origin_working_directory_and_environment_are_the_drivers(tmp_path: Path):
    """Workers run in the driver's directory with the driver's environment."""
    (tmp_path / "data.txt").write_text("from the folder")
    done = run_script(
        INIT
        + """
import os

@ray.remote
def f():
    return os.getcwd(), os.environ["OWN_VARIABLE"], open("data.txt").read()

assert ray.get(f.remote()) == (os.getcwd(), os.environ["OWN_VARIABLE"], "from the folder"), ray.get(f.remote())
print(ray.get(f.remote())[1])
""",
        cwd=tmp_path,
        env={"OWN_VARIABLE": "a word"},
    )
    assert (done.rc, done.stdout.strip()) == (0, "a word"), done


def test_origin_interpreter_is_the_drivers():
    """Workers run the same Python with the same version."""
    done = run_script(
        INIT
        + """
import sys

@ray.remote
def f():
    return sys.version, sys.prefix

print(ray.get(f.remote()) == (sys.version, sys.prefix))
"""
    )
    assert (done.rc, done.stdout.strip()) == (0, "True"), done


def test_origin_functions_made_by_exec_work():
    """Functions without source, as notebook cells and templates make them, travel."""
    done = run_script(
        INIT
        + """
space = {"ray": ray, "__name__": "__main__"}
exec(compile("FACTOR = 3\\n@ray.remote\\ndef f(x):\\n    return x * FACTOR\\n", "<cell 1>", "exec"), space)
print(ray.get(space["f"].remote(5)))
"""
    )
    assert (done.rc, done.stdout.strip()) == (0, "15"), done


def test_origin_global_is_captured_at_first_call():
    """A global read by a function of the script arrives with the value it had when the function was first called."""
    done = run_script(
        INIT
        + """
LEVEL = 1

@ray.remote
def f():
    return LEVEL

LEVEL = 2
print(ray.get(f.remote()))
"""
    )
    assert (done.rc, done.stdout.strip()) == (0, "2"), done
