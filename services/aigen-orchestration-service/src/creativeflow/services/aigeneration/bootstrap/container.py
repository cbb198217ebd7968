"""Build the object graph of one process from its settings."""

import asyncio
import time
from collections.abc import AsyncIterable, Awaitable, Callable, Mapping
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import structlog

from creativeflow.services.aigeneration.adapters.asset_files import AssetStore
from creativeflow.services.aigeneration.adapters.credits.cached import CachedEntitlements
from creativeflow.services.aigeneration.adapters.credits.local import LocalCredits
from creativeflow.services.aigeneration.adapters.engine.local import LocalEngine
from creativeflow.services.aigeneration.adapters.engine.rabbitmq import RabbitMQEngine
from creativeflow.services.aigeneration.adapters.http.key_set import KeySet
from creativeflow.services.aigeneration.adapters.http.safe_client import SafeHttp
from creativeflow.services.aigeneration.adapters.images.inspection import PictureDecoder
from creativeflow.services.aigeneration.adapters.images.result_check import ResultCheck
from creativeflow.services.aigeneration.adapters.model_routing_file import RoutingSource
from creativeflow.services.aigeneration.adapters.notifications.rabbitmq import EventPublisher
from creativeflow.services.aigeneration.adapters.rabbitmq.broker import Broker
from creativeflow.services.aigeneration.adapters.upload_quotas import job_uploader, user_uploader
from creativeflow.services.aigeneration.api.auth import Authenticator
from creativeflow.services.aigeneration.api.live_updates import UpdateBroadcaster
from creativeflow.services.aigeneration.application import metrics
from creativeflow.services.aigeneration.application.accounts import AccountService
from creativeflow.services.aigeneration.application.generations import GenerationService
from creativeflow.services.aigeneration.application.jobs import JobService
from creativeflow.services.aigeneration.application.moderation import PromptModeration
from creativeflow.services.aigeneration.application.quotes import Quotes
from creativeflow.services.aigeneration.application.reconciliation import Reconciliation
from creativeflow.services.aigeneration.application.transitions import TransitionRunner
from creativeflow.services.aigeneration.application.webhook_endpoints import WebhookEndpointService
from creativeflow.services.aigeneration.application.worker_reports import (
    MODELS,
    ReportKind,
    WorkerReports,
)
from creativeflow.services.aigeneration.bootstrap.adapters import (
    asset_directory,
    build_credits,
    build_http_client,
    build_notifier,
    build_prompt_check,
    load_callback_secrets,
)
from creativeflow.services.aigeneration.bootstrap.health import Health
from creativeflow.services.aigeneration.bootstrap.periodic import build_periodic_tasks
from creativeflow.services.aigeneration.bootstrap.rabbitmq import (
    build_broker,
    build_notify_broker,
    build_results_broker,
    job_queues,
    topology,
)
from creativeflow.services.aigeneration.domain.lifecycle import IN_FLIGHT, State
from creativeflow.services.aigeneration.domain.request import Asset
from creativeflow.services.aigeneration.domain.transitions import StateChange, Topic
from creativeflow.services.aigeneration.kit.supervision import TaskStatus
from creativeflow.services.aigeneration.ports import (
    Credits,
    Engine,
    Notifier,
    PromptCheck,
    Reservation,
)
from creativeflow.services.aigeneration.settings import Settings, scheme
from creativeflow.services.aigeneration.storage.account_flags import AccountFlags
from creativeflow.services.aigeneration.storage.accounting import Accounting
from creativeflow.services.aigeneration.storage.batch_writer import BatchWriter
from creativeflow.services.aigeneration.storage.database import Database
from creativeflow.services.aigeneration.storage.database_clock import SYNC_SECONDS, DatabaseClock
from creativeflow.services.aigeneration.storage.invariants import Invariants
from creativeflow.services.aigeneration.storage.ledger import Ledger
from creativeflow.services.aigeneration.storage.outbox import DEAD_LETTER, Outbox
from creativeflow.services.aigeneration.storage.prompt_rejections import PromptRejections
from creativeflow.services.aigeneration.storage.queries import Queries
from creativeflow.services.aigeneration.storage.reconciliation import ReconciliationStore
from creativeflow.services.aigeneration.storage.requests import RequestStore
from creativeflow.services.aigeneration.storage.revoked_sessions import RevokedSessions
from creativeflow.services.aigeneration.storage.statistics import Statistics
from creativeflow.services.aigeneration.storage.webhook_deliveries import DeliveryStore
from creativeflow.services.aigeneration.storage.webhook_endpoints import WebhookEndpointStore
from creativeflow.services.aigeneration.workers.dispatcher import Dispatcher
from creativeflow.services.aigeneration.workers.outbox_relay import Handler, build_relays
from creativeflow.services.aigeneration.workers.results_consumer import (
    DeadLetterConsumer,
    ResultsConsumer,
    replay_dead_letter,
)
from creativeflow.services.aigeneration.workers.runner import Poller
from creativeflow.services.aigeneration.workers.sweeper import Sweeper
from creativeflow.services.aigeneration.workers.watchdog import Watchdog
from creativeflow.services.aigeneration.workers.webhook_sender import WebhookSender

