"""Ten minutes of chaos over three hosts, while a shuffle, a pool of actors and a chain of tasks verify every result.

usage: chaos.py [--minutes 10] [--seed N] [--calm]. As root: the hosts are network namespaces. Ends with 1 on a wrong result, a hang, or a node that does not come back.
What is disturbed are the two hosts beside the head's: the head keeps its tables in memory only.
"""

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from support import Script, netns, wait_for
from support.clusters import stopped
from support.netns import Host
from support.processes import end, process
from support.started import StartedCluster, command, join, started

WORK = Path(__file__).with_name("chaos_work.py")
KINDS = ("shuffle", "actors", "chain")
HANG_S = 120.0
LEASE_S = 4.5
STORE_OPTION = f"--object-store-memory={256 << 20}"


class Broken(Exception):
    """The run is over: what was found."""


class Chaos:
    """Faults, one at a time, each followed by its repair."""

    def __init__(self, cluster: StartedCluster, seed: int, scratch: Path) -> None:
        self.cluster = cluster
        self.hosts = cluster.hosts
        self.random = random.Random(seed)
        self.scratch = scratch
        self.done: Counter[str] = Counter()
        self.faults: list[Callable[[Host], None]] = [
            self.kill_node,
            self.kill_worker,
            self.kill_worker,
            self.short_cut,
            self.short_cut,
            self.long_cut,
            self.cut_two,
            self.stop_node,
            self.stop_long,
            self.reset,
            self.breaking,
            self.loss,
        ]

    def one(self) -> str:
        """One fault, whole; returns its name."""
        fault, host = self.random.choice(self.faults), self.random.choice(list(self.hosts)[1:])
        fault(host)
        self.done[fault.__name__] += 1
        return f"{fault.__name__} {host.name.rsplit('-', 1)[1]}"

    def last(self, least_s: float, most_s: float) -> None:
        time.sleep(self.random.uniform(least_s, most_s))

    def rejoin(self, host: Host) -> None:
        wait_for(lambda: host.pids() == [], 15.0, f"nothing left of the dead node on {host.name}: {host.pids()}")
        join(host, self.cluster.address, STORE_OPTION)

    def kill_node(self, host: Host) -> None:
        end([self.cluster.daemon(host)])
        self.last(0, 4)
        self.rejoin(host)

    def kill_worker(self, host: Host) -> None:
        workers = [pid for pid in host.pids() if (found := process(pid)) and found.comm.startswith("ray-worker")]
        end(self.random.sample(workers, min(len(workers), 2)))

    def short_cut(self, host: Host) -> None:
        self.hosts.cut_all(host)
        self.last(0.1, 2.5)
        self.hosts.heal_all()

    def long_cut(self, host: Host) -> None:
        """Beyond the lease: the node is dead, and a new one joins."""
        self.hosts.cut_all(host)
        self.last(LEASE_S + 3, LEASE_S + 6)
        self.hosts.heal_all()
        self.rejoin(host)

    def cut_two(self, host: Host) -> None:
        """The head hears both, but they don't hear each other."""
        self.hosts.cut(self.hosts[1], self.hosts[2])
        self.last(0.1, 6)
        self.hosts.heal_all()

    def stop_node(self, host: Host) -> None:
        with stopped(self.cluster.daemon(host), self.random.uniform(0.1, 2.5)):
            pass

    def stop_long(self, host: Host) -> None:
        """Beyond the lease: dead for the others, and it learns that when it goes on."""
        with stopped(self.cluster.daemon(host), LEASE_S + 4):
            pass
        self.rejoin(host)

    def reset(self, host: Host) -> None:
        for _ in range(self.random.randint(1, 5)):
            self.hosts.reset(host)
            self.last(0, 0.3)

    def breaking(self, host: Host) -> None:
        self.hosts.break_connections(self.hosts[0], host)
        self.last(0.1, 1.0)
        self.hosts.heal_all()

    def loss(self, host: Host) -> None:
        self.hosts.loss(self.random.uniform(0.5, 5))
        self.last(1, 4)
        self.hosts.loss(0)


