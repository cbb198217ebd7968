"""Prompt moderation before anything is charged; prompts are never logged."""

from collections.abc import Callable
from datetime import datetime, timedelta

import structlog

from creativeflow.services.aigeneration.domain import errors
from creativeflow.services.aigeneration.domain.moderation import (
    ALLOWED,
    ModerationOutcome,
    ModerationResult,
    WhenAway,
)
from creativeflow.services.aigeneration.domain.request import Brief
from creativeflow.services.aigeneration.ports import PromptCheck, PromptCheckUnavailableError
from creativeflow.services.aigeneration.storage.account_flags import CONTENT_ABUSE, AccountFlags
from creativeflow.services.aigeneration.storage.prompt_rejections import PromptRejections

log = structlog.get_logger(__name__)

ABUSE_WINDOW = timedelta(days=1)


class PromptModeration:
    """Checks prompts, records rejections, and flags accounts with repeated severe ones."""

    def __init__(
        self,
        check: PromptCheck,
        rejections: PromptRejections,
        flags: AccountFlags,
        *,
        now: Callable[[], datetime],
        when_away: WhenAway,
        abuse_after: int,
    ) -> None:
        self._check = check
        self._rejections = rejections
        self._flags = flags
        self._now = now
        self._when_away = when_away
        self._abuse_after = abuse_after

    async def check(self, user_id: str, brief: Brief) -> ModerationResult:
        """Check a prompt; the result says whether it needs a review first.

        Raises:
            PromptRejectedError: it was rejected; nothing was charged.
            SafetyUnavailableError: it cannot be checked now.
        """
        texts = [text for text in (brief["input_prompt"], brief.get("style_guidance")) if text]
        try:
            result = await self._check.check(texts, brief.get("locale"))
        except PromptCheckUnavailableError as error:
            return self._away(error)
        if result.outcome is ModerationOutcome.REJECT:
            await self._rejected(user_id, result)
            raise errors.PromptRejectedError
        return result

    async def check_change(self, user_id: str, brief: Brief) -> None:
        """Check a changed prompt of a request in progress, which cannot wait for a review.

        Raises:
            PromptRejectedError, SafetyUnavailableError: as in `check`.
            PromptReviewRequiredError: it would need a review.
        """
        if (await self.check(user_id, brief)).outcome is ModerationOutcome.REVIEW:
            raise errors.PromptReviewRequiredError

    def _away(self, error: PromptCheckUnavailableError) -> ModerationResult:
        log.error("prompt_check_unavailable", reason=str(error), instead=self._when_away)
        match self._when_away:
            case WhenAway.ALLOW:
                return ALLOWED
            case WhenAway.REVIEW:
                return ModerationResult(outcome=ModerationOutcome.REVIEW, category="unchecked")
            case WhenAway.REFUSE:
                raise errors.SafetyUnavailableError(retry_after_seconds=5) from error

    async def _rejected(self, user_id: str, result: ModerationResult) -> None:
        now, category = self._now(), result.category or "unknown"
        log.info("prompt_rejected", category=category, severe=result.severe)
        severe = await self._rejections.record(
            user_id, category, severe=result.severe, now=now, since=now - ABUSE_WINDOW
        )
        if result.severe and severe >= self._abuse_after:
            await self._flags.raise_(user_id, CONTENT_ABUSE, now)
