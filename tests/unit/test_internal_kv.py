"""`ray.experimental.internal_kv`, in local mode: what is there, under which namespace."""

from collections.abc import Iterator

import pytest

import ray
from ray.experimental.internal_kv import (
    _internal_kv_del,
    _internal_kv_exists,
    _internal_kv_get,
    _internal_kv_initialized,
    _internal_kv_list,
    _internal_kv_put,
)


@pytest.fixture(autouse=True)
def session() -> Iterator[None]:
    ray.shutdown()
    ray.init(local_mode=True)
    yield
    ray.shutdown()


def test_put_tells_whether_the_key_existed() -> None:
    assert _internal_kv_initialized()
    assert _internal_kv_put("a", "1") is False
    assert _internal_kv_put(b"a", b"2") is True
    assert _internal_kv_put("a", "3", overwrite=False) is True
    assert _internal_kv_get("a") == b"2"
    ray.shutdown()
    assert not _internal_kv_initialized()


def test_missing_key_has_no_value() -> None:
    assert _internal_kv_get("a") is None
    assert not _internal_kv_exists("a")
    assert _internal_kv_del("a") == 0


def test_namespaces_are_apart_whatever_their_names() -> None:
    for number, namespace in enumerate([None, "n", "n:a", b"other"]):
        assert _internal_kv_put("a:b", str(number), namespace=namespace) is False
    assert [_internal_kv_get("a:b", namespace=one) for one in (None, b"n", "n:a", "other")] == [b"0", b"1", b"2", b"3"]
    assert _internal_kv_list("", namespace="n") == [b"a:b"]
    assert _internal_kv_list(b"") == [b"a:b"]


def test_prefix_lists_and_removes() -> None:
    for key in ("ab", "a", "b", "ac"):
        _internal_kv_put(key, "x", namespace="n")
    _internal_kv_put("ad", "x", namespace="other")
    assert _internal_kv_list("a", namespace="n") == [b"a", b"ab", b"ac"]
    assert _internal_kv_del("a", namespace="n") == 1
    assert _internal_kv_del("a", del_by_prefix=True, namespace="n") == 2
    assert _internal_kv_list(b"", namespace="n") == [b"b"]
    assert _internal_kv_exists("ad", namespace="other")


def test_tasks_see_what_the_driver_kept() -> None:
    _internal_kv_put("a", "1")
    assert ray.get(ray.remote(_internal_kv_get).remote("a")) == b"1"
