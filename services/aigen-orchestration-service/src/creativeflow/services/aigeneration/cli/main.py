"""Run and operate the AI generation service, and use it from a terminal."""

import os
import sys
from typing import Annotated, Literal

import typer

from creativeflow.services.aigeneration import __version__
from creativeflow.services.aigeneration.cli import generations, operators
from creativeflow.services.aigeneration.cli.options import Behaviour
from creativeflow.services.aigeneration.cli.terminal import (
    fail,
    find_unknown_variables,
    load_settings,
    log_format,
    open_database_url,
    run,
    stdout,
)

app = typer.Typer(help=__doc__, no_args_is_help=True, pretty_exceptions_enable=False)
operators.add_commands(app)
app.add_typer(generations.app)


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.")] = None,
    roles: Annotated[
        str | None,
        typer.Option(
            help="Roles of this process, comma-separated: api, dispatcher, results, relay,"
            " sweeper. Default: all."
        ),
    ] = None,
    workers: Annotated[int, typer.Option(min=1, max=64, help="Number of server processes.")] = 1,
    migrate_first: Annotated[
        bool, typer.Option("--migrate/--no-migrate", help="Migrate the database schema first.")
    ] = True,
) -> None:
    """Run the service. Every role may run in any number of processes on any number of machines."""
    from pydantic import SecretStr

    from creativeflow.services.aigeneration.cli import server
    from creativeflow.services.aigeneration.kit.logging import configure_logging
    from creativeflow.services.aigeneration.kit.secret_files import SUFFIX
    from creativeflow.services.aigeneration.settings import Settings

    _set_environment(host=host, port=port, roles=roles, log_format=log_format())
    settings = load_settings()
    _check_listening(host=settings.host, open_to_all=settings.open_to_all)
    configure_logging(level=settings.log_level, as_json=settings.log_format == "json")
    url = open_database_url(settings)
    run(server.prepare(settings, url, migrate_first=migrate_first), settings)
    for name in Settings.secret_variables()["database_url"]:
        os.environ.pop(f"{name}{SUFFIX}".upper(), None)
    _set_environment(database_url=url)
    if "api" in settings.roles:
        server.serve_http(settings, workers)
    else:
        settings = settings.model_copy(update={"database_url": SecretStr(url)})
        run(server.serve_roles(settings), settings)


@app.command()
def demo(
    leave: Annotated[bool, typer.Option("--exit", help="Stop when the final is there.")] = False,
    prompt: Annotated[str | None, typer.Option(help="Text to draw.")] = None,
) -> None:
    """Start the service, run one generation from quote to final, and keep serving."""
    from creativeflow.services.aigeneration.cli.demo import run_demo

    settings = load_settings()
    leave = leave or not sys.stdout.isatty()
    raise typer.Exit(run_demo(settings, leave=leave, prompt=prompt, console=stdout()))


@app.command()
def worker(
    behaviour: Annotated[Behaviour, typer.Option(help="How it answers.")] = "well",
    over: Annotated[
        Literal["http", "rabbitmq"], typer.Option(help="Transport of its reports.")
    ] = "http",
    pictures: Annotated[
        bool,
        typer.Option(
            help="Draw and upload pictures, or invent URLs (with AIGEN_RESULT_CHECK=stored)."
        ),
    ] = True,
    work_seconds: Annotated[
        float, typer.Option(min=0, help="Seconds that each job takes in addition to drawing.")
    ] = 0.0,
    parallel: Annotated[int, typer.Option(min=1, max=1000, help="Concurrent jobs.")] = 10,
    seed: Annotated[int, typer.Option(help="Seed of the behaviour mixed.")] = 0,
) -> None:
    """Run a fake worker in place of n8n: consume jobs from RabbitMQ, draw, upload, report."""
    from creativeflow.services.aigeneration.cli.fake_worker import FakeWorker
    from creativeflow.services.aigeneration.cli.server import ending_signal
    from creativeflow.services.aigeneration.kit.logging import configure_logging

    settings = load_settings()
    configure_logging(level=settings.log_level, as_json=log_format() == "json")

    async def work() -> None:
        fake = FakeWorker(
            settings,
            behaviour=behaviour,
            over=over,
            pictures=pictures,
            work_seconds=work_seconds,
            parallel=parallel,
            seed=seed,
        )
        await fake.run(ending_signal())

    run(work(), settings)


@app.command()
def migrate() -> None:
    """Migrate the database schema to the newest revision; safe while other processes serve."""
    from creativeflow.services.aigeneration.storage import migrations

    settings = load_settings()
    run(migrations.migrate(open_database_url(settings)), settings)
    typer.echo(f"The schema is at revision {migrations.head()}.")


@app.command()
def doctor() -> None:
    """Check every configured dependency, each for at most 5 s; exit with 1 if a check fails."""
    import uvloop

    from creativeflow.services.aigeneration.cli.doctor import examine
    from creativeflow.services.aigeneration.kit.logging import configure_logging

    settings = load_settings(check_variables=False)
    configure_logging(level="critical", as_json=False)
    results = uvloop.run(examine(settings, find_unknown_variables()))
    for result in results:
        typer.secho(str(result), bold=not result.ok)
    raise typer.Exit(0 if all(result.ok for result in results) else 1)


@app.command()
def version() -> None:
    """Print the version."""
    typer.echo(__version__)


def _set_environment(**values: object) -> None:
    """Set settings for this process and its child processes."""
    os.environ.update(
        {f"AIGEN_{name.upper()}": str(value) for name, value in values.items() if value is not None}
    )


def _check_listening(*, host: str, open_to_all: bool) -> None:
    if open_to_all and host not in {"127.0.0.1", "localhost", "::1"}:
        fail(
            "Without AIGEN_API_KEYS or JWT settings every caller has all rights, so the service"
            " listens on loopback only. Set one of them, or leave AIGEN_HOST at 127.0.0.1."
        )
