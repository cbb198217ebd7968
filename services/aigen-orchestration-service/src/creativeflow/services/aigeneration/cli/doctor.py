"""The checks of `aigen doctor`: one function for each dependency, run concurrently."""

import asyncio
import socket
import tempfile
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
from pydantic import SecretStr

from creativeflow.services.aigeneration.adapters.http.key_set import KeySetError, fetch_key_set
from creativeflow.services.aigeneration.adapters.model_routing_file import (
    RoutingFileError,
    RoutingSource,
)
from creativeflow.services.aigeneration.adapters.moderation.word_lists import (
    STANDARD_FILE,
    SafetyFileError,
    read_rules,
)
from creativeflow.services.aigeneration.adapters.rabbitmq.broker import Broker
from creativeflow.services.aigeneration.bootstrap.adapters import (
    build_credits,
    build_http_client,
    build_prompt_check,
    database_url,
)
from creativeflow.services.aigeneration.bootstrap.rabbitmq import EMPTY_TOPOLOGY, broker_queues
from creativeflow.services.aigeneration.cli.schema import load_schema_state
from creativeflow.services.aigeneration.cli.start_errors import (
    GRANT,
    StartProblem,
    explain_data_directory_error,
    explain_database_error,
    explain_start_error,
)
from creativeflow.services.aigeneration.cli.variables import UnknownVariable
from creativeflow.services.aigeneration.domain.outbound_urls import Rules
from creativeflow.services.aigeneration.domain.pricing import credits_text
from creativeflow.services.aigeneration.kit import clock
from creativeflow.services.aigeneration.ports import (
    CreditsUnknownError,
    PromptCheckUnavailableError,
    Reservation,
)
from creativeflow.services.aigeneration.settings import Settings, odoo_address, scheme
from creativeflow.services.aigeneration.storage.database import Database
from creativeflow.services.aigeneration.storage.ledger import Ledger
from creativeflow.services.aigeneration.storage.migrations import head
from creativeflow.services.aigeneration.storage.queries import Queries

LIMIT_SECONDS = 5.0
"""Time limit of each check, without the start of the embedded database."""
_CONNECT_SECONDS = 4.0
_PROBE = "aigen-doctor"
"""User and key of the calls to the credit service; they only read."""
_UNRESOLVABLE = "aigen-doctor.invalid"
"""A name that never resolves (RFC 6761), so that no other server is contacted."""


@dataclass(frozen=True, slots=True)
class CheckResult:
    """The result of a check; `remedy` is how to correct it, or what to configure."""

    part: str
    ok: bool
    state: str
    remedy: str = ""

    def __str__(self) -> str:
        mark, remedy = "✓" if self.ok else "✗", f" → {self.remedy}" if self.remedy else ""
        return " ".join(f"{mark} {self.part}: {self.state}{remedy}".split())


async def examine(settings: Settings, unknown: Sequence[UnknownVariable] = ()) -> list[CheckResult]:
    """Check every configured dependency; never raises."""
    try:
        url: str | StartProblem = await asyncio.to_thread(database_url, settings)
    except Exception as error:  # noqa: BLE001 - becomes the result of the checks that need it
        url = explain_start_error(error, settings) or _unexpected(error)
    checks: dict[str, Awaitable[list[CheckResult]]] = {
        "settings": check_settings(settings, unknown),
        "data directory": check_data_directory(settings),
        "routing file": check_routing_file(settings),
        "word list": check_word_list(settings),
        "database": check_database(settings, url),
        "engine": check_engine(settings),
        "credits": check_credits(settings, url),
        "notifications": check_notifier(settings),
        "moderation": check_moderation(settings),
        "token keys": check_key_set(settings),
        "webhooks": check_webhooks(settings),
        "result pictures": check_result_fetch(settings),
    }
    results = await asyncio.gather(*(_bounded(part, check) for part, check in checks.items()))
    return [result for group in results for result in group]


async def check_settings(
    settings: Settings, unknown: Sequence[UnknownVariable]
) -> list[CheckResult]:
    """Check the profile, unknown variables, and what is missing for production."""
    production = settings.profile == "production"
    results = [
        CheckResult("settings", not production, str(variable), "Correct or remove it.")
        for variable in unknown
    ]
    missing = "" if production else "; ".join(settings.missing_for_production())
    remedy = f"For production also set: {missing}." if missing else ""
    return [CheckResult("settings", True, f"profile {settings.profile}", remedy), *results]


