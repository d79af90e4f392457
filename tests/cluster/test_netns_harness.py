"""The harness itself, without a runtime: machines made of namespaces, their cables, and the proxy."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from support import Script, netns, wait_for
from support.netns import Hosts
from support.proxy import Proxy

pytestmark = pytest.mark.limit(30)

# Echoes lines, with the address it hears them from.
SERVER = """
import socket, sys, threading
listener = socket.create_server((sys.argv[1], int(sys.argv[2])))
print("listening", flush=True)

def serve(connection, peer):
    try:
        for line in connection.makefile("rb"):
            connection.sendall(peer[0].encode() + b" said " + line)
    except OSError:
        pass

while True:
    threading.Thread(target=serve, args=listener.accept(), daemon=True).start()
"""
# Sends each line of its input over one connection, and prints the answer.
CLIENT = """
import socket, sys
connection = socket.create_connection((sys.argv[1], int(sys.argv[2])))
answers = connection.makefile("r")
print("connected", flush=True)
for line in sys.stdin:
    try:
        connection.sendall(line.encode())
        print(answers.readline().strip() or "closed", flush=True)
    except OSError as error:
        print(type(error).__name__, flush=True)
"""
# Receives, or sends for a while and says how many megabits a second it could.
STREAM = """
import socket, sys, time
connection = socket.create_connection((sys.argv[1], int(sys.argv[2])))
connection.sendall(b"x" * 1_500_000 + b"\\n")
started = time.perf_counter()
received = 0
while received < 1_500_000:
    received += len(connection.recv(1 << 16))
"""
PORT = "7000"


@pytest.fixture
def hosts():
    if netns.available():
        pytest.skip(netns.available())
    with Hosts(3) as made:
        yield made


def serve(host):
    server = host.popen([sys.executable, "-c", SERVER, host.address, PORT], stdout=subprocess.PIPE)
    assert server.stdout.readline() == "listening\n"
    return server


def connect(host, to):
    client = host.popen([sys.executable, "-c", CLIENT, to.address, PORT], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert client.stdout.readline() == "connected\n"
    os.set_blocking(client.stdout.fileno(), False)
    return client


def say(client, word):
    client.stdin.write(f"{word}\n")
    client.stdin.flush()


def heard(client):
    return client.stdout.readline().strip()


def test_hosts_reach_each_other_under_their_own_addresses(hosts):
    """Each of three hosts is heard by each other one as who it is; the machine's own network holds nothing of it."""
    for host in hosts:
        serve(host)
    for one in hosts:
        for other in hosts:
            client = connect(one, other)
            say(client, "hello")
            assert wait_for(lambda client=client: heard(client)) == f"{one.address} said hello"
    assert len({host.address for host in hosts}) == 3
    assert not [line for line in Path("/proc/net/dev").read_text().splitlines() if "switch" in line]


def test_cut_silences_and_heal_resumes_the_same_connection(hosts):
    """Nothing passes a cut, also to third hosts only what is not cut; after the heal the same connection goes on."""
    serve(hosts[0])
    cut, whole = connect(hosts[1], hosts[0]), connect(hosts[2], hosts[0])
    hosts.cut(hosts[0], hosts[1])
    say(cut, "one")
    say(whole, "two")
    assert wait_for(lambda: heard(whole)) == f"{hosts[2].address} said two"
    assert heard(cut) == ""
    hosts.heal(hosts[0], hosts[1])
    assert wait_for(lambda: heard(cut)) == f"{hosts[1].address} said one"


def test_cable_of_one_host_can_be_pulled(hosts):
    """`cut_all` parts a host from everybody, not the others from each other."""
    serve(hosts[0])
    serve(hosts[1])
    first, second = connect(hosts[2], hosts[0]), connect(hosts[2], hosts[1])
    others = connect(hosts[1], hosts[0])
    hosts.cut_all(hosts[2])
    for client in (first, second, others):
        say(client, "x")
    assert wait_for(lambda: heard(others)) == f"{hosts[1].address} said x"
    assert heard(first) == heard(second) == ""
    hosts.heal_all()
    assert wait_for(lambda: heard(first)) and wait_for(lambda: heard(second))


