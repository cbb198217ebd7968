"""Write what waits at one moment as one statement and one commit, whatever it is.

Changes of requests and outcomes of outbox messages share the batch: a statement and a commit cost
more than a row.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import Enum, auto
from typing import Any
from uuid import UUID

import asyncpg

from creativeflow.services.aigeneration.domain.transitions import StateChange, Topic
from creativeflow.services.aigeneration.kit import clock
from creativeflow.services.aigeneration.storage import request_rows, request_sql
from creativeflow.services.aigeneration.storage.database import Connection, Database
from creativeflow.services.aigeneration.storage.group_commit import GroupCommit

OWN_LEASE = timedelta(seconds=20)
"""How long the process that wrote a message has it to itself; then any relay may deliver it."""


class WriteResult(Enum):
    """The outcome of a write."""

    YES = auto()
    LEASED = auto()
    """Written, and with it the lease that the change offered."""
    SUPERSEDED = auto()
    """Another write was faster: load the request again and decide anew."""
    NO_ALLOWANCE = auto()
    """The Free plan's generations of the month are used up; nothing was written."""
    NOT_TAKEN = auto()
    """The credits to take are not available, or not at once; nothing was written."""
    KEY_USED = auto()
    """The claimed idempotency key exists already; nothing was written."""
    CROWDED = auto()
    """Several generations of one user were in the batch and exceed the month together; alone
    this one may fit.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class LeasedMessage:
    """A message that is being delivered; `token` proves the lease when the outcome is written."""

    id: int
    token: UUID
    request_id: UUID | None
    topic: str
    body: Mapping[str, Any]
    attempts: int
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveredMessage:
    """A delivered message, to be deleted; `event` names it in the timeline."""

    message: LeasedMessage
    event: str
    at: datetime


Item = StateChange | DeliveredMessage

_OUTCOMES = {
    "written": WriteResult.YES,
    "leased": WriteResult.LEASED,
    "not_taken": WriteResult.NOT_TAKEN,
    "key_used": WriteResult.KEY_USED,
}


class BatchWriter:
    """Writes changes and message outcomes in batches, one batch at a time.

    One writer: two at once would read the same last job of a user and give its next ones the same
    virtual time. `ledger_here`: the credits are in this database, and a capture is part of the
    statement that delivers instead of a message.
    """

    def __init__(
        self,
        database: Database,
        connection: Database,
        *,
        free_generations: int,
        ledger_here: bool = False,
        batch_size: int = 128,
        new_id: Callable[[], UUID] = clock.uuid7,
    ) -> None:
        """Use `connection`, a pool of one, for the batches: a statement is planned once there."""
        self._database = database
        self._connection = connection
        self._free_generations = free_generations
        self._ledger_here = ledger_here
        self._new_id = new_id
        self._group: GroupCommit[Item, WriteResult] = GroupCommit(
            self._write_batch, key=_key, max_size=batch_size, max_concurrent=1
        )
        self._own_topics: Collection[str] = ()
        self._deliver: Callable[[LeasedMessage], None] | None = None

    def deliver_own(
        self, topics: Collection[str], deliver: Callable[[LeasedMessage], None]
    ) -> None:
        """Hand new messages of these topics to `deliver` right after their commit.

        Each is leased to this process for `OWN_LEASE`; what is not delivered by then is left to
        the relays.
        """
        self._own_topics, self._deliver = topics, deliver

    def deliver_no_more(self) -> None:
        """Leave new messages to the relays."""
        self._own_topics, self._deliver = (), None

    async def write(self, change: StateChange) -> WriteResult:
        """Write one change, in a batch with whatever else waits at the same moment.

        Raises:
            StorageUnavailableError: nobody knows whether it was written.
        """
        if change.before is not None and change.allowance is not None:
            return await self._write_with_allowance(change)
        written = await self._group.submit(change)
        # Not in the batch, whose other changes are committed by now: what fails here concerns this
        # caller alone.
        return (await self._write_batch([change]))[0] if written is WriteResult.CROWDED else written

    async def write_all(self, changes: Sequence[StateChange]) -> list[WriteResult]:
        """Write changes of different requests as one statement; return the outcome of each."""
        return await self._write_batch(changes) if changes else []

    async def delete(self, delivered: DeliveredMessage) -> None:
        """Delete a delivered message and note it in the timeline; a lost lease deletes nothing."""
        await self._group.submit(delivered)

    async def _write_batch(self, batch: Sequence[Item]) -> list[WriteResult]:
        """Write a batch as one statement and nothing after it: a failure has written nothing, so
        that it may be written again.
        """
        try:
            return await self._execute(batch, settle=self._ledger_here)
        except asyncpg.UniqueViolationError as error:
            change = batch[0]
            if len(batch) > 1 or not isinstance(change, StateChange):
                raise
            if error.constraint_name == "idempotency_keys_pkey":
                return [WriteResult.KEY_USED]
            if error.table_name != "credit_entries":
                raise
            # The key was used in the ledger at this very moment; without the ledger the outcome is
            # found out by the relay, or by asking for a hold.
            if change.taking:
                return [WriteResult.NOT_TAKEN]
            return await self._execute(batch, settle=False)

    async def _execute(self, batch: Sequence[Item], *, settle: bool) -> list[WriteResult]:
        changes = sorted(
            (item for item in batch if isinstance(item, StateChange)),
            key=lambda change: change.after.id,
        )
        delivered = [item for item in batch if isinstance(item, DeliveredMessage)]
        statement, payload = self._statement(changes, delivered, settle=settle)
        found = await self._connection.fetch(statement, payload)
        outcomes = {
            row["id"].int: _OUTCOMES[row["outcome"]] for row in found if row["outcome"] in _OUTCOMES
        }
        if self._deliver is not None and "own_topics" in payload:
            self._hand_over(changes, payload, found)
        allowances = sum(change.allowance is not None for change in changes)
        return [_outcome(item, outcomes, alone=allowances < 2) for item in batch]  # noqa: PLR2004 - more than one

    def _statement(
        self, changes: Sequence[StateChange], delivered: Sequence[DeliveredMessage], *, settle: bool
    ) -> tuple[str, dict[str, Any]]:
        """Return the statement for a batch and its parameter, changes in the order of their ids:
        two statements that lock some of the same requests do so in one order, and never deadlock.
        """
        jobs: list[StateChange] = []
        others: list[StateChange] = []
        for change in changes:
            (jobs if request_rows.moves_job_alone(change) else others).append(change)
        parts: set[str] = set()
        payload: dict[str, Any] = {}
        if jobs:
            parts.add("jobs")
            payload["jobs"] = [request_rows.from_job_move(change) for change in jobs]
        if others:
            parts |= _parts(others, settle=settle)
            payload |= {
                "changes": [request_rows.from_change(change) for change in others],
                "free": self._free_generations,
            }
        if "message" in parts and self._deliver is not None:
            now = others[0].after.updated_at
            payload |= {
                "own_topics": list(self._own_topics),
                "token": self._new_id(),
                "leased_until": now + OWN_LEASE,
            }
        if delivered:
            parts.add("delivered")
            payload["delivered"] = [
                {
                    "message": item.message.id,
                    "token": item.message.token,
                    "event": item.event,
                    "at": item.at,
                }
                for item in sorted(delivered, key=lambda item: item.message.id)
            ]
        return request_sql.write(parts, settle=settle), payload

    def _hand_over(
        self,
        changes: Sequence[StateChange],
        payload: Mapping[str, Any],
        found: Sequence[asyncpg.Record],
    ) -> None:
        by_id = {change.after.id.int: change for change in changes}
        for row in found:
            if row["outcome"] == "message" and self._deliver is not None:
                change = by_id[row["id"].int]
                body = next(m.body for m in change.messages if m.topic == row["topic"])
                self._deliver(
                    LeasedMessage(
                        id=row["message"],
                        token=payload["token"],
                        request_id=change.after.id,
                        topic=row["topic"],
                        body=body,
                        attempts=1,
                        created_at=change.after.updated_at,
                    )
                )

    async def _write_with_allowance(self, change: StateChange) -> WriteResult:
        """Write a regeneration on the Free plan: the month's count and the transition in one
        transaction. Its job is left to a dispatcher.
        """
        change = replace(change, lease=None)
        async with self._database.connection() as connection:
            transaction = connection.transaction()
            await transaction.start()
            try:
                outcome = await self._write_both(connection, change)
            except BaseException:
                await transaction.rollback()
                raise
            await (transaction.commit() if outcome is WriteResult.YES else transaction.rollback())
        return outcome

    async def _write_both(self, connection: Connection, change: StateChange) -> WriteResult:
        # First the request, then the month: as a transition that gives a generation back locks
        # them.
        statement, payload = self._statement([change], (), settle=self._ledger_here)
        found = await connection.fetch(statement, payload)
        outcomes = {row["id"].int: _OUTCOMES[row["outcome"]] for row in found}
        outcome = outcomes.get(change.after.id.int, WriteResult.SUPERSEDED)
        if outcome is not WriteResult.YES:
            return outcome
        used = await connection.fetch(request_sql.USE_ALLOWANCE, payload)
        return WriteResult.YES if used else WriteResult.NO_ALLOWANCE


def _parts(changes: Sequence[StateChange], *, settle: bool) -> set[str]:
    """Return the parts of the statement that these changes need; see `request_sql.PARTS`."""
    found = set()
    for change in changes:
        found.add("births" if change.before is None else "moves")
        topics = {message.topic for message in change.messages}
        wanted = {
            "queue": change.queues,
            "lease": change.lease is not None,
            "allowance": change.before is None and change.allowance is not None,
            "take": change.taking is not None,
            "settle": settle and Topic.CAPTURE in topics,
            "hold": bool(change.holds),
            "message": bool(topics - {Topic.WEBHOOK}),
            "usage": bool(change.usage),
            "key": change.claim is not None or change.answer is not None,
            "tell": Topic.WEBHOOK in topics,
        }
        found |= {part for part, is_wanted in wanted.items() if is_wanted}
    return found


def _outcome(item: Item, outcomes: Mapping[int, WriteResult], *, alone: bool) -> WriteResult:
    if isinstance(item, DeliveredMessage):
        return WriteResult.YES
    outcome = outcomes.get(item.after.id.int)
    if outcome is not None:
        return outcome
    if item.before is not None:
        return WriteResult.SUPERSEDED
    return WriteResult.NO_ALLOWANCE if alone else WriteResult.CROWDED


def _key(item: Item) -> Any:
    if isinstance(item, DeliveredMessage):
        return item.message.id
    if item.before is None and item.claim is not None:
        return (item.claim.principal, item.claim.key)
    return item.after.id
