"""Prompt moderation before anything is charged: allowed, rejected or reviewed; prompts are not
logged.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
import structlog
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from creativeflow.services.aigeneration.adapters.moderation.endpoint import ModerationCheck
from creativeflow.services.aigeneration.adapters.moderation.word_lists import (
    STANDARD_FILE,
    WordCheck,
    read_rules,
)
from creativeflow.services.aigeneration.domain.moderation import ModerationOutcome, ModerationResult
from creativeflow.services.aigeneration.ports import PromptCheckUnavailableError
from tests.e2e.journey import OPERATIONS, REQUESTS, Caller, Footprint, assert_problem
from tests.support.processes import free_port

REJECTED = "a porn poster with an otter"
SEVERE = "naked children"
DOUBTFUL = "a nude statue of an otter"


@pytest.fixture
async def paying(client: Caller) -> Caller:
    """An open service; `user` is on the payg plan with 20 credits."""
    await client.test_app.grant("user", 2000, "payg")
    return client


async def review(caller: Caller, request_id: str, decision: str) -> dict[str, Any]:
    """Send an operator's decision."""
    answer = await caller.post(
        f"{OPERATIONS}/generation-requests/{request_id}/review", json={"decision": decision}
    )
    assert answer.status_code == httpx.codes.OK, answer.text
    found: dict[str, Any] = answer.json()
    return found


# Rejected


async def test_create_rejected_prompt_starts_and_charges_nothing(paying: Caller) -> None:
    before = await Footprint.of(paying.test_app)
    with structlog.testing.capture_logs() as logs:
        for prompt in (REJECTED, "p0rn otter", "p o r n"):
            assert_problem(await paying.create(input_prompt=prompt), 422, "prompt_rejected")
        assert_problem(await paying.create(style_guidance=REJECTED), 422, "prompt_rejected")
    assert await Footprint.of(paying.test_app) == before
    assert "otter" not in json.dumps(logs, default=str)
    assert {"category": "sexual", "severe": False} in [
        {name: entry[name] for name in ("category", "severe")}
        for entry in logs
        if entry["event"] == "prompt_rejected"
    ]


async def test_regenerate_rejected_prompt_keeps_the_samples(paying: Caller) -> None:
    shown = await paying.with_samples()
    for prompt, code in ((REJECTED, "prompt_rejected"), (DOUBTFUL, "prompt_review_required")):
        answer = await paying.act(shown["id"], "regenerate-samples", updated_prompt=prompt)
        assert_problem(answer, 422, code)
    assert await paying.look(shown["id"]) == shown
    assert (
        await paying.act(shown["id"], "regenerate-samples", model="fast")
    ).status_code == httpx.codes.ACCEPTED


async def test_retry_changed_prompt_is_checked(paying: Caller) -> None:
    created = (await paying.create()).json()
    await paying.act(created["id"], "cancel")
    answer = await paying.act(created["id"], "retry", updated_prompt=REJECTED)
    assert_problem(answer, 422, "prompt_rejected")


async def test_severe_rejections_repeated_restrict_the_account(paying: Caller) -> None:
    for _ in range(5):
        assert_problem(await paying.create(input_prompt=REJECTED), 422, "prompt_rejected")
    for _ in range(3):
        assert_problem(await paying.create(input_prompt=SEVERE), 422, "prompt_rejected")
    (flag,) = (await paying.get(f"{OPERATIONS}/flags")).json()["items"]
    assert (flag["user_id"], flag["reason"]) == ("user", "content_abuse")
    paying.test_app.service.entitlements.forget("user")
    assert_problem(await paying.create(), 403, "account_restricted")
    assert (await paying.create("other")).status_code == httpx.codes.ACCEPTED


async def test_severe_rejections_below_the_daily_limit_do_not_restrict(paying: Caller) -> None:
    for _ in range(4):
        for _ in range(2):
            assert_problem(await paying.create(input_prompt=SEVERE), 422, "prompt_rejected")
        paying.test_app.clock.advance(hours=25)
    assert (await paying.get(f"{OPERATIONS}/flags")).json() == {"items": []}


# Reviews


