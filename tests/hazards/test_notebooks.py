"""A real Jupyter kernel: cells, interrupts, restarts, and what is left afterwards."""

import os
import uuid
from collections.abc import Iterator

import pytest

from support import wait_for
from support.processes import end, marked
from support.scripts import ANSI, MARK

jupyter_client = pytest.importorskip("jupyter_client")
pytest.importorskip("ipykernel")
ensure_event_loop = pytest.importorskip("jupyter_core.utils").ensure_event_loop

pytestmark = pytest.mark.limit(60)

INIT = "import threading, ray\nray.init(num_cpus=2, include_dashboard=False)\n"


class Kernel:
    """A kernel and a client of it."""

    def __init__(self, folder):
        self.mark = uuid.uuid4().hex
        self.manager = jupyter_client.KernelManager(kernel_name="python3")
        self.manager.start_kernel(cwd=str(folder), env={**os.environ, MARK: self.mark, "IPYTHONDIR": str(folder / "ipython")})
        self.client = self.manager.client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=30)

    def start(self, code):
        """Send a cell and return its number."""
        return self.client.execute(code)

    def finish(self, cell, until=None):
        """What the cell showed (streams, results, the error) as text, once it has ended or shown `until`."""
        shown = ""
        while until is None or until not in shown:
            message = self.client.get_iopub_msg(timeout=30)
            if message["parent_header"].get("msg_id") != cell:
                continue
            content = message["content"]
            if message["msg_type"] == "stream":
                shown += content["text"]
            elif message["msg_type"] == "execute_result":
                shown += content["data"]["text/plain"]
            elif message["msg_type"] == "error":
                shown += "\n".join(content["traceback"])
            elif message["msg_type"] == "status" and content["execution_state"] == "idle":
                break
        return ANSI.sub("", shown)

    def run(self, code):
        return self.finish(self.start(code))

    def processes(self):
        return {one.pid: one.comm for one in marked(MARK, self.mark)}

    def close(self):
        self.client.stop_channels()
        if self.manager.is_alive():
            self.manager.shutdown_kernel(now=True)
        self.manager.cleanup_resources()
        self.manager.context.term()
        ensure_event_loop().close()  # the client library keeps one for its synchronous calls
        wait_for(lambda: not self.processes(), 10, f"no process left: {self.processes()}")


@pytest.fixture(scope="module")
def shared_kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    kernel = Kernel(tmp_path_factory.mktemp("kernel"))
    yield kernel
    end(list(kernel.processes()))
    kernel.close()


@pytest.fixture
def kernel(shared_kernel: Kernel) -> Iterator[Kernel]:
    """The kernel with a session up and nothing from earlier tests running."""
    assert "Error" not in shared_kernel.run("import ray; ray.shutdown()\n" + INIT)
    return shared_kernel


def test_notebook_cells_define_and_call_remote_functions_and_actors(kernel):
    """Functions, classes and values of cells work in tasks of later cells; output of workers shows up."""
    kernel.run("factor = 3\ndef helper(x):\n    return factor * x\n\nclass Point:\n    def __init__(self, x):\n        self.x = x")
    kernel.run("@ray.remote\ndef triple(point):\n    print('in the task')\n    return Point(helper(point.x))")
    kernel.run("@ray.remote\nclass Counter:\n    n = 0\n    def add(self):\n        self.n += 1\n        return self.n\ncounter = Counter.remote()")
    assert kernel.run("ray.get(triple.remote(Point(5))).x, ray.get([counter.add.remote() for _ in range(3)])").endswith("(15, [1, 2, 3])")
    assert "(15" in kernel.run("ray.get(triple.remote(Point(5))).x, isinstance(ray.get(triple.remote(Point(5))), Point)")


def test_notebook_redefined_functions_and_classes_run_the_new_body(kernel):
    """A cell run again with another body takes effect; actors that live keep the old one."""
    kernel.run(
        "@ray.remote\ndef f():\n    return 'old'\n\n@ray.remote\nclass A:\n    def f(self):\n        return 'old'\nold = A.remote()\nray.get([f.remote(), old.f.remote()])"
    )
    kernel.run("@ray.remote\ndef f():\n    return 'new'\n\n@ray.remote\nclass A:\n    def f(self):\n        return 'new'")
    assert kernel.run("ray.get([f.remote(), A.remote().f.remote(), old.f.remote()])") == "['new', 'new', 'old']"


