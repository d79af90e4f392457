"""Every open port of a running cluster, approached without credentials, with wrong ones and with right ones. Nothing is served or unpickled without."""

import http.client
import os
import pickle
import random
import secrets
import socket
import ssl
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

import ray
from support import descendants, is_alive, run_script, start_script, tree_pids, wait_for
from support.clusters import Nodes, address_of, alive, daemon_pid, on
from support.ports import approach, listening
from support.processes import end
from support.proxy import Proxy

pytestmark = pytest.mark.limit(30)

PATIENCE_S = 6.0
CHALLENGE_BYTES = 256  # the most that a stranger may be told: nonces and versions, of a fixed size
HALF_OPEN = 200


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("session")


@pytest.fixture(scope="module")
def _cluster(_module_runtime, home):
    """A cluster whose files are in a folder of this test's."""
    before = os.environ.get("RAY_TMPDIR")
    os.environ["RAY_TMPDIR"] = str(home)
    made = Nodes()
    yield made
    made.close()
    os.environ.pop("RAY_TMPDIR") if before is None else os.environ.__setitem__("RAY_TMPDIR", before)


@pytest.fixture
def token(nodes):
    """The secret of the cluster, which it tells nobody."""
    return nodes.cluster._token


@ray.remote(num_cpus=0)
def answer():
    return 42


@ray.remote(num_cpus=0)
class Asleep:
    def ready(self):
        return True


def everyone(nodes):
    """This driver, the daemons, and every process below them."""
    roots = {os.getpid(), *(daemon_pid(handle) for handle in nodes.cluster.list_all_nodes())}
    return sorted(roots.union(*map(tree_pids, roots)))


@pytest.fixture
def busy(nodes, n2):
    """Two nodes, each with a worker of a task and one of an actor; gives the addresses by node."""
    actors = [on(Asleep, tag).remote() for tag in ("head", n2)]
    ray.get([actor.ready.remote() for actor in actors] + [on(answer, tag).remote() for tag in ("head", n2)], timeout=10)
    yield {node_id: address_of(node_id) for node_id in (nodes.head_id, n2.id)}


def test_plain_init_listens_nowhere():
    """`ray.init()` with tasks and actors opens no TCP port."""
    done = run_script(
        f"""
import os, sys, ray
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
from support import descendants
from support.ports import listening
ray.init(num_cpus=2, include_dashboard=False)
actor = ray.remote(type("A", (), {{"one": lambda self: 1}})).remote()
assert ray.get([actor.one.remote(), ray.remote(lambda: 1).remote()]) == [1, 1]
print("ports:", listening([os.getpid(), *(one.pid for one in descendants())]))
"""
    )
    assert "ports: {}" in done.stdout, done


def test_each_node_listens_at_one_port(nodes, n2, busy):
    """Of all processes only the daemons listen, each at one port, which `ray.nodes()` names."""
    found = listening(everyone(nodes))
    assert set(found) == {port for _, port in busy.values()}
    assert found[busy[n2.id][1]] == {n2.pid} and all(len(pids) == 1 for pids in found.values())


