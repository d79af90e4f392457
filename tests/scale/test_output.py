"""Very much output of workers."""

import re

from support import run_script

SPEAK = """
import sys, ray, threading
ray.init(num_cpus=2, include_dashboard=False, logging_level="ERROR")

@ray.remote
def speak(number, count):
    for i in range(count):
        print(f"speaker {number} line {i} " + "x" * 60)

@ray.remote(num_cpus=0)
class Other:
    def call(self):
        return 1
"""
LINES = 40_000


def check_lines(stdout):
    """All lines of both speakers, in the order of each."""
    found = re.findall(r"speaker (\w+) line (\d+) x{60}$", stdout, re.MULTILINE)
    for speaker in ("a", "b"):
        assert [int(line) for number, line in found if number == speaker] == list(range(LINES))


def test_output_of_megabytes_arrives_complete_and_in_order():
    """Two tasks print 4 MB each as fast as they can."""
    done = run_script(SPEAK + f"ray.get([speak.remote(name, {LINES}) for name in 'ab'])\n", 60)
    check_lines(done.stdout)


def test_output_that_nobody_reads_yet_is_kept_back_at_its_source():
    """While the driver's stdout is stuck, its memory does not grow, other calls run, and the speakers wait; then everything arrives."""
    code = (
        SPEAK
        + f"""
class Stuck:
    def __init__(self, stream):
        self.stream, self.gate = stream, threading.Event()
    def write(self, text):
        self.gate.wait()
        return self.stream.write(text)
    def flush(self):
        self.stream.flush()

def rss():
    return int(open("/proc/self/statm").read().split()[1]) * 4096

other = Other.remote()
ray.get(other.call.remote())
before = rss()
sys.stdout = Stuck(sys.stdout)
refs = [speak.options(name=f"a task with a name that is not short {{'n' * 100}}").remote(name, {LINES}) for name in "ab"]
ready, rest = ray.wait(refs, num_returns=2, timeout=3)
print(f"calls {{sum(ray.get([other.call.remote() for _ in range(100)]))}} waiting {{len(rest)}} grown {{(rss() - before) >> 20}}", file=sys.stderr)
sys.stdout.gate.set()
ray.get(refs)
"""
    )
    done = run_script(code, 60)
    check_lines(done.stdout)
    calls, waiting, grown_mib = map(int, re.search(r"calls (\d+) waiting (\d+) grown (-?\d+)", done.stderr).groups())
    assert (calls, waiting) == (100, 2), done.stderr
    assert grown_mib < 64


def test_output_printer_that_fails_does_not_hold_the_workers_up():
    """A stdout that raises what no stream raises ends the printing, not the program."""
    code = (
        SPEAK
        + f"""
class Broken:
    def write(self, text):
        raise RuntimeError("not a stream")
    def flush(self):
        pass

stdout, sys.stdout = sys.stdout, Broken()
ray.get([speak.remote(name, {2 * LINES}) for name in "ab"])
sys.stdout = stdout
print("ended")
"""
    )
    done = run_script(code, 60)
    assert "ended" in done.stdout
    assert "not a stream" in done.stderr
