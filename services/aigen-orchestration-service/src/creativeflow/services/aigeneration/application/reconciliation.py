"""Reconciliation: compare holds and free counts with the credit service, and post missing captures
and releases.

A compensation only completes a capture or release that a transition decided before; everything else
is reported. A repeated run changes nothing more.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from typing import Any

import structlog

from creativeflow.services.aigeneration.domain.pricing import credits_text
from creativeflow.services.aigeneration.domain.reconciliation import (
    Difference,
    HoldComparison,
    compare_hold,
)
from creativeflow.services.aigeneration.domain.request import HoldState
from creativeflow.services.aigeneration.ports import Credits, CreditsUnknownError, Reservation
from creativeflow.services.aigeneration.storage.reconciliation import (
    BookedHold,
    ReconciliationStore,
)

log = structlog.get_logger(__name__)

SETTLED_FOR = timedelta(minutes=1)
"""More recent changes are left to the next run: their messages may still be under way."""
_PARALLEL = 8
_OUTSTANDING_MAX = 1000
_FINDINGS_KEPT = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Discrepancy:
    """One difference; `ours` and `theirs` are the two states, `mends` is the compensation."""

    difference: Difference
    key: str
    user_id: str
    credits: str
    ours: str
    theirs: str
    mends: str | None = None


@dataclass(slots=True)
class ReconciliationReport:
    """The result of a run: `unanswered` holds have no status at the credit service, `posted` counts
    compensations.

    `complete` is False if there were more holds than the limit.
    """

    compared: int = 0
    unanswered: int = 0
    posted: int = 0
    complete: bool = True
    compared_until: datetime | None = None
    findings: list[Discrepancy] = field(default_factory=list)


class Reconciliation:
    """Compares and compensates; concurrent runs are safe."""

    def __init__(
        self, store: ReconciliationStore, credits_: Credits, *, now: Callable[[], datetime]
    ) -> None:
        self._store = store
        self._credits = credits_
        self._now = now

    async def run(
        self,
        since: datetime,
        *,
        apply: bool = False,
        by: str = "reconciliation",
        most: int | None = None,
    ) -> ReconciliationReport:
        """Compare the holds that began or were resolved since then, all open ones, and those
        outstanding at the credit service.

        `most` limits the number of compared holds.
        """
        report, until = ReconciliationReport(), self._now() - SETTLED_FOR
        report.compared_until = until
        changed = await self._store.changed(since, until, None if most is None else most + 1)
        if most is not None and len(changed) > most:
            report.complete = False
            changed = changed[:most]
            report.compared_until = changed[-1][1] if changed else None
        keys = dict.fromkeys(key for key, _ in changed)
        keys |= dict.fromkeys(await self._store.open_keys(until, most))
        async for holds in self._store.holds(list(keys)):
            await self._compare(holds, report, apply=apply, by=by)
        await self._compare_outstanding(until, since, report, apply=apply, by=by)
        for wrong in await self._store.free_counts_off(since, apply=apply):
            report.findings.append(
                Discrepancy(
                    difference=Difference.FREE_COUNT,
                    key=f"{wrong['month']:%Y-%m}",
                    user_id=wrong["user_id"],
                    credits="0.00",
                    ours=str(wrong["used"]),
                    theirs=str(wrong["kept"]),
                    mends="count",
                )
            )
            report.posted += apply
        await self._store.keep_report(_summary(report, since, apply=apply, by=by), self._now())
        return report

    async def run_from_mark(
        self, default: datetime, *, overlap: timedelta, most: int
    ) -> ReconciliationReport:
        """Compare what changed since the last run, or since `default` at the first one; post
        nothing.

        A run that reached its limit is continued by the next one; a run in which a hold got no
        answer is repeated.
        """
        mark = await self._store.mark()
        report = await self.run(mark - overlap if mark else default, most=most)
        if report.compared_until is not None and not report.unanswered:
            await self._store.move_mark(report.compared_until)
        return report

    async def last(self) -> tuple[datetime, dict[str, Any]] | None:
        """Return time and result of the last run of any process, with its first findings."""
        return await self._store.last_report()

    async def _compare_outstanding(
        self,
        until: datetime,
        since: datetime,
        report: ReconciliationReport,
        *,
        apply: bool,
        by: str,
    ) -> None:
        """Compare what the credit service holds for longer than the compared holds cover."""
        try:
            outstanding = await self._credits.outstanding(min(since, until), _OUTSTANDING_MAX)
        except CreditsUnknownError:
            report.unanswered += 1
            return
        kept = {reservation.key: reservation for reservation in outstanding or ()}
        ours = await self._store.by_keys(list(kept))
        await self._compare(ours, report, apply=apply, by=by)
        for reservation in (kept[key] for key in kept.keys() - {hold.key for hold in ours}):
            report.findings.append(
                Discrepancy(
                    difference=Difference.UNKNOWN_HERE,
                    key=reservation.key,
                    user_id=reservation.user_id,
                    credits=credits_text(reservation.amount),
                    ours="absent",
                    theirs="held",
                )
            )

    async def _compare(
        self, holds: Sequence[BookedHold], report: ReconciliationReport, *, apply: bool, by: str
    ) -> None:
        room = asyncio.Semaphore(_PARALLEL)

        async def compare_one(hold: BookedHold) -> None:
            async with room:
                await self._compare_hold(hold, report, apply=apply, by=by)

        await asyncio.gather(*(compare_one(hold) for hold in holds))

    async def _compare_hold(
        self, hold: BookedHold, report: ReconciliationReport, *, apply: bool, by: str
    ) -> None:
        report.compared += 1
        try:
            found = await self._find_difference(hold)
            if found is None:
                return
            # The hold may have changed between the two reads: only a difference that is still there
            # on the second read counts.
            (again,) = await self._store.by_keys([hold.key]) or (hold,)
            if again != hold or await self._find_difference(again) != found:
                return
            theirs = await self._credits.find(_reservation(hold))
        except CreditsUnknownError:
            report.unanswered += 1
            return
        report.findings.append(
            Discrepancy(
                difference=found.difference,
                key=hold.key,
                user_id=hold.user_id,
                credits=credits_text(hold.amount),
                ours=hold.state,
                theirs=theirs,
                mends=found.compensation,
            )
        )
        if apply and found.compensation is not None:
            body = hold.reservation()
            report.posted += await self._store.post(
                found.compensation, body, hold, by=by, now=self._now()
            )

    async def _find_difference(self, hold: BookedHold) -> HoldComparison | None:
        theirs = await self._credits.find(_reservation(hold))
        return compare_hold(HoldState(hold.state), theirs, owed=hold.owed)


def _summary(
    report: ReconciliationReport, since: datetime, *, apply: bool, by: str
) -> dict[str, Any]:
    return {
        "by": by,
        "since": since,
        "applied": apply,
        "compared": report.compared,
        "unanswered": report.unanswered,
        "posted": report.posted,
        "complete": report.complete,
        "differences": len(report.findings),
        "findings": [asdict(finding) for finding in report.findings[:_FINDINGS_KEPT]],
    }


def _reservation(hold: BookedHold) -> Reservation:
    return Reservation(**hold.reservation())