class Bomb:
    """Touches a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def tls_hello():
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = ssl.create_default_context().wrap_bio(incoming, outgoing, server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


def start_node(address, home, token, **popen):
    """A real node, started by the command."""
    argv = [sys.executable, "-m", "ray.scripts.scripts", "start", f"--address={address}", "--num-cpus=1", "--block"]
    environment = {**os.environ, "RAY_AUTH_TOKEN": token, "RAY_TMPDIR": str(home)}
    return subprocess.Popen(argv, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True, **popen)


def finish(node):
    """End a node that was started by the command, and what it started."""
    pids = [one.pid for one in descendants(node.pid)]
    node.terminate()
    try:
        node.communicate(timeout=5)
    except subprocess.TimeoutExpired:
        node.kill()
        node.communicate()
    end(pids)


@pytest.fixture
def hello(nodes, token, tmp_path):
    """What a real node says first when it joins, as recorded between it and the head."""
    before = alive()
    with Proxy(address_of(nodes.head_id)) as proxy:
        node = start_node(f"127.0.0.1:{proxy.address[1]}", tmp_path, token)
        try:
            wait_for(lambda: alive() - before, 10.0, "the node that joins through the proxy")
            said = proxy.there.first
        finally:
            finish(node)
    wait_for(lambda: alive() == before)
    assert len(said) > 32
    assert token.encode() not in said and bytes.fromhex(token) not in said
    return said


def check_refused(nodes, busy, payloads, tripwire):
    """Each payload at each port: closed in time, nothing told but the challenge, nothing run; the daemons go on."""
    pids = {pid for held in listening(everyone(nodes)).values() for pid in held}
    fds = {pid: len(os.listdir(f"/proc/{pid}/fd")) for pid in pids}
    attempts = [(address, name) for address in busy.values() for name in payloads]
    with ThreadPoolExecutor(len(attempts)) as pool:
        answers = list(pool.map(lambda attempt: approach(attempt[0], payloads[attempt[1]]), attempts))
    for (_, name), got in zip(attempts, answers, strict=True):
        assert got.closed_after_s is not None and got.closed_after_s < PATIENCE_S, f"{name}: still open"
        assert len(got.data) <= CHALLENGE_BYTES, f"{name}: {got.data[:100]!r}"
    assert not tripwire.exists()
    assert all(is_alive(pid) for pid in pids)
    wait_for(lambda: all(len(os.listdir(f"/proc/{pid}/fd")) <= fds[pid] for pid in pids), 5.0, "descriptors closed")


def works(nodes, n2):
    assert alive() == {nodes.head_id, n2.id}
    assert ray.get([on(answer, tag).remote() for tag in ("head", n2)], timeout=10) == [42, 42]


def test_ports_serve_nothing_to_strangers(nodes, n2, busy, tmp_path):
    """Silence, noise, other protocols and pickles: the connection is closed within six seconds and nothing happens."""
    tripwire = tmp_path / "unpickled"
    noise = random.Random(4)
    bombs = {f"pickle of protocol {number}": pickle.dumps(Bomb(tripwire), protocol=number) for number in (0, 2, 5)}
    payloads = {
        "nothing": b"",
        "one byte": b"\0",
        "noise": noise.randbytes(100_000),
        "zeros": bytes(1 << 20),
        "ones": b"\xff" * (1 << 20),
        "HTTP": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9),
        "TLS": tls_hello(),
        **bombs,
        **{f"{name}, framed": len(bomb).to_bytes(size, order) + bomb for name, bomb in bombs.items() for size in (4, 8) for order in ("little", "big")},
    }
    check_refused(nodes, busy, payloads, tripwire)
    works(nodes, n2)


def test_ports_refuse_every_bent_form_of_a_true_hello(nodes, n2, busy, hello, tmp_path):
    """What a real node said, repeated as it was, cut short, too long, with one bit changed anywhere, or with a pickle behind it: refused."""
    tripwire = tmp_path / "unpickled"
    noise = random.Random(4)
    flipped = {}
    for position in noise.sample(range(min(len(hello), 200)), 20):
        changed = bytearray(hello)
        changed[position] ^= 1 << noise.randrange(8)
        flipped[f"a bit of byte {position} changed"] = bytes(changed)
    payloads = {
        "repeated": hello,
        "half": hello[: len(hello) // 2],
        "short of a byte": hello[:-1],
        "too long": hello + bytes(1 << 20),
        "twice": hello + hello,
        "with a pickle": hello + pickle.dumps(Bomb(tripwire)),
        **flipped,
    }
    check_refused(nodes, busy, payloads, tripwire)
    works(nodes, n2)


def test_http_client_gets_no_answer(busy):
    """A browser that finds a port learns nothing."""
    for host, port in busy.values():
        client = http.client.HTTPConnection(host, port, timeout=PATIENCE_S)
        with pytest.raises((http.client.HTTPException, OSError)):
            client.request("GET", "/")
            client.getresponse()
        client.close()


def test_node_with_a_wrong_token_is_refused_in_clear_words(nodes, n2, busy, tmp_path, token):
    """It ends with an error about the token within ten seconds, never shows it, and nobody joined."""
    wrong = secrets.token_hex(24)
    node = start_node(nodes.address, tmp_path, wrong)
    output, _ = node.communicate(timeout=15)
    assert node.returncode != 0
    assert "token" in output.lower() and "Traceback" not in output, output
    assert wrong not in output and token not in output
    works(nodes, n2)


def test_half_open_connections_do_not_keep_a_node_out(nodes, n2, busy):
    """With 200 connections that say nothing, more of them again as they are closed, a real node joins within five seconds and works."""
    with ExitStack() as stack:
        for address in busy.values():
            for _ in range(HALF_OPEN):
                stack.enter_context(socket.create_connection(address, timeout=5))
        n3 = nodes.add("n3")
        assert ray.get(on(answer, n3).remote(), timeout=5) == 42
    assert alive() == {nodes.head_id, n2.id, n3.id}


def text_of(path):
    try:
        return path.read_bytes()
    except OSError:
        return b""


def test_token_stands_in_no_command_line_no_environment_and_no_file(nodes, n2, busy, token, home):
    """Neither `ps`, nor what a process got from its parent, nor a file of the sessions or logs shows the token, nor its binary form."""
    ray.get(on(ray.remote(num_cpus=0)(lambda: print("a line for the log")), n2).remote(), timeout=5)
    secret_forms = (token.encode(), bytes.fromhex(token))
    for pid in everyone(nodes):
        for kind in ("cmdline", "environ"):
            assert not any(form in text_of(Path(f"/proc/{pid}/{kind}")) for form in secret_forms), (pid, kind)
    files = [path for path in home.rglob("*") if path.is_file()]
    assert files, "the sessions have folders"
    assert [path for path in files if any(form in text_of(path) for form in secret_forms)] == []


TOKEN_FROM_FILE = """
import os, re, signal, subprocess, sys
from pathlib import Path
import ray
from support import is_alive, wait_for
from support.processes import marked
from support.scripts import MARK

