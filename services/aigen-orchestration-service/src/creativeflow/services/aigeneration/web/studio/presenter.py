"""A request in a person's words: where it stands, what it cost, what can be picked, and what it
costs to go on.
"""

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
    """A headline and a sentence; `tone` is one of busy, good, warn, bad, quiet."""

    title: str
    sentence: str
    badge: str
    tone: str = "busy"


_TOLD: Mapping[State, StatusText] = {
    State.VALIDATING_CREDITS: StatusText(
        title="Checking your credits",
        sentence="A moment: nothing starts before the price is set aside.",
        badge="Checking credits",
    ),
    State.PENDING: StatusText(
        title="Waiting for its turn",
        sentence="It starts by itself. Cancelling now costs nothing.",
        badge="Waiting",
    ),
    State.PUBLISHING_TO_QUEUE: StatusText(
        title="On its way to the AI", sentence="It is its turn now.", badge="Starting"
    ),
    State.PROCESSING_SAMPLES: StatusText(
        title="Your samples are being made",
        sentence="They appear here one by one, usually within half a minute.",
        badge="Making samples",
    ),
    State.AWAITING_SELECTION: StatusText(
        title="Pick the one you like",
        sentence="It becomes your final picture in full size.",
        badge="Your turn",
        tone="warn",
    ),
    State.PROCESSING_FINAL: StatusText(
        title="Your final picture is being made",
        sentence="The one you picked, in full size. This takes up to two "
        "minutes; you may leave and come back.",
        badge="Making the final",
    ),
    State.COMPLETED: StatusText(
        title="Your picture is ready", sentence="", badge="Ready", tone="good"
    ),
    State.FAILED: StatusText(
        title="This did not work out", sentence="", badge="Failed", tone="bad"
    ),
    State.CONTENT_REJECTED: StatusText(
        title="These words were not accepted", sentence="", badge="Rejected", tone="bad"
    ),
    State.CANCELLED: StatusText(
        title="You cancelled this",
        sentence="Nothing more happens to it. You can start it again at any time.",
        badge="Cancelled",
        tone="quiet",
    ),
    State.EXPIRED: StatusText(
        title="The time to pick is over",
        sentence="Nobody picked a sample in time, so this request has ended. You "
        "can start it again; it makes new samples.",
        badge="Expired",
        tone="quiet",
    ),
}


def status_text(request: GenerationRequest, position: int | None = None) -> StatusText:
    """Where a request stands."""
    known = _TOLD[request.state]
    if request.in_review:
        return StatusText(
            title="A person looks at your words first",
            badge="In review",
            tone="warn",
            sentence="It goes on by itself when they are accepted. Nothing is charged until then.",
        )
    if request.state is State.AWAITING_SELECTION and request.placing is not None:
        return _TOLD[State.VALIDATING_CREDITS]
    if request.state is State.PENDING and request.attempt > 1:
        return StatusText(
            title="Trying again",
            sentence="The first try did not work. The next begins by itself, at no extra cost.",
            badge="Trying again",
        )
    if request.state is State.PENDING and position is not None and position > 1:
        ahead = "One job is" if position == 2 else f"{position - 1:,} jobs are"  # noqa: PLR2004
        return StatusText(
            title=known.title,
            sentence=f"{ahead} ahead of yours. {known.sentence}",
            badge=f"No. {position:,}",
        )
    if request.failure is not None:
        return StatusText(
            title=known.title,
            sentence=request.failure["message"],
            badge=known.badge,
            tone=known.tone,
        )
    return known


def money(request: GenerationRequest) -> list[str]:
    """What was charged, set aside and given back, one sentence for each."""
    paid = _sum(request, HoldState.CAPTURED)
    held = _sum(request, HoldState.HELD)
    back = _sum(request, HoldState.RELEASED)
    said = [f"{_credits(paid)} charged."] if paid else []
    if held:
        said.append(f"{_credits(held)} set aside, charged only on delivery.")
    if back:
        said.append(f"{_credits(back)} given back.")
    said += _allowance(request)
    if not said and request.terminal:
        included = request.state is State.COMPLETED or request.samples
        said.append("Included in your plan." if included else "Nothing was charged.")
    elif request.terminal and back and not paid:
        said.append("Nothing was charged.")
    return said


def _allowance(request: GenerationRequest) -> list[str]:
    free = [hold for hold in request.holds if hold.funding is Funding.ALLOWANCE]
    used = sum(hold.state in {HoldState.HELD, HoldState.CAPTURED} for hold in free)
    back = sum(hold.state is HoldState.RELEASED for hold in free)
    said = [f"{used} of this month's free generations used."] if used else []
    return [*said, f"{back} free generation{'s' if back > 1 else ''} given back."] if back else said


def _sum(request: GenerationRequest, state: HoldState) -> int:
    return sum(request.cost(stage, state) for stage in Stage)


def _credits(amount: int) -> str:
    text = credits_text(amount).removesuffix(".00")
    return f"{text} credit{'' if text == '1' else 's'}"


def price(item: Mapping[str, Any]) -> str:
    """The price of a quote's item as a button says it."""
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
    """A size in which the final can be had; without a price the plan does not include it."""

    name: str
    size: Size
    price: str


def sizes(asked: Size, quote: Mapping[str, Any], prices: Prices) -> list[SizeChoice]:
    """Standard size, and the larger ones in its ratio, each with its price."""
    finals = [item for item in quote["items"] if item["stage"] == Stage.FINAL]
    high = next(
        (
            item
            for item in finals
            if is_high_resolution(prices, Size.parse(item["resolution"]).longest)
        ),
        None,
    )
    offered = [("Standard size", asked)]
    offered += [
        (name, asked.scaled(longest)) for name, longest in _LARGER if longest > asked.longest
    ]
    found = []
    for name, size in offered:
        item = high if is_high_resolution(prices, size.longest) else finals[0]
        found.append(SizeChoice(name=name, size=size, price=price(item) if item else ""))
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleSlot:
    """A place for a sample: with its picture, failed, or still being waited for."""

    number: int
    sample: Asset | None = None
    failed: bool = False


def slots(request: GenerationRequest) -> list[SampleSlot]:
    """The samples in their places; empty places only while somebody works on them."""
    placed = {sample.get("index", number): sample for number, sample in enumerate(request.samples)}
    if len(placed) < len(request.samples):
        placed = dict(enumerate(request.samples))
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


def thumbnail(request: GenerationRequest) -> Asset | None:
    """The picture that stands for a request, if it has one yet."""
    picked = [
        sample for sample in request.samples if sample["asset_id"] == request.selected_sample_id
    ]
    return next(iter([*filter(None, [request.final_asset]), *picked, *request.samples]), None)