async def check_data_directory(settings: Settings) -> list[CheckResult]:
    """Check that files can be written; a missing directory is not created."""
    try:
        await asyncio.to_thread(_write_nearby, settings.data_dir)
    except OSError as error:
        return [_failed("data directory", explain_data_directory_error(error, settings))]
    return [CheckResult("data directory", True, f"{settings.data_dir} is writable")]


async def check_routing_file(settings: Settings) -> list[CheckResult]:
    """Check that the model routing can be read."""
    try:
        routing = RoutingSource(settings.routing_file)()
    except RoutingFileError as error:
        return [
            CheckResult(
                "routing file", False, str(error), "Correct the file, or AIGEN_ROUTING_FILE."
            )
        ]
    source = settings.routing_file or "built in"
    counts = f"{len(routing.models)} models, {len(routing.rules)} rules"
    return [CheckResult("routing file", True, f"{source}: {counts}")]


async def check_word_list(settings: Settings) -> list[CheckResult]:
    """Check that the word lists can be read."""
    if scheme(settings.safety_url) == "none":
        return []
    try:
        rules = read_rules(settings.safety_file or STANDARD_FILE)
    except SafetyFileError as error:
        return [
            CheckResult("word list", False, str(error), "Correct the file, or AIGEN_SAFETY_FILE.")
        ]
    return [
        CheckResult("word list", True, f"{settings.safety_file or 'built in'}: {len(rules)} rules")
    ]


async def check_database(settings: Settings, url: str | StartProblem) -> list[CheckResult]:
    """Check connection, version, schema revision, and the right to write."""
    if isinstance(url, StartProblem):
        return [_failed("database", url)]
    database = Database(url, pool_size=2)
    try:
        return [await _schema_result(database, embedded=settings.database_url is None)]
    except Exception as error:
        if (problem := explain_database_error(error, url)) is None:
            raise
        return [_failed("database", problem)]
    finally:
        await database.close()


async def check_engine(settings: Settings) -> list[CheckResult]:
    """Check the broker of the jobs and its queues."""
    if scheme(settings.engine_url) == "local":
        return [CheckResult("engine", True, "local: pictures are drawn in this process")]
    return await _check_broker(
        "engine", "AIGEN_ENGINE_URL", settings.engine_url, broker_queues(settings)
    )


async def check_notifier(settings: Settings) -> list[CheckResult]:
    """Check that notifications reach the notification service; nothing is sent."""
    match scheme(settings.notify_url):
        case "log":
            return [CheckResult("notifications", True, "written to the log only")]
        case "amqp" | "amqps":
            return await _check_broker(
                "notifications", "AIGEN_NOTIFY_URL", settings.notify_url, [settings.notify_queue]
            )
    key = settings.notify_api_key.get_secret_value() if settings.notify_api_key else None
    async with build_http_client() as http:
        try:
            answer = await http.options(
                settings.notify_url.get_secret_value(),
                headers={"X-Internal-API-Key": key} if key else {},
            )
        except httpx.HTTPError as error:
            return [_no_http_answer("notifications", error, "AIGEN_NOTIFY_URL")]
    state = f"{_host(settings.notify_url)} answers {answer.status_code}"
    if answer.status_code in {httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN}:
        return [CheckResult("notifications", False, state, "Correct AIGEN_NOTIFY_API_KEY.")]
    if answer.is_server_error:
        return [CheckResult("notifications", False, state, "Read its log.")]
    return [CheckResult("notifications", True, state)]


async def check_credits(settings: Settings, url: str | StartProblem) -> list[CheckResult]:
    """Call the credit service without changing anything."""
    match scheme(settings.credits_url):
        case "local":
            return [await _check_local_ledger(url)]
        case "http" | "https":
            return [await _check_billing(settings)]
    return [await _check_odoo(settings)]


async def check_moderation(settings: Settings) -> list[CheckResult]:
    """Have the moderation endpoint check a harmless prompt."""
    match scheme(settings.safety_url):
        case "none":
            return [CheckResult("moderation", True, "off: prompts are not checked")]
        case "words":
            return [CheckResult("moderation", True, "word lists only")]
    host = _host(settings.safety_url)
    async with build_http_client() as http:
        try:
            await build_prompt_check(settings, http).check(["a lighthouse at dawn"], None)
        except PromptCheckUnavailableError as error:
            return [
                CheckResult(
                    "moderation",
                    False,
                    f"{host} does not answer ({error})",
                    "Start it, or correct AIGEN_SAFETY_URL and AIGEN_SAFETY_API_KEY.",
                )
            ]
        except SafetyFileError:
            return []  # the check of the word list reports the error
    return [CheckResult("moderation", True, f"{host} answers")]