def test_refusal_resets_connections_and_new_ones(hosts):
    """While packets are refused, connections break at once and can't be made; afterwards they can."""
    serve(hosts[0])
    client = connect(hosts[1], hosts[0])
    hosts.refuse(hosts[0], hosts[1])
    say(client, "x")
    assert wait_for(lambda: heard(client)) == "ConnectionResetError"
    refused = hosts[1].run([sys.executable, "-c", CLIENT, hosts[0].address, PORT])
    assert "ConnectionRefusedError" in refused.stderr
    hosts.heal(hosts[0], hosts[1])
    connect(hosts[1], hosts[0])


def test_breaking_connections_lets_them_open_only(hosts):
    """While connections are broken, they are not refused, but the first word on one resets it."""
    serve(hosts[0])
    hosts.break_connections(hosts[0], hosts[1])
    script = CLIENT.replace('print("connected", flush=True)', 'print("connected", flush=True); time.sleep(0.2)').replace("import socket", "import time, socket")
    broken = hosts[1].run([sys.executable, "-c", script, hosts[0].address, PORT], stdin=subprocess.PIPE)
    assert "connected" in broken.stdout or "ConnectionResetError" in broken.stderr, broken
    hosts.heal(hosts[0], hosts[1])
    say(client := connect(hosts[1], hosts[0]), "x")
    assert wait_for(lambda: heard(client))


def test_reset_breaks_what_is_open_only(hosts):
    """Every open connection of a host is reset at both ends; the next one works."""
    serve(hosts[0])
    client = connect(hosts[1], hosts[0])
    assert hosts.reset(hosts[0]) == 1
    say(client, "x")
    assert wait_for(lambda: heard(client)) in ("ConnectionResetError", "BrokenPipeError")
    say(again := connect(hosts[1], hosts[0]), "x")
    assert wait_for(lambda: heard(again))


def test_loss_drops_packets_and_tcp_recovers(hosts):
    """With a tenth of all packets lost, all words still arrive in their order."""
    serve(hosts[0])
    client = connect(hosts[1], hosts[0])
    hosts.loss(10)
    for number in range(40):
        say(client, number)
    got = [wait_for(lambda: heard(client)) for _ in range(40)]
    assert got == [f"{hosts[1].address} said {number}" for number in range(40)]
    dropped = hosts[0].run(["ss", "-ti"]).stdout + hosts[1].run(["ss", "-ti"]).stdout
    assert "retrans" in dropped or "lost" in dropped
    hosts.loss(0)


def test_bandwidth_limits_what_a_host_sends(hosts):
    """1.5 MB back over a cable of 20 Mbit/s take more than 0.4 s, and far less when the limit is lifted."""
    serve(hosts[0])

    def taken_s():
        started = time.monotonic()
        hosts[1].run([sys.executable, "-c", STREAM, hosts[0].address, PORT], check=True)
        return time.monotonic() - started

    hosts.bandwidth(hosts[0], 20)
    slow_s = taken_s()
    hosts.bandwidth(hosts[0], None)
    assert slow_s > 0.4 > taken_s()


def test_delay_holds_data_back_unknown_to_both_ends(hosts):
    """A host whose connections are delayed by 100 ms gets its answers after 200, and connects under the other's true address."""
    serve(hosts[0])
    hosts.delay(hosts[1], 0.1)
    client = connect(hosts[1], hosts[0])
    started = time.monotonic()
    say(client, "x")
    assert wait_for(lambda: heard(client)) == f"{hosts[1].address} said x"
    assert 0.2 <= time.monotonic() - started < 0.5