def test_notebook_awaits_references_at_the_top_of_a_cell(kernel):
    """The kernel runs cells in its own event loop: `await ref` works there, and so does `get`."""
    kernel.run("import asyncio\n@ray.remote\ndef double(x):\n    return 2 * x")
    assert kernel.run("await double.remote(4), await asyncio.gather(*[double.remote(i) for i in range(3)]), ray.get(double.remote(1))") == "(8, [0, 2, 4], 2)"


def test_notebook_error_of_a_task_shows_the_users_error(kernel):
    """The traceback of a failing cell ends with the user's error."""
    kernel.run("@ray.remote\ndef fail():\n    raise ValueError('from the cell')")
    assert kernel.run("ray.get(fail.remote())").strip().splitlines()[-1].endswith("ValueError: from the cell")


# `await never` is left out: ipykernel 7.4 lets no cell be interrupted in an await, whatever it awaits.
BLOCKERS = ["ray.get(never)", "ray.wait([never])", "never.future().result()", "ray.get([f.remote(never)])"]


@pytest.mark.parametrize("blocker", BLOCKERS)
def test_notebook_interrupt_ends_the_cell_and_the_next_one_works(kernel, blocker):
    """Interrupting a cell that waits raises KeyboardInterrupt there; workers, actors and the session stay."""
    kernel.run(
        "@ray.remote\ndef f(x):\n    return x\n\n@ray.remote\nclass Sleeper:\n    def never(self):\n        threading.Event().wait()\n    def ping(self):\n        return 'pong'"
    )
    kernel.run("never, other = Sleeper.remote().never.remote(), Sleeper.remote()\nray.get(other.ping.remote())")
    before = kernel.processes()
    cell = kernel.start(f"print('waiting', flush=True)\n{blocker}")
    assert "waiting" in kernel.finish(cell, until="waiting")
    kernel.manager.interrupt_kernel()
    shown = kernel.finish(cell)
    assert "KeyboardInterrupt" in shown, shown
    assert kernel.run("ray.get([f.remote(1), other.ping.remote()])") == "[1, 'pong']"
    assert before.keys() <= kernel.processes().keys()


def test_notebook_init_again_says_what_to_do_and_shutdown_lets_it(kernel):
    """Running the init cell twice is explained; with ignore_reinit_error it is harmless; shutdown and init start over."""
    again = kernel.run("ray.init()")
    assert "RuntimeError" in again and "ignore_reinit_error=True" in again
    assert "Error" not in kernel.run("context = ray.init(ignore_reinit_error=True)")
    assert kernel.run("ref = ray.put(1)\nray.shutdown()\nray.is_initialized()") == "False"
    assert kernel.run(INIT + "ray.get(ray.put(2))").endswith("2")


def test_notebook_restart_and_shutdown_leave_no_process(kernel):
    """Restarting the kernel, gently or by force, with work running ends every process of the session; the next session works."""
    code = "@ray.remote\nclass Sleeper:\n    def never(self):\n        threading.Event().wait()\nsleepers = [Sleeper.remote() for _ in range(3)]\nrefs = [s.never.remote() for s in sleepers]\nready = ray.wait(refs, timeout=0.2)"
    for now in (False, True):
        assert "Error" not in kernel.run(code)
        before = {pid for pid, comm in kernel.processes().items() if comm.startswith("ray-")}
        assert len(before) >= 4
        kernel.manager.restart_kernel(now=now)
        kernel.client.wait_for_ready(timeout=30)
        wait_for(lambda before=before: not before & kernel.processes().keys(), 10, f"{before} gone; {kernel.processes()}")
        assert kernel.run(INIT + "ray.get(ray.remote(lambda x: x + 1).remote(1))").endswith("2")
    ours = {pid for pid, comm in kernel.processes().items() if comm.startswith("ray-")}
    kernel.manager.shutdown_kernel()
    wait_for(lambda: not ours & kernel.processes().keys(), 10)