async def test_review_accepted_prompt_is_charged_only_then(paying: Caller) -> None:
    created = await paying.create(input_prompt=DOUBTFUL)
    assert (created.status_code, created.json()["status"]) == (202, "VALIDATING_CREDITS")
    request_id = created.json()["id"]
    assert await paying.test_app.balance() == 2000
    for _ in range(2):
        paying.test_app.clock.advance(hours=2)
        await paying.test_app.sweep()
    (waiting,) = (await paying.get(f"{OPERATIONS}/reviews")).json()["items"]
    assert (waiting["id"], waiting["brief"]["input_prompt"]) == (request_id, DOUBTFUL)
    assert waiting["actions"] == ["cancel"]

    assert (await review(paying, request_id, "accept"))["status"] == "PENDING"
    assert await paying.test_app.balance() == 1975
    assert (await review(paying, request_id, "reject"))["status"] == "PENDING"
    assert (await paying.get(f"{OPERATIONS}/reviews")).json() == {"items": []}
    await paying.test_app.deliver(await paying.test_app.next_job())
    events = [
        entry["event"]
        for entry in (await paying.get(f"{REQUESTS}/{request_id}/events")).json()["items"]
    ]
    assert events[:3] == ["submitted", "credits_asked", "credits_held"]


async def test_review_rejected_prompt_costs_nothing(paying: Caller) -> None:
    request_id = (await paying.create(input_prompt=DOUBTFUL)).json()["id"]
    rejected = await review(paying, request_id, "reject")
    assert (rejected["status"], rejected["failure"]["code"]) == (
        "CONTENT_REJECTED",
        "prompt_refused",
    )
    assert "Change the words" in rejected["failure"]["message"]
    await paying.test_app.drain()
    assert await paying.test_app.balance() == 2000
    assert paying.test_app.notifier.types() == ["generation_failed"]


@pytest.mark.parametrize("plan", ["free", "pro"])
async def test_review_accepted_free_request_continues_at_once(client: Caller, plan: str) -> None:
    await client.test_app.grant("user", 0, plan)
    request_id = (await client.create(input_prompt=DOUBTFUL)).json()["id"]
    assert (await client.test_app.database.fetchval("SELECT count(*) FROM free_usage")) == 0
    assert (await review(client, request_id, "accept"))["status"] == "PENDING"
    assert (await client.test_app.database.fetchval("SELECT count(*) FROM free_usage")) == (
        plan == "free"
    )


async def test_review_accepted_without_credits_fails_with_the_reason(client: Caller) -> None:
    await client.test_app.grant("user", 25, "payg")
    waiting = (await client.create(input_prompt=DOUBTFUL)).json()["id"]
    await client.test_app.grant("user", -1)
    failed = await review(client, waiting, "accept")
    assert (failed["status"], failed["failure"]["code"]) == ("FAILED", "insufficient_credits")


async def test_review_accepted_with_used_up_quota_ends_the_request(make_client) -> None:
    client: Caller = await make_client(free_generations=1)
    waiting = (await client.create(input_prompt=DOUBTFUL)).json()["id"]
    await client.create()
    assert (await review(client, waiting, "accept"))["failure"]["code"] == "insufficient_credits"


async def test_review_unattended_prompt_fails_at_its_deadline_and_can_be_cancelled(
    paying: Caller,
) -> None:
    waiting, cancelled = [
        (await paying.create(input_prompt=DOUBTFUL)).json()["id"] for _ in range(2)
    ]
    assert (await paying.act(cancelled, "cancel")).json()["outcome"] == "cancelled"
    paying.test_app.clock.advance(days=3, minutes=1)
    await paying.test_app.sweep()
    assert (await paying.look(waiting))["status"] == "FAILED"
    assert (await review(paying, waiting, "accept"))["status"] == "FAILED"
    await paying.test_app.drain()
    assert await paying.test_app.balance() == 2000


async def test_review_accept_and_cancel_concurrent_apply_one(paying: Caller) -> None:
    for _ in range(5):
        request_id = (await paying.create(input_prompt=DOUBTFUL)).json()["id"]
        await asyncio.gather(review(paying, request_id, "accept"), paying.act(request_id, "cancel"))
        assert (await paying.look(request_id))["status"] == "CANCELLED"
    await paying.test_app.drain()
    assert await paying.test_app.balance() == 2000


# A moderation endpoint


class Moderator:
    """An endpoint with OpenAI's API and configured responses."""

    def __init__(self) -> None:
        self.answers: list[Response] = []
        self.asked: list[Any] = []

    async def moderate(self, request: Request) -> Response:
        self.asked.append((request.headers.get("authorization"), await request.json()))
        return self.answers.pop(0) if self.answers else judged()


