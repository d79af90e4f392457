"""Machines with their own addresses, started by `ray start`: joining, leaving, tokens, several clusters."""

import re
import time

import pytest

from support import is_alive, netns, wait_for
from support.netns import Hosts
from support.started import REPOSITORY, StartedCluster, command, join, readme_commands, start_head, without_token

pytestmark = [pytest.mark.limit(60), pytest.mark.skipif(bool(netns.available()), reason=netns.available() or "machines can be made")]


def test_hosts_join_under_their_own_addresses(three, tmp_path):
    """Each host sees the same three nodes, with three addresses; `ray status` counts them."""
    views = [three.nodes_seen_by(host, tmp_path) for host in three.hosts]
    addresses = [{node["NodeManagerAddress"] for node in view if node["Alive"]} for view in views]
    assert addresses == [{host.address for host in three.hosts}] * 3
    status = command(three.hosts[1], "status", f"--address={three.address}")
    assert status.returncode == 0 and "3" in status.stdout


def test_two_terminals_of_the_readme_make_a_cluster(tmp_path):
    """The commands in README, each typed on its host, and a program that counts the nodes."""
    heads, joins = readme_commands("ray start --head"), readme_commands("ray start --address")
    assert heads and joins, "README shows how two machines become a cluster"
    with Hosts(2) as hosts:
        cluster = StartedCluster(hosts)
        first = command(hosts[0], *heads[0].split()[1:])
        assert first.returncode == 0, first
        cluster.address = re.search(rf"{re.escape(hosts[0].address)}:\d+", first.stdout)[0]
        second = command(hosts[1], *[f"--address={cluster.address}" if word.startswith("--address") else word for word in joins[0].split()[1:]])
        assert second.returncode == 0, second
        assert len(cluster.nodes_seen_by(hosts[0], tmp_path)) == len(cluster.nodes_seen_by(hosts[1], tmp_path)) == 2


def test_stop_ends_only_the_hosts_own_node(three, tmp_path):
    """`ray stop` on one of three hosts that share their processes' table: that node leaves, nothing of it stays, the others go on."""
    others = {host.name: three.daemon(host) for host in (three.hosts[0], three.hosts[2])}
    done = command(three.hosts[1], "stop")
    assert done.returncode == 0, done
    wait_for(lambda: three.hosts[1].pids() == [], 5.0)
    assert all(is_alive(pid) for pid in others.values())
    living = wait_for(lambda: len(found := [one for one in three.nodes_seen_by(three.hosts[0], tmp_path) if one["Alive"]]) == 2 and found, 15.0)
    assert three.hosts[1].address not in {node["NodeManagerAddress"] for node in living}


@pytest.mark.slow
@pytest.mark.limit(180)
def test_first_real_job_runs_unchanged_on_three_hosts(three, tmp_path):
    """examples/first_job.py with RAY_ADDRESS: ends with its comparison and its picture."""
    picture = tmp_path / "job.png"
    with three.driver((REPOSITORY / "examples" / "first_job.py").read_text(), tmp_path, args=["--out", str(picture)]) as script:
        done = script.finish(170)
    assert done.rc == 0, done
    assert picture.stat().st_size > 5000


@pytest.mark.parametrize("credentials", ["wrong", "none"])
def test_node_without_the_right_token_is_refused_in_clear_words(tmp_path, credentials):
    """The command ends with an error that names the token and how to give it; nothing of it stays; the head goes on."""
    with Hosts(2) as hosts:
        cluster = StartedCluster(hosts)
        cluster.address = start_head(hosts[0])
        env = {"RAY_AUTH_TOKEN": "0" * 48} if credentials == "wrong" else without_token(tmp_path)
        began = time.monotonic()
        done = command(hosts[1], "start", f"--address={cluster.address}", f"--node-ip-address={hosts[1].address}", env=env)
        assert done.returncode != 0 and time.monotonic() - began < 10
        said = done.stdout + done.stderr
        assert "token" in said.lower() and "RAY_AUTH_TOKEN" in said and "Traceback" not in said, said
        assert cluster.token not in said
        wait_for(lambda: hosts[1].pids() == [], 5.0)
        assert len(cluster.nodes_seen_by(hosts[0], tmp_path)) == 1


def test_driver_of_the_same_user_needs_no_token(three, tmp_path):
    """A driver comes through the door of its machine's node, where the kernel says whose process it is: no token is read, a wrong one does no harm."""
    code = "import ray; ray.init(address='auto'); print('nodes', len(ray.nodes()))"
    with three.driver(code, tmp_path, RAY_AUTH_TOKEN="1" * 48) as script:
        done = script.finish(15)
    assert "nodes 3" in done.stdout, done


def test_nobody_at_the_address_is_said_within_seconds(tmp_path):
    """Joining an address where nothing listens, or that nobody has, ends with an error that names the address."""
    with Hosts(2) as hosts:
        StartedCluster(hosts)
        for address in (f"{hosts[0].address}:6399", f"{hosts.subnet}.99:6399"):
            done = command(hosts[1], "start", f"--address={address}", f"--node-ip-address={hosts[1].address}", timeout_s=40)
            said = done.stdout + done.stderr
            assert done.returncode != 0 and address in said and "Traceback" not in said, said
            wait_for(lambda: hosts[1].pids() == [], 5.0)


def test_two_clusters_of_the_same_machines_are_not_confused(tmp_path):
    """Two heads on one machine, a node of each on two others, one token: everybody sees only its own, and one that ends leaves the other alone."""
    with Hosts(3) as hosts:
        first, second = StartedCluster(hosts), StartedCluster(hosts)
        first.address = start_head(hosts[0])
        hosts[0].environment["RAY_TMPDIR"] = str(hosts[0].folder / "second")
        second.address = start_head(hosts[0])
        assert first.address != second.address
        join(hosts[1], first.address)
        join(hosts[2], second.address)
        for cluster, host, other in ((first, hosts[1], hosts[2]), (second, hosts[2], hosts[1])):
            addresses = {node["NodeManagerAddress"] for node in cluster.nodes_seen_by(host, tmp_path)}
            assert addresses == {hosts[0].address, host.address} and other.address not in addresses
        assert command(hosts[2], "stop").returncode == 0
        wait_for(lambda: hosts[2].pids() == [], 5.0)
        assert len([node for node in first.nodes_seen_by(hosts[1], tmp_path) if node["Alive"]]) == 2


def test_delayed_connections_only_cost_time(tmp_path):
    """The second host's connections are 30 ms late in each direction: it joins, works, and is not declared dead."""
    with Hosts(2) as hosts:
        cluster = StartedCluster(hosts)
        cluster.address = start_head(hosts[0])
        hosts.delay(hosts[1], 0.03)
        join(hosts[1], cluster.address)
        code = """
import ray
ray.init(address="auto", log_to_driver=False)
f = ray.remote(num_cpus=0)(lambda x: x + 1).options(resources={"h2": 0.001})
assert ray.get([f.remote(i) for i in range(200)], timeout=30) == list(range(1, 201))
value = 0
for _ in range(10):
    value = ray.get(f.remote(value), timeout=10)
print("late but right", value, sum(node["Alive"] for node in ray.nodes()))
"""
        with cluster.driver(code, tmp_path) as script:
            done = script.finish(40)
    assert "late but right 10 2" in done.stdout, done
