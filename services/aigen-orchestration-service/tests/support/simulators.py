"""Simulated external systems: a clock, an engine, a credit service and a notifier, with faults."""

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from creativeflow.services.aigeneration.domain.request import GenerationRequest
from creativeflow.services.aigeneration.kit.clock import uuid7
from creativeflow.services.aigeneration.ports import (
    Credits,
    CreditsConflictError,
    CreditsUnknownError,
    Entitlements,
    HoldStatus,
    NotifierRefusedError,
    NotifierUnavailableError,
    Publication,
    PublicationOutcome,
    Reservation,
)


class Clock:
    """A clock that only tests advance, plus one microsecond per reading, so that order is
    visible.
    """

    def __init__(self, at: datetime | None = None) -> None:
        self._at = at or datetime.now(UTC)
        self._born = 0

    def __call__(self) -> datetime:
        self._at += timedelta(microseconds=1)
        return self._at

    def advance(self, **units: float) -> None:
        """Advance the clock, such as `advance(minutes=6)`."""
        self._at += timedelta(**units)

    def set(self, at: datetime) -> None:
        """Set the time."""
        self._at = at

    def new_id(self) -> UUID:
        """Return an id of the clock's time; ids of one millisecond are increasing."""
        self._born = max(int(self._at.timestamp() * 1000) << 12, self._born + 1)
        random_bytes = uuid7().int & ((1 << 64) - 1)  # the variant and 62 random bits
        return UUID(
            int=self._born >> 12 << 80 | 0x7 << 76 | (self._born & 0xFFF) << 64 | random_bytes
        )


class RecordingEngine:
    """An engine whose jobs the test answers; the next publications can fail."""

    def __init__(self) -> None:
        self.jobs: deque[GenerationRequest] = deque()
        self.published: list[GenerationRequest] = []
        self.next_outcomes: deque[PublicationOutcome] = deque()
        self.ready = True

    async def publish(self, jobs: Sequence[GenerationRequest]) -> Sequence[Publication]:
        """Record the accepted jobs, and those with an unknown outcome."""
        return [self._publish(job) for job in jobs]

    def _publish(self, job: GenerationRequest) -> Publication:
        outcome = (
            self.next_outcomes.popleft() if self.next_outcomes else PublicationOutcome.ACCEPTED
        )
        self.published.append(job)
        if outcome is not PublicationOutcome.REFUSED:
            self.jobs.append(job)
        return Publication(outcome, "" if outcome is PublicationOutcome.ACCEPTED else "simulated")


class FaultyCredits:
    """A credit service in front of a real one, with faults before or after the call."""

    def __init__(self, real: Credits) -> None:
        self._real = real
        self.faults: deque[str] = deque()
        self.calls: list[tuple[str, str]] = []
        self.gate: asyncio.Event | None = None
        """While set and closed, calls wait here after placing a hold."""

    async def entitlements(self, user_id: str) -> Entitlements:
        """Return the entitlements, or raise."""
        self._fail("entitlements")
        return await self._real.entitlements(user_id)

    async def hold(self, asked: Reservation) -> None:
        """Place a hold, with the next fault."""
        self.calls.append(("hold", asked.key))
        self._fail("before")
        if self.faults and self.faults[0] == "conflict":
            self.faults.popleft()
            raise CreditsConflictError(asked.key)
        await self._real.hold(asked)
        if self.gate is not None:
            await self.gate.wait()
        self._fail("after")

    async def capture(self, held: Reservation) -> None:
        """Capture, with the next fault."""
        self.calls.append(("capture", held.key))
        self._fail("before")
        await self._real.capture(held)
        self._fail("after")

    async def release(self, held: Reservation) -> None:
        """Release, with the next fault."""
        self.calls.append(("release", held.key))
        self._fail("before")
        await self._real.release(held)
        self._fail("after")

    async def find(self, asked: Reservation) -> HoldStatus:
        """Look up, with the next fault."""
        self._fail("before")
        return await self._real.find(asked)

    async def decide(self, asked: Reservation, *, charged: bool) -> None:
        """Record a decision, with the next fault."""
        self._fail("before")
        await self._real.decide(asked, charged=charged)

    async def outstanding(self, before: datetime, most: int) -> Sequence[Reservation] | None:
        return await self._real.outstanding(before, most)

    def _fail(self, when: str) -> None:
        if self.faults and self.faults[0] == when:
            self.faults.popleft()
            raise CreditsUnknownError("simulated")


class RecordingNotifier:
    """Records notifications; the next ones can fail."""

    def __init__(self) -> None:
        self.sent: list[Mapping[str, Any]] = []
        self.faults: deque[str] = deque()

    async def send(self, notification: Mapping[str, Any]) -> None:
        """Record one notification, with the next fault: unavailable, refused, or unavailable after
        recording it.
        """
        fault = self.faults.popleft() if self.faults else ""
        if fault == "away":
            raise NotifierUnavailableError("simulated")
        if fault == "refused":
            raise NotifierRefusedError("simulated")
        self.sent.append(notification)
        if fault == "away_after":
            raise NotifierUnavailableError("simulated")

    def types(self) -> list[str]:
        """The event types in the order of sending."""
        return [notification["event_type"] for notification in self.sent]
