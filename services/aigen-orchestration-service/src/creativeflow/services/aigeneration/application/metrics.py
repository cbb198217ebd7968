"""The metrics of requests, and their updates."""

from prometheus_client import Counter, Gauge, Histogram

from creativeflow.services.aigeneration.application.reconciliation import ReconciliationReport
from creativeflow.services.aigeneration.domain.lifecycle import Event, Stage, State
from creativeflow.services.aigeneration.domain.reconciliation import Difference
from creativeflow.services.aigeneration.domain.request import HoldState
from creativeflow.services.aigeneration.domain.transitions import StateChange

HTTP_SECONDS = Histogram(
    "aigen_http_request_duration_seconds",
    "Time to answer a call.",
    ("method", "path", "status"),
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
AUTHENTICATION_FAILURES = Counter(
    "aigen_authentication_failures_total", "Credentials that were refused.", ("kind",)
)
ATTEMPTED = Counter("ai_generation_attempted_total", "Requests taken.", ("plan",))
COMPLETED = Counter("ai_generation_completed_total", "Requests ended.", ("status", "plan"))
DURATION = Histogram(
    "creativeflow_ai_generation_duration_seconds",
    "Time from queueing a job to its delivered result.",
    ("stage", "plan", "provider", "model"),
    buckets=(1, 5, 10, 15, 20, 25, 30, 60, 90, 120),
)
CREDITS = Counter(
    "creativeflow_user_credits_consumed_total", "Credits captured.", ("action", "plan")
)
FAILED_ATTEMPTS = Counter(
    "ai_generation_failed_attempts_total", "Attempts that failed.", ("stage", "code", "fault")
)
STATES = Counter("ai_generation_transitions_total", "Transitions by event.", ("event",))
QUEUED = Gauge("ai_generation_queued_jobs", "Jobs that wait in the fair queue.", ("lane",))
IN_FLIGHT = Gauge(
    "ai_generation_in_flight_jobs", "Jobs leased, in the broker or with a worker.", ("lane",)
)
OUTBOX_MESSAGES = Gauge("ai_generation_outbox_messages", "Messages in the outbox.", ("kind",))
STALLED = Gauge(
    "ai_generation_stalled_jobs",
    "Jobs that wait because workers have gone silent.",
    ("lane", "kind"),
)
DIFFERENCES = Gauge(
    "ai_generation_reconciliation_differences",
    "Differences the last reconciliation found.",
    ("difference",),
)
INVARIANTS = Gauge(
    "ai_generation_invariant_violations",
    "Violations of each invariant; 0 in a healthy service.",
    ("invariant",),
)
WEBHOOK_DELIVERIES = Counter(
    "aigen_webhook_deliveries_total", "Tries to deliver webhook events.", ("outcome",)
)
STREAMS = Gauge("ai_generation_open_streams", "Open live streams in this process.")

_STATUS = {
    State.COMPLETED: "success",
    State.FAILED: "failed",
    State.CONTENT_REJECTED: "rejected",
    State.CANCELLED: "cancelled",
    State.EXPIRED: "expired",
}


def count(change: StateChange) -> None:
    """Count one committed change."""
    before, after = change.before, change.after
    if before is None:
        ATTEMPTED.labels(after.plan).inc()
        return
    for entry in change.entries:
        STATES.labels(entry.event).inc()
        if entry.event in {
            Event.ATTEMPT_FAILED,
            Event.ATTEMPTS_EXHAUSTED,
            Event.PROMPT_REJECTED,
            Event.INPUT_REFUSED,
        }:
            FAILED_ATTEMPTS.labels(
                before.stage, entry.data.get("code", ""), entry.data.get("fault", "")
            ).inc()
    if after.terminal and not before.terminal:
        COMPLETED.labels(_STATUS[after.state], after.plan).inc()
    delivered = {State.AWAITING_SELECTION: Stage.SAMPLES, State.COMPLETED: Stage.FINAL}.get(
        after.state
    )
    if delivered and before.state is not after.state and before.due_at is not None:
        seconds = (after.updated_at - before.due_at).total_seconds()
        provider = before.route["provider"] if before.route else "default"
        DURATION.labels(delivered, after.plan, provider, before.model or "").observe(
            max(0.0, seconds)
        )
    for hold in change.holds:
        if hold.state is HoldState.CAPTURED and hold.amount:
            CREDITS.labels(hold.action, after.plan).inc(hold.amount / 100)


def count_differences(report: ReconciliationReport) -> None:
    """Set the gauges of the last reconciliation; kinds without a difference are reset to 0."""
    for kind in Difference:
        DIFFERENCES.labels(kind).set(sum(finding.difference is kind for finding in report.findings))
