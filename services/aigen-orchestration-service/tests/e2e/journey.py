"""HTTP client, footprint and problem assertions shared by the journeys."""

import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx
from fastapi import FastAPI
from pydantic import BaseModel

from creativeflow.services.aigeneration.api.schemas import generations as schemas
from creativeflow.services.aigeneration.application import worker_reports
from creativeflow.services.aigeneration.domain.lifecycle import Stage
from creativeflow.services.aigeneration.domain.request import GenerationRequest
from tests.support.app import ServiceUnderTest, a_final, four_samples

REQUESTS = "/api/v1/generation-requests"
CALLBACKS = "/api/v1/n8n-callbacks"
OPERATIONS = "/api/v1/operations"
PROMPT = "A violet otter reads Rilke"
PLAIN = {"input_prompt": PROMPT, "output_format": "InstagramPost_1x1"}
NOBODY = "01950000-0000-7000-8000-000000000000"

_FIELDS = {"type", "title", "status", "detail", "instance", "code", "retryable", "request_id"}
_WAY_ON = re.compile(
    r"\b(Correct|Send|Check|Use|Try|try|Wait|Upgrade|Top up|Get a new|Sign"
    r" in|Leave|Start|Shorten|Read|Repeat|"
    r"Contact|Pick|Select|Reload|Stop|Change|lists what|wait for)\b"
)
_MODELS = {
    name
    for module in (schemas, worker_reports)
    for name, kind in inspect.getmembers(module, inspect.isclass)
    if issubclass(kind, BaseModel) and re.match(r"[A-Z][a-z]+[A-Z]", name)
}
_TECHNICAL = re.compile(
    r"(?i:traceback|pydantic|asyncpg|sqlalchemy|starlette|fastapi|orjson|postgres|site-packages|<class|object"
    r" at 0x"
    r"|\bline \d+|\bselect \*|\binsert"
    r" into)|[A-Za-z_]+\.py\b|NoneType|\b[A-Z][A-Za-z]+(Error|Exception)\b|\b("
    + "|".join(sorted(_MODELS))
    + r")\b"
)
_COUNTED = (
    "generation_requests",
    "generation_events",
    "holds",
    "outbox",
    "idempotency_keys",
    "credit_entries",
    "free_usage",
)


class Caller(httpx.AsyncClient):
    """An HTTP client of the service, with the service under test."""

    def __init__(self, app: FastAPI, test_app: ServiceUnderTest) -> None:
        super().__init__(transport=httpx.ASGITransport(app=app), base_url="http://aigen")
        self.app = app
        self.test_app = test_app

    async def create(
        self, user_id: str = "user", *, headers: Mapping[str, str] | None = None, **brief: Any
    ) -> Any:
        """Create a request."""
        return await self.post(
            REQUESTS, json={"user_id": user_id, **PLAIN, **brief}, headers=headers
        )

    async def act(
        self,
        request_id: object,
        action: str,
        *,
        headers: Mapping[str, str] | None = None,
        **body: Any,
    ) -> Any:
        """Run an action on a request, such as `act(id, "cancel")`."""
        return await self.post(
            f"{REQUESTS}/{request_id}/{action}", json=body or None, headers=headers
        )

    async def look(self, request_id: object) -> dict[str, Any]:
        """Return the request as a caller sees it."""
        answer = await self.get(f"{REQUESTS}/{request_id}")
        assert answer.status_code == httpx.codes.OK, answer.text
        return answer.json()

    async def with_samples(self, user_id: str = "user", **brief: Any) -> dict[str, Any]:
        """Create a request and deliver its samples."""
        created = await self.create(user_id, **brief)
        assert created.status_code == httpx.codes.ACCEPTED, created.text
        await self.test_app.deliver(await self.test_app.next_job())
        return await self.look(created.json()["id"])

    async def completed(self, user_id: str = "user", **brief: Any) -> dict[str, Any]:
        """Create a request and complete it."""
        shown = await self.with_samples(user_id, **brief)
        chosen = await self.act(
            shown["id"], "select-sample", selected_sample_id=shown["samples"][0]["asset_id"]
        )
        assert chosen.status_code == httpx.codes.ACCEPTED, chosen.text
        await self.test_app.deliver(await self.test_app.next_job())
        return await self.look(shown["id"])

    async def report(
        self, kind: str, job: GenerationRequest, *, token: str | None = None, **said: Any
    ) -> httpx.Response:
        """Send a worker's report for a job."""
        assert job.job_id is not None
        given = self.test_app.service.secrets.token(job.job_id) if token is None else token
        body = {"generation_request_id": str(job.id), "job_id": str(job.job_id), **said}
        return await self.post(
            f"{CALLBACKS}/{kind}", json=body, headers={"Authorization": f"Bearer {given}"}
        )

    async def report_result(self, job: GenerationRequest) -> httpx.Response:
        """Send a valid result for a job."""
        if job.stage is Stage.SAMPLES:
            return await self.report("sample-result", job, samples=four_samples(job))
        return await self.report("final-result", job, final_asset=a_final(job))


@dataclass(frozen=True)
class Footprint:
    """The number of stored rows, which a refused call must not change."""

    rows: Mapping[str, int] = field(default_factory=dict)
    credits: int = 0

    @classmethod
    async def of(cls, test_app: ServiceUnderTest) -> "Footprint":
        """Count the rows."""
        counts = [f"(SELECT count(*) FROM {table}) AS {table}" for table in _COUNTED]  # noqa: S608 - tables of ours
        row = await test_app.database.fetchrow(f"SELECT {', '.join(counts)}")
        total = await test_app.database.fetchval(
            "SELECT COALESCE(sum(balance), 0) FROM credit_accounts"
        )
        return cls(rows=dict(row or {}), credits=int(total))


def assert_problem(
    answer: httpx.Response, status: int, code: str, *, pointer: str | None = None
) -> dict[str, Any]:
    """Check that a response is exactly this problem, with a next step, and without internal details
    or the prompt.
    """
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    document: dict[str, Any] = answer.json()
    assert set(document) - {"errors"} == _FIELDS
    assert document["code"] == code, answer.text
    assert document["type"] == f"/problems/{code}"
    assert document["status"] == status
    assert document["instance"] == answer.request.url.path
    assert document["request_id"] == answer.headers["x-request-id"]
    assert document["title"]
    assert _WAY_ON.search(document["detail"]), document["detail"]
    assert "otter" not in answer.text
    assert _TECHNICAL.search(answer.text) is None, answer.text
    if code == "invalid_request":
        assert document["errors"]
    for fault in document.get("errors", ()):
        assert set(fault) == {"pointer", "code", "message"}
        assert fault["pointer"] == "" or fault["pointer"].startswith("/")
        assert re.fullmatch(r"[a-z0-9_]+", fault["code"])
        assert re.fullmatch(r"[A-Z].*[.…]", fault["message"], re.DOTALL), fault["message"]
    if pointer is not None:
        assert pointer in {fault["pointer"] for fault in document["errors"]}, answer.text
    return document
