"""The command line: start, try, look after and mend the service."""

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Annotated, Any, NoReturn, TypeVar
from uuid import UUID

import typer
import uvicorn
import uvloop
from prometheus_client import start_http_server
from pydantic import ValidationError
from rich.console import Console
from rich.table import Column, Table

from creativeflow.services.aigeneration import __version__
from creativeflow.services.aigeneration.adapters.model_routing_file import (
    RoutingFileError,
    RoutingSource,
)
from creativeflow.services.aigeneration.api.http_protocol import BoundedHttpProtocol
from creativeflow.services.aigeneration.app import create_app, start_service
from creativeflow.services.aigeneration.application.reconciliation import ReconciliationReport
from creativeflow.services.aigeneration.application.usage_export import (
    UsageFormat,
    export,
    month_of,
)
from creativeflow.services.aigeneration.bootstrap.adapters import database_url
from creativeflow.services.aigeneration.bootstrap.container import Container
from creativeflow.services.aigeneration.cli import generations
from creativeflow.services.aigeneration.cli.demo import run_demo
from creativeflow.services.aigeneration.cli.doctor import examine
from creativeflow.services.aigeneration.cli.fake_worker import BEHAVIOURS, StandInWorker
from creativeflow.services.aigeneration.domain.errors import AigenError, InvalidRequestError
from creativeflow.services.aigeneration.domain.lifecycle import Stage, State
from creativeflow.services.aigeneration.domain.model_routing import Asked, Routing
from creativeflow.services.aigeneration.domain.pricing import (
    PLANS,
    SubscriptionStatus,
    credits_amount,
    credits_text,
)
from creativeflow.services.aigeneration.kit import clock
from creativeflow.services.aigeneration.kit.logging import configure_logging
from creativeflow.services.aigeneration.settings import ROLES, Settings
from creativeflow.services.aigeneration.storage.account_flags import AccountFlags
from creativeflow.services.aigeneration.storage.accounting import Accounting, UsageFilter
from creativeflow.services.aigeneration.storage.database import Database
from creativeflow.services.aigeneration.storage.ledger import Ledger
from creativeflow.services.aigeneration.storage.migrations import head, migrate
from creativeflow.services.aigeneration.storage.outbox import Outbox
from creativeflow.services.aigeneration.storage.queries import Filters, Queries

app = typer.Typer(help=__doc__, no_args_is_help=True, pretty_exceptions_enable=False)
requests_app = typer.Typer(help="Look at generation requests.", no_args_is_help=True)
outbox_app = typer.Typer(
    help="Look at what is owed, and mend what is parked.", no_args_is_help=True
)
routing_app = typer.Typer(help="Which model does what, and why.", no_args_is_help=True)
usage_app = typer.Typer(help="What was used, and what paid for it.", no_args_is_help=True)
credits_app = typer.Typer(help="Credits in the local ledger.", no_args_is_help=True)
app.add_typer(requests_app, name="requests")
app.add_typer(outbox_app, name="outbox")
app.add_typer(credits_app, name="credits")
app.add_typer(routing_app, name="routing")
app.add_typer(usage_app, name="usage")
app.add_typer(generations.app)

out = Console()
err = Console(stderr=True)

