"""Machines made of network namespaces: each has an address of its own and a cable to a switch, and cables can break.

The switch is a bridge in a namespace of its own, so that nothing of the real machine's network is touched and runs can't meet. Processes, files and
control groups are shared with the real machine: what must differ between hosts is given by `Host.environment`. Everything made here carries the pid of the
test in its name; `sweep` removes what a killed test has left.
"""

import ctypes
import functools
import itertools
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from support.processes import end, is_alive
from support.waiting import wait_for

PREFIX = "raytest"
FOLDER = Path("/run/netns")
MINE = re.compile(rf"{PREFIX}-(\d+)-\d+-\w+")
PACKAGES = "apt-get install iproute2 nftables"
NEEDED = ("ip", "tc", "ss", "nft", "nsenter")
LIBRARY = "libnftables.so.1"  # what `nft` itself calls
CLONE_NEWNET = 0x40000000
_numbers = itertools.count()


class Host:
    """One machine: `address` is its own, `run` and `popen` start programs that see only its network."""

    def __init__(self, name: str, address: str, folder: Path) -> None:
        self.name = name
        self.address = address
        self.folder = folder
        self.environment: dict[str, str] = {"RAY_TMPDIR": str(folder)}
        folder.mkdir(parents=True, exist_ok=True)

    def __repr__(self) -> str:
        return f"Host({self.name}, {self.address})"

    @property
    def under(self) -> list[str]:
        """The command that runs a program here, as `start_script(under=...)` takes it."""
        return entering(self.name)

    def popen(self, argv: Sequence[str], env: Mapping[str, str] | None = None, **popen: Any) -> "subprocess.Popen[str]":
        """Start a program. `env` is added to the test's environment and to the host's."""
        environment = {**os.environ, **self.environment, **(env or {})}
        return subprocess.Popen([*self.under, *argv], env=environment, text=True, **popen)

    def run(
        self, argv: Sequence[str], env: Mapping[str, str] | None = None, *, timeout_s: float = 30.0, check: bool = False, **popen: Any
    ) -> "subprocess.CompletedProcess[str]":
        """Run a program to its end, with its output captured."""
        streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **popen}
        with self.popen(argv, env, **streams) as running:
            try:
                out, err = running.communicate(timeout=timeout_s)
            except BaseException:
                running.kill()
                raise
        if check and running.returncode != 0:
            raise AssertionError(f"{' '.join(argv)} on {self.name}: exit code {running.returncode}\n{out}\n{err}")
        return subprocess.CompletedProcess(list(argv), running.returncode, out, err)

    def pids(self) -> list[int]:
        """The living processes of this machine."""
        return pids_in(self.name)


