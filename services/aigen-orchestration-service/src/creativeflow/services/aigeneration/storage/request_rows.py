"""Requests and changes as rows, and back: the only place that knows column names on both sides."""

from collections.abc import Mapping, Sequence
from datetime import date, datetime
from typing import Any
from uuid import UUID

import orjson

from creativeflow.services.aigeneration.domain.formats import Size
from creativeflow.services.aigeneration.domain.lifecycle import Stage, State
from creativeflow.services.aigeneration.domain.pricing import Funding
from creativeflow.services.aigeneration.domain.request import GenerationRequest, Hold, HoldState
from creativeflow.services.aigeneration.domain.transitions import OutboxMessage, StateChange, Topic

_NOT_OF_THE_JOB = (
    "stage",
    "round",
    "plan",
    "brief",
    "samples",
    "sample_failures",
    "selected_sample_id",
    "final_size",
    "file_format",
    "final_asset",
    "failure",
    "pending_action",
    "ai_model_used",
    "remind_at",
)


def from_change(change: StateChange) -> dict[str, Any]:
    """One element of the batch that the write statements take; see `statements.py`.

    What is not there is left out: the server reads an absent key as NULL, and neither side pays for
    it.
    """
    before, after = change.before, change.after
    row: dict[str, Any] = {
        "id": after.id,
        "was": before.version if before else None,
        "version": after.version,
        "at": after.updated_at,
        "from_state": before.state if before else None,
        "user_id": after.user_id,
        "state": after.state,
        "stage": after.stage,
        "round": after.round,
        "attempt": after.attempt,
        "job_id": after.job_id,
        "samples": after.samples,
        "sample_failures": after.sample_failures,
        "selected_sample_id": after.selected_sample_id,
        "final_resolution": str(after.final_size) if after.final_size else None,
        "file_format": after.file_format,
        "final_asset": after.final_asset,
        "failure": after.failure,
        "progress": after.progress,
        "pending_action": after.pending_action,
        "model": after.model,
        "ai_model_used": after.ai_model_used,
        "due_at": after.due_at,
        "lease_until": after.lease_until,
        "deadline_at": after.deadline_at,
        "remind_at": after.remind_at,
        "plan": after.plan,
        "entries": _entries(change),
    }
    if before is None:
        row |= {
            "project_id": after.project_id,
            "created_by": after.created_by,
            "correlation_id": after.correlation_id,
            "traceparent": after.traceparent,
            "metadata": after.metadata,
            "retry_of": after.retry_of,
            "max_rounds": after.max_rounds,
        }
    if before is None or after.route is not before.route:
        row["route"] = after.route
    if before is None or after.brief is not before.brief:
        row["brief"] = after.brief
    if not is_plain(change):
        row |= _beside_the_request(change)
    return {
        name: value for name, value in row.items() if value is not None and value not in ((), [])
    }


def is_plain(change: StateChange) -> bool:
    """Whether nothing but the request and its timeline is written: no money, no message, no key, no
    place in a queue.
    """
    return not (
        change.messages
        or change.holds
        or change.usage
        or change.queues
        or change.claim
        or change.answer
    )


def moves_job_alone(change: StateChange) -> bool:
    """Whether a plain change is about the job and nothing else of the request: `from_job_move` says
    all of it.
    """
    before, after = change.before, change.after
    return (
        before is not None
        and is_plain(change)
        and all(getattr(before, name) is getattr(after, name) for name in _NOT_OF_THE_JOB)
    )


def from_job_move(change: StateChange) -> dict[str, Any]:
    """One element of the batch for the statement that writes jobs alone."""
    before, after = change.before, change.after
    assert before is not None  # noqa: S101 - see moves_job_alone
    return {
        "id": after.id,
        "was": before.version,
        "version": after.version,
        "at": after.updated_at,
        "from_state": before.state,
        "state": after.state,
        "attempt": after.attempt,
        "job_id": after.job_id,
        "progress": after.progress,
        "route": after.route if after.route is not before.route else None,
        "model": after.model,
        "due_at": after.due_at,
        "lease_until": after.lease_until,
        "deadline_at": after.deadline_at,
        "entries": _entries(change),
    }


def _entries(change: StateChange) -> list[dict[str, Any]]:
    """Return the timeline entries, each with the version that it led to."""
    version = change.before.version if change.before else 0
    found = []
    for entry in change.entries:
        version += entry.state is not None
        line: dict[str, Any] = {"event": entry.event, "version": version}
        if entry.state is not None:
            line["state"] = entry.state
        if entry.data:
            line["data"] = entry.data
        if entry.at is not None:
            line["at"] = entry.at
        found.append(line)
    return found


