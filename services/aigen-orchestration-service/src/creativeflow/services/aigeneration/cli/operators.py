"""Commands for operators: on the database, the credit service and the routing file."""

import sys
from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated
from uuid import UUID

import typer

from creativeflow.services.aigeneration.application.usage_export import (
    UsageFormat,
    export,
    month_of,
)
from creativeflow.services.aigeneration.cli.terminal import (
    fail,
    load_settings,
    open_database_url,
    run,
    stdout,
)
from creativeflow.services.aigeneration.domain.errors import InvalidRequestError
from creativeflow.services.aigeneration.domain.lifecycle import Stage, State
from creativeflow.services.aigeneration.domain.model_routing import Asked, ModelChoice, Routing
from creativeflow.services.aigeneration.domain.pricing import (
    PLANS,
    SubscriptionStatus,
    credits_amount,
    credits_text,
)
from creativeflow.services.aigeneration.kit import clock
from creativeflow.services.aigeneration.kit.user_ids import normalise_user_id

if TYPE_CHECKING:
    from creativeflow.services.aigeneration.application.reconciliation import ReconciliationReport
    from creativeflow.services.aigeneration.domain.request import GenerationRequest
    from creativeflow.services.aigeneration.settings import Settings
    from creativeflow.services.aigeneration.storage.database import Database
    from creativeflow.services.aigeneration.storage.queries import Queries

requests_app = typer.Typer(help="Inspect generation requests.", no_args_is_help=True)
outbox_app = typer.Typer(help="Inspect outbox messages; replay or drop.", no_args_is_help=True)
routing_app = typer.Typer(help="Explain and check model routing.", no_args_is_help=True)
usage_app = typer.Typer(help="Export the usage log.", no_args_is_help=True)
credits_app = typer.Typer(help="Manage credits in the local ledger.", no_args_is_help=True)

BY = "command line"
"""The operator's name in timeline and ledger entries of these commands."""
_SUBCOMMANDS = {
    "requests": requests_app,
    "outbox": outbox_app,
    "credits": credits_app,
    "routing": routing_app,
    "usage": usage_app,
}

Limit = Annotated[int, typer.Option(min=1, max=500, help="Maximum number of rows.")]


def _user_id(text: str) -> str:
    user_id = normalise_user_id(text)
    if user_id is None:
        raise typer.BadParameter("A user id has 1 to 200 printable characters.")
    return user_id


UserId = Annotated[str, typer.Argument(help="Id of the user.", parser=_user_id, metavar="USER")]
MessageId = Annotated[int, typer.Argument(help="Id of the message.")]


def add_commands(app: typer.Typer) -> None:
    """Add the commands of this module to the `aigen` command."""
    for name, subcommand in _SUBCOMMANDS.items():
        app.add_typer(subcommand, name=name)
    app.command()(reconcile)


@requests_app.command("list")
def list_requests(
    user: Annotated[
        str | None,
        typer.Option(help="Only requests of this user.", parser=_user_id, metavar="USER"),
    ] = None,
    status: Annotated[State | None, typer.Option(help="Only requests in this state.")] = None,
    limit: Limit = 20,
) -> None:
    """List the newest requests."""

    async def show(database: "Database") -> None:
        from creativeflow.services.aigeneration.storage.queries import Filters, Queries

        filters = Filters(user_id=user, states=[status] if status else ())
        rows = [
            (
                str(request.id),
                request.state,
                request.user_id,
                str(request.round),
                str(request.attempt),
                request.brief["output_format"],
                f"{request.created_at:%Y-%m-%d %H:%M:%S}",
            )
            for request in await Queries(database).page(filters, limit)
        ]
        headers = ("id", "status", "user", "round", "attempt", "format", "created")
        _print_table(headers, rows, whole="id")

    _with_database(show)


@requests_app.command("show")
def show_request(request_id: Annotated[UUID, typer.Argument(help="Id of the request.")]) -> None:
    """Show one request with its timeline: state, credits, broker, callbacks, notifications."""

    async def show(database: "Database") -> None:
        from creativeflow.services.aigeneration.storage.queries import Queries

        queries = Queries(database)
        request = await queries.request(request_id)
        if request is None:
            fail("There is no such request.")
        _print_request(request)
        await _print_timeline(queries, request_id)

    _with_database(show)


@outbox_app.command("list")
def list_messages(
    every: Annotated[bool, typer.Option("--all", help="Include messages that are due.")] = False,
    limit: Limit = 50,
) -> None:
    """List parked messages with their reason."""

    async def show(database: "Database") -> None:
        from creativeflow.services.aigeneration.storage.outbox import Outbox

        rows = [
            (
                str(message["id"]),
                message["topic"],
                str(message["request_id"] or ""),
                str(message["attempts"]),
                message["parked_reason"] or "",
                message["last_error"] or "",
            )
            for message in await Outbox(database).list_open(parked_only=not every, most=limit)
        ]
        _print_table(("id", "topic", "request", "attempts", "parked because", "last error"), rows)

    _with_database(show)


