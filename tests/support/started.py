"""Clusters on machines made of namespaces, started as a user starts them: by `ray start` in a terminal of each."""

import json
import re
import secrets
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from support.netns import Host, Hosts
from support.processes import process
from support.scripts import Script, start_script

COMMAND = [sys.executable, "-m", "ray.scripts.scripts"]
REPOSITORY = Path(__file__).resolve().parents[2]


def command(host: Host, *argv: str, env: Mapping[str, str] | None = None, timeout_s: float = 20.0) -> "subprocess.CompletedProcess[str]":
    """`ray ...` on a host, to its end."""
    done = host.run([*COMMAND, *argv], env, timeout_s=timeout_s)
    print(f"{host.name}$ ray {' '.join(argv)}\n{done.stdout}{done.stderr}", file=sys.stderr)
    return done


def start_head(host: Host, *options: str) -> str:
    """`ray start --head`; returns the address that it names."""
    done = command(host, "start", "--head", f"--node-ip-address={host.address}", "--num-cpus=1", *options)
    assert done.returncode == 0, done.stdout + done.stderr
    found = re.search(rf"\b{re.escape(host.address)}:\d+", done.stdout)
    assert found, f"no address in what `ray start --head` says: {done.stdout}"
    return found[0]


def join(host: Host, address: str, *options: str, env: Mapping[str, str] | None = None) -> None:
    """`ray start --address`, with a resource that is called like the host's number: h2 and so on."""
    done = command(host, "start", f"--address={address}", f"--node-ip-address={host.address}", "--num-cpus=1", "--resources", tag(host), *options, env=env)
    assert done.returncode == 0, done.stdout + done.stderr


def tag(host: Host) -> str:
    return json.dumps({host.name.rsplit("-", 1)[1]: 100})


class StartedCluster:
    """Hosts whose first is the head. All know the same token, by their environment."""

    def __init__(self, hosts: Hosts) -> None:
        self.hosts = hosts
        self.token = secrets.token_hex(24)
        for host in hosts:
            host.environment["RAY_AUTH_TOKEN"] = self.token
        self.address = ""

    def start(self, *options: str) -> None:
        self.address = start_head(self.hosts[0], "--resources", tag(self.hosts[0]), *options)
        for host in list(self.hosts)[1:]:
            join(host, self.address, *options)

    def driver(self, code: str, cwd: Path, host: Host | None = None, args: Sequence[str] = (), **env: str) -> Script:
        """A driver program on a host, the head's by default; it finds the cluster by RAY_ADDRESS."""
        where = host or self.hosts[0]
        environment = {**where.environment, "RAY_ADDRESS": self.address, **env}
        return start_script(code, cwd=cwd, env=environment, under=where.under, args=args)

    def nodes_seen_by(self, host: Host, cwd: Path) -> list[dict[str, Any]]:
        """What a driver on this host reads of `ray.nodes()`."""
        with self.driver("import json, ray; ray.init(address='auto', log_to_driver=False); print('nodes', json.dumps(ray.nodes()))", cwd, host) as script:
            done = script.finish(20)
        assert done.rc == 0, done
        found: list[dict[str, Any]] = json.loads(done.stdout.split("nodes ")[1])
        return found

    def daemon(self, host: Host) -> int:
        """The pid of the host's daemon."""
        (pid,) = [pid for pid in host.pids() if (found := process(pid)) and found.comm.startswith("ray-daemon")]
        return pid


@contextmanager
def started(count: int, *options: str) -> Iterator[StartedCluster]:
    """`count` hosts of one CPU each, joined to one cluster."""
    with Hosts(count) as hosts:
        cluster = StartedCluster(hosts)
        cluster.start(*options)
        yield cluster


def readme_commands(words: str) -> list[str]:
    """The lines in README's code blocks that start with these words."""
    blocks = re.findall(r"```\w*\n(.*?)```", (REPOSITORY / "README.md").read_text(), re.DOTALL)
    lines = [line.split("#")[0].strip() for block in blocks for line in block.splitlines()]
    return [line.removeprefix("$ ") for line in lines if line.removeprefix("$ ").startswith(words)]


def without_token(home: Path) -> dict[str, str]:
    """Environment of a user who has no token at all."""
    return {"HOME": str(home), "RAY_AUTH_TOKEN": "", "RAY_AUTH_TOKEN_PATH": ""}
