"""`num_returns` of generators: "streaming", "dynamic", numbers, and what is refused."""

import pytest

import ray

pytestmark = [pytest.mark.runtime(num_cpus=2), pytest.mark.filterwarnings("ignore:.*num_returns='dynamic'.*")]


@ray.remote
def count(n):
    for i in range(n):  # noqa: UP028
        yield i


def dynamic(n):
    """A call whose results are counted when it ends."""
    return count.options(num_returns="dynamic").remote(n)


def test_dynamic_generator_is_one_reference_to_many():
    """The one result is a DynamicObjectRefGenerator: it has a length and gives the references once."""
    ref = dynamic(3)
    assert isinstance(ref, ray.ObjectRef)
    found = ray.get(ref)
    assert isinstance(found, ray.DynamicObjectRefGenerator)
    assert len(found) == 3
    assert [ray.get(item) for item in found] == [0, 1, 2]
    assert list(found) == []


def test_dynamic_generator_reference_may_be_passed_on():
    """A task that gets it reads the items; they live as long as the one reference."""

    @ray.remote
    def total(items):
        return sum(ray.get(item) for item in items)

    ref = dynamic(100)
    assert ray.get([total.remote(ref), total.remote(ref)]) == [4950, 4950]


def test_dynamic_generator_items_outlive_the_reference():
    """Items taken out of it are good by themselves."""
    items = list(ray.get(dynamic(3)))
    assert ray.get(items) == [0, 1, 2]


def test_dynamic_generator_large_items_arrive_whole():
    """Items in shared memory are found through the one reference."""

    @ray.remote(num_returns="dynamic")
    def texts(n):
        for i in range(n):
            yield str(i) * 300_000

    assert [ray.get(item)[0] for item in ray.get(texts.remote(4))] == ["0", "1", "2", "3"]


def test_dynamic_generator_error_is_its_last_item():
    """Items before the error can be read; the error is one more."""

    @ray.remote(num_returns="dynamic")
    def fails():
        yield 1
        raise ValueError("at the end")

    items = list(ray.get(fails.remote()))
    assert ray.get(items[0]) == 1
    assert len(items) == 2
    with pytest.raises(ValueError, match="at the end"):
        ray.get(items[1])


def test_numbered_returns_of_a_generator():
    """With a number the generator is read in the worker: so many results, none for 0."""
    assert ray.get(count.options(num_returns=2).remote(2)) == [0, 1]
    assert ray.get(count.options(num_returns=1).remote(1)) == 0
    assert count.options(num_returns=0).remote(2) is None


def test_streaming_may_be_said():
    """num_returns="streaming" and None are what a generator has by itself."""
    for said in ("streaming", None):
        assert [ray.get(ref) for ref in count.options(num_returns=said).remote(2)] == [0, 1]


@pytest.mark.parametrize("returns", ["streaming", "dynamic"])
def test_streaming_of_what_is_no_generator_is_refused(returns):
    """Only functions that use `yield` can stream: in the decorator, in `.options()` and in `@ray.method`."""

    def plain():
        return [1, 2]

    for write in (lambda: ray.remote(num_returns=returns)(plain), lambda: ray.remote(plain).options(num_returns=returns), lambda: mark(plain, returns)):
        with pytest.raises(ValueError, match="generator"):
            write()


def mark(function, returns):
    return ray.method(num_returns=returns)(function)


def test_streaming_method_that_is_no_generator_is_refused_in_options():
    """The same for `.options()` of a method."""

    @ray.remote
    class Plain:
        def one(self):
            return 1

    with pytest.raises(ValueError, match="generator"):
        Plain.remote().one.options(num_returns="streaming").remote()


def test_names_of_the_extension_module():
    """Programs import the class from `ray._raylet` as well."""
    from ray._raylet import ObjectRefGenerator

    assert ObjectRefGenerator is ray.ObjectRefGenerator
