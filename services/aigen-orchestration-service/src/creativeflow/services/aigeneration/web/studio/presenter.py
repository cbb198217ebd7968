"""A request as the studio shows it: status texts, costs, sizes, samples and thumbnail."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from creativeflow.services.aigeneration.domain.formats import SIDE_MAX, Size
from creativeflow.services.aigeneration.domain.lifecycle import Stage, State
from creativeflow.services.aigeneration.domain.pricing import (
    Funding,
    Prices,
    credits_text,
    is_high_resolution,
)
from creativeflow.services.aigeneration.domain.request import Asset, GenerationRequest, HoldState

SAMPLES = 4
_LARGER = (("Full HD", 1920), ("2K", 2048), ("4K", SIDE_MAX))


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusText:
    """The texts of a status; `tone` is one of busy, good, warn, bad, quiet."""

    title: str
    sentence: str
    badge: str
    tone: str = "busy"


_STATUS_TEXTS: Mapping[State, StatusText] = {
    State.VALIDATING_CREDITS: StatusText(
        title="Checking your credits",
        sentence="Your request starts as soon as its price is reserved.",
        badge="Checking credits",
    ),
    State.PENDING: StatusText(
        title="Waiting in the queue",
        sentence="It starts automatically. Cancelling now is free.",
        badge="Waiting",
    ),
    State.PUBLISHING_TO_QUEUE: StatusText(
        title="Starting", sentence="Your request is being sent to the AI.", badge="Starting"
    ),
    State.PROCESSING_SAMPLES: StatusText(
        title="Making your samples",
        sentence="They appear here one by one, usually within half a minute.",
        badge="Making samples",
    ),
    State.AWAITING_SELECTION: StatusText(
        title="Select a sample",
        sentence="It becomes your final image in full size.",
        badge="Your turn",
        tone="warn",
    ),
    State.PROCESSING_FINAL: StatusText(
        title="Making your final image",
        sentence="The selected sample in full size. This takes up to two minutes; you can leave"
        " this page and come back.",
        badge="Making the final",
    ),
    State.COMPLETED: StatusText(
        title="Your image is ready", sentence="", badge="Ready", tone="good"
    ),
    State.FAILED: StatusText(title="This request failed", sentence="", badge="Failed", tone="bad"),
    State.CONTENT_REJECTED: StatusText(
        title="Your prompt was not accepted", sentence="", badge="Rejected", tone="bad"
    ),
    State.CANCELLED: StatusText(
        title="Request cancelled",
        sentence="You can try again at any time.",
        badge="Cancelled",
        tone="quiet",
    ),
    State.EXPIRED: StatusText(
        title="Request expired",
        sentence="No sample was selected in time. You can try again with new samples.",
        badge="Expired",
        tone="quiet",
    ),
}


def get_status_text(request: GenerationRequest, position: int | None = None) -> StatusText:
    """Return the status texts of a request."""
    known = _STATUS_TEXTS[request.state]
    if request.in_review:
        return StatusText(
            title="Your prompt is being reviewed",
            badge="In review",
            tone="warn",
            sentence="Your request continues automatically once the prompt is accepted. Nothing is"
            " charged until then.",
        )
    if request.state is State.AWAITING_SELECTION and request.placing is not None:
        return _STATUS_TEXTS[State.VALIDATING_CREDITS]
    if request.state is State.PENDING and request.attempt > 1:
        return StatusText(
            title="Trying again",
            sentence="The first attempt failed. The next starts automatically at no extra cost.",
            badge="Trying again",
        )
    if request.state is State.PENDING and position is not None and position > 1:
        ahead = "One job is" if position == 2 else f"{position - 1:,} jobs are"  # noqa: PLR2004
        return StatusText(
            title=known.title,
            sentence=f"{ahead} ahead of yours. {known.sentence}",
            badge=f"Position {position:,}",
        )
    if request.failure is not None:
        return StatusText(
            title=known.title,
            sentence=request.failure["message"],
            badge=known.badge,
            tone=known.tone,
        )
    return known


def describe_cost(request: GenerationRequest) -> list[str]:
    """Describe what was charged, reserved and returned, one sentence each."""
    charged = _sum(request, HoldState.CAPTURED)
    reserved = _sum(request, HoldState.HELD)
    returned = _sum(request, HoldState.RELEASED)
    sentences = [f"{_format_credits(charged)} charged."] if charged else []
    if reserved:
        sentences.append(f"{_format_credits(reserved)} reserved, charged only on delivery.")
    if returned:
        sentences.append(f"{_format_credits(returned)} returned.")
    sentences += _describe_allowance(request)
    if not sentences and request.terminal:
        included = request.state is State.COMPLETED or request.shown_samples
        sentences.append("Included in your plan." if included else "Nothing was charged.")
    elif request.terminal and returned and not charged:
        sentences.append("Nothing was charged.")
    return sentences


def _describe_allowance(request: GenerationRequest) -> list[str]:
    free = [hold for hold in request.holds if hold.funding is Funding.ALLOWANCE]
    used = sum(hold.state in {HoldState.HELD, HoldState.CAPTURED} for hold in free)
    returned = sum(hold.state is HoldState.RELEASED for hold in free)
    sentences = [f"{used} of this month's free generations used."] if used else []
    if returned:
        sentences.append(f"{returned} free generation{'s' if returned > 1 else ''} returned.")
    return sentences


def _sum(request: GenerationRequest, state: HoldState) -> int:
    return sum(request.cost(stage, state) for stage in Stage)


def _format_credits(amount: int) -> str:
    text = credits_text(amount).removesuffix(".00")
    return f"{text} credit{'' if text == '1' else 's'}"


def format_price(item: Mapping[str, Any]) -> str:
    """Format the price of a quote's item for a button."""
    match item["paid_by"]:
        case Funding.ALLOWANCE:
            return "1 free generation"
        case Funding.PLAN:
            return "included"
        case _:
            amount = str(item["credits"]).removesuffix(".00")
            return f"{amount} credit{'' if amount == '1' else 's'}"


