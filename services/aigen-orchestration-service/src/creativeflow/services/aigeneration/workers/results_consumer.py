"""Consume results and dead letters from RabbitMQ."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import structlog
from prometheus_client import Counter

from creativeflow.services.aigeneration.adapters.rabbitmq.broker import (
    AckDecision,
    Broker,
    Delivery,
    Message,
    PublishOutcome,
    TryAgainError,
)
from creativeflow.services.aigeneration.application.jobs import JobService
from creativeflow.services.aigeneration.application.worker_reports import ReportKind, WorkerReports
from creativeflow.services.aigeneration.domain import errors
from creativeflow.services.aigeneration.kit.json_input import parse_json
from creativeflow.services.aigeneration.kit.legacy_field_names import current_result
from creativeflow.services.aigeneration.ports import NotifierRefusedError
from creativeflow.services.aigeneration.storage.outbox import DEAD_LETTER, Outbox

log = structlog.get_logger(__name__)

ROUTES: Mapping[str, ReportKind] = {
    "ai.event.started": ReportKind.STARTED,
    "ai.event.progress": ReportKind.PROGRESS,
    "ai.event.samples.ready": ReportKind.SAMPLES,
    "ai.event.completed": ReportKind.FINAL,
    "ai.event.failed": ReportKind.ERROR,
}
REASON_HEADER = "x-aigen-reason"
BODY_MAX_BYTES = 256 * 1024
"""Larger messages are not parsed: no report is that large, and parsing would block the
event loop.
"""
UNPROVEN_KEPT = 100
"""Maximum parked messages without a valid job token; more are counted and dropped, to bound
storage.
"""
_BODY_KEPT = 20_000
_TEXT_KEPT = 255

UNPROVEN_DROPPED = Counter(
    "aigen_unproven_dead_letters_dropped_total",
    "Dead letters without a job's token that were dropped, not parked.",
)


class ResultsConsumer:
    """Handles results: acknowledges after the commit, keeps the message on an internal error, dead-
    letters unreadable ones.
    """

    def __init__(
        self, reports: WorkerReports, broker: Broker, *, dead_letter_exchange: str
    ) -> None:
        self._reports = reports
        self._broker = broker
        self._dead_letter_exchange = dead_letter_exchange

    async def handle(self, delivery: Delivery) -> AckDecision:
        """Handle one message; raise to have it handled again."""
        kind = ROUTES.get(delivery.routing_key)
        try:
            if kind is None:
                raise errors.InvalidRequestError.at(
                    "", "unknown_routing_key", "No result has this routing key."
                )
            if len(delivery.body) > BODY_MAX_BYTES:
                raise errors.InvalidRequestError.at(
                    "", "too_large", "A result has at most 256 KiB."
                )
            await self._reports.receive(kind, delivery.body)
        except (errors.StaleResultError, errors.NotFoundError) as error:
            log.info("result_ignored", reason=error.code, correlation_id=delivery.correlation_id)
        except errors.ServiceUnavailableError as error:
            raise TryAgainError(error.code) from None
        except errors.AigenError as error:
            await self._bury(delivery, error)
        return AckDecision.ACK

    async def _bury(self, delivery: Delivery, error: errors.AigenError) -> None:
        """Publish to the dead letters with the reason, which `basic.reject` could not carry."""
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
        if publication.outcome is not PublishOutcome.CONFIRMED:
            raise TryAgainError(publication.reason)


class DeadLetterConsumer:
    """Handles dead letters: a dead job fails its attempt, anything else is parked for an operator.

    `proves` returns whether a token belongs to a job. A dead letter counts for a job only with the
    job's own token, because any publisher of the broker could name any job. Invalid content never
    prevents the handling of a message.
    """

    def __init__(
        self,
        jobs: JobService,
        outbox: Outbox,
        *,
        job_queues: set[str],
        proves: Callable[[str, UUID], bool],
        now: Callable[[], datetime],
    ) -> None:
        self._jobs = jobs
        self._outbox = outbox
        self._job_queues = job_queues
        self._proves = proves
        self._now = now

    async def handle(self, delivery: Delivery) -> AckDecision:
        """Handle one dead letter; raise to have it handled again."""
        try:
            await self._take(delivery)
        except errors.ServiceUnavailableError as error:
            raise TryAgainError(error.code) from None
        return AckDecision.ACK

    async def _take(self, delivery: Delivery) -> None:
        death = self._death(delivery.headers)
        job = _job_in(delivery.body)
        proven = job is not None and self._proves(job.token, job.job_id)
        if (
            REASON_HEADER not in delivery.headers
            and death is not None
            and job is not None
            and proven
        ):
            await self._fail_attempt(job.request_id, job.job_id, reason=death)
            return
        body = {
            "routing_key": _plain(delivery.routing_key),
            "correlation_id": _plain(delivery.correlation_id) if delivery.correlation_id else None,
            "message_id": _plain(delivery.message_id) if delivery.message_id else None,
            "body": delivery.body[:_BODY_KEPT].decode("utf-8", "replace").replace("\x00", ""),
        }
        reason = _plain(
            delivery.headers.get(REASON_HEADER) or "a dead letter that is no job of ours"
        )
        most = None if proven else UNPROVEN_KEPT
        if await self._outbox.park_foreign(
            DEAD_LETTER, body, reason=reason, now=self._now(), most=most
        ):
            log.error("dead_letter_parked", reason=reason, correlation_id=body["correlation_id"])
        else:
            UNPROVEN_DROPPED.inc()

    def _death(self, headers: Mapping[str, Any]) -> str | None:
        """Return why a message died in a job queue; None if it did not, or if `x-death` is not the
        broker's.
        """
        deaths = headers.get("x-death")
        for death in deaths if isinstance(deaths, list) else ():
            if isinstance(death, dict) and _plain(death.get("queue")) in self._job_queues:
                return _plain(death.get("reason") or "")
        return None

    async def _fail_attempt(self, request_id: UUID, job_id: UUID, *, reason: str) -> None:
        try:
            await self._jobs.attempt_failed(
                request_id, job_id, "workflow_error", {"dead_letter": reason}
            )
        except (errors.StaleResultError, errors.NotFoundError) as error:
            log.info(
                "dead_letter_ignored", reason=error.code, generation_request_id=str(request_id)
            )


def replay_dead_letter(reports: WorkerReports) -> Callable[[dict[str, Any]], Any]:
    """Return the relay's handler that processes a replayed dead letter again."""

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
    """Return the code and the first invalid field; never content."""
    if isinstance(error, errors.InvalidRequestError):
        first = error.errors[0]
        return f"{error.code}: {first['pointer']} {first['code']}"
    return error.code


def _plain(value: Any) -> str:
    """Return an external text in a form that the database can store: bounded, no NUL, no lone
    surrogates.
    """
    text = str(value)[:_TEXT_KEPT].replace("\x00", "")
    return text.encode("utf-8", "replace").decode()


@dataclass(frozen=True, slots=True)
class _NamedJob:
    """The job named by a message, with its token."""

    request_id: UUID
    job_id: UUID
    token: str


def _job_in(body: bytes) -> _NamedJob | None:
    if len(body) > BODY_MAX_BYTES:
        return None
    try:
        _, job = current_result("job", parse_json(body))
        return _NamedJob(
            UUID(job["generation_request_id"]),
            UUID(job["job_id"]),
            str(job.get("callback_token") or ""),
        )
    except (errors.AigenError, KeyError, TypeError, ValueError, AttributeError):
        return None
