"""Labels and formats of the console: states, timeline events, durations and amounts."""

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
    """The label of a state; `tone` is one of busy, good, warn, bad, quiet."""

    text: str
    tone: str


STATES: Mapping[State, StateLabel] = MappingProxyType(
    {
        State.VALIDATING_CREDITS: StateLabel("Placing hold", "busy"),
        State.PENDING: StateLabel("Queued", "busy"),
        State.PUBLISHING_TO_QUEUE: StateLabel("Dispatching", "busy"),
        State.PROCESSING_SAMPLES: StateLabel("Generating samples", "busy"),
        State.AWAITING_SELECTION: StateLabel("Awaiting selection", "warn"),
        State.PROCESSING_FINAL: StateLabel("Generating final", "busy"),
        State.COMPLETED: StateLabel("Completed", "good"),
        State.FAILED: StateLabel("Failed", "bad"),
        State.CONTENT_REJECTED: StateLabel("Content rejected", "bad"),
        State.CANCELLED: StateLabel("Cancelled", "quiet"),
        State.EXPIRED: StateLabel("Expired", "quiet"),
    }
)
IN_REVIEW = StateLabel("In review", "warn")

LINE_KINDS: Mapping[str, str] = MappingProxyType(
    {
        "state": "State",
        "credits": "Credits",
        "broker": "Broker",
        "worker": "Worker",
        "notification": "Notifications",
        "action": "Actions",
    }
)
"""The kinds of timeline lines and the titles of their filters."""


@dataclass(frozen=True, slots=True)
class EventLabel:
    """The kind and title of a timeline line; the title is a format of the event's data."""

    kind: str
    title: str


EVENT_LABELS: Mapping[str, EventLabel] = MappingProxyType(
    {
        "submitted": EventLabel("state", "Submitted by {by}"),
        Event.REVIEW_PASSED: EventLabel("action", "Prompt accepted by {by}"),
        Event.REVIEW_REJECTED: EventLabel("action", "Prompt rejected by {by}"),
        Event.CREDITS_ASKED: EventLabel("credits", "Placing hold at the credit service"),
        Event.CREDITS_HELD: EventLabel("credits", "Hold of {credits} credits placed"),
        Event.CREDITS_REFUSED: EventLabel("credits", "Hold of {credits} credits refused"),
        Event.JOB_LEASED: EventLabel("broker", "Job leased by a dispatcher"),
        Event.JOB_NOT_TAKEN: EventLabel("broker", "No worker took the job in time; queued again"),
        Event.JOB_RETURNED: EventLabel("broker", "Job returned to the queue: {reason}"),
        Event.SAMPLES_JOB_CONFIRMED: EventLabel("broker", "Samples job confirmed by the broker"),
        Event.FINAL_JOB_CONFIRMED: EventLabel("broker", "Final job confirmed by the broker"),
        Event.SAMPLES_STARTED: EventLabel("worker", "Worker started the samples"),
        Event.FINAL_STARTED: EventLabel("worker", "Worker started the final"),
        Event.PROGRESS_REPORTED: EventLabel("worker", "Progress: {percent} %"),
        Event.SAMPLES_DELIVERED: EventLabel(
            "worker", "Samples delivered: {good} good, {failed} failed"
        ),
        Event.FINAL_DELIVERED: EventLabel("worker", "Final delivered"),
        Event.ATTEMPT_FAILED: EventLabel("worker", "Attempt {attempt} failed: {code}"),
        Event.ATTEMPTS_EXHAUSTED: EventLabel("worker", "Last attempt failed: {code}"),
        Event.INPUT_REFUSED: EventLabel("worker", "Input rejected by the provider: {code}"),
        Event.PROMPT_REJECTED: EventLabel("worker", "Prompt rejected by the provider"),
        Event.SAMPLE_SELECTED: EventLabel("state", "Sample selected"),
        Event.REGENERATION_REQUESTED: EventLabel("state", "New samples requested"),
        Event.CANCEL_REQUESTED: EventLabel("action", "Cancelled by {by}"),
        Event.EXPIRY_NEARED: EventLabel("state", "Selection deadline approaching"),
        Event.DEADLINE_PASSED: EventLabel("state", "Deadline passed"),
        Event.OPERATOR_FAILED: EventLabel("action", "Failed by {by}: {reason}"),
        "stale_result": EventLabel(
            "worker", "Stale result ({kind}): recorded, not applied, not charged"
        ),
        "credits_captured": EventLabel("credits", "Hold captured at the credit service"),
        "credits_released": EventLabel("credits", "Hold released at the credit service"),
        "credits_released_late": EventLabel(
            "credits", "Late hold released, because the request has ended"
        ),
        "credits_not_held": EventLabel("credits", "No hold was placed"),
        "hold_parked": EventLabel("credits", "Hold parked: {reason}"),
        "hold_decided": EventLabel("action", "Parked hold resolved by {by}: {charged}"),
        "compensation_posted": EventLabel("credits", "Missing {topic} posted by {by}"),
        "notification_sent": EventLabel("notification", "User notified: {event_type}"),
        "event_published": EventLabel("notification", "Event published: {event_type}"),
        "webhook_delivered": EventLabel("notification", "Webhook delivered: {event_type}"),
        "webhook_parked": EventLabel("notification", "Webhook parked ({event_type}): {reason}"),
        "webhook_redelivered": EventLabel("action", "Redelivery of {event_type} requested by {by}"),
        "message_parked": EventLabel("notification", "Message parked ({topic}): {reason}"),
        "message_replayed": EventLabel("action", "Parked message {topic} replayed by {by}"),
        "message_dropped": EventLabel("action", "Parked message {topic} dropped by {by}"),
        "dead_letter_handled": EventLabel("broker", "Dead letter processed again"),
    }
)
"""By event of the timeline."""