def _beside_the_request(change: StateChange) -> dict[str, Any]:
    """What a change writes into other tables."""
    row: dict[str, Any] = {
        "weight": change.after.terms.weight,
        "queues": change.queues,
        "messages": [
            {"topic": d.topic, "body": d.body} for d in change.messages if d.topic != Topic.WEBHOOK
        ],
        "holds": [_from_hold(hold) for hold in change.holds],
        "webhook": _from_webhook(change.messages),
        "usage": [
            {
                "stage": used.stage,
                "round": used.round,
                "action": used.action,
                "paid_by": used.paid_by,
                "amount": used.amount,
                "model": used.model,
            }
            for used in change.usage
        ],
    }
    if (taking := change.taking) is not None:
        row |= {"take_key": taking.key, "take_amount": taking.amount, "take_action": taking.action}
    if (lease := change.lease) is not None:
        leased = lease.change.after
        row |= {"lane_window": lease.window, "per_user": lease.per_user}
        row["lease"] = {
            "lease_until": leased.lease_until,
            "model": leased.model,
            "route": leased.route,
            "entries": _entries(lease.change),
        }
    if change.allowance is not None:
        row["allowance_month"] = change.allowance.month
    if change.claim is not None:
        row |= {
            "principal": change.claim.principal,
            "key": change.claim.key,
            "fingerprint": change.claim.fingerprint,
        }
    if change.answer is not None:
        row |= {
            "status": change.answer.status,
            "location": change.answer.location,
            "body": orjson.dumps(change.answer.body).decode(),
        }
    return row


def _from_webhook(messages: Sequence[OutboxMessage]) -> dict[str, str] | None:
    """What targets are told, as the text whose bytes are signed: jsonb would not keep its order."""
    for message in messages:
        if message.topic == Topic.WEBHOOK:
            told = message.body["told"]
            return {
                "event_id": message.body["event_id"],
                "type": told["type"],
                "body": orjson.dumps(told).decode(),
            }
    return None


def _from_hold(hold: Hold) -> dict[str, Any]:
    return {
        "key": hold.key,
        "stage": hold.stage,
        "round": hold.round,
        "action": hold.action,
        "funding": hold.funding,
        "amount": hold.amount,
        "month": hold.month,
        "state": hold.state,
    }


def to_request(row: Any) -> GenerationRequest:
    """A request from `SELECT r.*` with its holds as `holds`."""
    return GenerationRequest(
        id=_uuid(row["id"]),
        user_id=row["user_id"],
        project_id=row["project_id"],
        created_by=row["created_by"],
        correlation_id=row["correlation_id"],
        traceparent=row["traceparent"],
        state=State(row["state"]),
        stage=Stage(row["stage"]),
        round=row["round"],
        attempt=row["attempt"],
        job_id=_uuid(row["job_id"]) if row["job_id"] else None,
        version=row["version"],
        plan=row["plan"],
        brief=row["brief"],
        metadata=row["metadata"],
        samples=tuple(row["samples"]),
        sample_failures=tuple(row["sample_failures"]),
        selected_sample_id=row["selected_sample_id"],
        final_size=Size.parse(row["final_resolution"]) if row["final_resolution"] else None,
        file_format=row["file_format"],
        max_rounds=row["max_rounds"],
        final_asset=row["final_asset"],
        failure=row["failure"],
        progress=row["progress"],
        pending_action=row["pending_action"],
        route=row["route"],
        model=row["model"],
        ai_model_used=row["ai_model_used"],
        retry_of=_uuid(row["retry_of"]) if row["retry_of"] else None,
        fair_at=row["fair_at"],
        due_at=row["due_at"],
        lease_until=row["lease_until"],
        deadline_at=row["deadline_at"],
        remind_at=row["remind_at"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        holds=tuple(to_hold(hold) for hold in row["holds"] or ()),
    )


def to_hold(row: Mapping[str, Any]) -> Hold:
    """A hold from its row, or from its row as JSON."""
    month = row["month"]
    return Hold(
        key=row["key"],
        stage=Stage(row["stage"]),
        round=row["round"],
        action=row["action"],
        funding=Funding(row["funding"]),
        amount=row["amount"],
        state=HoldState(row["state"]),
        month=month.isoformat()
        if isinstance(month, date) and not isinstance(month, datetime)
        else month,
    )


def _uuid(value: Any) -> UUID:
    """A plain UUID: asyncpg's own subclass is slower to serialise and does not pickle."""
    return value if type(value) is UUID else UUID(int=value.int)
