"""Clusters that the tests of a module share; every test finds the head alone and adds what it needs."""

from collections.abc import Iterator

import pytest

from support.clusters import Node, Nodes
from support.started import StartedCluster, started

STORE_BYTES = 512 << 20


@pytest.fixture(scope="module")
def _cluster(_module_runtime: None) -> Iterator[Nodes]:
    made = Nodes(object_store_memory=STORE_BYTES)
    yield made
    made.close()


@pytest.fixture
def nodes(_cluster: Nodes) -> Iterator[Nodes]:
    """The cluster: a head, and nothing else yet."""
    yield _cluster
    _cluster.restore()


@pytest.fixture
def n2(nodes: Nodes) -> Node:
    """A second node."""
    return nodes.add("n2", object_store_memory=STORE_BYTES)


@pytest.fixture
def n3(nodes: Nodes, n2: Node) -> Node:
    """A third node, after the second."""
    return nodes.add("n3", object_store_memory=STORE_BYTES)


@pytest.fixture
def three() -> Iterator[StartedCluster]:
    """Three machines, joined to one cluster by the command."""
    with started(3) as cluster:
        yield cluster
