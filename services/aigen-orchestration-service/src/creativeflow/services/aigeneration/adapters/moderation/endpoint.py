"""Prompt check by a moderation endpoint with the API of OpenAI, after the word lists."""

from collections.abc import Mapping, Sequence
from typing import Any

import httpx
from pydantic import BaseModel, ValidationError

from creativeflow.services.aigeneration.adapters.http.retries import (
    CircuitBreaker,
    CircuitOpenError,
    call_with_retry,
)
from creativeflow.services.aigeneration.domain.moderation import ModerationOutcome, ModerationResult
from creativeflow.services.aigeneration.ports import PromptCheck, PromptCheckUnavailableError

SEVERE = {"sexual/minors", "hate/threatening", "harassment/threatening", "violence/graphic"}


class _Result(BaseModel):
    flagged: bool
    categories: dict[str, bool | None] = {}
    category_scores: dict[str, float] = {}


class _ModerationResponse(BaseModel):
    results: list[_Result]


class _NoResponseError(Exception):
    """No response, or an unreadable one."""


class ModerationCheck:
    """The PromptCheck port on `POST {url} {"input": [...]}`; prompts refused by the first check are
    not sent.
    """

    def __init__(
        self,
        http: httpx.AsyncClient,
        url: str,
        *,
        first: PromptCheck,
        api_key: str | None,
        model: str | None,
        review_above: float,
        timeout_seconds: float = 3.0,
        pause_seconds: float = 0.5,
        breaker: CircuitBreaker | None = None,
    ) -> None:
        self._http = http
        self._url = url
        self._first = first
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._more = {"model": model} if model else {}
        self._review_above = review_above
        self._timeout_seconds = timeout_seconds
        self._pause_seconds = pause_seconds
        self._breaker = breaker or CircuitBreaker()

    async def check(self, texts: Sequence[str], locale: str | None) -> ModerationResult:
        """Return the strictest result of both checks.

        Raises:
            PromptCheckUnavailableError: the endpoint does not respond.
        """
        first = await self._first.check(texts, locale)
        if first.outcome is ModerationOutcome.REJECT:
            return first
        try:
            answer = await call_with_retry(
                lambda: self._breaker.call(lambda: self._ask(texts), failure=_NoResponseError),
                again_after=_NoResponseError,
                first_pause_seconds=self._pause_seconds,
                longest_pause_seconds=1.0,
            )
        except (_NoResponseError, CircuitOpenError) as error:
            raise PromptCheckUnavailableError(str(error) or "left alone after failures") from error
        return ModerationResult.worst(
            [first, *(self._classify(result) for result in answer.results)]
        )

    async def _ask(self, texts: Sequence[str]) -> _ModerationResponse:
        body: Mapping[str, Any] = {"input": list(texts), **self._more}
        try:
            answer = await self._http.post(
                self._url,
                json=body,
                headers=self._headers,
                timeout=self._timeout_seconds,
                follow_redirects=False,
            )
            if not answer.is_success:
                raise _NoResponseError(f"status {answer.status_code}")
            return _ModerationResponse.model_validate_json(answer.content)
        except httpx.HTTPError as error:
            raise _NoResponseError(type(error).__name__) from error
        except ValidationError as error:
            raise _NoResponseError("an answer in other words") from error

    def _classify(self, result: _Result) -> ModerationResult:
        named = [category for category, there in result.categories.items() if there]
        if result.flagged:
            severe = SEVERE & set(named)
            category = min(severe) if severe else min(named, default="flagged")
            return ModerationResult(
                outcome=ModerationOutcome.REJECT, category=category, severe=bool(severe)
            )
        category, score = max(
            result.category_scores.items(), key=lambda each: each[1], default=("", 0.0)
        )
        outcome = (
            ModerationOutcome.REVIEW if score > self._review_above else ModerationOutcome.ALLOW
        )
        return ModerationResult(
            outcome=outcome, category=category if outcome is ModerationOutcome.REVIEW else None
        )