Found = TypeVar("Found")
Limit = Annotated[int, typer.Option(min=1, max=500, help="How many at most.")]


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.")] = None,
    roles: Annotated[str | None, typer.Option(help=f"Of {', '.join(ROLES)}; default all.")] = None,
    workers: Annotated[int, typer.Option(min=1, max=64, help="Processes that serve.")] = 1,
    migrate_first: Annotated[
        bool, typer.Option("--migrate/--no-migrate", help="Bring the schema up to date.")
    ] = True,
) -> None:
    """Run the service; every role may run any number of times on any number of machines."""
    chosen = {
        "AIGEN_HOST": host,
        "AIGEN_PORT": port,
        "AIGEN_ROLES": roles,
        "AIGEN_LOG_FORMAT": _log_format(),
    }
    os.environ.update({name: str(value) for name, value in chosen.items() if value is not None})
    settings = _settings()
    _check_listening(settings)
    configure_logging(level=settings.log_level, as_json=settings.log_format == "json")
    url = database_url(settings)
    os.environ["AIGEN_DATABASE_URL"] = url
    if migrate_first:
        _run(migrate(url))
    if "api" not in settings.roles:
        _run(_serve_quietly(_settings()))
        return
    # The server passes the signal on when it has stopped; leaving by an exception lets the embedded
    # database stop too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    uvicorn.run(
        f"{__name__}:served_app",
        factory=True,
        host=settings.host,
        port=settings.port,
        workers=workers,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=10,
        timeout_keep_alive=30,
        http=BoundedHttpProtocol,
    )


def served_app() -> Any:
    """The application of one serving process; its settings come from the environment."""
    settings = _settings()
    configure_logging(level=settings.log_level, as_json=settings.log_format == "json")
    return create_app(settings, migrates=False)


@app.command()
def demo(
    leave: Annotated[bool, typer.Option("--exit", help="End when the picture is there.")] = False,
    prompt: Annotated[str | None, typer.Option(help="What to draw.")] = None,
) -> None:
    """Start everything, send one real request, watch it live, and show where the pictures lie."""
    settings = _settings()
    raise typer.Exit(
        run_demo(settings, leave=leave or not sys.stdout.isatty(), prompt=prompt, console=out)
    )


@app.command()
def worker(
    behaviour: Annotated[
        str, typer.Option(help=f"How it answers: mixed, {', '.join(BEHAVIOURS)}.")
    ] = "well",
    over: Annotated[str, typer.Option(help="Report over http or rabbitmq.")] = "http",
    pictures: Annotated[
        bool,
        typer.Option(
            help="Draw and upload pictures, or invent addresses (with AIGEN_RESULT_CHECK=stored)."
        ),
    ] = True,
    work_seconds: Annotated[
        float, typer.Option(min=0, help="Seconds each job takes beside drawing.")
    ] = 0.0,
    parallel: Annotated[int, typer.Option(min=1, max=1000, help="Jobs at once.")] = 10,
    seed: Annotated[int, typer.Option(help="Of the mixture of behaviours.")] = 0,
) -> None:
    """Stand in for n8n: take jobs from RabbitMQ, draw, upload, report."""
    settings = _settings()
    if behaviour not in {*BEHAVIOURS, "mixed"} or over not in {"http", "rabbitmq"}:
        _fail("Unknown behaviour or way to report; see aigen worker --help.")
    configure_logging(level=settings.log_level, as_json=_log_format() == "json")
    _run(
        _work(
            StandInWorker(
                settings,
                behaviour=behaviour,
                over=over,
                pictures=pictures,
                work_seconds=work_seconds,
                parallel=parallel,
                seed=seed,
            )
        )
    )


@app.command(name="migrate")
def migrate_command() -> None:
    """Bring the database's schema up to date; safe while others serve."""
    _run(migrate(database_url(_settings())))
    out.print(f"The schema is at revision {head()}.")


@app.command()
def doctor() -> None:
    """Say of each dependency whether it is reachable, which version it is, what is missing, and how
    to mend it.
    """
    configure_logging(level="error", as_json=False)
    findings = _run(examine(_settings()))
    table = Table("", "part", "state", "what to do")
    for found in findings:
        table.add_row(
            "✓" if found.ok else "✗",
            found.part,
            found.state,
            found.remedy,
            style="" if found.ok else "bold",
        )
    out.print(table)
    raise typer.Exit(0 if all(found.ok for found in findings) else 1)


@app.command()
def version() -> None:
    """Print the version."""
    out.print(__version__)


