"""What each count, stall, flag, difference and parked message means to an operator, and what to do:
said once.

The console shows these sentences, and docs/operations.md has the same, which a test compares.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from creativeflow.services.aigeneration.domain.reconciliation import Difference
from creativeflow.services.aigeneration.domain.stalled_workers import StallKind
from creativeflow.services.aigeneration.domain.transitions import Topic


@dataclass(frozen=True, slots=True)
class Explanation:
    """What something is, and what follows from it: what to do, or what usually causes it."""

    means: str
    then: str = ""


INVARIANTS: Mapping[str, Explanation] = MappingProxyType(
    {
        "holds_without_work": Explanation(
            "credits are held though no job is unfinished",
            "find the request; release the hold at the credit service; report a fault",
        ),
        "captured_without_delivery": Explanation(
            "credits were charged and nothing was delivered",
            "give the credits back by a grant; report a fault",
        ),
        "delivered_without_capture": Explanation(
            "a final was delivered and its credits are not charged",
            "decide whether to charge; report a fault",
        ),
        "holds_parked": Explanation(
            "the credit service cannot say whether a hold was charged; its account is restricted",
            "see [holds in doubt](#holds-in-doubt)",
        ),
        "holds_placing_too_long": Explanation(
            "the credit service has not said for an hour whether a hold is there",
            "make it answer; the sweeper then finishes by itself",
        ),
        "resolved_without_message": Explanation(
            "a hold is captured or released here, its credit service was not told and nobody is"
            " going to",
            "capture or release it there by its key; report a fault",
        ),
        "ledger_not_zero_sum": Explanation(
            "an operation of the local ledger does not sum to zero", "stop granting; report a fault"
        ),
        "balances_off_ledger": Explanation(
            "a balance is not the sum of its entries",
            "the entries are right: correct the account; report a fault",
        ),
        "free_usage_off_holds": Explanation(
            "the month's count of free generations is not the number of kept allowances",
            "the holds are right; report a fault",
        ),
        "messages_parked": Explanation(
            "somebody must decide about a message", "see [parked messages](#parked-messages)"
        ),
        "deadlines_missed": Explanation(
            "a deadline passed five minutes ago and nothing happened",
            "start a sweeper; see [stuck requests](#stuck-requests)",
        ),
        "ended_unannounced": Explanation(
            "a request has ended, its user was never told, and no notification is owed",
            "tell the user; report a fault",
        ),
    }
)
"""Each count of the invariants; `then` is what to do, with links into docs/operations.md."""

STALLS: Mapping[StallKind, Explanation] = MappingProxyType(
    {
        StallKind.NO_CONSUMER: Explanation(
            "jobs wait in the queue, nobody consumes it",
            "the workflow is off, or its trigger was cancelled: publish it again",
        ),
        StallKind.NOT_TAKING: Explanation(
            "jobs wait, somebody consumes, nothing is reported",
            "every slot is taken by work that never ends",
        ),
        StallKind.NEVER_STARTED: Explanation(
            "workers took the jobs and said nothing",
            "acknowledged before the work and lost, or stuck at the first step",
        ),
        StallKind.SILENT: Explanation(
            "workers said that they had begun, and nothing since",
            "a provider that hangs, or a worker that was killed",
        ),
    }
)
"""`then` is the usual cause."""

FLAGS: Mapping[str, Explanation] = MappingProxyType(
    {
        "hold_undecided": Explanation(
            "the credit service may or may not have taken the money, and cannot be asked"
        ),
        "charge_failed": Explanation("something was delivered and could not be charged"),
        "refund_failed": Explanation("something was not delivered and could not be given back"),
        "content_abuse": Explanation("severely refused prompts came again and again"),
    }
)

DIFFERENCES: Mapping[Difference, Explanation] = MappingProxyType(
    {
        Difference.CAPTURE_MISSING: Explanation("delivered and captured", "captures"),
        Difference.RELEASE_MISSING: Explanation("released or refused", "releases"),
        Difference.NOT_CHARGED: Explanation("delivered and captured", "a person decides"),
        Difference.CHARGED_WRONGLY: Explanation(
            "released, refused or unfinished", "a person decides"
        ),
        Difference.HOLD_VANISHED: Explanation("held for unfinished work", "a person decides"),
        Difference.UNKNOWN_HERE: Explanation(
            "nothing under this key", "left alone: it may be another system's"
        ),
        Difference.FREE_COUNT: Explanation(
            "the month's count of free generations", "sets the count right"
        ),
    }
)
"""`means` is how it stands here, `then` what applying a reconciliation does about it."""

OUTBOX_MESSAGES: Mapping[str, Explanation] = MappingProxyType(
    {
        Topic.CAPTURE: Explanation(
            "The credit service could not be made to charge {credits} credits for what {user} got.",
            "The user is not charged, and keeps what was delivered.",
        ),
        Topic.RELEASE: Explanation(
            "The credit service could not be made to give {credits} credits back to {user}.",
            "The user does not get these credits back.",
        ),
        Topic.NOTIFY: Explanation(
            "The notification service did not take “{event}” for {user}.",
            "The user is never told. No money moves.",
        ),
        Topic.EVENT: Explanation(
            "The broker did not take the event “{event}”.",
            "Whoever listens for it never hears of it. No money moves.",
        ),
        Topic.WEBHOOK: Explanation(
            "A caller's receiver did not take the event “{event}” in ten tries over three days.",
            "The receiver never gets it from us, unless it is sent again. No money moves.",
        ),
        "dead_letter": Explanation(
            "A message from the broker could not be read, or came without the right token.",
            "What it said is lost; the job is tried again by its deadline. No money moves.",
        ),
    }
)
"""By topic: what has happened, and what dropping it means. Replaying makes it due at once."""
