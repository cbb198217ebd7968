"""Scenarios of requests as users run them over HTTP, each with its outcome and price.

The crash and chaos runs execute them while the service is killed and cut off: they may take longer,
and nothing else may change.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import httpx
import orjson

from creativeflow.services.aigeneration.adapters.rabbitmq.broker import AckDecision, Delivery
from creativeflow.services.aigeneration.application.worker_reports import ReportKind
from creativeflow.services.aigeneration.cli.fake_worker import FakeWorker

ENDED = {"COMPLETED", "FAILED", "CONTENT_REJECTED", "CANCELLED", "EXPIRED"}
REQUESTS = "/generation-requests"
OPERATIONS = "/operations"
PRICES = {"samples": 25, "final": 100, "large": 200}
_OK, _CREATED, _ACCEPTED, _NO_CONTENT = 200, 201, 202, 204


class ScenarioError(AssertionError):
    """A scenario had a wrong outcome."""


_how: ContextVar[tuple[str, str] | None] = ContextVar("how", default=None)


class ObedientWorker(FakeWorker):
    """A fake worker that responds to each job as the job's hints say: behaviour and transport."""

    _told = ("well", "http")

    @property
    def _behaviour(self) -> str:  # type: ignore[override]
        return (_how.get() or self._told)[0]

    @_behaviour.setter
    def _behaviour(self, value: str) -> None:
        self._told = (value, self._told[1])

    @property
    def _over(self) -> str:  # type: ignore[override]
        return (_how.get() or self._told)[1]

    @_over.setter
    def _over(self, value: str) -> None:
        self._told = (self._told[0], value)

    async def _take(self, delivery: Delivery) -> AckDecision:
        job = orjson.loads(delivery.body)
        how, over = (job.get("target_platform_hints") or self._told)[:2]
        final = job["job_type"] == "final_generation"
        _how.set(
            ("never" if how == "final_never" and final else how, over)
        )  # each delivery has a separate task
        if how == "progress" and not final:
            await self._report(job, ReportKind.PROGRESS, {"percent": 10})
        return await super()._take(delivery)


class RetryingClient:
    """A client that repeats calls with the same key while the service is unavailable, and records
    unexpected responses.
    """

    def __init__(
        self, ports: Sequence[int], *, hooks: str = "", patience_seconds: float = 60.0
    ) -> None:
        self.ports, self.hooks = ports, hooks
        self.patience_seconds = patience_seconds
        self.faults: list[str] = []
        self.longest_stall = 0.0
        self._http = httpx.AsyncClient(
            timeout=15, trust_env=False, limits=httpx.Limits(max_connections=200)
        )
        self._turn = 0

    async def close(self) -> None:
        await self._http.aclose()

    async def call(
        self, method: str, path: str, *, told: Any = None, key: str | None = None
    ) -> httpx.Response:
        """Make one call, repeated until there is a response; a POST has a key, so repetitions are
        safe.
        """
        headers = {"Idempotency-Key": key or str(uuid4())} if method == "POST" else {}
        began = time.monotonic()
        pause = 0.05
        while True:
            answer = await self._ask(method, path, told, headers)
            if answer is not None and not _again(answer):
                self.longest_stall = max(self.longest_stall, time.monotonic() - began)
                return answer
            if time.monotonic() - began > self.patience_seconds:
                said = (
                    f"{answer.status_code} {answer.text[:200]}" if answer is not None else "nothing"
                )
                raise ScenarioError(
                    f"{method} {path} has been answered with {said} for {self.patience_seconds} s"
                )
            await asyncio.sleep(pause)
            pause = min(1.0, pause * 1.5)

    async def _ask(
        self, method: str, path: str, told: Any, headers: dict[str, str]
    ) -> httpx.Response | None:
        self._turn += 1
        url = f"http://127.0.0.1:{self.ports[self._turn % len(self.ports)]}/api/v1{path}"
        try:
            answer = await self._http.request(method, url, json=told, headers=headers)
        except httpx.HTTPError:
            return None
        if answer.status_code >= 500 and answer.status_code != 503:
            self.faults.append(
                f"{method} {path} was answered with {answer.status_code}: {answer.text[:300]}"
            )
        return answer