log = structlog.get_logger(__name__)

PERIODIC_TASKS_SECONDS = 60.0
"""Interval at which the role `sweeper` looks for periodic tasks that are due."""
WATCHDOG_SECONDS = 10.0
"""Interval at which the role `dispatcher` checks for stalled workers."""
ROUTING_SECONDS = 2.0
"""Interval at which each process checks the routing file for changes."""
EVERYWHERE = {"routing", "clock"}
"""Pollers that every process runs."""
_ROLES = {"webhooks": "relay", "watchdog": "dispatcher", "periodic_tasks": "sweeper"}
"""The role of each poller that is not named after its role."""


def role_of(poller: str) -> str:
    """Return the role that runs a poller."""
    return "relay" if poller.startswith("relay_") else _ROLES.get(poller, poller)


class Container:
    """All parts of one process; `start` runs its roles, `stop` ends them cleanly.

    Adapters that are passed replace those of the settings.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        database_url: str,
        now: Callable[[], datetime] | None = None,
        new_id: Callable[[], UUID] | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        credits_: Credits | None = None,
        engine: Engine | None = None,
        notifier: Notifier | None = None,
        prompt_check: PromptCheck | None = None,
    ) -> None:
        self.settings = settings
        self.database = Database(database_url, pool_size=max(1, settings.database_pool_size - 1))
        self.write_connection = self.database.sibling(pool_size=1)
        self.clock = DatabaseClock(self.database)
        self.now, self.new_id = now or self.clock, new_id or self.clock.new_id
        self.policy = settings.policy()
        self.public_url = settings.public_url or f"http://{settings.host}:{settings.port}"
        self.http = build_http_client()
        self.broker = build_broker(settings, settings.engine_url, topology(settings))
        self.results_broker = build_results_broker(settings)
        self.notify_broker = build_notify_broker(settings, self.broker)
        self._build_storage()
        self._build_credits(credits_, monotonic)
        self._build_moderation(prompt_check)
        self._build_generations()
        self._build_worker_reports()
        self._build_webhooks()
        self._build_workers(
            engine or self._engine(),
            notifier or build_notifier(settings, self.http, self.notify_broker),
        )
        self.pollers = self._build_pollers()
        self.authenticator = self._build_authenticator()
        self.health = self._build_health()

    def _build_storage(self) -> None:
        """Build the stores of the database and of files."""
        settings = self.settings
        self.queries = Queries(self.database)
        self.invariants = Invariants(self.database)
        self.statistics = Statistics(self.database)
        self.outbox = Outbox(self.database)
        self.accounting = Accounting(self.database)
        self.account_flags = AccountFlags(self.database)
        self.rejections = PromptRejections(self.database)
        self.revoked_sessions = RevokedSessions(self.database)
        self.updates = UpdateBroadcaster(self.queries)
        self.decoder = PictureDecoder()
        self.assets = AssetStore(
            asset_directory(settings), public_url=self.public_url, decoder=self.decoder
        )
        self.secrets = load_callback_secrets(settings)
        self.routing = RoutingSource(settings.routing_file)

    def _build_credits(self, credits_: Credits | None, monotonic: Callable[[], float]) -> None:
        """Build the credit adapter, and the request store, which settles local credits itself."""
        settings = self.settings
        local = scheme(settings.credits_url) == "local"
        self.ledger = Ledger(self.database) if local else None
        self.credits = credits_ or build_credits(
            settings, self.http, self.database, now=self.now, ledger=self.ledger
        )
        self._ledger_here = isinstance(self.credits, LocalCredits)
        self.writer = BatchWriter(
            self.database,
            self.write_connection,
            free_generations=settings.free_generations,
            ledger_here=self._ledger_here,
            new_id=self.new_id,
        )
        self.store = RequestStore(self.database, self.writer)
        self.entitlements = CachedEntitlements(
            self.credits, flagged=self.account_flags.flagged, monotonic=monotonic
        )
        self._reconciliation_store = ReconciliationStore(self.database)
        self.reconciliation = Reconciliation(self._reconciliation_store, self.credits, now=self.now)

    def _build_moderation(self, prompt_check: PromptCheck | None) -> None:
        settings = self.settings
        self.prompts = PromptModeration(
            prompt_check or build_prompt_check(settings, self.http),
            self.rejections,
            self.account_flags,
            now=self.now,
            when_away=settings.safety_when_away,
            abuse_after=settings.safety_abuse_after,
        )

    def _build_generations(self) -> None:
        """Build the use cases of requests, jobs and accounts."""
        self.runner = TransitionRunner(
            self.store,
            policy=self.policy,
            now=self.now,
            new_id=self.new_id,
            on_committed=self._on_committed,
        )
        self.jobs = JobService(self.runner, routing=self.routing)
        self.generations = GenerationService(
            self.runner,
            self.credits,
            entitlements=self.entitlements,
            quotes=Quotes(self.secrets.keys),
            routing=self.routing,
            prompts=self.prompts,
            hold_seconds=self.settings.hold_timeout,
            ledger_here=self._ledger_here,
        )
        self.accounts = AccountService(
            self.accounting,
            self.account_flags,
            self.ledger,
            self.outbox,
            self.generations,
            entitlements=self.entitlements,
            now=self.now,
            new_id=self.new_id,
        )

    def _build_worker_reports(self) -> None:
        """Build the reception of worker reports, and the check of their pictures."""
        settings = self.settings
        self.result_http = SafeHttp(
            settings.result_rules(), timeout_seconds=settings.result_timeout
        )
        self.result_check = ResultCheck(
            self.assets,
            self.decoder,
            self.result_http,
            fetches=settings.result_check == "fetch",
            bytes_max=settings.asset_limit_bytes,
            timeout_seconds=settings.result_timeout,
        )
        self.worker_reports = WorkerReports(
            self.jobs,
            self.secrets,
            now=self.now,
            allow_missing_job_id=settings.allow_missing_job_id,
            older_names=settings.field_names == "older",
            check=None if settings.result_check == "off" else self.result_check,
            uploads_for=self.policy.job_lifetime,
        )

    def _build_webhooks(self) -> None:
        """Build the webhook endpoints and the sender of their deliveries."""
        settings = self.settings
        self.webhook_http = SafeHttp(
            settings.webhook_rules(), timeout_seconds=settings.webhook_timeout
        )
        self._deliveries = DeliveryStore(self.database)
        endpoints = WebhookEndpointStore(self.database)
        self.webhook_sender = WebhookSender(
            self._deliveries,
            endpoints,
            self.webhook_http.post,
            now=self.now,
            new_id=self.new_id,
            timeout_seconds=settings.webhook_timeout,
            on_room=self._wake_webhooks,
        )
        self.webhook_endpoints = WebhookEndpointService(
            endpoints,
            self._deliveries,
            self.webhook_http.check,
            now=self.now,
            new_id=self.new_id,
            most=settings.webhook_endpoints_max,
            on_change=self._wake_webhooks,
        )

    def _build_workers(self, engine: Engine, notifier: Notifier) -> None:
        """Build the background workers."""
        settings = self.settings
        self.engine = engine
        self.relays = build_relays(
            self.outbox, self.writer, self._handlers(notifier), now=self.now, new_id=self.new_id
        )
        self.dispatcher = Dispatcher(self.jobs, self.engine, window=settings.lane_window)
        self.sweeper = Sweeper(
            self.store,
            self.jobs,
            now=self.now,
            settle_hold=self.generations.settle_hold,
            hold_grace=timedelta(seconds=2 * settings.hold_timeout),
        )
        self.periodic_tasks = build_periodic_tasks(
            settings,
            store=self.store,
            invariants=self.invariants,
            accounting=self.accounting,
            rejections=self.rejections,
            revoked_sessions=self.revoked_sessions,
            deliveries=self._deliveries,
            assets=self.assets,
            reconciliation=self.reconciliation,
            take_turn=self._reconciliation_store.take_turn,
            now=self.now,
        )
        self.watchdog = Watchdog(
            self.queries.lane_work,
            self._depth,
            job_queues(settings),
            now=self.now,
            quiet_for=timedelta(seconds=settings.worker_quiet),
        )

    def _build_pollers(self) -> dict[str, Poller]:
        """Return the pollers by name, in the order in which they start."""
        settings = self.settings
        steps: dict[str, tuple[Callable[[], Awaitable[int]], float]] = {
            "periodic_tasks": (self.periodic_tasks.step, PERIODIC_TASKS_SECONDS),
            "watchdog": (self.watchdog.step, WATCHDOG_SECONDS),
            "routing": (self._reload_routing, ROUTING_SECONDS),
            "clock": (self.clock.sync, SYNC_SECONDS),
            "dispatcher": (self.dispatcher.step, settings.poll_interval),
            **{
                f"relay_{name}": (relay.step, settings.poll_interval)
                for name, relay in self.relays.by_destination.items()
            },
            "webhooks": (self.webhook_sender.step, settings.poll_interval),
            "sweeper": (self.sweeper.step, settings.sweep_interval),
        }
        pollers = {
            name: Poller(name, step, interval_seconds=seconds)
            for name, (step, seconds) in steps.items()
        }
        for name, relay in self.relays.by_destination.items():
            relay.on_room = pollers[f"relay_{name}"].wake
        return pollers

    def _build_authenticator(self) -> Authenticator:
        settings = self.settings
        return Authenticator(
            keys=settings.keys(),
            jwt_secrets=settings.jwt_secrets(),
            jwks=KeySet(self.http, settings.jwks_url).key if settings.jwks_url else None,
            host=settings.host,
            audience=settings.jwt_audience,
            issuer=settings.jwt_issuer,
            public_url=settings.public_url,
            failures_per_minute=settings.authentication_failures_per_minute,
        )

    def _build_health(self) -> Health:
        brokers = {
            "broker": self.broker,
            "results_broker": self.results_broker,
            "notification_broker": self.notify_broker,
        }
        return Health(
            self.database,
            self.queries,
            self.invariants,
            self.watchdog if self.broker is not None else None,
            brokers={name: broker for name, broker in brokers.items() if broker is not None},
            background_tasks=self.background_tasks,
            open_streams=lambda: self.updates.count,
        )

    async def start(self) -> None:
        """Open the database and start the roles; an unavailable broker is connected in the
        background.
        """
        await self.database.open()
        await self.clock.sync()
        await self.store.prepare_months(self.now())
        roles = self.settings.roles
        for broker in self._brokers():
            if broker is self.broker:
                broker.when_connected(self.pollers["dispatcher"].wake)
            if broker is self.results_broker:
                self._consume(broker)
            await broker.start()
        if isinstance(self.engine, LocalEngine):
            await self.engine.start()
        if "dispatcher" in roles:
            self.dispatcher.start_own(self.runner)
        if "relay" in roles:
            self.relays.start_own()
        for name, poller in self.pollers.items():
            if name in EVERYWHERE or role_of(name) in roles:
                poller.start()
        if self.authenticator.open and "api" in roles:
            log.warning(
                "open_to_all",
                hint="no API keys and no JWT settings: every caller is operator and any user",
            )

    async def stop(self) -> None:
        """Stop the roles between two steps, wait for confirms, close connections."""
        for poller in self.pollers.values():
            await poller.stop()
        await self.dispatcher.stop_own(self.runner)
        await self.relays.stop()
        await self.periodic_tasks.stop()
        await self.webhook_sender.finish(10)
        if isinstance(self.engine, LocalEngine):
            await self.engine.close()
        for broker in self._brokers():
            await broker.close()
        await self.updates.close()
        await self.http.aclose()
        await self.webhook_http.close()
        await self.result_check.close()
        await self.result_http.close()
        await self.decoder.close()
        await self.write_connection.close()
        await self.database.close()

    def background_tasks(self) -> list[TaskStatus]:
        """Return the status of every background task that this process should run."""
        found = [
            status for poller in self.pollers.values() if (status := poller.status) is not None
        ]
        found += [broker.task for broker in self._brokers()]
        if isinstance(self.engine, LocalEngine):
            found += self.engine.tasks
        return found

    async def save_upload(self, job_id: UUID, data: AsyncIterable[bytes]) -> Asset:
        """Store a picture of a worker within the quota of its job."""
        settings = self.settings
        worker = job_uploader(
            str(job_id), pictures_max=settings.job_uploads_max, bytes_max=settings.job_uploads_bytes
        )
        return await self.assets.save(data, worker)

    async def save_reference(self, user_id: str, data: AsyncIterable[bytes]) -> Asset:
        """Store a reference picture within the quota of its user."""
        settings = self.settings
        user = user_uploader(
            user_id,
            pictures_max=settings.web_uploads_max,
            bytes_max=settings.web_uploads_bytes,
            days=settings.web_uploads_days,
        )
        return await self.assets.save_reference(data, user)

    def _on_committed(self, change: StateChange) -> None:
        """Signal a committed change to everything in this process that waits for it."""
        metrics.count(change)
        self.updates.publish(change)
        before, after = change.before, change.after
        done = before is not None and before.state in IN_FLIGHT and after.state not in IN_FLIGHT
        queued = after.state is State.PENDING and change.lease is None
        if queued or (done and self.dispatcher.window_full):
            self.pollers["dispatcher"].wake()
        if change.messages:
            for destination in self.relays.wanted_for(change):
                self.pollers[f"relay_{destination}"].wake()
            if after.created_by in self.webhook_sender.owners:
                self._wake_webhooks()

    def _wake_webhooks(self) -> None:
        self.pollers["webhooks"].wake()

    async def _depth(self, queue: str) -> tuple[int, int] | None:
        return await self.broker.queue_depth(queue) if self.broker is not None else None

    async def _reload_routing(self) -> int:
        await asyncio.to_thread(self.routing.reload)
        return 0

    def _engine(self) -> Engine:
        settings = self.settings
        if scheme(settings.engine_url) == "local":
            return LocalEngine(
                self.assets,
                self._report_locally,
                workers=settings.local_workers,
                fault=settings.local_fault,
                samples=self.policy.sample_count,
            )
        if self.broker is not None:
            return RabbitMQEngine(
                self.broker,
                exchange=settings.rabbitmq_job_exchange,
                routing_keys=settings.routing_keys(),
                secrets=self.secrets,
                public_url=self.public_url,
                policy=self.policy,
                now=self.now,
                older_names=settings.field_names == "older",
            )
        raise AssertionError("settings let only known schemes pass")

    async def _report_locally(self, kind: str, body: dict[str, Any], job_id: UUID) -> None:
        await self.worker_reports.apply(MODELS[ReportKind(kind)].model_validate(body), job_id)

    def _brokers(self) -> list[Broker]:
        brokers = (self.broker, self.results_broker, self.notify_broker)
        return list({id(broker): broker for broker in brokers if broker}.values())

    def _handlers(self, notifier: Notifier) -> Mapping[str, Handler]:
        handlers: dict[str, Handler] = {
            Topic.NOTIFY: notifier.send,
            Topic.CAPTURE: lambda body: self.credits.capture(Reservation(**body)),
            Topic.RELEASE: lambda body: self.credits.release(Reservation(**body)),
            DEAD_LETTER: replay_dead_letter(self.worker_reports),
        }
        if self.broker is not None:
            handlers[Topic.EVENT] = EventPublisher(
                self.broker, exchange=self.settings.rabbitmq_topic_exchange
            ).publish
        return handlers

    def _consume(self, broker: Broker) -> None:
        settings = self.settings
        assert self.broker is not None  # noqa: S101 - both are of the same URL
        results = ResultsConsumer(
            self.worker_reports,
            self.broker,
            dead_letter_exchange=settings.rabbitmq_dead_letter_exchange,
        )
        dead = DeadLetterConsumer(
            self.jobs,
            self.outbox,
            now=self.now,
            proves=self.secrets.opens,
            job_queues=set(job_queues(settings).values()),
        )
        broker.consume(
            settings.rabbitmq_results_queue, results.handle, prefetch=settings.rabbitmq_prefetch
        )
        broker.consume(settings.rabbitmq_dead_queue, dead.handle, prefetch=10)
