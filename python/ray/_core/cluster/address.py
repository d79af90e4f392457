"""Addresses of nodes, "ip:port": reading what users write, and what this machine's own are."""

from __future__ import annotations

import ipaddress
import socket

from ray._core.cluster import door

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from ray._core.cluster.door import Door

DEFAULT_PORT = 6379
"""Where a head listens if nobody says otherwise and it is free. Compat: Ray's."""
LOOPBACK = "127.0.0.1"
_SOMEWHERE_ELSE = "198.51.100.1"  # RFC 5737: an address for documentation. Nothing is sent there: only the route is looked up.
_ANY_PORT = 9

NO_CLUSTER = "no cluster of yours runs on this machine\nhint: start one with ray start --head, or leave the address out for a node of this program's own"


def split(text: str) -> tuple[str, int]:
    """Read "host:port"; an IPv6 address may stand in brackets.

    Args:
        text: What a user wrote.

    Returns:
        Host and port.

    Raises:
        ValueError: It is none.
    """
    host, colon, port = text.strip().rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    if "://" in text or not colon or not host or not (port.isascii() and port.isdigit()) or not 0 < int(port) < 65536:
        raise ValueError(f"{text!r} is no address of a cluster\nhint: write host:port, for example 10.0.0.5:{DEFAULT_PORT}")
    return host, int(port)


def join(ip: str, port: int) -> str:
    """Write an address."""
    return f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"


def resolve(host: str) -> list[str]:
    """Give the ips of a host.

    Args:
        host: A name or an ip.

    Returns:
        Its ips, IPv4 first.

    Raises:
        ConnectionError: The name is not known.
    """
    try:
        return [str(ipaddress.ip_address(host))]
    except ValueError:
        pass
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise ConnectionError(f"the host name {host!r} can't be resolved: {error}\nhint: check it, or write its ip") from None
    ips = dict.fromkeys(str(entry[4][0]) for entry in found)
    return sorted(ips, key=lambda ip: ":" in ip)


def is_own(ip: str) -> bool:
    """Tell whether an ip is one of this machine's."""
    try:
        with socket.socket(_family(ip), socket.SOCK_DGRAM) as probe:
            probe.bind((ip, 0))
    except OSError:
        return False
    return True


def _family(ip: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in ip else socket.AF_INET


def own_ip() -> str:
    """Give the ip that other machines most likely reach this one by: that of the default route; loopback without one."""
    found = own_ip_towards(_SOMEWHERE_ELSE)
    return found if found != LOOPBACK else next(iter(_interface_ips()), LOOPBACK)


_SIOCGIFADDR = 0x8915  # linux/sockios.h: the IPv4 address of an interface


def _interface_ips() -> list[str]:
    """Give the IPv4 addresses of this machine's interfaces but loopback's, for machines without a default route."""
    import fcntl

    found = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            try:
                answer = fcntl.ioctl(probe, _SIOCGIFADDR, name.encode().ljust(256, b"\0"))
            except OSError:  # it has none
                continue
            ip = socket.inet_ntoa(answer[20:24])
            if not ip.startswith("127."):
                found.append(ip)
    return found


def own_ip_towards(ip: str) -> str:
    """Give the ip of this machine on the way to another one; loopback without a way."""
    try:
        with socket.socket(_family(ip), socket.SOCK_DGRAM) as probe:
            probe.connect((ip, _ANY_PORT))  # of a datagram socket, this sends nothing
            return str(probe.getsockname()[0])
    except OSError:
        return LOOPBACK


def is_free(ip: str, port: int) -> bool:
    """Tell whether a daemon could listen there now."""
    try:
        with socket.socket(_family(ip), socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port whose listener just ended is free
            probe.bind((ip, port))
            probe.listen(1)
    except OSError:
        return False
    return True


def free_port(ip: str) -> int:
    """Give a port that was free a moment ago. Somebody else may take it before it is used.

    Raises:
        OSError: There is none.
    """
    with socket.socket(_family(ip), socket.SOCK_STREAM) as probe:
        probe.bind((ip, 0))
        return int(probe.getsockname()[1])


def is_same_place(one: Sequence[str], other: Sequence[str]) -> bool:
    """Tell whether two lists of ips name one machine: they share an ip, or both are of this machine."""
    return bool(set(one) & set(other)) or (any(map(is_own, one)) and any(map(is_own, other)))


def _nodes_here() -> list[Door]:
    """The standing nodes of this user here. A name alone proves nothing: anybody may take one, and a connection keeps one after its node's end."""
    return [one for one in door.clusters() if door.pid_behind(one.name)]


def _of_best_node(doors: Sequence[Door]) -> Door:
    """The head's own node if it is among them, else the youngest."""
    return next((one for one in reversed(doors) if one.is_head), doors[-1])


def youngest_cluster(programs_own: bool) -> Door | None:
    """Find the cluster that was started last, as far as it has nodes of this user on this machine.

    Args:
        programs_own: Also look at clusters that a program started for itself, after the others.

    Returns:
        The node of it to connect to; None if there is no cluster.
    """
    doors = _nodes_here()
    shared = [one for one in doors if not one.is_programs_own]
    chosen = shared or (doors if programs_own else [])
    if not chosen:
        return None
    return _of_best_node([one for one in chosen if one.head == chosen[-1].head])


def node_of_cluster(text: str) -> Door:
    """Find a node on this machine of the cluster with this address.

    Args:
        text: "auto", or "host:port" of the cluster's head.

    Returns:
        The door of the node to connect to.

    Raises:
        ValueError: It is no address.
        ConnectionError: There is no such node here.
    """
    if text == "auto":
        found = youngest_cluster(programs_own=True)
        if found is None:
            raise ConnectionError(NO_CLUSTER)
        return found
    host, port = split(text)
    ips = resolve(host)
    doors = []
    for one in _nodes_here():
        head_host, head_port = split(one.head)
        if head_port == port and is_same_place(ips, [head_host]):
            doors.append(one)
    if not doors:
        raise ConnectionError(_not_here(text, ips))
    return _of_best_node(doors)


def _not_here(text: str, ips: Sequence[str]) -> str:
    if any(map(is_own, ips)):
        known = sorted({one.head for one in _nodes_here()})
        others = f"running here: {', '.join(known)}" if known else "start one with ray start --head"
        return f"no cluster of yours has its head at {text} on this machine\nhint: {others}"
    return (
        f"no node of the cluster at {text} runs on this machine, and a driver needs one\n"
        f"hint: start one with ray start --address={text}, then call ray.init(address={text!r}) again"
    )
