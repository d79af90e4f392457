"""The command `ray`."""

from __future__ import annotations

import click

from ray import _core


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
    from ray._core import door
    from ray._core.why import explain, subject_from_hex

    running = door.sessions()
    if list_sessions:
        return click.echo("\n".join(running) or "no session is running")
    if not running:
        raise click.ClickException("no session of yours is running on this host")
    chosen = running[-1] if session is None else session
    if chosen not in running:
        raise click.ClickException(f"there is no session {chosen!r}\nhint: ray why --list")
    try:
        core = _native.Core.observe(door.name_of(chosen))
        subject = ("everything", None) if id is None else subject_from_hex(id, core.node_id)
        return click.echo(explain(core, subject).text)
    except (ValueError, RuntimeError) as e:
        raise click.ClickException(str(e)) from e


def main() -> None:
    """Run the command line."""
    cli()


if __name__ == "__main__":
    main()