_LINK = re.compile(r"\[([^]]*)\]\(#([a-z-]+)\)")


class _EventData(dict[str, Any]):
    """Data of an event, with placeholders for missing values."""

    def __missing__(self, name: str) -> str:
        return "unknown"


def describe_event(event: str, data: Mapping[str, Any]) -> EventLabel:
    """Return the kind and title of an event; an event without a label is shown by its name."""
    label = EVENT_LABELS.get(event)
    if label is None:
        return EventLabel("state", event.replace("_", " ").capitalize())
    values = _EventData(data)
    if "charged" in data:
        values["charged"] = "charged" if data["charged"] else "not charged"
    concerns_credits = str(data.get("topic", "")).startswith("credits.")
    kind = "credits" if event == "message_parked" and concerns_credits else label.kind
    return EventLabel(kind, label.title.format_map(values))


def get_state_label(request: GenerationRequest) -> StateLabel:
    """Return the label of a request's state."""
    return IN_REVIEW if request.in_review else STATES[request.state]


def format_duration(seconds: float) -> str:
    """Format a duration with its two largest units, such as "2 min 5 s"."""
    if seconds < 1:
        return f"{max(0, round(seconds * 1000))} ms"
    if seconds < 60:  # noqa: PLR2004 - a minute
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"  # noqa: PLR2004 - tenths matter below ten
    for size, unit, smaller, smaller_unit in (
        (86_400, "day", 3_600, "h"),
        (3_600, "h", 60, "min"),
        (60, "min", 1, "s"),
    ):
        if seconds >= size:
            whole, rest = divmod(int(seconds), size)
            text = f"{whole} {unit}{'s' if unit == 'day' and whole > 1 else ''}"
            return f"{text} {rest // smaller} {smaller_unit}" if rest >= smaller else text
    raise AssertionError("every duration is below or above a minute")


def format_age(moment: datetime, now: datetime) -> str:
    """Format the time since a moment with its largest unit; a future moment is "0 s"."""
    seconds = max(0, (now - moment).total_seconds())
    for size, unit in ((86_400, "day"), (3_600, "h"), (60, "min"), (1, "s")):
        if seconds >= size:
            whole = int(seconds // size)
            return f"{whole} {unit}{'s' if unit == 'day' and whole > 1 else ''}"
    return "0 s"


def render_links(text: str) -> Markup:
    """Render links into docs/operations.md as links to the same sections of the attention page."""
    link = Markup('<a href="/console/attention#{}">{}</a>')
    parts = _LINK.split(text)
    rendered = [Markup.escape(parts[0])]
    for label, anchor, rest in zip(parts[1::3], parts[2::3], parts[3::3], strict=True):
        rendered += [link.format(anchor, label), Markup.escape(rest)]
    return Markup("").join(rendered)


def format_credits(amount: int) -> str:
    """Format an amount of 1/100 credits with its unit: "0.25 credits"."""
    text = credits_text(amount)
    return f"{text} credit{'' if text == '1.00' else 's'}"


CONFIRMATIONS: Mapping[str, str] = MappingProxyType(
    {
        "cancelled": "Request cancelled.",
        "failed": "Request failed; the user is notified.",
        "retried": "New request created.",
        "accepted": "Prompt accepted; the request continues.",
        "rejected": "Prompt rejected; nothing was charged.",
        "replayed": "Message replayed; it is due now.",
        "dropped": "Message dropped.",
        "decided": "Hold resolved. Check whether the account's flag can be cleared.",
        "redelivered": "Redelivery scheduled.",
        "granted": "Credits granted.",
        "cleared": "Flags cleared.",
        "compared": "Reconciliation finished.",
    }
)
"""Messages after an action, by the value of `done` in the page's address."""
