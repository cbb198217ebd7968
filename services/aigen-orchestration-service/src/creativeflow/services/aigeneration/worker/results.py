"""Results from RabbitMQ: the same reports as over HTTP, and the dead letters, of which none stays unseen."""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

import structlog

from creativeflow.services.aigeneration.adapters.amqp import Broker, Delivery, Message, Outcome, TryAgainError, Verdict
from creativeflow.services.aigeneration.domain import errors
from creativeflow.services.aigeneration.jobs import Jobs
from creativeflow.services.aigeneration.older_names import current_result
from creativeflow.services.aigeneration.ports import NotifierRefusedError
from creativeflow.services.aigeneration.reports import Kind, Reports
from creativeflow.services.aigeneration.storage.outbox import DEAD_LETTER, Outbox
from creativeflow.services.aigeneration.validation import parse_json

log = structlog.get_logger(__name__)

ROUTES: Mapping[str, Kind] = {
    "ai.event.started": Kind.STARTED,
    "ai.event.progress": Kind.PROGRESS,
    "ai.event.samples.ready": Kind.SAMPLES,
    "ai.event.completed": Kind.FINAL,
    "ai.event.failed": Kind.ERROR,
}
REASON_HEADER = "x-aigen-reason"
_BODY_KEPT = 20_000


class ResultsConsumer:
    """Acknowledges after the commit; our own trouble keeps the message, unreadable ones become dead letters."""

    def __init__(self, reports: Reports, broker: Broker, *, dead_letter_exchange: str) -> None:
        self._reports = reports
        self._broker = broker
        self._dead_letter_exchange = dead_letter_exchange

    async def handle(self, delivery: Delivery) -> Verdict:
        """Take one message; raising means that it is tried again."""
        kind = ROUTES.get(delivery.routing_key)
        try:
            if kind is None:
                raise errors.InvalidRequestError.at("", "unknown_routing_key", "No result has this routing key.")
            await self._reports.receive(kind, delivery.body)
        except (errors.StaleResultError, errors.NotFoundError) as error:
            log.info("result_ignored", reason=error.code, correlation_id=delivery.correlation_id)
        except errors.ServiceUnavailableError as error:
            raise TryAgainError(error.code) from None
        except errors.AigenError as error:
            await self._bury(delivery, error)
        return Verdict.ACK

    async def _bury(self, delivery: Delivery, error: errors.AigenError) -> None:
        """Publish to the dead letters with the reason; `basic.reject` could not carry one."""
        log.warning("result_unreadable", reason=error.code, correlation_id=delivery.correlation_id)
        message = Message(
            exchange=self._dead_letter_exchange,
            routing_key=delivery.routing_key,
            body=delivery.body,
            message_id=delivery.message_id or "",
            correlation_id=delivery.correlation_id,
            type=delivery.type,
            headers={REASON_HEADER: _reason(error)},
        )
        publication = (await self._broker.publish([message]))[0]
        if publication.outcome is not Outcome.CONFIRMED:
            raise TryAgainError(publication.reason)


class DeadLetterConsumer:
    """A dead job is a failed attempt; anything else is parked where an operator sees it."""

    def __init__(self, jobs: Jobs, outbox: Outbox, *, job_queues: set[str], now: Callable[[], datetime]) -> None:
        self._jobs = jobs
        self._outbox = outbox
        self._job_queues = job_queues
        self._now = now

    async def handle(self, delivery: Delivery) -> Verdict:
        """Take one dead letter; raising means that it is tried again."""
        try:
            await self._take(delivery)
        except errors.ServiceUnavailableError as error:
            raise TryAgainError(error.code) from None
        return Verdict.ACK

    async def _take(self, delivery: Delivery) -> None:
        deaths = [death for death in delivery.headers.get("x-death") or [] if death.get("queue") in self._job_queues]
        if REASON_HEADER not in delivery.headers and deaths and (job := _job_ids(delivery.body)):
            await self._fail_attempt(*job, reason=str(deaths[0].get("reason", "")))
            return
        body = {
            "routing_key": delivery.routing_key,
            "correlation_id": delivery.correlation_id,
            "message_id": delivery.message_id,
            "body": delivery.body[:_BODY_KEPT].decode("utf-8", "replace").replace("\x00", ""),
        }
        reason = str(delivery.headers.get(REASON_HEADER) or "a dead letter that is no job of ours")
        await self._outbox.park_foreign(DEAD_LETTER, body, reason=reason, now=self._now())
        log.error("dead_letter_parked", reason=reason, correlation_id=delivery.correlation_id)

    async def _fail_attempt(self, request_id: UUID, job_id: UUID, *, reason: str) -> None:
        try:
            await self._jobs.attempt_failed(request_id, job_id, "workflow_error", {"dead_letter": reason})
        except (errors.StaleResultError, errors.NotFoundError) as error:
            log.info("dead_letter_ignored", reason=error.code, generation_request_id=str(request_id))


def replay_dead_letter(reports: Reports) -> Callable[[dict[str, Any]], Any]:
    """The relay's handler for a dead letter that an operator replays: it is read once more."""

    async def handle(body: dict[str, Any]) -> None:
        kind = ROUTES.get(body["routing_key"])
        try:
            if kind is None:
                raise NotifierRefusedError("no result has this routing key")
            await reports.receive(kind, body["body"].encode())
        except errors.ServiceUnavailableError:
            raise
        except errors.AigenError as error:
            raise NotifierRefusedError(_reason(error)) from error

    return handle


def _reason(error: errors.AigenError) -> str:
    """The code, and the first place that does not fit; never the content."""
    if isinstance(error, errors.InvalidRequestError):
        first = error.errors[0]
        return f"{error.code}: {first['pointer']} {first['code']}"
    return error.code


def _job_ids(body: bytes) -> tuple[UUID, UUID] | None:
    try:
        _, job = current_result("job", parse_json(body))
        return UUID(job["generation_request_id"]), UUID(job["job_id"])
    except (errors.AigenError, KeyError, TypeError, ValueError, AttributeError):
        return None
