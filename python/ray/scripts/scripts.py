"""The command `ray`. Its larger commands have modules of their own."""

from __future__ import annotations

import click

from ray import _core
from ray.scripts.start import start
from ray.scripts.status import status
from ray.scripts.stop import stop
from ray.scripts.timeline import timeline
from ray.scripts.tokens import get_auth_token


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(_core.RAY_VERSION, prog_name="ray")
def cli() -> None:
    """Tasks, actors and objects on one machine or many."""


@cli.command()
@click.argument("id", required=False)
@click.option("--session", help="Which session to ask, as `ray why --list` names it. Default: the youngest of yours on this host.")
@click.option("--list", "list_sessions", is_flag=True, help="List the sessions of yours on this host.")
def why(id: str | None, session: str | None, list_sessions: bool) -> None:
    """Say what a task, an object, an actor or a worker waits for, or what ended it.

    ID: as it stands in errors, or ref.hex(). Without one: everything that runs or waits.
    """
    from ray import _native
    from ray._core.cluster import door
    from ray._core.why import explain, subject_from_hex

    running = door.everything()
    if list_sessions:
        return click.echo("\n".join(one.session for one in running) or "no session is running")
    if not running:
        raise click.ClickException("no session of yours is running on this host")
    chosen = next((one for one in reversed(running) if session in (None, one.session)), None)
    if chosen is None:
        raise click.ClickException(f"there is no session {session!r}\nhint: ray why --list")
    try:
        core = _native.Core.observe(chosen.name)
        subject = ("everything", None) if id is None else subject_from_hex(id, core.node_id)
        return click.echo(explain(core, subject).text)
    except (ValueError, RuntimeError) as e:
        raise click.ClickException(str(e)) from e


for _command in (start, stop, status, timeline, get_auth_token):
    cli.add_command(_command)


def main() -> None:
    """Run the command line."""
    cli()


if __name__ == "__main__":
    main()
