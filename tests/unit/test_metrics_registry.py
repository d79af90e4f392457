"""What `ray.util.metrics` leaves in the registry of the process."""

import threading

import pytest

from ray.util.metrics import Counter, Gauge, Histogram
from ray.util.metrics_registry import registry


def values(name: str) -> dict[tuple[str, ...], object]:
    return next(series for series in registry.all() if series.name == name).read()


def test_counters_add_up_by_tags() -> None:
    counter = Counter("unit_counter", tag_keys=("a", "b")).set_default_tags({"b": "0"})
    counter.inc(1, {"a": "x"})
    counter.inc(2.5, {"a": "x", "b": "0"})
    counter.inc(1, {"a": "y", "b": "1"})
    assert values("unit_counter") == {("x", "0"): 3.5, ("y", "1"): 1.0}


def test_missing_tags_are_refused() -> None:
    with pytest.raises(ValueError, match="a"):
        Counter("unit_missing", tag_keys=("a",)).inc(1)


def test_gauges_keep_the_last_value() -> None:
    gauge = Gauge("unit_gauge")
    gauge.set(1)
    gauge.set(-4)
    assert values("unit_gauge") == {(): -4.0}


def test_histograms_count_by_ranges_that_end_at_their_boundaries() -> None:
    histogram = Histogram("unit_histogram", boundaries=[1, 10])
    for value in (0.5, 1, 5, 10, 100):
        histogram.observe(value)
    seen = values("unit_histogram")[()]
    assert (seen.buckets, seen.count, seen.total) == ([2, 2, 1], 5, 116.5)


def test_metrics_of_one_name_share_their_values() -> None:
    Counter("unit_shared").inc(1)
    Counter("unit_shared").inc(2)
    assert values("unit_shared") == {(): 3.0}


def test_metrics_of_one_name_and_other_tags_are_apart() -> None:
    """Compat: redefining a metric is allowed."""
    Counter("unit_apart").inc(1)
    Counter("unit_apart", tag_keys=("a",)).inc(2, {"a": "x", "unknown": "y"})
    Gauge("unit_apart").set(5)
    found = [(series.kind, series.read()) for series in registry.all() if series.name == "unit_apart"]
    assert found == [("counter", {(): 1.0}), ("counter", {("x",): 2.0}), ("gauge", {(): 5.0})]


def test_what_is_read_does_not_change_any_more() -> None:
    histogram = Histogram("unit_copy", boundaries=[1])
    histogram.observe(0)
    before = values("unit_copy")[()]
    histogram.observe(0)
    assert before.count == 1


def test_threads_lose_nothing() -> None:
    counter = Counter("unit_threads")

    def add() -> None:
        for _ in range(2000):
            counter.inc()

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert values("unit_threads") == {(): 8000.0}
