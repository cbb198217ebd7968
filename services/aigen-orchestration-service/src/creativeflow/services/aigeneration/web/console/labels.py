"""How the console says things: states, events, spans of time and amounts, in an operator's plain
words.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Any

from markupsafe import Markup

from creativeflow.services.aigeneration.domain.lifecycle import Event, State
from creativeflow.services.aigeneration.domain.pricing import credits_text
from creativeflow.services.aigeneration.domain.request import GenerationRequest


@dataclass(frozen=True, slots=True)
class StateLabel:
    """A state in words; `tone` is one of busy, good, warn, bad, quiet."""

    words: str
    tone: str


STATES: Mapping[State, StateLabel] = MappingProxyType(
    {
        State.VALIDATING_CREDITS: StateLabel("Credits are being asked for", "busy"),
        State.PENDING: StateLabel("Waits for its turn", "busy"),
        State.PUBLISHING_TO_QUEUE: StateLabel("On its way to the broker", "busy"),
        State.PROCESSING_SAMPLES: StateLabel("Samples are being made", "busy"),
        State.AWAITING_SELECTION: StateLabel("The user picks", "warn"),
        State.PROCESSING_FINAL: StateLabel("The final is being made", "busy"),
        State.COMPLETED: StateLabel("Completed", "good"),
        State.FAILED: StateLabel("Failed", "bad"),
        State.CONTENT_REJECTED: StateLabel("Words rejected", "bad"),
        State.CANCELLED: StateLabel("Cancelled", "quiet"),
        State.EXPIRED: StateLabel("Expired", "quiet"),
    }
)
IN_REVIEW = StateLabel("A person looks at the words", "warn")

KINDS: Mapping[str, str] = MappingProxyType(
    {
        "state": "State",
        "money": "Money",
        "broker": "Broker",
        "worker": "Callbacks",
        "told": "Notifications",
        "person": "People",
    }
)
"""What a line of a timeline is about, and the word on its chip."""


@dataclass(frozen=True, slots=True)
class Wording:
    """A line of the timeline: what it is about, and its title, filled from the line's data."""

    kind: str
    title: str


_WORDINGS: Mapping[str, Wording] = MappingProxyType(
    {
        "submitted": Wording("state", "Asked for by {by}"),
        Event.REVIEW_PASSED: Wording("person", "{by} accepted the words"),
        Event.REVIEW_REJECTED: Wording("person", "{by} rejected the words"),
        Event.CREDITS_ASKED: Wording("money", "The credit service is being asked"),
        Event.CREDITS_HELD: Wording("money", "The credit service has set {credits} credits aside"),
        Event.CREDITS_REFUSED: Wording("money", "The credit service said no to {credits} credits"),
        Event.JOB_LEASED: Wording("broker", "A dispatcher took the job"),
        Event.JOB_RETURNED: Wording("broker", "The job came back: {reason}"),
        Event.SAMPLES_JOB_CONFIRMED: Wording("broker", "The broker has stored the samples job"),
        Event.FINAL_JOB_CONFIRMED: Wording("broker", "The broker has stored the final job"),
        Event.SAMPLES_STARTED: Wording("worker", "A worker began to make samples"),
        Event.FINAL_STARTED: Wording("worker", "A worker began to make the final"),
        Event.PROGRESS_REPORTED: Wording("worker", "Progress: {percent} %"),
        Event.SAMPLES_DELIVERED: Wording("worker", "Samples came: {good} good, {failed} failed"),
        Event.FINAL_DELIVERED: Wording("worker", "The final came"),
        Event.ATTEMPT_FAILED: Wording("worker", "Attempt {attempt} failed: {code}"),
        Event.ATTEMPTS_EXHAUSTED: Wording("worker", "The last attempt failed: {code}"),
        Event.INPUT_REFUSED: Wording("worker", "The provider cannot use the input: {code}"),
        Event.PROMPT_REJECTED: Wording("worker", "The provider refused the prompt"),
        Event.SAMPLE_SELECTED: Wording("state", "A sample was picked"),
        Event.REGENERATION_REQUESTED: Wording("state", "New samples were asked for"),
        Event.CANCEL_REQUESTED: Wording("person", "{by} cancelled it"),
        Event.EXPIRY_NEARED: Wording("state", "The time to pick is nearly over"),
        Event.DEADLINE_PASSED: Wording("state", "Its time was over"),
        Event.OPERATOR_FAILED: Wording("person", "{by} ended it: {reason}"),
        "stale_result": Wording(
            "worker", "A word of an older job came ({kind}): kept, not applied, not paid"
        ),
        "credits_captured": Wording("money", "The credit service was told to charge"),
        "credits_released": Wording("money", "The credit service was told to give back"),
        "credits_released_late": Wording(
            "money", "A late hold is given back, because the request has ended"
        ),
        "credits_not_held": Wording("money", "Nothing had been set aside after all"),
        "hold_parked": Wording("money", "A hold is in doubt: {reason}"),
        "hold_decided": Wording("person", "{by} decided the hold in doubt: {charged}"),
        "compensation_posted": Wording("money", "{by} posted what was missing: {topic}"),
        "notification_sent": Wording("told", "The user was told: {event_type}"),
        "event_published": Wording("told", "Published: {event_type}"),
        "webhook_delivered": Wording("told", "The caller's receiver took {event_type}"),
        "webhook_parked": Wording(
            "told", "The caller's receiver does not take {event_type}: {reason}"
        ),
        "webhook_redelivered": Wording("person", "{by} has {event_type} sent again"),
        "message_parked": Wording("told", "A message is parked ({topic}): {reason}"),
        "message_replayed": Wording("person", "{by} replays the parked message {topic}"),
        "message_dropped": Wording("person", "{by} gave up the parked message {topic}"),
        "dead_letter_handled": Wording("broker", "A dead letter was read once more"),
    }
)


