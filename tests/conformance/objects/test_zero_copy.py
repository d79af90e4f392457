"""Arrays shared instead of copied."""

import gc

import pytest

import ray

np = pytest.importorskip("numpy")
pytestmark = pytest.mark.runtime(num_cpus=2, object_store_memory=200 * 1024 * 1024)

MEGA = 1024 * 1024


def address(array):
    return array.__array_interface__["data"][0]


def test_array_from_get_is_read_only():
    """Writing into a fetched array raises; a copy can be written."""
    array = ray.get(ray.put(np.zeros(MEGA)))
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 1
    copy = array.copy()
    copy[0] = 1
    assert array[0] == 0


def test_array_argument_of_a_task_is_read_only():
    """A task can't change an array that it was given."""

    @ray.remote
    def write(array):
        array[0] = 1

    with pytest.raises(ValueError, match="read-only"):
        ray.get(write.remote(np.zeros(MEGA)))


def test_array_got_twice_shares_its_memory():
    """Two `get`s of a large array in one process see the same bytes at the same address."""
    ref = ray.put(np.arange(MEGA))
    first, second = ray.get(ref), ray.get(ref)
    assert address(first) == address(second)


def test_array_is_aligned():
    """Buffers start at multiples of 64 bytes."""
    arrays = ray.get(ray.put([np.zeros(MEGA, dtype=np.uint8), np.ones(MEGA + 3, dtype=np.float64)]))
    assert [address(array) % 64 for array in arrays] == [0, 0]


def test_array_changed_after_put_does_not_change_the_object():
    """`put` takes a snapshot."""
    array = np.zeros(MEGA)
    ref = ray.put(array)
    array[:] = 7
    assert ray.get(ref).sum() == 0


@pytest.mark.parametrize(
    "make",
    [
        lambda: np.arange(12).reshape(3, 4),
        lambda: np.asfortranarray(np.arange(300_000.0).reshape(300, 1000)),
        lambda: np.arange(1_000_000)[::2],
        lambda: np.array(5.0),
        lambda: np.zeros((0, 3)),
        lambda: np.array(["a", "bcd"]),
        lambda: np.array([{"x": 1}, None], dtype=object),
        lambda: np.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f8")]),
        lambda: np.array(["2020-01-01"], dtype="datetime64[D]"),
    ],
)
def test_array_of_any_kind_arrives_equal(make):
    """Shapes, orders, strides and types of arrays survive."""
    array = make()
    got = ray.get(ray.put(array))
    assert got.dtype == array.dtype
    assert got.shape == array.shape
    assert np.array_equal(got, array)


def test_array_inside_a_dict_is_shared_too():
    """Buffers deep inside a value are shared as well, the container is fresh."""
    ref = ray.put({"weights": [np.ones(MEGA), np.ones(3)], "name": "model"})
    first, second = ray.get(ref), ray.get(ref)
    assert address(first["weights"][0]) == address(second["weights"][0])
    first["name"] = "changed"
    assert ray.get(ref)["name"] == "model"


def test_array_view_outlives_its_ref():
    """A fetched array, or a slice of it, stays intact after its ref is gone and the store is used for other things."""
    ref = ray.put(np.arange(4 * MEGA, dtype=np.int64))
    view = ray.get(ref)[10:1000:3]
    del ref
    gc.collect()
    for i in range(20):
        ray.put(np.full(4 * MEGA, i, dtype=np.int64))
    assert np.array_equal(view, np.arange(10, 1000, 3))


def test_array_result_of_a_task_is_shared():
    """A large result is read in place."""

    @ray.remote
    def make():
        return np.full(MEGA, 3.0)

    ref = make.remote()
    first, second = ray.get(ref), ray.get(ref)
    assert address(first) == address(second)
    assert first.sum() == 3 * MEGA


def test_array_shared_by_several_tasks_arrives_in_each():
    """One put serves many readers."""

    @ray.remote
    def total(array, factor):
        return float(array.sum()) * factor

    ref = ray.put(np.ones(4 * MEGA))
    assert ray.get([total.remote(ref, i) for i in range(8)]) == [4.0 * MEGA * i for i in range(8)]


def test_bytes_arrive_as_bytes():
    """Large bytes come back as plain bytes."""
    data = b"0123456789" * 200_000
    got = ray.get(ray.put(data))
    assert type(got) is bytes
    assert got == data


def test_arrow_table_is_shared():
    """An Arrow table is read in place, from a put and from a task."""
    pa = pytest.importorskip("pyarrow")
    table = pa.table({"x": np.arange(MEGA), "y": np.ones(MEGA)})

    @ray.remote
    def summed(table):
        return table.column("x").to_numpy().sum(), table.num_rows

    ref = ray.put(table)
    first, second = ray.get(ref), ray.get(ref)
    assert first.equals(table)
    addresses = [one.column("x").chunk(0).buffers()[1].address for one in (first, second)]
    assert addresses[0] == addresses[1]
    assert ray.get(summed.remote(ref)) == (np.arange(MEGA).sum(), MEGA)


def test_arrow_slice_carries_its_part_only():
    """A slice of a table arrives as that slice."""
    pa = pytest.importorskip("pyarrow")
    table = pa.table({"x": list(range(1000)), "s": [str(i) for i in range(1000)]})
    got = ray.get(ray.put(table.slice(10, 5)))
    assert got.to_pydict() == {"x": [10, 11, 12, 13, 14], "s": ["10", "11", "12", "13", "14"]}