def _again(answer: httpx.Response) -> bool:
    if answer.status_code >= 500:
        return True
    return answer.status_code == httpx.codes.CONFLICT and bool(answer.json().get("retryable"))


Give = Callable[[str, int, str], Awaitable[None]]
"""Gives a user credits (1/100) and a plan at the credit service."""


@dataclass
class User:
    """One user per scenario, so that its cost can be checked exactly."""

    line: RetryingClient
    give: Give
    id: str
    given: int = 0

    async def start(self, how: str = "well", over: str = "http", **more: Any) -> dict[str, Any]:
        """Submit a request whose jobs get this behaviour."""
        told = {
            "user_id": self.id,
            "input_prompt": "a lighthouse",
            "output_format": "InstagramPost_1x1",
            "target_platform_hints": [how, over],
            **more,
        }
        return await self.accepted("POST", REQUESTS, told)

    async def accepted(self, method: str, path: str, told: Any = None) -> dict[str, Any]:
        """Make a call that must succeed."""
        answer = await self.call(method, path, told)
        if answer.status_code not in {_OK, _CREATED, _ACCEPTED, _NO_CONTENT}:
            raise ScenarioError(f"{method} {path}: {answer.status_code} {answer.text[:300]}")
        found: dict[str, Any] = answer.json() if answer.content else {}
        return found

    async def call(self, method: str, path: str, told: Any = None) -> httpx.Response:
        """Make a call; repeat it after the account was restricted and cleared."""
        key = str(uuid4())
        ends = time.monotonic() + self.line.patience_seconds
        while True:
            answer = await self.line.call(method, path, told=told, key=key)
            restricted = (
                answer.status_code == httpx.codes.FORBIDDEN and "account_restricted" in answer.text
            )
            if not restricted or self.id.startswith("severe") or time.monotonic() > ends:
                return answer
            await asyncio.sleep(0.2)

    async def start_badly(self) -> int:
        """Submit a severe prompt; return the status of the response."""
        told = {
            "user_id": self.id,
            "input_prompt": "naked children",
            "output_format": "InstagramPost_1x1",
        }
        return (await self.line.call("POST", REQUESTS, told=told)).status_code

    async def until(self, request_id: str, *states: str) -> dict[str, Any]:
        """Wait for one of these states, or for any end."""
        ends = time.monotonic() + self.line.patience_seconds
        pause = 0.05
        while True:
            found: dict[str, Any] = (await self.call("GET", f"{REQUESTS}/{request_id}")).json()
            if found.get("status") in {*states, *ENDED}:
                return found
            if time.monotonic() > ends:
                raise ScenarioError(f"{self.id}: {request_id} is still {found.get('status')}")
            await asyncio.sleep(pause)
            pause = min(
                0.5, 1.3 * pause
            )  # dozens of scenarios that poll without a pause would take all the time

    async def until_samples(self, request: dict[str, Any]) -> dict[str, Any]:
        """Wait until the samples can be selected."""
        found = await self.until(request["id"], "AWAITING_SELECTION")
        if found["status"] != "AWAITING_SELECTION":
            raise ScenarioError(f"{self.id}: no samples, but {found['status']} {found['failure']}")
        return found

    async def select(self, request: dict[str, Any], resolution: str | None = None) -> None:
        """Select the first sample; repeat it if a hold in doubt was refused."""
        told = {"selected_sample_id": request["samples"][0]["asset_id"]}
        await self.accepted(
            "POST",
            f"{REQUESTS}/{request['id']}/select-sample",
            told | ({"desired_resolution": resolution} if resolution else {}),
        )

    async def ended(self, request: dict[str, Any], *states: str) -> dict[str, Any]:
        """Wait until the request has ended in one of these states."""
        found = await self.until(request["id"])
        if found["status"] not in (states or ("COMPLETED",)):
            raise ScenarioError(
                f"{self.id}: {found['status']} {found['failure']}, not {' or '.join(states)}"
            )
        return found


async def pays(user: User) -> None:
    """Pay for everything with credits, including a high-resolution final after a quote."""
    quoted = await user.accepted(
        "POST",
        f"{REQUESTS}/quote",
        {"user_id": user.id, "input_prompt": "a lighthouse", "output_format": "InstagramPost_1x1"},
    )
    request = await user.until_samples(await user.start(quote_id=quoted["quote_id"]))
    await user.select(request, "4K")
    await user.ended(request)


