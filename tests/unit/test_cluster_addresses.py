"""Doors and addresses: their names, and which node of which cluster is meant."""

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, suppress

import pytest

from ray._core.cluster import address, door

SESSION = "session_2026-11-28_20-20-02_123456_4194304"


@pytest.fixture
def doors() -> Iterator["Doors"]:
    with ExitStack() as stack:
        yield Doors(stack)


class Doors:
    """Opens doors as daemons would, with names that no other test has."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._count = 0

    def open(self, head: str, is_head: bool = True, own: bool = False, backlog: int = 16) -> str:
        self._count += 1
        session = f"session_2099-01-01_00-00-00_{self._count:06d}_{os.getpid()}" + (door.PROGRAMS_OWN if own else "")
        name = door.cluster_name(head, is_head, session)
        listener = self._stack.enter_context(socket.socket(socket.AF_UNIX))
        listener.bind(b"\0" + name.encode())
        listener.listen(backlog)
        return name


# Names


def test_door_of_a_session_is_told_from_that_of_a_standing_node() -> None:
    plain = door.parse(door.name_of(SESSION))
    assert plain == door.Door(f"ray/{os.geteuid()}/{SESSION}", SESSION, "", False)
    name = door.cluster_name("10.0.0.5:6379", True, SESSION)
    assert name == f"ray/{os.geteuid()}/cluster/10.0.0.5:6379/1/{SESSION}"
    assert door.parse(name) == door.Door(name, SESSION, "10.0.0.5:6379", True)
    assert door.parse(door.cluster_name("10.0.0.5:6379", False, SESSION)).is_head is False


@pytest.mark.parametrize("name", ["", "x", "ray/1/", "ray/99999/s", "ray/{me}/", "ray/{me}/a/b", "ray/{me}/cluster/h:1/2/s", "ray/{me}/cluster/h:1/1/"])
def test_other_names_are_no_doors_of_this_user(name: str) -> None:
    assert door.parse(name.format(me=os.geteuid())) is None


@pytest.mark.parametrize("own", ["", door.PROGRAMS_OWN])
def test_long_addresses_leave_a_name_that_fits_and_can_be_read(own: str) -> None:
    head = "[1234:1234:1234:1234:1234:1234:1234:1234]:65535"
    name = door.cluster_name(head, True, SESSION + own)
    found = door.parse(name)
    assert len(name) <= door.LONGEST
    assert (found.head, found.is_programs_own, found.age_key[:14]) == (head, bool(own), "20261128202002")
    assert found.age_key.endswith("4194304")


def test_youngest_session_comes_last_whatever_its_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    names = [door.cluster_name("a:1", True, SESSION.replace("20-20-02", "20-20-03")), door.name_of(SESSION), door.name_of(SESSION.replace("2026", "2025"))]
    assert [one.name for one in door._sort([*names, names[0], "other"])] == [names[2], names[1], names[0]]


def test_process_behind_a_door_is_told(doors: Doors) -> None:
    name = doors.open("127.0.0.1:1")
    assert door.pid_behind(name) == os.getpid()
    assert name in [one.name for one in door.clusters()]
    assert door.pid_behind(name + "x") == 0


def test_process_behind_a_door_that_nobody_answers_is_told_all_the_same(doors: Doors) -> None:
    name = doors.open("127.0.0.1:1", backlog=0)
    with ExitStack() as guests:
        for _ in range(3):
            guest = guests.enter_context(socket.socket(socket.AF_UNIX))
            guest.setblocking(False)
            with suppress(BlockingIOError):
                guest.connect(b"\0" + name.encode())
        assert door.pid_behind(name) == os.getpid()
        assert door._pid_holding(name) == os.getpid()
        assert door._pid_holding(name + "x") == 0


def test_door_without_a_process_is_no_node(doors: Doors, monkeypatch: pytest.MonkeyPatch) -> None:
    living = doors.open("127.0.0.1:8")
    gone = door.parse(door.cluster_name("127.0.0.1:8", True, "session_2099-02-01"))
    monkeypatch.setattr(door, "clusters", lambda: [door.parse(living), gone])
    assert address.node_of_cluster("auto").name == living
    monkeypatch.setattr(door, "clusters", lambda: [gone])
    assert address.youngest_cluster(programs_own=True) is None


# Addresses


@pytest.mark.parametrize(
    ("text", "found"),
    [("a:1", ("a", 1)), (" 10.0.0.1:6379 ", ("10.0.0.1", 6379)), ("[::1]:80", ("::1", 80)), ("::1:80", ("::1", 80)), ("host.name:65535", ("host.name", 65535))],
)
def test_address_is_read(text: str, found: tuple[str, int]) -> None:
    assert address.split(text) == found
    assert address.split(address.join(*found)) == found


@pytest.mark.parametrize("text", ["", "a", ":1", "a:", "a:0", "a:65536", "a:b", "a:-1", "http://a:1", "a:\u0661"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no address of a cluster\nhint: write host:port"):
        address.split(text)


def test_names_are_resolved_and_unknown_ones_said() -> None:
    assert address.resolve("10.1.2.3") == ["10.1.2.3"]
    assert "127.0.0.1" in address.resolve("localhost")
    with pytest.raises(ConnectionError, match="can't be resolved"):
        address.resolve("no-such-host.invalid")


def test_own_ips_are_known() -> None:
    assert address.is_own("127.0.0.1")
    assert address.is_own(address.own_ip())
    assert address.is_own(address.own_ip_towards("127.0.0.1"))
    assert not address.is_own("198.51.100.7")


def test_free_and_taken_ports_are_told() -> None:
    port = address.free_port("127.0.0.1")
    assert address.is_free("127.0.0.1", port)
    with socket.create_server(("127.0.0.1", port)):
        assert not address.is_free("127.0.0.1", port)


# Which node


def test_auto_is_the_head_of_the_youngest_cluster(doors: Doors) -> None:
    doors.open("127.0.0.1:1")
    head = doors.open("127.0.0.1:2")
    doors.open("127.0.0.1:2", is_head=False)
    assert address.node_of_cluster("auto").name == head
    assert address.youngest_cluster(programs_own=False).name == head


def test_programs_own_clusters_are_found_only_when_asked_for(doors: Doors) -> None:
    own = doors.open("127.0.0.1:3", own=True)
    found = address.youngest_cluster(programs_own=False)
    assert found is None or not found.is_programs_own
    assert address.node_of_cluster("127.0.0.1:3").name == own
    shared = doors.open("127.0.0.1:4")
    doors.open("127.0.0.1:5", own=True)
    assert address.node_of_cluster("auto").name == shared


@pytest.mark.parametrize("text", ["127.0.0.1:7", "localhost:7", "{own}:7"])
def test_names_of_this_machine_mean_the_same_cluster(doors: Doors, text: str) -> None:
    name = doors.open("127.0.0.1:7")
    assert address.node_of_cluster(text.format(own=address.own_ip())).name == name


def test_node_that_joined_a_head_elsewhere_is_found_by_the_heads_address(doors: Doors) -> None:
    name = doors.open("198.51.100.7:6379", is_head=False)
    assert address.node_of_cluster("198.51.100.7:6379").name == name


def test_cluster_without_a_node_here_says_what_to_run(doors: Doors) -> None:
    doors.open("127.0.0.1:7")
    with pytest.raises(ConnectionError, match=r"a driver needs one\nhint: start one with ray start --address=198.51.100.8:6379"):
        address.node_of_cluster("198.51.100.8:6379")
    with pytest.raises(ConnectionError, match=r"no cluster of yours has its head at localhost:9.*\nhint: running here: .*127.0.0.1:7"):
        address.node_of_cluster("localhost:9")


def test_auto_without_a_cluster_says_how_to_start_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "clusters", list)
    with pytest.raises(ConnectionError, match="ray start --head"):
        address.node_of_cluster("auto")