argv = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--node-ip-address=127.0.0.1", "--port=0", "--num-cpus=1"]
started = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=15)
address, pid = re.search(r"127\\.0\\.0\\.1:\\d+", started.stdout)[0], int(re.search(r"pid (\\d+)", started.stdout)[1])
try:
    ray.init(address=address, log_to_driver=False)
    secret = Path(os.environ["HOME"], ".ray", "auth_token").read_text().strip()
    assert len(secret) >= 32 and secret not in started.stdout + started.stderr
    assert ray.get(ray.remote(lambda: secret in str(os.environ)).remote()) is False
    pids = {one.pid for one in marked(MARK, os.environ[MARK])} | {pid}
    for one in pids:
        for kind in ("environ", "cmdline"):
            assert secret.encode() not in Path(f"/proc/{one}/{kind}").read_bytes(), (one, kind)
    print("checked", len(pids))
    ray.shutdown()
finally:
    os.kill(pid, signal.SIGTERM)
wait_for(lambda: not is_alive(pid))
"""


def test_token_that_nobody_gave_is_made_in_a_file_of_the_users_only(tmp_path):
    """`ray start --head` without a token makes one, in a file of mode 0600; it is in no process's environment or command line, and never printed."""
    settings = {"HOME": str(tmp_path), "RAY_TMPDIR": str(tmp_path / "tmp")}
    unset = ["env", "-u", "RAY_AUTH_TOKEN", "-u", "RAY_AUTH_TOKEN_PATH"]
    with start_script(TOKEN_FROM_FILE, cwd=tmp_path, env=settings, under=unset) as script:
        done = script.finish(25)
    assert done.rc == 0 and "checked" in done.stdout, done
    kept = tmp_path / ".ray" / "auth_token"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    secret = kept.read_bytes().strip()
    others = [path for path in tmp_path.rglob("*") if path.is_file() and path != kept]
    assert [path for path in others if secret in text_of(path) and stat.S_IMODE(path.stat().st_mode) != 0o600] == []
    assert secret not in done.output.encode()
