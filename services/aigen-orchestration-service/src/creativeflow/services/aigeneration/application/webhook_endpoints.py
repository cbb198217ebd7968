"""Webhook targets as their callers see them: registered, steered, tried out, and what became of every event."""

import base64
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import orjson

from creativeflow.services.aigeneration.domain import errors
from creativeflow.services.aigeneration.domain.outbound_urls import UnfitAddressError
from creativeflow.services.aigeneration.domain.request import iso
from creativeflow.services.aigeneration.domain.webhooks import TEST_EVENT, DisabledReason, TargetState
from creativeflow.services.aigeneration.storage.webhook_deliveries import DeliveryStore
from creativeflow.services.aigeneration.storage.webhook_endpoints import AddressTaken, Target, TargetStore, TooMany

PAGE_MAX = 1000
_KEY_BYTES = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Ownership:
    """Whose targets a call is about: `sees_all` is an operator, who sees everybody's and registers their own."""

    name: str
    sees_all: bool

    @property
    def owner(self) -> str | None:
        """The owner that others' targets are hidden from; None: all are seen."""
        return None if self.sees_all else self.name


class Targets:
    """What callers do with their targets. `check` says whether a URL may be called, now."""

    def __init__(
        self,
        targets: TargetStore,
        deliveries: DeliveryStore,
        check: Callable[[str], Awaitable[None]],
        *,
        now: Callable[[], datetime],
        new_id: Callable[[], UUID],
        most: int,
        on_change: Callable[[], None],
    ) -> None:
        self._targets = targets
        self._deliveries = deliveries
        self._check = check
        self._now = now
        self._new_id = new_id
        self._most = most
        self._on_change = on_change

    async def register(self, who: Ownership, url: str, secret: str | None, description: str | None) -> Target:
        """A new target, enabled.

        Raises:
            InvalidRequestError: the URL is not one that is called.
            WebhookTargetExistsError, TooManyWebhookTargetsError.
        """
        try:
            await self._check(url)
        except UnfitAddressError as error:
            raise errors.InvalidRequestError.at("/url", error.code, str(error)) from None
        now = self._now()
        target = Target(
            id=self._new_id(), owner=who.name, url=url, description=description, state=TargetState.ENABLED,
            disabled_reason=None, failing_since=None, created_at=now, updated_at=now,
            secret=secret or new_secret(), previous_secrets=(),
        )  # fmt: skip
        match await self._targets.create(target, most=self._most):
            case AddressTaken(known):
                raise errors.WebhookTargetExistsError(target_id=str(known))
            case TooMany():
                raise errors.TooManyWebhookTargetsError(limit=self._most)
        self._on_change()
        return target

    async def page(self, who: Ownership) -> list[Target]:
        """The targets that the caller sees."""
        return await self._targets.page(who.owner, PAGE_MAX)

    async def one(self, who: Ownership, target_id: UUID) -> Target:
        """One target.

        Raises:
            NotFoundError: unknown, or somebody else's.
        """
        return _there(await self._targets.find(target_id, who.owner))

    async def delete(self, who: Ownership, target_id: UUID) -> None:
        """Forget a target and what is owed to it."""
        await self.one(who, target_id)
        await self._targets.delete(target_id)

    async def enable(self, who: Ownership, target_id: UUID) -> Target:
        """Send to it again; on an enabled target nothing happens, but that failures of before are forgotten."""
        await self.one(who, target_id)
        enabled = _there(await self._targets.enable(target_id, self._now()))
        self._on_change()
        return enabled

    async def disable(self, who: Ownership, target_id: UUID) -> Target:
        """Send nothing to it any more."""
        await self.one(who, target_id)
        await self._targets.disable(target_id, DisabledReason.CALLER, self._now())
        return await self.one(who, target_id)

    async def rotate(self, who: Ownership, target_id: UUID, secret: str | None) -> Target:
        """Sign with another secret; the one of before signs beside it for a day."""
        await self.one(who, target_id)
        return _there(await self._targets.rotate(target_id, secret or new_secret(), self._now()))

    async def test(self, who: Ownership, target_id: UUID) -> UUID:
        """Send it an event that says nothing; the event's id."""
        await self._enabled(who, target_id)
        now, event_id = self._now(), self._new_id()
        told = {"type": TEST_EVENT, "timestamp": iso(now), "data": {"target_id": str(target_id)}}
        await self._deliveries.announce(
            target_id, event_id, event_type=TEST_EVENT, body=orjson.dumps(told).decode(), now=now
        )
        self._on_change()
        return event_id

    async def deliveries(
        self, who: Ownership, target_id: UUID, *, state: str | None, most: int
    ) -> list[dict[str, Any]]:
        """The log, the newest first."""
        await self.one(who, target_id)
        return await self._deliveries.page(target_id, state=state, most=most)

    async def redeliver(self, who: Ownership, target_id: UUID, event_id: UUID) -> None:
        """Send an event again, with the same id and body.

        Raises:
            NotFoundError: it is not in the log. WebhookTargetDisabledError.
        """
        await self._enabled(who, target_id)
        if not await self._deliveries.redeliver(target_id, event_id, by=who.name, now=self._now()):
            raise errors.NotFoundError
        self._on_change()

    async def _enabled(self, who: Ownership, target_id: UUID) -> None:
        if (await self.one(who, target_id)).state is not TargetState.ENABLED:
            raise errors.WebhookTargetDisabledError


def new_secret() -> str:
    """A secret as the Standard Webhooks specification wants it."""
    return "whsec_" + base64.b64encode(secrets.token_bytes(_KEY_BYTES)).decode()


def _there(target: Target | None) -> Target:
    if target is None:
        raise errors.NotFoundError
    return target
