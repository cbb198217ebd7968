"""Build the object graph of one process from its settings."""

import asyncio
import time
from collections.abc import AsyncIterable, Callable, Mapping
from contextlib import suppress
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
from creativeflow.services.aigeneration.bootstrap.rabbitmq import (
    build_broker,
    build_notify_broker,
    topology,
)
from creativeflow.services.aigeneration.domain.errors import ServiceUnavailableError
from creativeflow.services.aigeneration.domain.lifecycle import IN_FLIGHT, Stage, State
from creativeflow.services.aigeneration.domain.request import Asset
from creativeflow.services.aigeneration.domain.transitions import StateChange, Topic
from creativeflow.services.aigeneration.kit import clock
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
from creativeflow.services.aigeneration.storage.ledger import Ledger
from creativeflow.services.aigeneration.storage.migrations import head
from creativeflow.services.aigeneration.storage.outbox import DEAD_LETTER, Outbox
from creativeflow.services.aigeneration.storage.prompt_rejections import PromptRejections
from creativeflow.services.aigeneration.storage.queries import Queries
from creativeflow.services.aigeneration.storage.reconciliation import ReconciliationStore
from creativeflow.services.aigeneration.storage.requests import RequestStore
from creativeflow.services.aigeneration.storage.statistics import Statistics
from creativeflow.services.aigeneration.storage.webhook_deliveries import DeliveryStore
from creativeflow.services.aigeneration.storage.webhook_endpoints import WebhookEndpointStore
from creativeflow.services.aigeneration.workers.dispatcher import Dispatcher
from creativeflow.services.aigeneration.workers.outbox_relay import Handler, Relay
from creativeflow.services.aigeneration.workers.periodic import PeriodicTask, PeriodicTasks
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

OVERLAP = timedelta(minutes=10)
RECONCILED_MAX = 20_000
"""Maximum holds that the periodic reconciliation compares, so that a busy hour does not delay the
next.
"""
CHORES_SECONDS = 60.0
"""Interval at which the role `sweeper` looks for periodic tasks that are due."""
WATCH_SECONDS = 10.0
"""Interval at which the role `dispatcher` checks for stalled workers."""
ROUTING_SECONDS = 2.0
"""Interval at which each process checks the routing file for changes."""
ROLE_OF = {"webhooks": "relay", "watchdog": "dispatcher", "chores": "sweeper"}
"""The role of each loop that is not named after its role."""


