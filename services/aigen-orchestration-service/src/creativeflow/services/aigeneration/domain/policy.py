"""Deadlines, limits and prices, as set by the operator."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta

from creativeflow.services.aigeneration.domain.lifecycle import Stage, State
from creativeflow.services.aigeneration.domain.pricing import PLANS, Prices


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """Deadlines, bounds and prices; built once from the settings."""

    prices: Prices = field(default_factory=Prices)
    dispatch_deadline: timedelta = timedelta(hours=1)
    samples_deadline: timedelta = timedelta(minutes=5)
    final_deadline: timedelta = timedelta(minutes=10)
    selection_deadline: timedelta = timedelta(days=30)
    expiry_reminder: timedelta = timedelta(days=3)
    review_deadline: timedelta = timedelta(days=3)
    job_lease: timedelta = timedelta(seconds=60)
    retry_delay: timedelta = timedelta(seconds=2)
    max_attempts: int = 3
    max_rounds: int = 10
    sample_count: int = 4
    free_generations: int = 100
    in_flight: Mapping[str, int] = field(
        default_factory=lambda: {plan.name: plan.in_flight for plan in PLANS.values()}
    )
    """Maximum jobs of one user in a lane at the same time, by plan."""
    quote_validity: timedelta = timedelta(minutes=15)
    charge_rejected: bool = True
    publish_events: bool = False
    """Whether lifecycle events are published to the broker; the local engine has none."""
    webhooks: bool = False
    """Whether callers may have webhook endpoints; otherwise no deliveries are written."""

    def work(self, stage: Stage) -> timedelta:
        """Return the time limit of a worker for a job of this stage."""
        return self.samples_deadline if stage is Stage.SAMPLES else self.final_deadline

    @property
    def job_lifetime(self) -> timedelta:
        """The longest time for which a job can be current: twice its wait and its work, because an
        unconfirmed job waits again.
        """
        return 2 * (self.dispatch_deadline + max(self.samples_deadline, self.final_deadline))

    def deadline(self, state: State) -> timedelta | None:
        """Return the maximum time in a state; None for terminal states."""
        return {
            State.VALIDATING_CREDITS: self.dispatch_deadline,
            State.PENDING: self.dispatch_deadline,
            State.PUBLISHING_TO_QUEUE: self.dispatch_deadline,
            State.PROCESSING_SAMPLES: self.samples_deadline,
            State.AWAITING_SELECTION: self.selection_deadline,
            State.PROCESSING_FINAL: self.final_deadline,
        }.get(state)