_LINK = re.compile(r"\[([^]]*)\]\(#([a-z-]+)\)")


class _Data(dict[str, Any]):
    """What a line does not say is said to be unknown."""

    def __missing__(self, name: str) -> str:
        return "somebody" if name == "by" else "unknown"


def wording(event: str, data: Mapping[str, Any]) -> Wording:
    """The kind and title of a line; an event that is new here is told by its name."""
    known = _WORDINGS.get(event)
    if known is None:
        return Wording("state", event.replace("_", " ").capitalize())
    said = _Data(data)
    if "charged" in data:
        said["charged"] = "charged" if data["charged"] else "not charged"
    kind = (
        "money"
        if event == "message_parked" and str(data.get("topic", "")).startswith("credits.")
        else known.kind
    )
    return Wording(kind, known.title.format_map(said))


def state_label(request: GenerationRequest) -> StateLabel:
    """Where a request stands."""
    return IN_REVIEW if request.in_review else STATES[request.state]


def span(seconds: float) -> str:
    """A span of time, as exact as a person needs it."""
    if seconds < 1:
        return f"{max(0, round(seconds * 1000))} ms"
    if seconds < 60:  # noqa: PLR2004 - a minute
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"  # noqa: PLR2004 - tenths matter below ten
    for size, unit, smaller, lesser in (
        (86_400, "day", 3_600, "h"),
        (3_600, "h", 60, "min"),
        (60, "min", 1, "s"),
    ):
        if seconds >= size:
            whole, rest = divmod(int(seconds), size)
            said = f"{whole} {unit}{'s' if unit == 'day' and whole > 1 else ''}"
            return f"{said} {rest // smaller} {lesser}" if rest >= smaller else said
    raise AssertionError("every span is below or above a minute")


def since(moment: datetime, now: datetime) -> str:
    """How long ago, in its one largest unit."""
    seconds = max(0, (now - moment).total_seconds())
    for size, unit in ((86_400, "day"), (3_600, "h"), (60, "min"), (1, "s")):
        if seconds >= size:
            whole = int(seconds // size)
            return f"{whole} {unit}{'s' if unit == 'day' and whole > 1 else ''}"
    return "0 s"


def linked(text: str) -> Markup:
    """What stands in docs/operations.md with links into it, with links to what needs attention in
    their place.
    """
    place = Markup('<a href="/console/attention#{}">{}</a>')
    parts = _LINK.split(text)
    said = [Markup.escape(parts[0])]
    for label, anchor, rest in zip(parts[1::3], parts[2::3], parts[3::3], strict=True):
        said += [place.format(anchor, label), Markup.escape(rest)]
    return Markup("").join(said)


def credits_words(amount: int) -> str:
    """An amount with its unit: "0.25 credits"."""
    text = credits_text(amount)
    return f"{text} credit{'' if text == '1.00' else 's'}"


DONE: Mapping[str, str] = MappingProxyType(
    {
        "cancelled": "It is cancelled.",
        "failed": "It is ended, and the user is told.",
        "retried": "This is the new request.",
        "accepted": "The words are accepted; the request goes on.",
        "rejected": "The words are rejected; nothing was charged.",
        "replayed": "The message is due now and will be tried at once.",
        "dropped": "The message is given up for good.",
        "decided": (
            "The hold is decided; everything goes on from there. Look whether the account can be"
            " cleared."
        ),
        "redelivered": "The event is sent again.",
        "granted": "The credits are booked.",
        "cleared": "The restriction is lifted.",
        "compared": "The books are compared.",
    }
)
"""What a page says after something was done, by the word in its address."""
