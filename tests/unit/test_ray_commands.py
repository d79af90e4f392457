"""`ray start`, `ray stop`, `ray status` and `ray get-auth-token`: options and texts, without an engine."""

import datetime
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from ray.scripts import start_options
from ray.scripts.scripts import cli
from ray.scripts.status import status_text

NOW = datetime.datetime(2026, 11, 28, 12, 0, 0, 5)
GIB = 1 << 30


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments)


def options_of(command: str) -> set[str]:
    return {name for parameter in cli.commands[command].params for name in parameter.opts}


def node(index: int, death: str = "", **changed: object) -> dict[str, object]:
    found = {
        "index": index,
        "node_id": bytes([index]) * 28,
        "address": f"10.0.0.{index}:6379",
        "host": "h",
        "death": death,
        "total": {"CPU": 2.0, "memory": 4.0 * GIB, "object_store_memory": 2.0 * GIB, f"node:10.0.0.{index}": 1.0},
        "available": {"CPU": 1.5, "memory": 4.0 * GIB, "object_store_memory": 2.0 * GIB},
        "waiting": 0,
        "store_used": 0,
    }
    return {**found, **changed}


# Options


@pytest.mark.parametrize(
    ("command", "names"),
    [
        (
            "start",
            (
                "--address --autoscaling-config --block --cgroup-path --dashboard-agent-grpc-port --dashboard-agent-listen-port --dashboard-host --dashboard-port "
                "--disable-usage-stats --enable-object-reconstruction --enable-resource-isolation --head --include-dashboard --include-log-monitor --labels "
                "--labels-file --log-color --log-style --max-worker-port --memory --metrics-export-port --min-worker-port --no-monitor --no-redirect-output "
                "--node-ip-address --node-manager-port --node-name --num-cpus --num-gpus --object-manager-port --object-spilling-directory --object-store-memory "
                "--plasma-directory --port --proxy-server-url --ray-client-server-port --ray-debugger-external --redis-password --redis-shard-ports "
                "--redis-username --resources --runtime-env-agent-port --system-config --system-reserved-cpu --system-reserved-memory --temp-dir "
                "--tracing-startup-hook --verbose --worker-port-list -v"
            ),
        ),
        ("stop", "--force -f --grace-period -g --log-style --log-color --verbose -v"),
        ("status", "--address --verbose -v"),
        ("get-auth-token", "--generate"),
    ],
)
def test_commands_take_rays_options(command: str, names: str) -> None:
    assert set(names.split()) <= options_of(command)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "--head to start a new cluster"),
        (("--head", "--address=a:1"), "give one of them"),
        (("--address=a:1", "--port=1"), "--port is the head's"),
        (("--head", "--port=70000"), "70000"),
        (("--head", "--num-cpus=-1"), "-1"),
        (("--head", "--resources=[]"), "must be a JSON object"),
        (("--head", "--resources={"), "is no JSON"),
        (("--head", '--resources={"CPU": 1}'), "use num_cpus"),
        (("--head", '--resources={"a": -1}'), "negative"),
        (("--head", "--labels=a"), '"key=value,key2=value2"'),
        (("--head", "--labels==a"), "needs a name"),
        (("--head", "--labels=a=b c"), "at most 63"),
        (("--head", "--labels=ray.io/node-id=x"), "set by the runtime"),
        (("--head", '--system-config={"nonsense": 1}'), "no setting 'nonsense'"),
        (("--head", "--object-store-memory=1"), "at least"),
        (("--head", "--node-ip-address=198.51.100.7"), "no address of this machine"),
        (("--head", "--node-ip-address=no-such-host.invalid"), "can't be resolved"),
        (("--address=nonsense",), "no token"),
    ],
)
def test_bad_options_of_start_are_refused_in_words(arguments: tuple[str, ...], said: str) -> None:
    done = run("start", *arguments)
    assert done.exit_code in (1, 2)
    assert said in done.output
    assert "Traceback" not in done.output


def test_joining_needs_an_address_that_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "0123456789abcdef")
    assert "is no address of a cluster" in run("start", "--address=nonsense").output


