"""`ray get-auth-token`."""

from __future__ import annotations

import click

from ray._core.cluster import token
from ray.exceptions import AuthenticationError


@click.command("get-auth-token")
@click.option("--generate", is_flag=True, help="Make a token if there is none.")
def get_auth_token(generate: bool) -> None:
    """Print the secret that the nodes of your clusters share. Whoever has it can run programs as you."""
    try:
        found, made = token.load_or_create() if generate else (token.load(), "")
    except AuthenticationError as error:
        raise click.ClickException(str(error)) from error
    if found is None:
        raise click.ClickException("there is no token yet\nhint: ray start --head makes one, and so does ray get-auth-token --generate")
    if made:
        click.echo(f"made a token and keep it in {made}", err=True)
    click.echo(found)
