"""Build the periodic tasks: deletion of old rows and files, and reconciliation."""

from collections.abc import Callable
from datetime import datetime, timedelta

import structlog

from creativeflow.services.aigeneration.adapters.asset_files import AssetStore
from creativeflow.services.aigeneration.application import metrics
from creativeflow.services.aigeneration.application.reconciliation import Reconciliation
from creativeflow.services.aigeneration.settings import Settings
from creativeflow.services.aigeneration.storage.accounting import Accounting
from creativeflow.services.aigeneration.storage.invariants import Invariants
from creativeflow.services.aigeneration.storage.prompt_rejections import PromptRejections
from creativeflow.services.aigeneration.storage.requests import RequestStore
from creativeflow.services.aigeneration.storage.revoked_sessions import RevokedSessions
from creativeflow.services.aigeneration.storage.webhook_deliveries import DeliveryStore
from creativeflow.services.aigeneration.workers.periodic import (
    PeriodicTask,
    PeriodicTasks,
    TakeTurn,
)

log = structlog.get_logger(__name__)

TIDY_INTERVAL = timedelta(hours=1)
OVERLAP = timedelta(minutes=10)
"""Time by which a reconciliation reaches back beyond the previous one."""
RECENT = timedelta(hours=2)
"""The time over which the invariants are counted each minute; all of them once a day."""
FIRST_LOOK = timedelta(days=7)
"""How far the first reconciliation of a deployment reaches back."""
RECONCILED_MAX = 20_000
"""Maximum holds that the periodic reconciliation compares, so that a busy hour does not delay the
next.
"""


def build_periodic_tasks(
    settings: Settings,
    *,
    store: RequestStore,
    invariants: Invariants,
    accounting: Accounting,
    rejections: PromptRejections,
    revoked_sessions: RevokedSessions,
    deliveries: DeliveryStore,
    assets: AssetStore,
    reconciliation: Reconciliation,
    take_turn: TakeTurn,
    now: Callable[[], datetime],
) -> PeriodicTasks:
    """Return the tasks that the processes of a deployment share."""

    async def delete_old_keys() -> None:
        before = now() - timedelta(hours=settings.idempotency_hours)
        if deleted := await store.forget_old_keys(before):
            log.info("idempotency_keys_deleted", count=deleted)

    async def delete_old_usage() -> None:
        before = now() - timedelta(days=settings.usage_days)
        await accounting.forget_usage(before)
        await rejections.forget(before)

    async def delete_old_deliveries() -> None:
        moment = now()
        before = moment - timedelta(days=settings.webhook_log_days)
        if deleted := await deliveries.tidy(before, moment):
            log.info("webhook_deliveries_deleted", count=deleted)

    async def delete_expired_sessions() -> None:
        await revoked_sessions.forget(now())

    async def count_recent_invariants() -> None:
        moment = now()
        await invariants.keep(
            "invariants_recent", await invariants.count(moment, moment - RECENT), moment
        )

    async def count_all_invariants() -> None:
        moment = now()
        await invariants.keep("invariants_all", await invariants.count(moment), moment)

    interval = timedelta(seconds=settings.reconcile_interval)

    async def reconcile() -> None:
        await report_differences(reconciliation, now() - FIRST_LOOK)

    return PeriodicTasks(
        (
            PeriodicTask("invariants", timedelta(minutes=1), count_recent_invariants),
            PeriodicTask("all_invariants", timedelta(days=1), count_all_invariants),
            PeriodicTask("idempotency_keys", TIDY_INTERVAL, delete_old_keys),
            PeriodicTask("usage_log", TIDY_INTERVAL, delete_old_usage),
            PeriodicTask("webhook_log", TIDY_INTERVAL, delete_old_deliveries),
            PeriodicTask("revoked_sessions", TIDY_INTERVAL, delete_expired_sessions),
            PeriodicTask("uploads", TIDY_INTERVAL, assets.tidy),
            PeriodicTask("reconciliation", interval, reconcile),
        ),
        take_turn=take_turn,
        now=now,
    )


async def report_differences(reconciliation: Reconciliation, default: datetime) -> None:
    """Log and count the differences since the last complete run, or since `default` at the first
    one; post nothing.
    """
    report = await reconciliation.run_from_mark(default, overlap=OVERLAP, most=RECONCILED_MAX)
    metrics.count_differences(report)
    for finding in report.findings:
        log.error(
            "reconciliation_difference",
            difference=finding.difference,
            hold=finding.key,
            mends=finding.mends,
        )