def test_left_over_namespaces_of_a_killed_test_are_swept(tmp_path):
    """After SIGKILL of a test its namespaces and what runs in them stay; the next sweep removes both."""
    if netns.available():
        pytest.skip(netns.available())
    path = os.pathsep.join([str(Path(__file__).resolve().parents[1])])
    code = f"""
import sys; sys.path.insert(0, {path!r})
from support.netns import Hosts
with Hosts(1) as hosts:
    sleeper = hosts[0].popen(["sleep", "1000"], start_new_session=True)
    print(hosts[0].name, sleeper.pid, flush=True)
    sys.stdin.read()
"""
    with Script(["-c", code], tmp_path, stdin=subprocess.PIPE) as script:
        script.wait_for_output("raytest")
        name, pid = script.stdout.split()
        script.signal(signal.SIGKILL)
        script.popen.wait()
        assert name in netns.sweep()
        assert name not in os.listdir(netns.FOLDER)
        wait_for(lambda: not Path(f"/proc/{pid}").exists())


# --- the proxy, which needs no namespaces -----------------------------------------------------------------------------------


@pytest.fixture
def proxied():
    """(proxy, our end, the far end)"""
    with socket.create_server(("127.0.0.1", 0)) as listener, Proxy(listener.getsockname()) as proxy:
        near = socket.create_connection(proxy.address, timeout=5)
        far, _ = listener.accept()
        far.settimeout(5)
        yield proxy, near, far
        near.close()
        far.close()


def silent(connection):
    connection.settimeout(0.15)
    try:
        return connection.recv(1) and False
    except TimeoutError:
        return True
    finally:
        connection.settimeout(5)


def test_proxy_forwards_both_ways_and_the_ends(proxied):
    """Bytes and half-closed connections pass."""
    proxy, near, far = proxied
    near.sendall(b"there" * 100_000)
    got = b""
    while len(got) < 500_000:
        got += far.recv(1 << 20)
    assert got == b"there" * 100_000
    wait_for(lambda: proxy.there.passed_bytes == 500_000)
    far.sendall(b"back")
    assert near.recv(10) == b"back"
    near.shutdown(socket.SHUT_WR)
    assert far.recv(1) == b""
    far.sendall(b"last")
    assert near.recv(10) == b"last"


def test_proxy_delays_each_direction_by_its_own(proxied):
    """200 ms there and nothing back: a round trip takes about 200 ms."""
    proxy, near, far = proxied
    proxy.delay(0.2, 0.0)
    started = time.monotonic()
    near.sendall(b"x")
    assert far.recv(1) == b"x"
    there_s = time.monotonic() - started
    far.sendall(b"y")
    assert near.recv(1) == b"y"
    assert 0.2 <= there_s < 0.4 and time.monotonic() - started < there_s + 0.1


def test_proxy_stalls_and_resumes(proxied):
    """Nothing passes a stalled direction; afterwards everything does."""
    proxy, near, far = proxied
    proxy.stall(proxy.there)
    near.sendall(b"x")
    far.sendall(b"y")
    assert near.recv(1) == b"y"
    assert silent(far)
    proxy.resume()
    assert far.recv(1) == b"x"


@pytest.mark.parametrize("stalled", [False, True])
def test_proxy_resets_both_ends_and_takes_new_connections(proxied, stalled):
    """A reset is seen by both ends, also by one of a stalled connection."""
    proxy, near, far = proxied
    if stalled:
        proxy.stall()
        near.sendall(b"x")
    proxy.reset()
    for end in (near, far):
        with pytest.raises(ConnectionResetError):
            end.recv(1)
    wait_for(lambda: proxy.connections == 0)
    socket.create_connection(proxy.address, timeout=5).close()


def test_proxy_that_is_cut_refuses_until_healed(proxied):
    """Cut: connections break and new ones are refused. Healed: new ones pass."""
    proxy, near, _ = proxied
    proxy.cut()
    with pytest.raises(ConnectionResetError):
        near.recv(1)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(proxy.address, timeout=5)
    proxy.heal()
    socket.create_connection(proxy.address, timeout=5).close()