@dataclass(frozen=True, slots=True, kw_only=True)
class SizeChoice:
    """A size of the final; `price` is empty if the plan does not include it."""

    name: str
    size: Size
    price: str


def list_sizes(requested: Size, quote: Mapping[str, Any], prices: Prices) -> list[SizeChoice]:
    """List the standard size and larger ones of the same ratio, each with its price."""
    finals = [item for item in quote["items"] if item["stage"] == Stage.FINAL]
    high = next(
        (
            item
            for item in finals
            if is_high_resolution(prices, Size.parse(item["resolution"]).longest)
        ),
        None,
    )
    offered = [("Standard size", requested)]
    offered += [
        (name, requested.scaled(longest))
        for name, longest in _LARGER
        if longest > requested.longest
    ]
    choices = []
    for name, size in offered:
        item = high if is_high_resolution(prices, size.longest) else finals[0]
        price = format_price(item) if item else ""
        choices.append(SizeChoice(name=name, size=size, price=price))
    return choices


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleSlot:
    """The slot of a sample: delivered, failed or pending."""

    number: int
    sample: Asset | None = None
    failed: bool = False


def build_slots(request: GenerationRequest) -> list[SampleSlot]:
    """Build the sample slots in order; pending ones only while samples are being made."""
    placed = {
        sample.get("index", number): sample for number, sample in enumerate(request.shown_samples)
    }
    if len(placed) < len(request.shown_samples):
        placed = dict(enumerate(request.shown_samples))
    failed = {failure["index"] for failure in request.sample_failures}
    working = (
        request.stage is Stage.SAMPLES
        and not request.terminal
        and request.state is not State.AWAITING_SELECTION
    )
    numbers = placed.keys() | failed | (set(range(SAMPLES)) if working else set())
    return [
        SampleSlot(
            number=number + 1,
            sample=placed.get(number),
            failed=number in failed and number not in placed,
        )
        for number in sorted(numbers)
    ]


def find_thumbnail(request: GenerationRequest) -> Asset | None:
    """Return the final, else the selected, else the first sample; None without images."""
    selected = [
        sample
        for sample in request.shown_samples
        if sample["asset_id"] == request.selected_sample_id
    ]
    return next(
        iter([*filter(None, [request.final_asset]), *selected, *request.shown_samples]), None
    )
