"""Operator explanations of invariants, stalls, flags, differences and parked messages.

The console shows these texts; a test compares them with docs/operations.md.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from creativeflow.services.aigeneration.domain.reconciliation import Difference
from creativeflow.services.aigeneration.domain.stalled_workers import StallKind
from creativeflow.services.aigeneration.domain.transitions import Topic


@dataclass(frozen=True, slots=True)
class Explanation:
    """The meaning of a finding; `then` is the action to take, the usual cause or the
    consequence.
    """

    means: str
    then: str = ""


INVARIANTS: Mapping[str, Explanation] = MappingProxyType(
    {
        "holds_without_work": Explanation(
            "credits are held for a request without unfinished work",
            "release the hold at the credit service; report a bug",
        ),
        "captured_without_delivery": Explanation(
            "credits were charged and nothing was delivered",
            "refund the credits with a grant; report a bug",
        ),
        "delivered_without_capture": Explanation(
            "a final was delivered and its credits are not charged",
            "decide whether to charge; report a bug",
        ),
        "holds_parked": Explanation(
            "the credit service cannot say whether a hold was charged; its account is restricted",
            "see [parked holds](#parked-holds)",
        ),
        "holds_placing_too_long": Explanation(
            "the credit service has not confirmed a hold for an hour",
            "restore the credit service; the sweeper then continues automatically",
        ),
        "resolved_without_message": Explanation(
            "a hold was resolved here, but the credit service was not informed and no message is"
            " pending",
            "capture or release it there by its key; report a bug",
        ),
        "ledger_not_zero_sum": Explanation(
            "an operation of the local ledger does not sum to zero", "stop granting; report a bug"
        ),
        "balances_off_ledger": Explanation(
            "a balance is not the sum of its entries",
            "the entries are right: correct the account; report a bug",
        ),
        "free_usage_off_holds": Explanation(
            "the month's count of free generations is not the number of captured allowances",
            "the holds are right; report a bug",
        ),
        "messages_parked": Explanation(
            "an outbox message is parked", "see [parked messages](#parked-messages)"
        ),
        "deadlines_missed": Explanation(
            "a deadline passed more than five minutes ago and was not handled",
            "start a sweeper; see [stuck requests](#stuck-requests)",
        ),
        "ended_unannounced": Explanation(
            "a request has ended, its user was not notified, and no notification is pending",
            "notify the user; report a bug",
        ),
    }
)
"""By invariant; `then` is the action to take, with links into docs/operations.md."""

STALLS: Mapping[StallKind, Explanation] = MappingProxyType(
    {
        StallKind.NO_CONSUMER: Explanation(
            "jobs are queued, but the queue has no consumer",
            "the workflow is inactive or its trigger was cancelled: publish it again",
        ),
        StallKind.NOT_TAKING: Explanation(
            "jobs are queued and there is a consumer, but nothing is reported",
            "every worker slot is occupied by work that does not finish",
        ),
        StallKind.NEVER_STARTED: Explanation(
            "workers took jobs but reported nothing",
            "acknowledged before processing and lost, or stuck at the first step",
        ),
        StallKind.SILENT: Explanation(
            "workers reported a start, but nothing since",
            "the provider hangs, or the worker was killed",
        ),
    }
)
"""By kind of stall; `then` is the usual cause."""

FLAGS: Mapping[str, Explanation] = MappingProxyType(
    {
        "hold_undecided": Explanation(
            "a hold may or may not have been charged, and the credit service cannot tell"
        ),
        "charge_failed": Explanation("a delivery could not be charged"),
        "refund_failed": Explanation("credits for undelivered work could not be released"),
        "content_abuse": Explanation("repeated severe prompt rejections"),
    }
)

DIFFERENCES: Mapping[Difference, Explanation] = MappingProxyType(
    {
        Difference.CAPTURE_MISSING: Explanation("delivered and captured", "captures"),
        Difference.RELEASE_MISSING: Explanation("released or refused", "releases"),
        Difference.NOT_CHARGED: Explanation("delivered and captured", "manual decision"),
        Difference.CHARGED_WRONGLY: Explanation(
            "released, refused or unfinished", "manual decision"
        ),
        Difference.HOLD_VANISHED: Explanation("held for unfinished work", "manual decision"),
        Difference.UNKNOWN_HERE: Explanation(
            "nothing under this key", "none: it may belong to another system"
        ),
        Difference.FREE_COUNT: Explanation(
            "the month's count of free generations", "corrects the count"
        ),
    }
)
"""`means` is the state in this service, `then` what a reconciliation with apply does."""

OUTBOX_MESSAGES: Mapping[str, Explanation] = MappingProxyType(
    {
        Topic.CAPTURE: Explanation(
            "The credit service did not accept a charge of {credits} credits to {user}.",
            "The user is not charged and keeps the delivery.",
        ),
        Topic.RELEASE: Explanation(
            "The credit service did not accept a release of {credits} credits to {user}.",
            "The user does not get these credits back.",
        ),
        Topic.NOTIFY: Explanation(
            "The notification service did not accept “{event}” for {user}.",
            "The user is not notified. No effect on credits.",
        ),
        Topic.EVENT: Explanation(
            "The broker did not accept the event “{event}”.",
            "Subscribers do not receive the event. No effect on credits.",
        ),
        Topic.WEBHOOK: Explanation(
            "A webhook endpoint did not accept the event “{event}” in ten attempts over three"
            " days.",
            "The endpoint does not receive the event, unless it is redelivered. No effect on"
            " credits.",
        ),
        "dead_letter": Explanation(
            "A message from the broker was unreadable or had no valid token.",
            "Its content is lost; the job is retried after its deadline. No effect on credits.",
        ),
    }
)
"""By topic; `means` is what happened, `then` the effect of dropping the message."""
