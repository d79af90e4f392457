"""Large buffers: shared where the format allows it, always read-only."""

import pytest

import ray

np = pytest.importorskip("numpy")

pytestmark = pytest.mark.runtime(num_cpus=2, object_store_memory=200 * 1024 * 1024)

MEGA = 1 << 20


def address(array):
    return array.__array_interface__["data"][0]


def test_buffers_of_a_structured_array_are_shared():
    """Records in place, fields read-only."""
    array = np.zeros(MEGA, dtype=[("a", "i4"), ("b", "f8")])
    array["a"] = np.arange(MEGA)
    ref = ray.put(array)
    first, second = ray.get(ref), ray.get(ref)
    assert address(first) == address(second)
    assert first["a"][17] == 17
    with pytest.raises(ValueError, match="read-only"):
        first["b"][0] = 1


def test_buffers_of_an_object_array_arrive():
    """Arrays of Python objects are pickled, with arrays inside of them."""
    array = np.array([{"x": np.arange(3)}, "text", None], dtype=object)
    got = ray.get(ray.put(array))
    assert got.dtype == object
    assert got[0]["x"].tolist() == [0, 1, 2]
    assert got[1:].tolist() == ["text", None]


def test_buffers_of_a_subclass_of_array_keep_their_class():
    """A masked array."""
    array = np.ma.masked_array(np.arange(5), mask=[0, 1, 0, 0, 1])
    got = ray.get(ray.put(array))
    assert isinstance(got, np.ma.MaskedArray)
    assert got.sum() == 5


def test_buffers_of_numpy_scalars_and_types():
    """Scalars and dtypes come back as what they are."""
    values = [np.float32(1.5), np.int64(3), np.bool_(True), np.dtype("i4"), np.datetime64("2020-01-01")]
    got = ray.get(ray.put(values))
    assert got == values
    assert [type(one) for one in got] == [type(one) for one in values]


def test_buffers_of_a_dataclass_are_shared():
    """An array in an object in a list."""
    import dataclasses

    @dataclasses.dataclass
    class Batch:
        x: object
        n: int

    ref = ray.put([Batch(np.ones(MEGA), 3)])
    first, second = ray.get(ref), ray.get(ref)
    assert address(first[0].x) == address(second[0].x)
    assert not first[0].x.flags.writeable


def test_buffers_of_a_record_batch_are_shared():
    """Arrow's buffers are read in place, without a copy."""
    pa = pytest.importorskip("pyarrow")
    batch = pa.record_batch({"x": np.arange(MEGA // 8), "s": ["text"] * (MEGA // 8)})
    ref = ray.put(batch)
    first, second = ray.get(ref), ray.get(ref)
    assert first.equals(batch)
    pairs = zip(first.column(1).buffers(), second.column(1).buffers(), strict=True)
    assert all(one.address == other.address for one, other in pairs if one is not None)
    assert not first.column(0).buffers()[1].is_mutable


def test_buffers_of_arrow_before_and_after_hold_no_copy():
    """What `get` gives takes no memory of Arrow's own."""
    pa = pytest.importorskip("pyarrow")
    ref = ray.put(pa.table({"x": np.arange(4 * MEGA)}))
    before = pa.total_allocated_bytes()
    table = ray.get(ref)
    assert table.num_rows == 4 * MEGA
    assert pa.total_allocated_bytes() - before < MEGA


def test_buffers_of_arrow_keep_metadata_and_chunks():
    """Schema metadata, dictionaries, nulls and several chunks arrive."""
    pa = pytest.importorskip("pyarrow")
    schema = pa.schema([pa.field("d", pa.dictionary(pa.int8(), pa.string())), pa.field("n", pa.float64())], metadata={"k": "v"})
    part = pa.table({"d": pa.array(["a", None, "b"]).dictionary_encode().cast(pa.dictionary(pa.int8(), pa.string())), "n": [1.0, None, 3.0]}, schema=schema)
    table = pa.concat_tables([part, part])
    got = ray.get(ray.put(table))
    assert got.equals(table)
    assert got.schema.metadata == {b"k": b"v"}
    assert got.column("n").null_count == 2


def test_buffers_of_a_data_frame_are_shared():
    """The blocks of a pandas DataFrame are read in place."""
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame({"x": np.arange(MEGA), "y": np.ones(MEGA)})
    ref = ray.put(frame)
    first, second = ray.get(ref), ray.get(ref)
    pd.testing.assert_frame_equal(first, frame)
    assert np.shares_memory(first["x"].to_numpy(), second["x"].to_numpy())
    assert not first["x"].to_numpy().flags.writeable


def test_buffers_of_a_data_frame_with_strings_and_categories():
    """Index, categories, strings, missing values."""
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame({"c": pd.Categorical(["a", "b", "a"]), "s": ["x", None, "z"], "t": pd.date_range("2020", periods=3)}, index=[5, 6, 7])
    pd.testing.assert_frame_equal(ray.get(ray.put(frame)), frame)


def test_buffers_of_pickle_five_are_used():
    """A class that gives a PickleBuffer is shared, too."""
    import pickle

    class Raw:
        def __init__(self, data):
            self.data = memoryview(data)

        def __reduce_ex__(self, protocol):
            return Raw, (pickle.PickleBuffer(self.data),)

    ref = ray.put(Raw(np.full(MEGA, 7, np.uint8)))
    first, second = ray.get(ref), ray.get(ref)
    assert address(np.frombuffer(first.data, np.uint8)) == address(np.frombuffer(second.data, np.uint8))
    assert first.data.readonly
    assert first.data[5] == 7


def test_buffers_outlive_everything_else():
    """An array stays valid after its reference, its task and other puts are gone."""

    @ray.remote
    def make():
        return {"a": np.arange(MEGA)}

    array = ray.get(make.remote())["a"]
    for i in range(5):
        ray.put(np.full(MEGA, i))
    assert array[12345] == 12345


@pytest.mark.slow
def test_buffers_of_torch_tensors_arrive():
    """CPU tensors: contents, types, shapes and shared storage."""
    torch = pytest.importorskip("torch", reason="torch is not installed")
    torch.set_num_threads(1)  # a thread of its pool would be taken for one that we leak
    tensors = {"f": torch.arange(MEGA, dtype=torch.float32), "b": torch.ones(3, 2, dtype=torch.bfloat16), "g": torch.zeros(2, requires_grad=True)}
    got = ray.get(ray.put(tensors))
    assert torch.equal(got["f"], tensors["f"])
    assert got["b"].dtype == torch.bfloat16
    assert got["g"].requires_grad