class Hosts:
    """`count` machines on one switch, as a context manager; `hosts[0]` is the first. The subnet is random, and printed for the record."""

    def __init__(self, count: int, folder: Path | None = None) -> None:
        self._names = f"{PREFIX}-{os.getpid()}-{next(_numbers)}"
        self._scratch = tempfile.TemporaryDirectory(prefix="hosts-")
        self.subnet = f"10.77.{random.SystemRandom().randrange(1, 255)}"
        base = folder or Path(self._scratch.name)
        self._hosts = [Host(f"{self._names}-h{n}", f"{self.subnet}.{n}", base / f"h{n}") for n in range(1, count + 1)]
        self._cuts: set[frozenset[str]] = set()
        self._refused: set[frozenset[str]] = set()
        self._breaking: set[frozenset[str]] = set()
        self._loss_percent = 0.0
        self._made: list[str] = []
        self._proxies: list[subprocess.Popen[str]] = []

    def __getitem__(self, number: int) -> Host:
        return self._hosts[number]

    def __iter__(self) -> Iterator[Host]:
        return iter(self._hosts)

    def __len__(self) -> int:
        return len(self._hosts)

    def __enter__(self) -> "Hosts":
        sweep()
        try:
            switch = self._make("switch")
            ip("-n", switch, "link", "add", "switch", "type", "bridge")
            ip("-n", switch, "link", "set", "switch", "up")
            for number, host in enumerate(self._hosts, 1):
                self._make(f"h{number}")
                self._plug(switch, f"p{number}", host)
        except BaseException:
            self.close()
            raise
        print(f"hosts {self._names}: {', '.join(host.address for host in self._hosts)}", file=sys.stderr)
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End every process of these machines and remove them. Idempotent."""
        for proxy in self._proxies:
            proxy.kill()
            proxy.communicate()
        self._proxies.clear()
        while self._made:
            remove(self._made.pop())
        self._scratch.cleanup()

    def _make(self, kind: str) -> str:
        name = f"{self._names}-{kind}"
        ip("netns", "add", name)
        self._made.append(name)
        ip("-n", name, "link", "set", "lo", "up")
        return name

    def _plug(self, switch: str, port: str, host: Host) -> None:
        ip("-n", switch, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", host.name)
        ip("-n", switch, "link", "set", port, "master", "switch")
        ip("-n", switch, "link", "set", port, "up")
        ip("-n", host.name, "addr", "add", f"{host.address}/24", "dev", "eth0")
        ip("-n", host.name, "link", "set", "eth0", "up")

    # --- faults ---------------------------------------------------------------------------------------------------------

    def cut(self, one: Host, other: Host) -> None:
        """From now on neither hears the other. Connections between them stay open and silent."""
        self._change(self._cuts.add, [(one, other)])

    def heal(self, one: Host, other: Host) -> None:
        """Undo `cut`, `refuse` and `break_connections` between two."""
        self._heal([(one, other)])

    def cut_all(self, host: Host) -> None:
        """Pull the cable: the host hears nobody and nobody hears it."""
        self._change(self._cuts.add, self._pairs(host))

    def heal_all(self, host: Host | None = None) -> None:
        """Undo every cut, refusal and breaking, of one host or of all."""
        self._heal([pair for one in (self._hosts if host is None else [host]) for pair in self._pairs(one)])

    def _heal(self, pairs: list[tuple[Host, Host]]) -> None:
        def mend(pair: frozenset[str]) -> None:
            for broken in (self._cuts, self._refused, self._breaking):
                broken.discard(pair)

        self._change(mend, pairs)

    def refuse(self, one: Host, other: Host) -> None:
        """Answer every packet between two with a reset: connections break, new ones are refused. Undone by `heal`."""
        self._change(self._refused.add, [(one, other)])

    def break_connections(self, one: Host, other: Host) -> None:
        """Answer with a reset whatever comes over a connection between two; they can be opened, but carry nothing. Undone by `heal`."""
        self._change(self._breaking.add, [(one, other)])

    def reset(self, host: Host) -> int:
        """Reset every TCP connection of a host at once; new ones work. Returns how many there were."""
        listed = host.run(["ss", "-H", "-t", "-K", "state", "established"])
        return len(listed.stdout.splitlines())

    def loss(self, percent: float) -> None:
        """Drop this share of all packets between hosts, at random; 0 ends it."""
        self._loss_percent = percent
        for host in self._hosts:
            self._apply(host)

    def bandwidth(self, host: Host, mbit: float | None) -> None:
        """Limit what a host sends; None lifts the limit."""
        host.run(["tc", "qdisc", "del", "dev", "eth0", "root"])
        if mbit is not None:
            # The bucket holds 10 ms of the rate, and a segment at least.
            burst_bytes = max(int(mbit * 1e6 / 8 * 0.01), 70_000)
            host.run(["tc", "qdisc", "add", "dev", "eth0", "root", "tbf", "rate", f"{mbit}mbit", "burst", str(burst_bytes), "latency", "100ms"], check=True)

    def delay(self, host: Host, delay_s: float) -> None:
        """Hold back everything on the connections that this host opens from now on, in both directions, by `delay_s` seconds.

        The kernel's own delay (netem) is rarely there; a proxy on the host takes the connections over instead. It answers the opening itself, so only data is late.
        """
        argv = [sys.executable, str(Path(__file__).with_name("proxy.py")), "--delay", str(delay_s), "--mark", str(MARK)]
        proxy = host.popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._proxies.append(proxy)
        assert proxy.stdout is not None
        port = int(proxy.stdout.readline())
        rules = f"""
            add table ip late
            delete table ip late
            table ip late {{
                chain out {{
                    type nat hook output priority -100
                    ip daddr {self.subnet}.0/24 ip daddr != {host.address} meta l4proto tcp meta mark != {MARK} redirect to :{port}
                }}
            }}"""
        rewrite(host.name, rules)

    def _pairs(self, host: Host) -> list[tuple[Host, Host]]:
        return [(host, other) for other in self._hosts if other is not host]

    def _change(self, change: Any, pairs: list[tuple[Host, Host]]) -> None:
        for pair in pairs:
            change(frozenset(host.address for host in pair))
        for host in {host for pair in pairs for host in pair}:
            self._apply(host)

    def _apply(self, host: Host) -> None:
        """Write the host's rules anew, in one step. They look at what arrives only, so that senders notice nothing."""
        rules = []
        for other in self._hosts:
            pair = frozenset((host.address, other.address))
            if pair in self._cuts:
                rules.append(f"ip saddr {other.address} drop")
            if pair in self._refused:
                rules.append(f"ip saddr {other.address} tcp flags & rst == 0 reject with tcp reset")
            if pair in self._breaking:
                rules.append(f"ip saddr {other.address} tcp flags & (rst | syn) == 0 reject with tcp reset")
        if self._loss_percent:
            rules.append(f"iif eth0 numgen random mod 10000 < {round(self._loss_percent * 100)} drop")
        body = "\n".join(rules)
        text = f"""
            add table inet faults
            delete table inet faults
            table inet faults {{
                chain arriving {{
                    type filter hook input priority 0
                    {body}
                }}
            }}"""
        rewrite(host.name, text)