@requests_app.command("list")
def list_requests(
    user: Annotated[str | None, typer.Option(help="Of this user only.")] = None,
    status: Annotated[State | None, typer.Option(help="In this state only.")] = None,
    limit: Limit = 20,
) -> None:
    """The newest requests."""

    async def show(database: Database) -> None:
        filters = Filters(user_id=user, states=[status] if status else ())
        table = Table(
            Column("id", no_wrap=True, min_width=36),
            "status",
            "user",
            "round",
            "attempt",
            "format",
            "created",
        )
        for found in await Queries(database).page(filters, limit):
            table.add_row(
                str(found.id),
                found.state,
                found.user_id,
                str(found.round),
                str(found.attempt),
                found.brief["output_format"],
                f"{found.created_at:%Y-%m-%d %H:%M:%S}",
            )
        out.print(table)

    _with_database(show)


@requests_app.command("show")
def show_request(request_id: Annotated[UUID, typer.Argument(help="The request's id.")]) -> None:
    """One request with its whole timeline: state, money, broker, callbacks, notifications."""

    async def show(database: Database) -> None:
        queries = Queries(database)
        found = await queries.request(request_id)
        if found is None:
            _fail("There is no such request.")
        out.print(
            f"[bold]{found.state}[/] · {found.stage} · round {found.round} · attempt"
            f" {found.attempt}"
        )
        for hold in found.holds:
            paid = credits_text(hold.amount) if hold.amount else hold.funding
            out.print(f"hold {hold.stage} {hold.round}: {paid} {hold.state}")
        table = Table("at", "event", "state", "data")
        for entry in await queries.timeline(request_id):
            data = " ".join(f"{name}={value}" for name, value in entry["data"].items())
            table.add_row(
                f"{entry['at']:%H:%M:%S.%f}"[:-3], entry["event"], entry["state"] or "", data
            )
        out.print(table)

    _with_database(show)


@outbox_app.command("list")
def list_messages(
    every: Annotated[bool, typer.Option("--all", help="Also those that are only waiting.")] = False,
    limit: Limit = 50,
) -> None:
    """Parked messages with their reason."""

    async def show(database: Database) -> None:
        table = Table("id", "topic", "request", "attempts", "parked because", "last error")
        for message in await Outbox(database).list_open(parked_only=not every, most=limit):
            table.add_row(
                str(message["id"]),
                message["topic"],
                str(message["request_id"] or ""),
                str(message["attempts"]),
                message["parked_reason"] or "",
                message["last_error"] or "",
            )
        out.print(table)

    _with_database(show)


@outbox_app.command("replay")
def replay_message(message_id: int) -> None:
    """Make a parked message due again; the running service pays it."""
    _resolve_message(message_id, Outbox.replay, "It is due again.")


@outbox_app.command("drop")
def drop_message(message_id: int) -> None:
    """Give a parked message up for good."""
    typer.confirm("It will never be paid. Drop it?", abort=True)
    _resolve_message(message_id, Outbox.drop, "It is gone.")


@credits_app.command("grant")
def grant_credits(
    user: Annotated[str, typer.Argument(help="The user's id.")],
    amount: Annotated[str, typer.Argument(help='Credits, such as 5 or 0.25; "-2" takes two back.')],
    plan: Annotated[
        str | None, typer.Option(help=f"Also set the plan: {', '.join(PLANS)}.")
    ] = None,
    status: Annotated[
        SubscriptionStatus | None, typer.Option(help="Also set what the subscription is worth.")
    ] = None,
    reason: Annotated[
        str, typer.Option(help="Stands in the ledger.")
    ] = "granted on the command line",
) -> None:
    """Give credits to a user of the local ledger."""

    async def grant(database: Database) -> None:
        ledger = Ledger(database)
        try:
            await ledger.grant(
                user,
                credits_amount(amount),
                operation=str(clock.uuid7()),
                reason=reason,
                plan=plan,
                status=status,
            )
        except ValueError as error:
            _fail(str(error))
        account = await ledger.account(user)
        out.print(
            f"{user} is on the {account.plan} plan and has {credits_text(account.balance)} credits."
        )

    _with_database(grant)


