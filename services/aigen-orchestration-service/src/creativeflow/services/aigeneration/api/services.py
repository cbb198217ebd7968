"""The services that endpoints use, as one typed object on the application."""

from __future__ import annotations

from collections.abc import AsyncIterable, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from uuid import UUID

if TYPE_CHECKING:
    from fastapi import FastAPI, Request, Response

    from creativeflow.services.aigeneration.api.auth import Authenticator
    from creativeflow.services.aigeneration.api.live_updates import UpdateBroadcaster
    from creativeflow.services.aigeneration.api.rate_limit import RateLimiter
    from creativeflow.services.aigeneration.application.accounts import AccountService
    from creativeflow.services.aigeneration.application.generations import GenerationService
    from creativeflow.services.aigeneration.application.reconciliation import Reconciliation
    from creativeflow.services.aigeneration.application.webhook_endpoints import (
        WebhookEndpointService,
    )
    from creativeflow.services.aigeneration.application.worker_reports import WorkerReports
    from creativeflow.services.aigeneration.domain.errors import AigenError
    from creativeflow.services.aigeneration.domain.model_routing import Routing
    from creativeflow.services.aigeneration.domain.policy import Policy
    from creativeflow.services.aigeneration.domain.request import Asset
    from creativeflow.services.aigeneration.kit.translations import Translations
    from creativeflow.services.aigeneration.ports import Entitlements
    from creativeflow.services.aigeneration.settings import Settings
    from creativeflow.services.aigeneration.storage.account_flags import AccountFlags
    from creativeflow.services.aigeneration.storage.accounting import Accounting
    from creativeflow.services.aigeneration.storage.invariants import Invariants
    from creativeflow.services.aigeneration.storage.outbox import Outbox
    from creativeflow.services.aigeneration.storage.queries import Queries
    from creativeflow.services.aigeneration.storage.statistics import Statistics


class EntitlementCache(Protocol):
    """Entitlements of users, cached for a short time."""

    async def __call__(self, user_id: str) -> Entitlements:
        """Return the entitlements of the user.

        Raises:
            CreditsUnknownError: the credit service does not respond, and nothing recent is cached.
        """

    def forget(self, user_id: str) -> None:
        """Discard the cached entitlements of this user."""


class AssetFiles(Protocol):
    """The pictures stored by this service."""

    def path(self, name: str) -> Path | None:
        """Return the file of an asset; None if it does not exist."""

    def name_of(self, asset_id: str) -> str | None:
        """Return the file name of an asset; None if it does not exist."""


class BrokerQueues(Protocol):
    """The queue depths of the broker."""

    async def queue_depth(self, queue: str) -> tuple[int, int] | None:
        """Return the number of messages and consumers of a queue; None if unknown."""


class SilentWorkers(Protocol):
    """Detects lanes with stalled workers."""

    async def look(self) -> Any:
        """Return the stalled lanes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """The services of the endpoints of one process; built by `app.py` from the container."""

    settings: Settings
    policy: Policy
    now: Callable[[], datetime]
    new_id: Callable[[], UUID]
    authenticator: Authenticator
    rate_limiter: RateLimiter
    generations: GenerationService
    worker_reports: WorkerReports
    accounts: AccountService
    webhook_endpoints: WebhookEndpointService
    reconciliation: Reconciliation
    entitlements: EntitlementCache
    routing: Callable[[], Routing]
    updates: UpdateBroadcaster
    queries: Queries
    invariants: Invariants
    outbox: Outbox
    statistics: Statistics
    accounting: Accounting
    account_flags: AccountFlags
    watchdog: SilentWorkers
    broker: BrokerQueues | None
    broker_queues: Sequence[str]
    assets: AssetFiles
    save_upload: Callable[[UUID, AsyncIterable[bytes]], Awaitable[Asset]]
    save_reference: Callable[[str, AsyncIterable[bytes]], Awaitable[Asset]]
    checks: Callable[[], Awaitable[Mapping[str, Mapping[str, Any]]]]
    refresh_gauges: Callable[[], Awaitable[None]]


def services_of(request: Request) -> Services:
    """Return the services of the application that handles this request."""
    found: Services = request.app.state.services
    return found


def provide_services(app: FastAPI, services: Services) -> None:
    """Store the services on an application."""
    app.state.services = services


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorPresentation:
    """How errors are presented, also before the services exist; `page` returns None for API
    calls.
    """

    translations: Translations
    page: Callable[[Request, AigenError], Response | None]


def error_presentation_of(request: Request) -> ErrorPresentation:
    """Return the error presentation of the application that handles this request."""
    found: ErrorPresentation = request.app.state.error_presentation
    return found