def rewrite(name: str, rules: str) -> None:
    """Give rules to the kernel in the namespace `name`. A call and no program: on a machine that is busy the start of one takes longer than many a fault."""
    with ThreadPoolExecutor(1) as visitor:  # a thread of its own: it ends there, and none is left in another namespace
        refusal = visitor.submit(_rewrite_there, name, rules).result()
    if refusal:
        raise RuntimeError(f"nft on {name}: {refusal}\n{rules}")


def _rewrite_there(name: str, rules: str) -> str:
    """Go there and do it. Returns what nft has against the rules."""
    nft, libc = ctypes.CDLL(LIBRARY), ctypes.CDLL(None, use_errno=True)
    nft.nft_ctx_new.restype = ctypes.c_void_p
    nft.nft_ctx_get_error_buffer.restype = ctypes.c_char_p
    with open(FOLDER / name) as namespace:
        if libc.setns(namespace.fileno(), CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"can't enter {name}")
    context = ctypes.c_void_p(nft.nft_ctx_new(0))
    try:
        nft.nft_ctx_buffer_error(context)
        failed = nft.nft_run_cmd_from_buffer(context, rules.encode())
        return nft.nft_ctx_get_error_buffer(context).decode() if failed else ""
    finally:
        nft.nft_ctx_free(context)


MARK = 77  # on the proxy's own connections, which must not be redirected to it


def entering(name: str) -> list[str]:
    return ["nsenter", f"--net={FOLDER / name}"]  # not `ip netns exec`, which hides the control groups


def ip(*argv: str) -> str:
    done = subprocess.run(["ip", *argv], capture_output=True, text=True, timeout=20, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"ip {' '.join(argv)}: {done.stderr.strip()}")
    return done.stdout


def pids_in(name: str) -> list[int]:
    return [int(word) for word in ip("netns", "pids", name).split()]


def remove(name: str) -> None:
    """End what runs in a namespace of ours, and delete it."""

    def empty() -> bool:
        end(pids_in(name))
        return not any(is_alive(pid) for pid in pids_in(name))

    wait_for(empty, 10.0, f"{name} empty")
    ip("netns", "del", name)


def sweep() -> list[str]:
    """Remove the namespaces of tests that are gone; returns their names."""
    found = [(name, MINE.fullmatch(name)) for name in (os.listdir(FOLDER) if FOLDER.is_dir() else [])]
    stale = [name for name, match in found if match and not is_alive(int(match[1]))]
    for name in stale:
        try:
            remove(name)
        except RuntimeError:
            if (FOLDER / name).exists():  # else another run has swept it at the same time
                raise
    return stale


@functools.cache
def available() -> str:
    """Why there can be no machines here, with what to do about it; "" if there can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    missing = [command for command in NEEDED if shutil.which(command) is None]
    if missing:
        return f"{', '.join(missing)} not found: {PACKAGES}"
    try:
        with Hosts(2) as hosts:
            hosts.cut(hosts[0], hosts[1])
            hosts.loss(1)
    except (RuntimeError, AssertionError, OSError) as error:
        return f"network namespaces are refused here: {error}"
    return ""