@outbox_app.command("replay")
def replay_message(message_id: MessageId) -> None:
    """Make a parked message due again; the running service delivers it."""
    _resolve_message("replay", message_id, "The message is due again.")


@outbox_app.command("drop")
def drop_message(message_id: MessageId) -> None:
    """Delete a parked message for good."""
    typer.confirm("The message will never be delivered. Drop it?", abort=True)
    _resolve_message("drop", message_id, "The message is dropped.")


@credits_app.command("grant")
def grant_credits(
    user: UserId,
    amount: Annotated[str, typer.Argument(help='Credits, such as 5 or 0.25; "-2" takes two back.')],
    plan: Annotated[
        str | None, typer.Option(help=f"Also set the plan: {', '.join(PLANS)}.")
    ] = None,
    status: Annotated[
        SubscriptionStatus | None, typer.Option(help="Also set the status of the subscription.")
    ] = None,
    reason: Annotated[
        str, typer.Option(help="Reason in the ledger entry.")
    ] = "granted on the command line",
) -> None:
    """Grant credits to a user of the local ledger."""

    async def grant(database: "Database") -> None:
        from creativeflow.services.aigeneration.storage.ledger import Ledger

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
            fail(str(error))
        account = await ledger.account(user)
        balance = credits_text(account.balance)
        stdout().print(f"{user} is on the {account.plan} plan and has {balance} credits.")

    _with_database(grant)


@credits_app.command("show")
def show_credits(user: UserId) -> None:
    """Show plan, balance and ledger entries of a user of the local ledger."""
    _with_database(lambda database: _print_account(database, user))


def reconcile(
    hours: Annotated[
        int, typer.Option(min=1, help="Compare holds that began within this many hours.")
    ] = 24,
    apply: Annotated[
        bool, typer.Option("--apply", help="Post the captures and releases that are missing.")
    ] = False,
) -> None:
    """Compare holds, free generations and the credit service; exit with 1 on any difference."""
    from creativeflow.services.aigeneration.kit.logging import configure_logging

    settings = load_settings()
    configure_logging(level="error", as_json=False)
    url = open_database_url(settings)
    report = run(_reconcile(settings, url, timedelta(hours=hours), apply=apply), settings)
    _print_report(report)
    raise typer.Exit(1 if report.findings or report.unanswered else 0)


@usage_app.command("export")
def export_usage(
    month: Annotated[str, typer.Argument(help="Month in UTC, such as 2026-11.")],
    as_: Annotated[
        UsageFormat, typer.Option("--format", help="Format of the export.")
    ] = UsageFormat.CSV,
    user: Annotated[
        str | None, typer.Option(help="Only usage of this user.", parser=_user_id, metavar="USER")
    ] = None,
    project: Annotated[str | None, typer.Option(help="Only usage of this project.")] = None,
) -> None:
    """Write every chargeable action of a month to standard output, one line each."""
    try:
        since, until = month_of(month)
    except ValueError:
        fail("A month is a year and a month, such as 2026-11.")

    async def write(database: "Database") -> None:
        from creativeflow.services.aigeneration.storage.accounting import Accounting, UsageFilter

        wanted = UsageFilter(since=since, until=until, user_id=user, project_id=project)
        async for line in export(Accounting(database).usage(wanted), as_):
            sys.stdout.write(line)

    _with_database(write)


@routing_app.command("explain")
def explain_routing(
    plan: Annotated[str, typer.Option(help=f"Plan of the user: {', '.join(PLANS)}.")],
    user: Annotated[str, typer.Option(help="Id of the user; it decides the side of a split.")],
    output_format: Annotated[
        str, typer.Option("--format", help="Output format, such as InstagramPost_1x1.")
    ] = "InstagramPost_1x1",
    model: Annotated[
        str | None, typer.Option(help="Model or strategy that the request names.")
    ] = None,
) -> None:
    """Show the model of each stage of a request, the reason, and the rules that did not match."""
    if plan not in PLANS:
        fail(f"Plans are {', '.join(PLANS)}.")
    settings = load_settings()
    routing = _load_routing(settings)
    rows = []
    for stage in Stage:
        asked = Asked(
            stage=stage, plan=PLANS[plan], output_format=output_format, user_id=user, named=model
        )
        rows.append(_routing_row(routing, asked, settings.max_attempts))
    headers = ("stage", "model", "provider", "because", "attempts", "rules passed over")
    _print_table(headers, rows, fold="rules passed over")


@routing_app.command("check")
def check_routing() -> None:
    """Check the routing file; a running service reloads it by itself."""
    routing = _load_routing(load_settings())
    stdout().print(
        f"{len(routing.models)} models and {len(routing.rules)} rules; the default is"
        f" {routing.default}."
    )


def _print_request(request: "GenerationRequest") -> None:
    console = stdout()
    console.print(
        f"[bold]{request.state}[/] · {request.stage} · round {request.round} · attempt"
        f" {request.attempt}"
    )
    for hold in request.holds:
        paid_by = credits_text(hold.amount) if hold.amount else hold.funding
        console.print(f"hold {hold.stage} {hold.round}: {paid_by} {hold.state}")