async def pays_nothing(user: User) -> None:
    """Use two of the Free plan's generations and its final."""
    request = await user.until_samples(await user.start("progress", "rabbitmq"))
    await user.accepted("POST", f"{REQUESTS}/{request['id']}/regenerate-samples", {})
    await user.select(await _wait_for_another_round(user, request))
    await user.ended(request)


async def pays_for_the_large_final(user: User) -> None:
    """Pay only for the high-resolution final on the Pro plan."""
    request = await user.until_samples(await user.start("well", "rabbitmq"))
    await user.select(request, "4K")
    await user.ended(request)


async def regenerates(user: User) -> None:
    """Order two sets of samples and a final."""
    request = await user.until_samples(await user.start())
    changed = {"updated_prompt": "a red lighthouse"}
    await user.accepted("POST", f"{REQUESTS}/{request['id']}/regenerate-samples", changed)
    await user.select(await _wait_for_another_round(user, request))
    await user.ended(request)


def answered(how: str, over: str) -> Callable[[User], Awaitable[None]]:
    """Return a paid scenario whose worker has this behaviour and succeeds in the end."""

    async def scenario(user: User) -> None:
        request = await user.until_samples(await user.start(how, over))
        await user.select(request)
        await user.ended(request)

    return scenario


async def cancels_what_is_shown(user: User) -> None:
    """Cancel after the samples: they stay charged."""
    request = await user.until_samples(await user.start())
    await user.accepted("POST", f"{REQUESTS}/{request['id']}/cancel")
    await user.ended(request, "CANCELLED")


async def cancels_at_work(user: User) -> None:
    """Cancel during the work: nothing is charged."""
    request = await user.start("never")
    await user.until(request["id"], "PROCESSING_SAMPLES")
    await user.accepted("POST", f"{REQUESTS}/{request['id']}/cancel")
    await user.ended(request, "CANCELLED")


async def cancels_while_it_is_asked_for(user: User) -> None:
    """Cancel while the hold is placing: it is released."""
    request = await user.start("never")
    await user.accepted("POST", f"{REQUESTS}/{request['id']}/cancel")
    await user.ended(request, "CANCELLED")


async def cancels_the_final(user: User) -> None:
    """Cancel the final: the samples stay charged, the final's hold is released."""
    request = await user.until_samples(await user.start("final_never"))
    await user.select(request)
    await user.until(request["id"], "PROCESSING_FINAL")
    await user.accepted("POST", f"{REQUESTS}/{request['id']}/cancel")
    await user.ended(request, "CANCELLED")


async def is_rejected_by_the_provider(user: User) -> None:
    """Have the prompt rejected by the provider: a sample set is charged."""
    await user.ended(await user.start("rejects"), "CONTENT_REJECTED")


async def is_given_up_by_the_broker(user: User) -> None:
    """Have every attempt's job dead-lettered: failed, nothing charged."""
    await user.ended(await user.start("crashes"), "FAILED")


async def cannot_pay(user: User) -> None:
    """Submit without credits: refused, nothing charged."""
    told = {
        "user_id": user.id,
        "input_prompt": "a lighthouse",
        "output_format": "InstagramPost_1x1",
    }
    answer = await user.call("POST", REQUESTS, told)
    if (
        answer.status_code == _ACCEPTED
    ):  # the service was killed before the refusal; the request shows it
        found = await user.until(answer.json()["id"])
        if found["status"] != "FAILED" or found["failure"]["code"] != "insufficient_credits":
            raise ScenarioError(f"{user.id}: {found['status']} {found['failure']}")
    elif answer.status_code != httpx.codes.PAYMENT_REQUIRED:
        raise ScenarioError(f"{user.id}: {answer.status_code} {answer.text[:200]}")


async def is_accepted_by_a_person(user: User) -> None:
    """Submit a prompt that an operator accepts."""
    request = await user.start(input_prompt="a nude statue of an otter")
    await user.accepted(
        "POST", f"{OPERATIONS}{REQUESTS}/{request['id']}/review", {"decision": "accept"}
    )
    await user.select(await user.until_samples(request))
    await user.ended(request)