def judged(
    *, flagged: bool = False, categories: Sequence[str] = (), score: float = 0.01
) -> Response:
    """Return one response of the endpoint."""
    scores = dict.fromkeys(categories or ["harassment"], score)
    result = {
        "flagged": flagged,
        "categories": dict.fromkeys(categories, flagged),
        "category_scores": scores,
    }
    return JSONResponse({"id": "modr-1", "model": "omni", "results": [result]})


@asynccontextmanager
async def moderating() -> AsyncIterator[tuple[Moderator, ModerationCheck]]:
    """Run an endpoint on loopback, and the check that calls it."""
    moderator, port = Moderator(), free_port()
    app = Starlette(routes=[Route("/v1/moderations", moderator.moderate, methods=["POST"])])
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="critical", lifespan="off"))
    running = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    async with httpx.AsyncClient(trust_env=False) as http:
        yield (
            moderator,
            ModerationCheck(
                http,
                f"http://127.0.0.1:{port}/v1/moderations",
                first=WordCheck(read_rules(STANDARD_FILE)),
                api_key="moderation-key",
                model="omni-moderation-latest",
                review_above=0.5,
                timeout_seconds=0.5,
                pause_seconds=0.01,
            ),
        )
    server.should_exit = True
    await running


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [
        (judged(), ModerationResult(outcome=ModerationOutcome.ALLOW)),
        (
            judged(categories=["hate"], score=0.51),
            ModerationResult(outcome=ModerationOutcome.REVIEW, category="hate"),
        ),
        (
            judged(flagged=True, categories=["violence"]),
            ModerationResult(outcome=ModerationOutcome.REJECT, category="violence"),
        ),
        (
            judged(flagged=True, categories=["sexual", "sexual/minors"]),
            ModerationResult(
                outcome=ModerationOutcome.REJECT, category="sexual/minors", severe=True
            ),
        ),
    ],
)
async def test_moderation_endpoint_response_decides(
    answer: Response, verdict: ModerationResult
) -> None:
    async with moderating() as (moderator, check):
        moderator.answers.append(answer)
        assert await check.check(["an otter", "calm"], "en-US") == verdict
        assert moderator.asked == [
            (
                "Bearer moderation-key",
                {"input": ["an otter", "calm"], "model": "omni-moderation-latest"},
            )
        ]


async def test_moderation_endpoint_is_not_called_for_listed_prompts(client: Caller) -> None:
    async with moderating() as (moderator, check):
        assert (await check.check([REJECTED], None)).outcome is ModerationOutcome.REJECT
        assert (await check.check([DOUBTFUL], None)).outcome is ModerationOutcome.REVIEW
        assert len(moderator.asked) == 1


@pytest.mark.parametrize(
    "answer",
    [
        Response(status_code=500),
        Response("<html>"),
        JSONResponse({"results": "none"}),
        JSONResponse([]),
    ],
)
async def test_moderation_endpoint_unusable_response_is_retried_then_unavailable(
    answer: Response,
) -> None:
    async with moderating() as (moderator, check):
        moderator.answers += [answer] * 3
        with pytest.raises(PromptCheckUnavailableError):
            await check.check(["an otter"], None)
        assert len(moderator.asked) == 3
        assert (await check.check(["an otter"], None)).outcome is ModerationOutcome.ALLOW


class Away:
    """A check that never responds."""

    async def check(self, _texts: Sequence[str], _locale: str | None) -> ModerationResult:
        raise PromptCheckUnavailableError("simulated")


@pytest.mark.parametrize(
    ("when_away", "status"), [("refuse", 503), ("review", 202), ("allow", 202)]
)
async def test_moderation_endpoint_unavailable_is_handled_by_the_setting(
    make_client, when_away: str, status: int
) -> None:
    client: Caller = await make_client(safety_when_away=when_away)
    client.test_app.service.prompts._check = Away()  # noqa: SLF001 - an endpoint that is away
    answer = await client.create()
    if status == 503:
        assert_problem(answer, 503, "safety_unavailable")
        assert answer.headers["retry-after"] == "5"
    else:
        assert answer.status_code == status
        assert answer.json()["status"] == (
            "VALIDATING_CREDITS" if when_away == "review" else "PENDING"
        )
