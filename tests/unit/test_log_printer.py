"""Lines of workers on the driver's terminal: prefix, colours, repeats."""

import io
import queue
import sys
import threading

import pytest

from ray._core.log_printer import Deduplicator, LogPrinter


def out(pid, text, name="f", is_stderr=False, kind="out"):
    return (name, pid, is_stderr, kind, text.encode())


def shown(deduplicator, lines, now_s=0.0):
    return [text for line in lines for _, text in deduplicator.add(line, line[4].decode(), now_s)]


class Terminal(io.StringIO):
    def isatty(self):
        return True


def printed(lines, monkeypatch, stream=None, **options):
    """Run a printer over the lines, then end it; give what stands on stdout and stderr."""
    stdout, stderr = stream or io.StringIO(), io.StringIO()
    monkeypatch.setattr(sys, "stdout", stdout)
    monkeypatch.setattr(sys, "stderr", stderr)
    source = queue.Queue()
    for line in lines:
        source.put([line])
    source.put(None)
    printer = LogPrinter(source.get, **options)
    printer.start()
    printer.stop()
    return stdout.getvalue(), stderr.getvalue()


def test_line_carries_name_and_process(monkeypatch):
    """stdout stays stdout, stderr stays stderr."""
    lines = [out(12, "to out"), out(12, "to err", is_stderr=True)]
    assert printed(lines, monkeypatch) == ("(f pid=12) to out\n", "(f pid=12) to err\n")


def test_notice_goes_to_stderr_with_its_name(monkeypatch):
    """It is the runtime that speaks, not a process of the user's."""
    assert printed([out(0, "no room", name="ray", kind="notice")], monkeypatch) == ("", "(ray) no room\n")


def test_prefix_is_coloured_on_terminals_only(monkeypatch):
    """And not when the environment forbids it."""
    coloured, _ = printed([out(12, "x")], monkeypatch, Terminal())
    assert coloured.startswith("\033[")
    assert coloured.endswith("(f pid=12)\033[0m x\n")
    monkeypatch.setenv("RAY_COLOR_PREFIX", "0")
    assert printed([out(12, "x")], monkeypatch, Terminal())[0] == "(f pid=12) x\n"


def test_bytes_that_are_not_utf8_are_shown(monkeypatch):
    """With replacement characters."""
    assert printed([("f", 1, False, "out", b"caf\xe9")], monkeypatch)[0] == "(f pid=1) caf\ufffd\n"


def test_closed_or_missing_stream_is_left_alone(monkeypatch):
    """A program may close its stdout; the printer goes on with stderr."""
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr(sys, "stdout", closed)
    err = io.StringIO()
    monkeypatch.setattr(sys, "stderr", err)
    source = queue.Queue()
    for item in ([out(1, "lost"), out(1, "kept", is_stderr=True)], None):
        source.put(item)
    printer = LogPrinter(source.get)
    printer.start()
    printer.stop()
    assert err.getvalue() == "(f pid=1) kept\n"


def test_same_line_of_several_processes_is_shown_once():
    """Numbers don't make a difference; another text does."""
    deduplicator = Deduplicator(5.0)
    assert shown(deduplicator, [out(1, "step 1 of 10"), out(2, "step 2 of 10"), out(3, "step 3 of 10"), out(2, "other")]) == ["step 1 of 10", "other"]


def test_repeats_are_counted_when_the_window_ends():
    """The last one stands for all."""
    deduplicator = Deduplicator(5.0)
    shown(deduplicator, [out(pid, f"loaded shard {pid}") for pid in (1, 2, 3, 4)])
    assert deduplicator.next_deadline_s() == 5.0
    assert list(deduplicator.expire(4.9)) == []
    assert [(line[1], text) for line, text in deduplicator.expire(5.0)] == [(4, "loaded shard 4 [repeated 3x across cluster]")]
    assert deduplicator.next_deadline_s() is None


def test_single_repeat_is_shown_as_it_is():
    """A count of one says nothing."""
    deduplicator = Deduplicator(5.0)
    shown(deduplicator, [out(1, "same"), out(2, "same")])
    assert [text for _, text in deduplicator.expire(None)] == ["same"]


def test_process_that_repeats_itself_is_shown_in_full():
    """Its lines may be a progress report."""
    assert shown(Deduplicator(5.0), [out(1, f"epoch {i}") for i in range(3)]) == ["epoch 0", "epoch 1", "epoch 2"]


def test_stdout_and_stderr_are_counted_apart():
    """A line on the other stream is another line."""
    assert shown(Deduplicator(5.0), [out(1, "same"), out(2, "same", is_stderr=True)]) == ["same", "same"]


def test_after_the_window_a_line_is_new():
    """Counting starts afresh."""
    deduplicator = Deduplicator(5.0)
    shown(deduplicator, [out(1, "same")], now_s=0.0)
    assert shown(deduplicator, [out(2, "same")], now_s=6.0) == ["same"]


def test_end_prints_what_is_left(monkeypatch):
    """Counted repeats come out at shutdown."""
    stdout, _ = printed([out(pid, "same line") for pid in range(1, 7)], monkeypatch)
    assert stdout == "(f pid=1) same line\n(f pid=6) same line [repeated 5x across cluster]\n"


def test_counting_can_be_switched_off(monkeypatch):
    """RAY_DEDUP_LOGS=0 shows everything."""
    monkeypatch.setenv("RAY_DEDUP_LOGS", "0")
    assert printed([out(pid, "same line") for pid in (1, 2, 3)], monkeypatch)[0].count("same line") == 3


def test_repeats_appear_while_the_engine_is_silent(monkeypatch):
    """The count does not wait for the next line."""
    arrived = threading.Event()

    class Stream(io.StringIO):
        def write(self, text):
            if "repeated 2x" in text:
                arrived.set()
            return super().write(text)

    monkeypatch.setattr(sys, "stdout", Stream())
    source = queue.Queue()
    printer = LogPrinter(source.get, Deduplicator(0.05))
    printer.start()
    source.put([out(pid, "same line") for pid in (1, 2, 3)])
    assert arrived.wait(10)
    source.put(None)
    printer.stop()


@pytest.mark.parametrize("value", ["5s", ""])
def test_setting_that_can_not_be_read_is_named(monkeypatch, value):
    """A wrong environment variable is told by name."""
    monkeypatch.setenv("RAY_DEDUP_LOGS_AGG_WINDOW_S", value)
    with pytest.raises(ValueError, match="RAY_DEDUP_LOGS_AGG_WINDOW_S"):
        LogPrinter(queue.Queue().get)


def test_text_that_the_terminal_can_not_show_is_escaped(monkeypatch):
    """The line is not lost."""
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    source = queue.Queue()
    for item in ([out(1, "gr\u00fcn")], None):
        source.put(item)
    printer = LogPrinter(source.get)
    printer.start()
    printer.stop()
    assert raw.getvalue() == b"(f pid=1) gr\\xfcn\n"


def test_broken_pipe_does_not_end_the_printer(monkeypatch):
    """The reader of stdout is gone; stderr is still served."""

    class Broken(io.StringIO):
        def write(self, text):
            raise BrokenPipeError

        def flush(self):
            raise BrokenPipeError

    lines = [out(1, "lost"), out(1, "kept", is_stderr=True)]
    assert printed(lines, monkeypatch, Broken())[1] == "(f pid=1) kept\n"