async def is_refused_by_a_person(user: User) -> None:
    """Submit a prompt that an operator rejects: nothing is charged."""
    request = await user.start(input_prompt="a nude statue of an otter")
    await user.accepted(
        "POST", f"{OPERATIONS}{REQUESTS}/{request['id']}/review", {"decision": "reject"}
    )
    await user.ended(request, "CONTENT_REJECTED")


async def is_ended_by_an_operator(user: User) -> None:
    """Have an operator fail the request: nothing is charged; cancel its retry."""
    request = await user.start("never")
    await user.accepted(
        "POST", f"{OPERATIONS}{REQUESTS}/{request['id']}/fail", {"reason": "the test says so"}
    )
    await user.ended(request, "FAILED")
    again = await user.accepted("POST", f"{REQUESTS}/{request['id']}/retry", {})
    await user.accepted("POST", f"{REQUESTS}/{again['id']}/cancel")
    await user.ended(again, "CANCELLED")


async def is_restricted_for_its_words(user: User) -> None:
    """Submit severe prompts until the account is flagged; an operator clears it."""
    for _ in range(4):
        answer = await user.start_badly()
        if answer not in {httpx.codes.UNPROCESSABLE_ENTITY, httpx.codes.FORBIDDEN}:
            raise ScenarioError(f"{user.id}: {answer}")
    ends = time.monotonic() + user.line.patience_seconds
    while (
        await user.start_badly() != httpx.codes.FORBIDDEN
    ):  # each process caches the entitlements for a while
        await user.accepted("GET", f"{OPERATIONS}/users/{user.id}/statement")  # reloads the cache
        if time.monotonic() > ends:
            raise ScenarioError(f"{user.id} is not restricted")
    await user.accepted("POST", f"{OPERATIONS}/users/{user.id}/clear", {"note": "the test says so"})


async def steers_webhooks(user: User) -> None:
    """Register, test, change and delete a webhook endpoint; each step may be a repetition."""
    endpoints = "/webhook-endpoints"
    endpoint = await _registered(user, f"{user.line.hooks}/{user.id}")
    event = (await user.accepted("POST", f"{endpoints}/{endpoint}/test"))["event_id"]
    await user.accepted("POST", f"{endpoints}/{endpoint}/rotate-secret", {})
    await user.accepted("POST", f"{endpoints}/{endpoint}/deliveries/{event}/redeliver")
    request = await user.until_samples(await user.start())
    await user.select(request)
    for step in ("disable", "enable", "disable"):
        await user.accepted("POST", f"{endpoints}/{endpoint}/{step}")
    removed = await user.call("DELETE", f"{endpoints}/{endpoint}")
    if removed.status_code not in {_NO_CONTENT, httpx.codes.NOT_FOUND}:
        raise ScenarioError(f"{user.id}: {removed.status_code} {removed.text[:200]}")
    await user.ended(request)


def has_a_hook(that_is: str, then: str) -> Callable[[User], Awaitable[None]]:
    """Return a scenario with a failing webhook endpoint whose test event reaches this status."""

    async def scenario(user: User) -> None:
        endpoints = "/webhook-endpoints"
        endpoint = await _registered(user, f"{user.line.hooks}/{that_is}/{user.id}")
        await user.call(
            "POST", f"{endpoints}/{endpoint}/test"
        )  # 409 if another event has disabled it before
        ends = time.monotonic() + user.line.patience_seconds
        while not (await user.accepted("GET", f"{endpoints}/{endpoint}/deliveries?status={then}"))[
            "items"
        ]:
            if time.monotonic() > ends:
                raise ScenarioError(f"{user.id}: no delivery is {then}")
            await asyncio.sleep(0.3)
        await user.call("DELETE", f"{endpoints}/{endpoint}")

    return scenario