async def check_key_set(settings: Settings) -> list[CheckResult]:
    """Fetch the key set of end-user tokens."""
    if not settings.jwks_url:
        return []
    host = _host(SecretStr(settings.jwks_url))
    async with build_http_client() as http:
        try:
            keys = await fetch_key_set(http, settings.jwks_url)
        except KeySetError as error:
            state = f"{host} gives no key set ({error})"
            return [CheckResult("token keys", False, state, "Correct AIGEN_JWKS_URL.")]
    if not keys:
        return [
            CheckResult(
                "token keys", False, f"{host} has no signing key", "Have the issuer publish one."
            )
        ]
    return [CheckResult("token keys", True, f"{host}: {len(keys)} keys")]


async def check_webhooks(settings: Settings) -> list[CheckResult]:
    """List the networks that webhooks may call, and check that host names can be resolved."""
    if not settings.webhook_endpoints_max:
        return [CheckResult("webhooks", True, "off")]
    return [await _check_outbound("webhooks", settings.webhook_rules())]


async def check_result_fetch(settings: Settings) -> list[CheckResult]:
    """List the networks that pictures are fetched from, and check that names can be resolved."""
    if settings.result_check != "fetch" or scheme(settings.engine_url) == "local":
        return []
    return [await _check_outbound("result pictures", settings.result_rules())]


async def _bounded(part: str, check: Awaitable[list[CheckResult]]) -> list[CheckResult]:
    try:
        async with asyncio.timeout(LIMIT_SECONDS):
            return await check
    except TimeoutError:
        state = f"no answer within {LIMIT_SECONDS:g} s"
        return [
            CheckResult(part, False, state, "Check that it runs and that no firewall is between.")
        ]
    except Exception as error:  # noqa: BLE001 - one check must not hide the results of the others
        return [_failed(part, _unexpected(error))]


async def _schema_result(database: Database, *, embedded: bool) -> CheckResult:
    queries = Queries(database)
    version, schema = await queries.server_version(), await load_schema_state(database)
    place = " (embedded)" if embedded else ""
    state = f"PostgreSQL {version}{place}, schema {schema.revision or 'missing'}"
    if not await queries.takes_writes():
        remedy = "Name the primary in AIGEN_DATABASE_URL."
        return CheckResult("database", False, f"{state}, takes no writes", remedy)
    if schema.revision != head():
        remedy = f"Run `aigen migrate`; this version needs {head()}."
        return CheckResult("database", False, state, remedy)
    if schema.read_only:
        state = f"{state}, no right to write {', '.join(schema.read_only)}"
        return CheckResult("database", False, state, GRANT)
    return CheckResult("database", True, state)


async def _check_local_ledger(url: str | StartProblem) -> CheckResult:
    if isinstance(url, StartProblem):
        return CheckResult("credits", False, "the local ledger needs the database", url.remedy)
    database = Database(url, pool_size=2)
    try:
        await Ledger(database).account(_PROBE)
    except Exception as error:
        if (problem := explain_database_error(error, url)) is None:
            raise
        return _failed("credits", problem)
    finally:
        await database.close()
    return CheckResult("credits", True, "local ledger in the database")


async def _check_billing(settings: Settings) -> CheckResult:
    host = _host(settings.credits_url)
    async with build_http_client() as http:
        credits_ = build_credits(settings, http, Database(""), now=clock.now)
        try:
            found = await credits_.entitlements(_PROBE)
        except CreditsUnknownError as error:
            return CheckResult(
                "credits",
                False,
                f"billing adapter at {host}: {error}",
                "Start it, or correct AIGEN_CREDITS_URL and AIGEN_CREDITS_API_KEY.",
            )
    balance = "" if found.balance is None else f", balance {credits_text(found.balance)}"
    state = f"billing adapter at {host} answers ({_PROBE}: {found.plan.name} plan{balance})"
    return CheckResult("credits", True, state)