class Work:
    """The three drivers, on the head's host, and how far each has come."""

    def __init__(self, cluster: StartedCluster, folder: Path, seed: int) -> None:
        self.folder = folder
        env = {**cluster.hosts[0].environment, "RAY_ADDRESS": cluster.address, "PYTHONPATH": str(WORK.parents[1])}
        self.scripts = {kind: Script([str(WORK), kind, str(folder), str(seed)], folder, env, cluster.hosts[0].under) for kind in KINDS}
        self.seen = dict.fromkeys(KINDS, "")
        self.moved = dict.fromkeys(KINDS, time.monotonic())

    def rounds(self, kind: str) -> str:
        path = self.folder / f"{kind}.rounds"
        return path.read_text() if path.exists() else "0 0"

    def check(self) -> None:
        """Raise if a driver has ended, or has verified nothing for too long."""
        for kind, script in self.scripts.items():
            if script.popen.poll() is not None:
                raise Broken(f"{kind} ended with {script.popen.returncode}: {script.report()}")
            if self.rounds(kind) != self.seen[kind]:
                self.seen[kind], self.moved[kind] = self.rounds(kind), time.monotonic()
            if time.monotonic() - self.moved[kind] > HANG_S:
                raise Broken(f"{kind} hangs: nothing verified for {HANG_S:.0f} s: {script.report()}")

    def finish(self) -> None:
        (self.folder / "stop").touch()
        for kind, script in self.scripts.items():
            done = script.finish(HANG_S, survive_s=10.0)
            if done.rc != 0:
                raise Broken(f"{kind} ended with {done.rc}: {done.output[-3000:]}")

    def close(self) -> None:
        for script in self.scripts.values():
            script.__exit__()


AFTERWARDS = """
import time, ray
ray.init(address="auto", log_to_driver=False)
until = time.monotonic() + 30
while time.monotonic() < until:
    total, free = ray.cluster_resources(), ray.available_resources()
    left = {name: total[name] - free.get(name, 0) for name in total if total[name] - free.get(name, 0) > 1e-6}
    nodes = sum(node["Alive"] for node in ray.nodes())
    if not left and nodes == 3:
        break
    time.sleep(0.2)
print("left", nodes, left)
"""


def settle(cluster: StartedCluster, folder: Path) -> None:
    """After the work nothing may be in use, and all three nodes must be there."""
    with cluster.driver(AFTERWARDS, folder) as script:
        done = script.finish(60)
    if "left 3 {}" not in done.stdout:
        raise Broken(f"not at rest afterwards: {done.output}")


def disturb(chaos: Chaos | None, work: Work, minutes: float) -> None:
    began = time.monotonic()
    while (elapsed_s := time.monotonic() - began) < 60 * minutes:
        did = chaos.one() if chaos else "calm"
        work.check()
        progress = ", ".join(f"{kind} {work.rounds(kind).split()[0]}" for kind in KINDS)
        print(f"{elapsed_s:6.1f} s  {did:16} rounds: {progress}", flush=True)
        if chaos:
            chaos.last(0.2, 2.0)
        else:
            time.sleep(1.0)


def table(chaos: Chaos | None, work: Work) -> str:
    lines = [f"{'work':16}{'rounds':>10}{'results':>10}"]
    lines += [f"{kind:16}{rounds:>10}{results:>10}" for kind in KINDS for rounds, results in [work.rounds(kind).split()]]
    if chaos:
        lines += [f"{'fault':16}{'times':>10}"] + [f"{name:16}{count:>10}" for name, count in sorted(chaos.done.items())]
    return "\n".join(lines)


def run(minutes: float, seed: int, calm: bool) -> int:
    with tempfile.TemporaryDirectory(prefix="chaos-") as name, started(3, STORE_OPTION) as cluster:
        folder = Path(name)
        work, chaos = Work(cluster, folder, seed), None if calm else Chaos(cluster, seed, folder)
        try:
            wait_for(lambda: [work.check(), all(work.rounds(kind) != "0 0" for kind in KINDS)][1], HANG_S, "the first rounds")
            disturb(chaos, work, minutes)
            work.finish()
            settle(cluster, folder)
            verdict = ""
        except (Broken, AssertionError) as error:
            verdict = str(error)
            print(command(cluster.hosts[0], "why").stdout[-5000:])
        finally:
            work.close()
        print(table(chaos, work))
        print(f"{'FAILED: ' + verdict if verdict else 'all right'}; seed {seed}")
        return 1 if verdict else 0


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 31))
    parser.add_argument("--calm", action="store_true", help="no faults: whether the work itself is right")
    chosen = parser.parse_args()
    if netns.available():
        print(f"no hosts here: {netns.available()}")
        return 1
    print(f"seed {chosen.seed}", flush=True)
    return run(chosen.minutes, chosen.seed, chosen.calm)


if __name__ == "__main__":
    sys.exit(main())
