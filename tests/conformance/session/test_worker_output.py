"""Workers' output on the driver's terminal. Programs parse its prefix."""

import re

from support import run_script

INIT = "import sys, os, ray\nray.init(num_cpus=2, include_dashboard=False)\n"


def lines(text, word):
    return [line for line in text.splitlines() if word in line]


def test_output_of_a_task_has_name_and_pid():
    """A task's line arrives on stdout as `(name pid=...) line`, what it writes to stderr on stderr."""
    done = run_script(
        INIT
        + """
@ray.remote
def speak():
    print("to stdout")
    print("to stderr", file=sys.stderr)
    return os.getpid()

print("speaker", ray.get(speak.remote()))
"""
    )
    pid = re.search(r"speaker (\d+)", done.stdout).group(1)
    assert lines(done.output, "to stdout") == [f"(speak pid={pid}) to stdout"], done
    assert lines(done.output, "to stderr") == [f"(speak pid={pid}) to stderr"], done
    assert lines(done.stderr, "to stderr"), done


def test_output_of_an_actor_has_class_and_pid():
    """An actor's line carries its class's name; a class with its own repr shows that."""
    done = run_script(
        INIT
        + """
@ray.remote
class Speaker:
    def __init__(self):
        print("constructed")

    def speak(self):
        print("spoken")

@ray.remote
class Named:
    def __repr__(self):
        return "Named(shard=3)"

    def speak(self):
        print("by name")

a, b = Speaker.remote(), Named.remote()
ray.get([a.speak.remote(), b.speak.remote()])
"""
    )
    assert re.fullmatch(r"\(Speaker pid=\d+\) constructed", lines(done.output, "constructed")[0]), done
    assert re.fullmatch(r"\(Speaker pid=\d+\) spoken", lines(done.output, "spoken")[0]), done
    assert re.fullmatch(r"\(Named\(shard=3\) pid=\d+\) by name", lines(done.output, "by name")[0]), done


def test_output_keeps_order_and_loses_nothing():
    """Thousands of lines of one task arrive completely and in order."""
    done = run_script(
        INIT
        + """
@ray.remote
def speak():
    for i in range(5000):
        print(f"line number {i}")

ray.get(speak.remote())
"""
    )
    numbers = [int(line.rsplit(" ", 1)[1]) for line in lines(done.output, "line number")]
    assert numbers == list(range(5000))


def test_output_equal_lines_of_many_workers_are_folded():
    """A line that many workers print is shown once with the number of repeats."""
    done = run_script(
        INIT
        + """
@ray.remote
class Speaker:
    def speak(self):
        print("the same line")

actors = [Speaker.remote() for _ in range(6)]
ray.get([actor.speak.remote() for actor in actors])
"""
    )
    found = lines(done.output, "the same line")
    assert 1 <= len(found) < 6, done
    counts = [int(one) for one in re.findall(r"repeated (\d+)x", "\n".join(found))]
    assert len(found) - len(counts) + sum(counts) == 6, done


def test_output_can_be_turned_off():
    """With log_to_driver=False nothing of the workers is shown."""
    done = run_script(
        """
import ray
ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)

@ray.remote
def speak():
    print("unwanted")

ray.get(speak.remote())
print("end")
"""
    )
    assert "unwanted" not in done.output
    assert "end" in done.stdout


def test_output_before_the_end_is_not_lost():
    """What a worker printed just before the driver ends is shown."""
    done = run_script(
        INIT
        + """
@ray.remote
def speak():
    print("last words", flush=True)

ray.get(speak.remote())
"""
    )
    assert lines(done.output, "last words"), done


def test_output_without_newline_and_with_unicode_arrives():
    """An unfinished line and any text arrive."""
    done = run_script(
        INIT
        + """
@ray.remote
def speak():
    print("gr\\u00fc\\u00dfe aus dem arbeiter")
    sys.stdout.write("no newline at the end")
    sys.stdout.flush()

ray.get(speak.remote())
""",
        env={"PYTHONIOENCODING": "utf-8"},
    )
    assert lines(done.output, "gr\u00fc\u00dfe aus"), done
    assert lines(done.output, "no newline at the end"), done


def test_output_of_a_plain_run_is_one_line():
    """Starting up prints one line, and a program that prints nothing else stays quiet."""
    done = run_script(INIT + "ray.get(ray.put(1))\n")
    assert done.stdout == ""
    assert len([line for line in done.stderr.splitlines() if line.strip()]) <= 1, done


def test_request_that_never_fits_is_explained():
    """A task that no node can ever run is explained on the driver within five seconds: what is asked, what there is."""
    done = run_script(
        INIT
        + """
@ray.remote(num_cpus=64)
def huge():
    return 1

ref = huge.remote()
ready, _ = ray.wait([ref], timeout=5)
print("pending", ready == [])
"""
    )
    assert "pending True" in done.stdout
    explanation = "\n".join(line for line in done.output.splitlines() if "pending True" not in line)
    assert "64" in explanation, done
    assert re.search(r"\b2(\.0)?\b.*CPU|CPU\D*2(\.0)?\b", explanation), done
    assert "hint" in explanation, done