async def _check_odoo(settings: Settings) -> CheckResult:
    base_url, name = odoo_address(settings.credits_url)
    state = f"Odoo at {_host(SecretStr(base_url))}, database {name}"
    probe = Reservation(key=_PROBE, user_id=_PROBE, amount=1, action="sample_generation")
    async with build_http_client() as http:
        credits_ = build_credits(settings, http, Database(""), now=clock.now)
        try:
            await credits_.find(probe)
        except CreditsUnknownError as error:
            return CheckResult(
                "credits",
                False,
                f"{state}: {error}",
                "Correct AIGEN_CREDITS_URL, AIGEN_CREDITS_LOGIN and AIGEN_CREDITS_API_KEY, and"
                " install the addon creativeflow_aigen.",
            )
    return CheckResult("credits", True, f"{state} answers")


async def _check_broker(
    part: str, setting: str, url: SecretStr, queues: Sequence[str]
) -> list[CheckResult]:
    try:
        broker = Broker(url.get_secret_value(), topology=EMPTY_TOPOLOGY, name=_PROBE)
    except ValueError as error:
        return [CheckResult(part, False, str(error), f"Correct {setting}.")]
    await broker.start()
    try:
        if reason := await _connection_error(broker):
            state = f"RabbitMQ at {_host(url)}: {reason}"
            return [CheckResult(part, False, state, _broker_remedy(reason, setting))]
        found = [CheckResult(part, True, f"RabbitMQ {broker.server_version} at {_host(url)}")]
        return found + [await _check_queue(broker, queue) for queue in queues]
    finally:
        await broker.close(1.0)


async def _connection_error(broker: Broker) -> str:
    """Wait for the first attempt to connect; return why it failed, empty if it did not."""
    ends = asyncio.get_running_loop().time() + _CONNECT_SECONDS
    while not broker.connected and not broker.last_error:
        if asyncio.get_running_loop().time() > ends:
            return f"no answer within {_CONNECT_SECONDS:g} s"
        await asyncio.sleep(0.02)
    return "" if broker.connected else broker.last_error


async def _check_queue(broker: Broker, queue: str) -> CheckResult:
    depth = await broker.queue_depth(queue)
    if depth is None:
        return CheckResult(queue, False, "missing", "`aigen serve` declares it at its start.")
    return CheckResult(queue, True, f"{depth[0]} messages, {depth[1]} consumers")


async def _check_outbound(part: str, rules: Rules) -> CheckResult:
    networks = ", ".join(str(network) for network in rules.networks)
    state = (
        f"may call the internet{' and ' + networks if networks else ''} on ports"
        f" {', '.join(str(port) for port in sorted(rules.ports))}"
    )
    try:
        await asyncio.get_running_loop().getaddrinfo(_UNRESOLVABLE, 443)
    except socket.gaierror as error:
        if error.errno == socket.EAI_AGAIN:
            remedy = "Correct the name servers of this machine."
            return CheckResult(part, False, f"{state}; no name server answers", remedy)
    return CheckResult(part, True, f"{state}; names can be resolved")


def _broker_remedy(reason: str, setting: str) -> str:
    if "login refused" in reason or "access_refused" in reason.lower():
        return f"Correct user and password in {setting}."
    if "virtual host refused" in reason or "vhost" in reason:
        return f"Create the virtual host, or correct it in {setting}."
    if "ssl" in reason.lower() or "certificate" in reason.lower():
        return f"Correct the certificate, or port and TLS options in {setting}."
    return f"Start RabbitMQ, or correct {setting}."


def _write_nearby(directory: Path) -> None:
    nearest = next(path for path in (directory, *directory.parents) if path.exists())
    with tempfile.TemporaryFile(dir=nearest):
        pass


def _no_http_answer(part: str, error: httpx.HTTPError, setting: str) -> CheckResult:
    reason = str(error) or type(error).__name__
    return CheckResult(part, False, f"no answer ({reason})", f"Start it, or correct {setting}.")


def _host(url: SecretStr) -> str:
    parts = httpx.URL(url.get_secret_value())
    return f"{parts.host}:{parts.port}" if parts.port else parts.host


def _failed(part: str, problem: StartProblem) -> CheckResult:
    return CheckResult(part, False, problem.reason.rstrip("."), problem.remedy)


def _unexpected(error: BaseException) -> StartProblem:
    return StartProblem(f"unexpected {type(error).__name__}", "Report it with the log.")