async def _registered(user: User, url: str) -> str:
    """Return the endpoint of this URL, registered now or before a crash; all scenarios share the
    caller's limit.
    """
    ends = time.monotonic() + user.line.patience_seconds
    while time.monotonic() < ends:
        made = await user.call("POST", "/webhook-endpoints", {"url": url})
        if made.status_code != httpx.codes.CONFLICT:
            return str(made.json()["id"])
        for found in (await user.accepted("GET", "/webhook-endpoints"))["items"]:
            if found["url"] == url:
                return str(found["id"])
        await asyncio.sleep(0.2)
    raise ScenarioError(f"{user.id}: no room for another webhook endpoint")


async def _wait_for_another_round(user: User, request: dict[str, Any]) -> dict[str, Any]:
    while True:
        found = await user.until(request["id"], "AWAITING_SELECTION")
        if found["status"] in ENDED:
            raise ScenarioError(f"{user.id}: {found['status']} instead of another round")
        if found["round"] > request["round"]:
            return found
        await asyncio.sleep(0.05)


@dataclass(frozen=True)
class Scenario:
    """A scenario: its plan, credits, and total cost (1/100 credit)."""

    lead: Callable[[User], Awaitable[None]]
    plan: str
    given: int
    costs: int
    free: int = 0
    faults: tuple[str, ...] = ()
    """Faults of the billing adapter for this user's calls, in order."""


_SET, _FINAL, _LARGE = PRICES["samples"], PRICES["final"], PRICES["large"]

SCENARIOS: dict[str, Scenario] = {
    "pays": Scenario(pays, "payg", 1000, _SET + _LARGE),
    "free": Scenario(pays_nothing, "free", 0, 0, free=2),
    "pro": Scenario(pays_for_the_large_final, "pro", 1000, _LARGE),
    "regenerates": Scenario(regenerates, "payg", 1000, 2 * _SET + _FINAL),
    "twice": Scenario(answered("twice", "rabbitmq"), "payg", 1000, _SET + _FINAL),
    "partially": Scenario(answered("partially", "http"), "payg", 1000, _SET + _FINAL),
    "fails": Scenario(answered("fails", "rabbitmq"), "payg", 1000, _SET + _FINAL),
    "wrong_size": Scenario(answered("wrong_size", "http"), "payg", 1000, _SET + _FINAL),
    "garbled": Scenario(answered("garbled", "rabbitmq"), "payg", 1000, _SET + _FINAL),
    "out_of_order": Scenario(answered("out_of_order", "http"), "payg", 1000, _SET + _FINAL),
    "wrong_job": Scenario(answered("for_the_wrong_job", "http"), "payg", 1000, _SET + _FINAL),
    "cancels_shown": Scenario(cancels_what_is_shown, "payg", 1000, _SET),
    "cancels_at_work": Scenario(cancels_at_work, "payg", 1000, 0),
    "rejected": Scenario(is_rejected_by_the_provider, "payg", 1000, _SET),
    "given_up": Scenario(is_given_up_by_the_broker, "payg", 1000, 0),
    "cannot_pay": Scenario(cannot_pay, "payg", 10, 0),
    "accepted": Scenario(is_accepted_by_a_person, "payg", 1000, _SET + _FINAL),
    "refused": Scenario(is_refused_by_a_person, "payg", 1000, 0),
    "ended": Scenario(is_ended_by_an_operator, "payg", 1000, 0),
    "webhooks": Scenario(steers_webhooks, "payg", 1000, _SET + _FINAL),
    "cancels_final": Scenario(cancels_the_final, "payg", 1000, _SET),
    "hook_gone": Scenario(has_a_hook("gone", "failed"), "payg", 1000, 0),
    "hook_broken": Scenario(has_a_hook("broken", "parked"), "payg", 1000, 0),
    "doubt": Scenario(
        answered("well", "http"), "payg", 1000, _SET + _FINAL, faults=("silent_after",)
    ),
    "doubt_on_the_final": Scenario(
        answered("well", "http"), "payg", 1000, _SET + _FINAL, faults=("", "error_after")
    ),
    "doubt_on_giving_back": Scenario(cancels_at_work, "payg", 1000, 0, faults=("", "drop_after")),
    "doubt_and_cancelled": Scenario(
        cancels_while_it_is_asked_for, "payg", 1000, 0, faults=("silent_after",)
    ),
    "severe": Scenario(is_restricted_for_its_words, "payg", 1000, 0),
}