@credits_app.command("show")
def show_credits(user: Annotated[str, typer.Argument(help="The user's id.")]) -> None:
    """Plan, balance and movements of a user of the local ledger."""

    async def show(database: Database) -> None:
        account, books = await Ledger(database).account(user), Accounting(database)
        held = credits_text(await books.held(user))
        out.print(
            f"{account.plan} plan ({account.status}), {credits_text(account.balance)} credits,"
            f" {held} held"
        )
        for flag in await AccountFlags(database).open_flags(100, user):
            out.print(
                f"[bold]restricted[/] since {flag['raised_at']:%Y-%m-%d %H:%M}: {flag['reason']}"
            )
        table = Table("at", "kind", "amount", Column("operation", overflow="fold"), "reason")
        for entry in await books.movements(user):
            amount = credits_text(entry["amount"])
            table.add_row(
                f"{entry['at']:%Y-%m-%d %H:%M:%S}",
                entry["kind"],
                amount,
                entry["operation"],
                entry["reason"],
            )
        out.print(table)

    _with_database(show)


@app.command()
def reconcile(
    hours: Annotated[
        int, typer.Option(min=1, help="Compare holds that began in the last hours.")
    ] = 24,
    apply: Annotated[
        bool, typer.Option("--apply", help="Post what was decided and never arrived.")
    ] = False,
) -> None:
    """Compare our holds, the free count and the credit service, and print every difference (then it
    ends with 1).
    """

    async def compare() -> ReconciliationReport:
        await migrate(url)
        service = Container(settings, database_url=url)
        try:
            return await service.reconciliation.run(
                clock.now() - timedelta(hours=hours), apply=apply, by="command line"
            )
        finally:
            await service.stop()

    settings = _settings()
    configure_logging(level="error", as_json=False)
    url = database_url(settings)
    report = _run(compare())
    table = Table(
        "difference",
        Column("hold", overflow="fold"),
        "user",
        "credits",
        "here",
        "there",
        "mended by",
    )
    for found in report.findings:
        table.add_row(
            found.difference,
            found.key,
            found.user_id,
            found.credits,
            found.ours,
            found.theirs,
            found.mends or "a person",
        )
    out.print(table if report.findings else "The books agree.")
    out.print(
        f"{report.compared} holds compared, {len(report.findings)} differences, {report.posted}"
        f" compensations posted, {report.unanswered} without an answer of the credit service."
    )
    raise typer.Exit(1 if report.findings or report.unanswered else 0)


@usage_app.command("export")
def export_usage(
    month: Annotated[str, typer.Argument(help="Such as 2026-11 (UTC).")],
    as_: Annotated[
        UsageFormat, typer.Option("--format", help="How to write it.")
    ] = UsageFormat.CSV,
    user: Annotated[str | None, typer.Option(help="Of this user only.")] = None,
    project: Annotated[str | None, typer.Option(help="Of this project only.")] = None,
) -> None:
    """Every chargeable action of a month, one line each, on standard output."""
    try:
        since, until = month_of(month)
    except ValueError:
        _fail("A month is a year and a month, such as 2026-11.")

    async def write(database: Database) -> None:
        wanted = UsageFilter(since=since, until=until, user_id=user, project_id=project)
        async for line in export(Accounting(database).usage(wanted), as_):
            sys.stdout.write(line)

    _with_database(write)


