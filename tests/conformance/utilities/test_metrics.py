"""`ray.util.metrics`: what records are accepted. Where the values are seen is another matter."""

import pytest

import ray
from ray.util.metrics import Counter, Gauge, Histogram

pytestmark = pytest.mark.runtime(num_cpus=2)


def test_metrics_accept_records():
    """Counters, gauges and histograms, with and without tags."""
    counter = Counter("conformance_counter", description="counts", tag_keys=("route",))
    counter.inc(tags={"route": "/"})
    counter.inc(2.5, tags={"route": "/"})
    gauge = Gauge("conformance_gauge")
    gauge.set(5)
    gauge.set(-1.5)
    histogram = Histogram("conformance_histogram", boundaries=[1, 10.0])
    histogram.observe(0.5)
    histogram.observe(100)


def test_metrics_info_says_what_they_are():
    """Name, description, tags, default tags."""
    gauge = Gauge("conformance_info", description="about", tag_keys=("a", "b"))
    gauge.set_default_tags({"a": "1"})
    info = gauge.info
    assert (info["name"], info["description"], tuple(info["tag_keys"]), info["default_tags"]) == ("conformance_info", "about", ("a", "b"), {"a": "1"})
    assert Histogram("conformance_info_h", boundaries=[1, 2]).info["boundaries"] == [1, 2]


def test_metrics_default_tags_stand_in():
    """A tag may come from the defaults, and a record overrides it."""
    counter = Counter("conformance_defaults", tag_keys=("a", "b"))
    counter.set_default_tags({"a": "1"})
    counter.inc(1, tags={"b": "2"})
    counter.inc(1, tags={"a": "x", "b": "2"})


def test_metrics_counter_only_grows():
    """0 and less are refused."""
    counter = Counter("conformance_grows")
    with pytest.raises(ValueError):
        counter.inc(0)
    with pytest.raises(ValueError):
        counter.inc(-1)
    with pytest.raises(TypeError):
        counter.inc("1")


def test_metrics_tags_are_complete():
    """Each has a value in the end; one that is not known is refused among the defaults."""
    counter = Counter("conformance_complete", tag_keys=("a", "b"))
    with pytest.raises(ValueError):
        counter.inc(1, tags={"a": "1"})
    with pytest.raises(ValueError):
        counter.inc(1)
    with pytest.raises(ValueError):
        counter.set_default_tags({"other": "1"})
    counter.inc(1, tags={"a": "1", "b": "2", "other": "3"})


def test_metrics_may_be_defined_again():
    """The same name with other tags, or as another kind."""
    Counter("conformance_again").inc(1)
    Counter("conformance_again", tag_keys=("a",)).inc(1, tags={"a": "1"})
    Gauge("conformance_again").set(None)


def test_metrics_tag_values_are_strings():
    """Anything else is a TypeError."""
    counter = Counter("conformance_strings", tag_keys=("a",))
    with pytest.raises(TypeError):
        counter.inc(1, tags={"a": 1})
    with pytest.raises(TypeError):
        counter.set_default_tags({"a": 1})


def test_metrics_bad_definitions_are_refused():
    """An empty name, tags that are no tuple of strings, boundaries that are none."""
    with pytest.raises(ValueError):
        Counter("")
    with pytest.raises(TypeError):
        Counter("conformance_bad", tag_keys="a")
    with pytest.raises(TypeError):
        Counter("conformance_bad", tag_keys=(1,))
    with pytest.raises(ValueError):
        Histogram("conformance_bad")
    with pytest.raises(ValueError):
        Histogram("conformance_bad", boundaries=[0, 1])
    with pytest.raises(ValueError):
        Histogram("conformance_bad", boundaries=[-1])


def test_metrics_travel_to_tasks_and_actors():
    """A metric in a closure records where it arrives."""
    counter = Counter("conformance_travels", tag_keys=("a",))
    counter.set_default_tags({"a": "1"})

    @ray.remote
    def use():
        counter.inc(2)
        return counter.info["default_tags"]

    assert ray.get(use.remote()) == {"a": "1"}
