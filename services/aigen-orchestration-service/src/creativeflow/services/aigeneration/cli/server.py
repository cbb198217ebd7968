"""Run the HTTP server and the other roles of `aigen serve`."""

import asyncio
import os
import signal
import sys

import structlog
import typer
import uvicorn
from prometheus_client import start_http_server
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from creativeflow.services.aigeneration import __version__
from creativeflow.services.aigeneration.adapters.model_routing_file import RoutingSource
from creativeflow.services.aigeneration.adapters.moderation.word_lists import (
    STANDARD_FILE,
    read_rules,
)
from creativeflow.services.aigeneration.api.http_protocol import BoundedHttpProtocol
from creativeflow.services.aigeneration.app import create_app, start_service
from creativeflow.services.aigeneration.cli.schema import load_schema_state
from creativeflow.services.aigeneration.cli.start_errors import (
    GRANT,
    NO_POOLER,
    database_address,
    explain_start_error,
    pooler_problem,
)
from creativeflow.services.aigeneration.cli.terminal import fail
from creativeflow.services.aigeneration.kit.logging import configure_logging
from creativeflow.services.aigeneration.settings import Settings, scheme
from creativeflow.services.aigeneration.storage.database import Database
from creativeflow.services.aigeneration.storage.migrations import migrate

log = structlog.get_logger(__name__)

_STARTUP_FAILURE = 3
"""The exit code of uvicorn when the application did not start; its reason has been logged."""

_ENGINES = {"local": "local", "amqp": "rabbitmq", "amqps": "rabbitmq"}
_CREDITS = {
    "local": "local ledger",
    "http": "billing adapter",
    "https": "billing adapter",
    "odoo+http": "odoo",
    "odoo+https": "odoo",
}
_NOTIFIERS = {
    "log": "log",
    "amqp": "rabbitmq",
    "amqps": "rabbitmq",
    "http": "http",
    "https": "http",
}
_MODERATION = {
    "words": "word lists",
    "http": "word lists and endpoint",
    "https": "word lists and endpoint",
    "none": "off",
}


async def prepare(settings: Settings, url: str, *, migrate_first: bool) -> None:
    """Check what every process needs, before the first one starts.

    Raises:
        RoutingFileError: the routing file is invalid.
        SafetyFileError: the word lists are invalid.
        StorageUnavailableError: the database does not respond.
    """
    RoutingSource(settings.routing_file)
    if scheme(settings.safety_url) != "none":
        read_rules(settings.safety_file or STANDARD_FILE)
    if migrate_first:
        await migrate(url)
    await _check_schema(url)


def serve_http(settings: Settings, workers: int) -> None:
    """Run the HTTP server with the roles of this process until a signal ends it."""
    # The server raises the signal again when it has stopped; leaving by an exception lets the
    # embedded database stop too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
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
            proxy_headers=bool(settings.trusted_proxies),
            forwarded_allow_ips=list(settings.trusted_proxies),
        )
    except SystemExit as ended:
        if ended.code == _STARTUP_FAILURE:
            raise typer.Exit(1) from None
        raise


def served_app() -> ASGIApp:
    """Return the application of one serving process; its settings come from the environment."""
    settings = Settings()
    configure_logging(level=settings.log_level, as_json=settings.log_format == "json")
    return StartReport(create_app(settings, migrates=False), settings)


async def serve_roles(settings: Settings) -> None:
    """Run the roles without the HTTP server until a signal ends them.

    `/metrics` is on a separate port if `metrics_port` is set.
    """
    if settings.metrics_port:
        start_http_server(settings.metrics_port, settings.host)
    service = await start_service(settings, migrates=False)
    log_start(settings)
    try:
        await ending_signal().wait()
    finally:
        await service.stop()


class StartReport:
    """Logs one line when the application has started, and one instead of a traceback if not."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._settings = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass all messages on; look only at those of the lifespan."""
        if scope["type"] == "lifespan":
            send = self._reporting(send)
        await self._app(scope, receive, send)

    def _reporting(self, send: Send) -> Send:
        async def report(message: Message) -> None:
            if message["type"] == "lifespan.startup.complete":
                log_start(self._settings)
            elif message["type"] == "lifespan.startup.failed":
                error = sys.exc_info()[1]
                problem = error and explain_start_error(error, self._settings)
                message = {**message, "message": str(problem)} if problem else message
            await send(message)

        return report


def log_start(settings: Settings) -> None:
    """Log version, address, roles and the configured adapters; never credentials."""
    log.info(
        "service_started",
        version=__version__,
        address=f"http://{settings.host}:{settings.port}" if "api" in settings.roles else None,
        public_url=settings.public_url,
        roles=",".join(settings.roles),
        pid=os.getpid(),
        profile=settings.profile,
        access="open" if settings.open_to_all else "keys",
        **parts_in_force(settings),
    )


def parts_in_force(settings: Settings) -> dict[str, str]:
    """Return the name of each configured adapter."""
    url = settings.database_url.get_secret_value() if settings.database_url else ""
    address = database_address(url)
    embedded = not url or address.startswith(str(settings.data_dir))
    return {
        "database": "embedded" if embedded else address,
        "engine": _ENGINES[scheme(settings.engine_url)],
        "credits": _CREDITS[scheme(settings.credits_url)],
        "notifier": _NOTIFIERS[scheme(settings.notify_url)],
        "moderation": _MODERATION[scheme(settings.safety_url)],
    }


def ending_signal() -> asyncio.Event:
    """Return an event that SIGINT and SIGTERM set."""
    event = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, event.set)
    return event


async def _check_schema(url: str) -> None:
    """Refuse to start without a schema, or without write permissions on it."""
    database = Database(url, pool_size=2)
    try:
        schema = await load_schema_state(database)
    finally:
        await database.close()
    address = database_address(url)
    if not schema.own_session:
        fail(f"{pooler_problem(address)} {NO_POOLER}")
    if schema.revision is None:
        fail(f"The database at {address} has no schema. Run `aigen migrate`.")
    if schema.read_only:
        fail(f"No right to write {', '.join(schema.read_only)} at {address}. {GRANT}")