async def _print_timeline(queries: "Queries", request_id: UUID) -> None:
    rows = []
    for entry in await queries.timeline(request_id):
        data = " ".join(f"{name}={value}" for name, value in entry["data"].items())
        time = f"{entry['at']:%H:%M:%S.%f}"[:-3]
        rows.append((time, entry["event"], entry["state"] or "", data))
    _print_table(("at", "event", "state", "data"), rows)


async def _print_account(database: "Database", user: str) -> None:
    from creativeflow.services.aigeneration.storage.account_flags import AccountFlags
    from creativeflow.services.aigeneration.storage.accounting import Accounting
    from creativeflow.services.aigeneration.storage.ledger import Ledger

    account, accounting = await Ledger(database).account(user), Accounting(database)
    held = credits_text(await accounting.held_amount(user))
    console = stdout()
    console.print(
        f"{account.plan} plan ({account.status}), {credits_text(account.balance)} credits,"
        f" {held} held"
    )
    for flag in await AccountFlags(database).open_flags(100, user):
        since = f"{flag['raised_at']:%Y-%m-%d %H:%M}"
        console.print(f"[bold]restricted[/] since {since}: {flag['reason']}")
    rows = [
        (
            f"{entry['at']:%Y-%m-%d %H:%M:%S}",
            entry["kind"],
            credits_text(entry["amount"]),
            entry["operation"],
            entry["reason"],
        )
        for entry in await accounting.movements(user)
    ]
    _print_table(("at", "kind", "amount", "operation", "reason"), rows, fold="operation")


async def _reconcile(
    settings: "Settings", url: str, period: timedelta, *, apply: bool
) -> "ReconciliationReport":
    from creativeflow.services.aigeneration.bootstrap.container import Container
    from creativeflow.services.aigeneration.storage.migrations import migrate

    await migrate(url)
    service = Container(settings, database_url=url)
    try:
        return await service.reconciliation.run(clock.now() - period, apply=apply, by=BY)
    finally:
        await service.stop()


def _print_report(report: "ReconciliationReport") -> None:
    if report.findings:
        headers = ("difference", "hold", "user", "credits", "here", "there", "corrected by")
        rows = [
            (
                found.difference,
                found.key,
                found.user_id,
                found.credits,
                found.ours,
                found.theirs,
                found.mends or "an operator",
            )
            for found in report.findings
        ]
        _print_table(headers, rows, fold="hold")
    else:
        stdout().print("No differences.")
    stdout().print(
        f"{report.compared} holds compared, {len(report.findings)} differences, {report.posted}"
        f" compensations posted, {report.unanswered} without an answer of the credit service."
    )


def _load_routing(settings: "Settings") -> Routing:
    from creativeflow.services.aigeneration.adapters.model_routing_file import (
        RoutingFileError,
        RoutingSource,
    )

    try:
        return RoutingSource(settings.routing_file)()
    except RoutingFileError as error:
        fail(str(error))


def _routing_row(routing: Routing, asked: Asked, max_attempts: int) -> tuple[str, ...]:
    try:
        choice: ModelChoice = routing.choose(asked)
    except InvalidRequestError as error:
        fail(error.errors[0]["message"])
    attempts = [
        routing.attempt(choice.model.name, attempt=attempt, max_attempts=max_attempts).name
        for attempt in range(1, max_attempts + 1)
    ]
    return (
        asked.stage,
        choice.model.name,
        choice.model.provider,
        choice.reason,
        " → ".join(attempts),
        "\n".join(choice.passed),
    )


def _resolve_message(action: str, message_id: int, done: str) -> None:
    async def resolve(database: "Database") -> None:
        from creativeflow.services.aigeneration.storage.outbox import Outbox

        outbox = Outbox(database)
        resolved = await (outbox.replay if action == "replay" else outbox.drop)(
            message_id, by=BY, now=clock.now()
        )
        if not resolved:
            fail("There is no parked message with this id.")
        stdout().print(done)

    _with_database(resolve)


def _with_database(work: Callable[["Database"], Awaitable[None]]) -> None:
    """Run `work` on the database, whose schema is migrated first."""
    settings = load_settings()
    url = open_database_url(settings)

    async def run_work() -> None:
        from creativeflow.services.aigeneration.storage.database import Database
        from creativeflow.services.aigeneration.storage.migrations import migrate

        await migrate(url)
        database = Database(url, pool_size=2)
        try:
            await work(database)
        finally:
            await database.close()

    run(run_work(), settings)


def _print_table(
    headers: Sequence[str], rows: Iterable[Sequence[str]], *, fold: str = "", whole: str = ""
) -> None:
    """Print a table; the column `fold` wraps instead of being cut, `whole` is never shortened."""
    from rich.table import Column, Table

    columns = [
        Column(
            header,
            overflow="fold" if header == fold else "ellipsis",
            no_wrap=header == whole,
            min_width=36 if header == whole else None,
        )
        for header in headers
    ]
    table = Table(*columns)
    for row in rows:
        table.add_row(*row)
    stdout().print(table)