@routing_app.command("explain")
def explain_routing(
    plan: Annotated[str, typer.Option(help=f"Of {', '.join(PLANS)}.")],
    user: Annotated[
        str, typer.Option(help="The user's id: it decides on which side of a split they fall.")
    ],
    output_format: Annotated[
        str, typer.Option("--format", help="Such as InstagramPost_1x1.")
    ] = "InstagramPost_1x1",
    model: Annotated[
        str | None, typer.Option(help="A model or strategy that is asked for.")
    ] = None,
) -> None:
    """Say which model each stage of a request would get, why, and which rules did not fit."""
    if plan not in PLANS:
        _fail(f"Plans are {', '.join(PLANS)}.")
    routing, settings = _routing(), _settings()
    table = Table(
        "stage",
        "model",
        "provider",
        "because",
        "attempts",
        Column("rules passed over", overflow="fold"),
    )
    for stage in Stage:
        asked = Asked(
            stage=stage, plan=PLANS[plan], output_format=output_format, user_id=user, named=model
        )
        try:
            choice = routing.choose(asked)
        except InvalidRequestError as error:
            _fail(error.errors[0]["message"])
        attempts = [
            routing.attempt(
                choice.model.name, attempt=attempt, max_attempts=settings.max_attempts
            ).name
            for attempt in range(1, settings.max_attempts + 1)
        ]
        table.add_row(
            stage,
            choice.model.name,
            choice.model.provider,
            choice.reason,
            " → ".join(attempts),
            "\n".join(choice.passed),
        )
    out.print(table)


@routing_app.command("check")
def check_routing() -> None:
    """Read the routing file and say whether it fits; a running service takes it by itself."""
    routing = _routing()
    out.print(
        f"{len(routing.models)} models and {len(routing.rules)} rules; the default is"
        f" {routing.default}."
    )


def _routing() -> Routing:
    try:
        return RoutingSource(_settings().routing_file)()
    except RoutingFileError as error:
        _fail(str(error))


def _resolve_message(message_id: int, how: Callable[..., Awaitable[bool]], done: str) -> None:
    async def resolve(database: Database) -> None:
        if not await how(Outbox(database), message_id, by="command line", now=clock.now()):
            _fail("There is no parked message with this id.")
        out.print(done)

    _with_database(resolve)


def _with_database(work: Callable[[Database], Awaitable[None]]) -> None:
    @asynccontextmanager
    async def opened() -> Any:
        database = Database(url, pool_size=2)
        try:
            yield database
        finally:
            await database.close()

    async def run() -> None:
        await migrate(url)
        async with opened() as database:
            await work(database)

    url = database_url(_settings())
    _run(run())


def _run(work: Coroutine[Any, Any, Found]) -> Found:
    try:
        return uvloop.run(work)
    except (AigenError, OSError) as error:
        _fail(f"{error} `aigen doctor` says more.")


async def _serve_quietly(settings: Settings) -> None:
    """Run roles without the HTTP interface until told to end; metrics on a port of their own, if
    one is set.
    """
    if settings.metrics_port:
        start_http_server(settings.metrics_port, settings.host)
    service = await start_service(settings, migrates=False)
    try:
        await _told_to_end().wait()
    finally:
        await service.stop()


async def _work(stand_in: StandInWorker) -> None:
    await stand_in.run(_told_to_end())


def _told_to_end() -> asyncio.Event:
    told = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, told.set)
    return told


def _settings() -> Settings:
    try:
        return Settings()
    except ValidationError as error:
        for fault in error.errors(include_input=False, include_url=False):
            name = "_".join(str(part) for part in fault["loc"]) or "settings"
            name = name if name.isupper() or name == "settings" else f"AIGEN_{name.upper()}"
            err.print(f"[bold]{name}[/]: {fault['msg'].removeprefix('Value error, ')}")
        _fail("The settings do not fit. .env.example describes every one of them.")


def _check_listening(settings: Settings) -> None:
    if settings.open_to_all and settings.host not in {"127.0.0.1", "localhost", "::1"}:
        _fail(
            "Without AIGEN_API_KEYS or JWT settings the service is open to all, so it listens on"
            " loopback only. Set them, or leave the host at 127.0.0.1."
        )


def _log_format() -> str:
    return os.environ.get("AIGEN_LOG_FORMAT") or ("console" if sys.stderr.isatty() else "json")


def _fail(sentence: str) -> NoReturn:
    err.print(sentence, style="bold red")
    raise typer.Exit(1)