class Container:
    """All parts of one process; `start` runs its roles, `stop` ends them cleanly.

    Adapters that are passed replace those of the settings.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        database_url: str,
        now: Callable[[], datetime] = clock.now,
        new_id: Callable[[], UUID] = clock.uuid7,
        monotonic: Callable[[], float] = time.monotonic,
        credits_: Credits | None = None,
        engine: Engine | None = None,
        notifier: Notifier | None = None,
        prompt_check: PromptCheck | None = None,
    ) -> None:
        self.settings = settings
        self.now, self.new_id = now, new_id
        self.policy = settings.policy()
        self.public_url = settings.public_url or f"http://{settings.host}:{settings.port}"
        self.database = Database(database_url, pool_size=max(1, settings.database_pool_size - 1))
        self.write_connection = Database(database_url, pool_size=1)
        self.queries = Queries(self.database)
        self.figures = Statistics(self.database)
        self.outbox = Outbox(self.database)
        self.books = Accounting(self.database)
        self.hub = UpdateBroadcaster(self.queries)
        self.decoder = PictureDecoder()
        self.assets = AssetStore(
            asset_directory(settings), public_url=self.public_url, decoder=self.decoder
        )
        self.secrets = load_callback_secrets(settings)
        self.http = build_http_client()
        self.ledger = Ledger(self.database) if scheme(settings.credits_url) == "local" else None
        self.credits = credits_ or build_credits(
            settings, self.http, self.database, now=now, ledger=self.ledger
        )
        ledger_here = isinstance(self.credits, LocalCredits)
        self.writer = BatchWriter(
            self.database,
            self.write_connection,
            free_generations=settings.free_generations,
            ledger_here=ledger_here,
            new_id=new_id,
        )
        self.store = RequestStore(self.database, self.writer)
        self.routing = RoutingSource(settings.routing_file)
        self.flags = AccountFlags(self.database)
        self.entitlements = CachedEntitlements(
            self.credits, flagged=self.flags.flagged, monotonic=monotonic
        )
        self.rejections = PromptRejections(self.database)
        self.prompts = PromptModeration(
            prompt_check or build_prompt_check(settings, self.http),
            self.rejections,
            self.flags,
            now=now,
            when_away=settings.safety_when_away,
            abuse_after=settings.safety_abuse_after,
        )
        comparison = ReconciliationStore(self.database)
        self.reconciliation = Reconciliation(comparison, self.credits, now=now)
        self.broker = build_broker(settings, settings.engine_url, topology(settings))
        self.runner = TransitionRunner(
            self.store, policy=self.policy, now=now, new_id=new_id, on_committed=self._on_committed
        )
        self.jobs = JobService(self.runner, routing=self.routing)
        self.orchestrator = GenerationService(
            self.runner,
            self.credits,
            entitlements=self.entitlements,
            quotes=Quotes(self.secrets.keys),
            routing=self.routing,
            prompts=self.prompts,
            hold_seconds=settings.hold_timeout,
            ledger_here=ledger_here,
        )
        self.accounts = AccountService(
            self.books,
            self.flags,
            self.ledger,
            self.outbox,
            self.orchestrator,
            entitlements=self.entitlements,
            now=now,
            new_id=new_id,
        )
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
        self.reports = WorkerReports(
            self.jobs,
            self.secrets,
            now=now,
            allow_missing_job_id=settings.allow_missing_job_id,
            older_names=settings.field_names == "older",
            check=None if settings.result_check == "off" else self.result_check,
            uploads_for=self.policy.job_lifetime,
        )
        self.engine = engine or self._engine()
        self.notify_broker = build_notify_broker(settings, self.broker)
        notifier = notifier or build_notifier(settings, self.http, self.notify_broker)
        self.relay = Relay(
            self.outbox, self.writer, self._handlers(notifier), now=now, new_id=new_id
        )
        self.dispatcher = Dispatcher(self.jobs, self.engine, window=settings.lane_window)
        self.sweeper = Sweeper(
            self.store,
            self.jobs,
            now=now,
            settle_hold=self.orchestrator.settle_hold,
            hold_grace=timedelta(seconds=2 * settings.hold_timeout),
            keep_keys=timedelta(hours=settings.idempotency_hours),
        )
        self.safe_http = SafeHttp(
            settings.webhook_rules(), timeout_seconds=settings.webhook_timeout
        )
        self.webhooks, self.endpoints = self._webhooks(self.safe_http)
        self.chores = PeriodicTasks(
            (
                PeriodicTask("usage_log", timedelta(hours=1), self._forget_usage),
                PeriodicTask("webhook_log", timedelta(hours=1), self._tidy_webhooks),
                PeriodicTask("uploads", timedelta(hours=1), self.assets.tidy),
                PeriodicTask(
                    "reconciliation",
                    timedelta(seconds=settings.reconcile_interval),
                    self._reconcile,
                ),
            ),
            take_turn=comparison.take_turn,
            now=now,
        )
        self.watchdog = Watchdog(
            self.queries.lane_work,
            self._depth,
            self._job_queues(),
            now=now,
            quiet_for=timedelta(seconds=settings.worker_quiet),
        )
        self.loops: dict[str, Poller] = {
            "chores": Poller("chores", self.chores.step, interval_seconds=CHORES_SECONDS),
            "watchdog": Poller("watchdog", self.watchdog.step, interval_seconds=WATCH_SECONDS),
            "routing": Poller("routing", self._reload_routing, interval_seconds=ROUTING_SECONDS),
            "dispatcher": Poller(
                "dispatcher", self.dispatcher.step, interval_seconds=settings.poll_interval
            ),
            "relay": Poller("relay", self.relay.step, interval_seconds=settings.poll_interval),
            "webhooks": Poller(
                "webhooks", self.webhooks.step, interval_seconds=settings.poll_interval
            ),
            "sweeper": Poller(
                "sweeper", self.sweeper.step, interval_seconds=settings.sweep_interval
            ),
        }
        self.gate = Authenticator(
            keys=settings.keys(),
            jwt_secret=settings.jwt_secret.get_secret_value() if settings.jwt_secret else None,
            jwks=KeySet(self.http, settings.jwks_url).key if settings.jwks_url else None,
            host=settings.host,
            audience=settings.jwt_audience,
            issuer=settings.jwt_issuer,
            public_url=settings.public_url,
        )

    async def start(self) -> None:
        """Open the database and start the roles; an unavailable broker is connected in the
        background.
        """
        await self.database.open()
        await self.store.prepare_months(self.now())
        roles = self.settings.roles
        for broker in self._brokers():
            if broker is self.broker:
                broker.when_connected(self.loops["dispatcher"].wake)
                if "results" in roles:
                    self._consume(broker)
            await broker.start()
        if isinstance(self.engine, LocalEngine):
            await self.engine.start()
        if "dispatcher" in roles:
            self.dispatcher.start_own(self.runner)
        if "relay" in roles:
            self.relay.start_own()
        for name, loop in self.loops.items():
            if name == "routing" or ROLE_OF.get(name, name) in roles:
                loop.start()
        if self.gate.open and "api" in roles:
            log.warning(
                "open_to_all",
                hint="no API keys and no JWT settings: every caller is operator and any user",
            )

    async def stop(self) -> None:
        """Stop the roles between two steps, wait for confirms, close connections."""
        for loop in self.loops.values():
            await loop.stop()
        await self.dispatcher.stop_own(self.runner)
        await self.relay.stop_own()
        await self.webhooks.finish(10)
        if isinstance(self.engine, LocalEngine):
            await self.engine.close()
        for broker in self._brokers():
            await broker.close()
        await self.hub.close()
        await self.http.aclose()
        await self.safe_http.close()
        await self.result_check.close()
        await self.result_http.close()
        await self.decoder.close()
        await self.write_connection.close()
        await self.database.close()

    async def checks(self) -> dict[str, dict[str, Any]]:
        """Return the state of each dependency."""
        found = {"database": await self._check_database()}
        for name, broker in (("broker", self.broker), ("notification_broker", self.notify_broker)):
            if broker is not None:
                found[name] = {
                    "ok": broker.connected,
                    "required": False,
                    "detail": broker.server_version if broker.connected else broker.last_error,
                    "mismatches": list(broker.mismatches),
                }
        found["background"] = self._check_background()
        if self.broker is not None and found["database"]["ok"]:
            stalled = await self.watchdog.look()
            detail = ", ".join(
                f"{stall.lane}: {stall.kind} ({stall.jobs} jobs)" for stall in stalled
            )
            found["workers"] = {
                "ok": not stalled,
                "required": False,
                "detail": detail or "no stalled jobs",
            }
        return found

    def background_tasks(self) -> list[TaskStatus]:
        """Return the status of every background task that this process should run."""
        found = [status for loop in self.loops.values() if (status := loop.status) is not None]
        found += [broker.task for broker in self._brokers()]
        if isinstance(self.engine, LocalEngine):
            found += self.engine.tasks
        return found

    def _check_background(self) -> dict[str, Any]:
        tasks = self.background_tasks()
        detail = "; ".join(
            f"{task.name}: {task.detail or 'not running'}" for task in tasks if not task.ok
        )
        return {
            "ok": not detail,
            "required": False,
            "detail": detail or f"{len(tasks)} tasks run",
            "restarts": {task.name: task.restarts for task in tasks if task.restarts},
        }

    async def refresh_gauges(self) -> None:
        """Update the gauges; without the database they keep their values."""
        metrics.STREAMS.set(self.hub.count)
        with suppress(ServiceUnavailableError):
            for lane in await self.queries.lanes():
                metrics.QUEUED.labels(lane["lane"]).set(lane["waiting"])
                metrics.IN_FLIGHT.labels(lane["lane"]).set(lane["in_flight"])
            for kind, count in (await self.queries.messages()).items():
                metrics.OUTBOX_MESSAGES.labels(kind).set(count)

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
        self.hub.written(change)
        before, after = change.before, change.after
        done = before is not None and before.state in IN_FLIGHT and after.state not in IN_FLIGHT
        if (after.state is State.PENDING and change.lease is None) or (
            done and self.dispatcher.window_full
        ):
            self.loops["dispatcher"].wake()
        if change.messages:
            self.loops["relay"].wake()
            if after.created_by in self.webhooks.owners:
                self.loops["webhooks"].wake()

    async def _depth(self, queue: str) -> tuple[int, int] | None:
        return await self.broker.queue_depth(queue) if self.broker is not None else None

    def _job_queues(self) -> dict[Stage, str]:
        return {
            Stage.SAMPLES: self.settings.rabbitmq_samples_queue,
            Stage.FINAL: self.settings.rabbitmq_final_queue,
        }

    async def _reload_routing(self) -> int:
        await asyncio.to_thread(self.routing.reload)
        return 0

    async def _forget_usage(self) -> None:
        before = self.now() - timedelta(days=self.settings.usage_days)
        await self.books.forget_usage(before)
        await self.rejections.forget(before)

    async def _tidy_webhooks(self) -> None:
        now = self.now()
        forgotten = await DeliveryStore(self.database).tidy(
            now - timedelta(days=self.settings.webhook_log_days), now
        )
        if forgotten:
            log.info("webhook_deliveries_forgotten", count=forgotten)

    async def _reconcile(self) -> None:
        """Report differences since the last run; post nothing."""
        since = self.now() - timedelta(seconds=self.settings.reconcile_interval) - OVERLAP
        report = await self.reconciliation.run(since, most=RECONCILED_MAX)
        metrics.count_differences(report)
        for finding in report.findings:
            log.error(
                "books_differ", difference=finding.difference, hold=finding.key, mends=finding.mends
            )

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
        await self.reports.apply(MODELS[ReportKind(kind)].model_validate(body), job_id)

    def _brokers(self) -> list[Broker]:
        return list(
            {id(broker): broker for broker in (self.broker, self.notify_broker) if broker}.values()
        )

    def _handlers(self, notifier: Notifier) -> Mapping[str, Handler]:
        handlers: dict[str, Handler] = {
            Topic.NOTIFY: notifier.send,
            Topic.CAPTURE: lambda body: self.credits.capture(Reservation(**body)),
            Topic.RELEASE: lambda body: self.credits.release(Reservation(**body)),
            DEAD_LETTER: replay_dead_letter(self.reports),
        }
        if self.broker is not None:
            handlers[Topic.EVENT] = EventPublisher(
                self.broker, exchange=self.settings.rabbitmq_topic_exchange
            ).publish
        return handlers

    def _webhooks(self, http: SafeHttp) -> tuple[WebhookSender, WebhookEndpointService]:
        endpoints, deliveries = WebhookEndpointStore(self.database), DeliveryStore(self.database)

        def look() -> None:
            self.loops["webhooks"].wake()

        sender = WebhookSender(
            deliveries,
            endpoints,
            http.post,
            now=self.now,
            new_id=self.new_id,
            timeout_seconds=self.settings.webhook_timeout,
            on_room=look,
        )
        return sender, WebhookEndpointService(
            endpoints,
            deliveries,
            http.check,
            now=self.now,
            new_id=self.new_id,
            most=self.settings.webhook_endpoints_max,
            on_change=look,
        )

    def _consume(self, broker: Broker) -> None:
        settings = self.settings
        results = ResultsConsumer(
            self.reports, broker, dead_letter_exchange=settings.rabbitmq_dead_letter_exchange
        )
        dead = DeadLetterConsumer(
            self.jobs,
            self.outbox,
            now=self.now,
            proves=self.secrets.opens,
            job_queues={settings.rabbitmq_samples_queue, settings.rabbitmq_final_queue},
        )
        broker.consume(
            settings.rabbitmq_results_queue, results.handle, prefetch=settings.rabbitmq_prefetch
        )
        broker.consume(settings.rabbitmq_dead_queue, dead.handle, prefetch=10)

    async def _check_database(self) -> dict[str, Any]:
        try:
            async with asyncio.timeout(3):
                revision, version = (
                    await self.queries.revision(),
                    await self.queries.server_version(),
                )
                writes = await self.queries.takes_writes()
        except (ServiceUnavailableError, TimeoutError):
            return {"ok": False, "required": True, "detail": "does not answer"}
        if not writes:
            await self.database.reconnect()
            await self.write_connection.reconnect()
            return {
                "ok": False,
                "required": True,
                "detail": "takes no writes: a standby, or set to read-only",
            }
        if revision != head():
            return {
                "ok": False,
                "required": True,
                "detail": f"schema is at {revision or 'nothing'}: run aigen migrate",
            }
        return {"ok": True, "required": True, "detail": f"PostgreSQL {version}, schema {revision}"}