def test_options_without_effect_are_told_once_by_reason() -> None:
    @click.command()
    @start_options.idle_options
    @click.pass_context
    def command(context: click.Context, **_: object) -> None:
        click.echo("\n".join(start_options.notes_on_idle(context)))

    done = CliRunner().invoke(command, ["--min-worker-port=1", "--max-worker-port=2", "--dashboard-host=0.0.0.0", "--disable-usage-stats", "--no-monitor"])
    lines = done.output.splitlines()
    assert len(lines) == 3
    assert any(line.endswith("--min-worker-port, --max-worker-port") and start_options.ONE_PORT in line for line in lines)
    assert "disable-usage-stats" not in done.output
    assert CliRunner().invoke(command, []).output == "\n"


def test_labels_come_from_text_and_file(tmp_path: Path) -> None:
    path = tmp_path / "labels"
    path.write_text("---\n# about\nzone: a  # here\n\"disk\": 'ssd'\nempty:\n\n")
    assert start_options.read_labels("", str(path)) == {"zone": "a", "disk": "ssd", "empty": ""}
    assert start_options.read_labels("zone=b, x=1,", str(path)) == {"zone": "b", "disk": "ssd", "empty": "", "x": "1"}
    path.write_text('{"zone": "c"}')
    assert start_options.read_labels("", str(path)) == {"zone": "c"}
    assert start_options.read_labels("", "") == {}


@pytest.mark.parametrize("text", ["zone", "zone:a", "a:\n  b: c", "- a", '{"a": 1}', "{", "a: b c"])
def test_files_that_hold_no_labels_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "labels"
    path.write_text(text)
    with pytest.raises(ValueError):
        start_options.read_labels("", str(path))
    with pytest.raises(ValueError, match="can't be read"):
        start_options.read_labels("", str(tmp_path / "missing"))


# Tokens


def test_token_is_printed_alone_and_made_on_demand(home: Path) -> None:
    missing = run("get-auth-token")
    assert missing.exit_code == 1
    assert "--generate" in missing.output
    made = run("get-auth-token", "--generate")
    assert made.exit_code == 0
    secret = (home / ".ray/auth_token").read_text().strip()
    assert made.output.splitlines()[-1] == secret
    assert run("get-auth-token").output == secret + "\n"
    assert run("get-auth-token", "--generate").output == secret + "\n"


def test_token_that_cannot_be_used_is_said(home: Path) -> None:
    run("get-auth-token", "--generate")
    (home / ".ray/auth_token").chmod(0o644)
    done = run("get-auth-token")
    assert done.exit_code == 1
    assert "chmod 600" in done.output


# Status


def test_status_has_rays_headings_in_rays_order() -> None:
    text = status_text([node(1), node(2, store_used=GIB // 2), node(3, death="killed:\nsignal 9")], NOW)
    assert text == "\n".join(
        [
            "======== Autoscaler status: 2026-11-28 12:00:00.000005 ========",
            "Node status",
            "-" * 63,
            "Active:",
            " 1 node_" + "01" * 28,
            " 1 node_" + "02" * 28,
            "Pending:",
            " (no pending nodes)",
            "Recent failures:",
            " 10.0.0.3: killed: signal 9",
            "",
            "Resources",
            "-" * 63,
            "Total Usage:",
            " 1.0/4.0 CPU",
            " 0B/8.00GiB memory",
            " 512.00MiB/4.00GiB object_store_memory",
            "",
            "From request_resources:",
            " (none)",
            "Pending Demands:",
            " (no resource demands)",
        ]
    )


def test_status_counts_what_waits_and_tells_nodes_when_asked() -> None:
    text = status_text([node(1, waiting=2), node(2, waiting=3, address="", total={"GPU": 1.0}, available={})], NOW, verbose=True)
    assert "5+ pending tasks/actors" in text
    assert "\n\nNode: 10.0.0.1 (node_" + "01" * 28 + ")\n Usage:\n  0.5/2.0 CPU\n" in text
    assert text.endswith("Node: h (node_" + "02" * 28 + ")\n Usage:\n  1.0/1.0 GPU")


def test_status_of_nothing_is_a_text_too() -> None:
    text = status_text([], NOW)
    assert " (no active nodes)" in text
    assert " (no resources)" in text


def test_status_without_a_cluster_says_how_to_start_one(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray._core.cluster import door

    monkeypatch.setattr(door, "clusters", list)
    done = run("status")
    assert done.exit_code == 1
    assert "ray start --head" in done.output
    assert run("stop").output == "no node of yours runs on this machine\n"
