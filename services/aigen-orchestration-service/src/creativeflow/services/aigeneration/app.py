"""The ASGI application and its lifespan."""

import asyncio
import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from creativeflow.services.aigeneration import __version__
from creativeflow.services.aigeneration.api import errors, routes
from creativeflow.services.aigeneration.api.middleware import RequestContext
from creativeflow.services.aigeneration.api.rate_limit import RateLimiter
from creativeflow.services.aigeneration.api.response_headers import path_prefix
from creativeflow.services.aigeneration.api.routes import callbacks
from creativeflow.services.aigeneration.api.routing import add_routes
from creativeflow.services.aigeneration.api.services import (
    ErrorPresentation,
    Services,
    provide_services,
)
from creativeflow.services.aigeneration.bootstrap.adapters import database_url
from creativeflow.services.aigeneration.bootstrap.container import Container
from creativeflow.services.aigeneration.bootstrap.rabbitmq import broker_queues
from creativeflow.services.aigeneration.kit.translations import Translations
from creativeflow.services.aigeneration.settings import Settings
from creativeflow.services.aigeneration.storage.migrations import migrate
from creativeflow.services.aigeneration.web import (
    console,
    error_pages,
    sign_in,
    static_files,
    studio,
)
from creativeflow.services.aigeneration.web.console.snapshot import SnapshotCache
from creativeflow.services.aigeneration.web.services import PageSupport, WebServices
from creativeflow.services.aigeneration.web.sessions import Sessions
from creativeflow.services.aigeneration.web.studio import reference_images
from creativeflow.services.aigeneration.web.templating import Pages

_ABOUT = """Takes a request for an AI-made creative from credit check to final image.

Every state is true and every credit exact: holds are placed before the work and captured when it
is delivered."""

_TAGS = [
    {"name": "generation requests", "description": "Create, follow and steer generation requests."},
    {"name": "catalogue", "description": "Formats, prices, models and problem types."},
    {"name": "callbacks", "description": "Reports and uploads of workers."},
    {"name": "webhook endpoints", "description": "Endpoints of calling services, and deliveries."},
    {"name": "operations", "description": "Stuck requests, outbox, reviews, queues, invariants."},
    {"name": "accounts", "description": "Credits, flags, holds in doubt, usage, reconciliation."},
    {"name": "health", "description": "Liveness, readiness and metrics."},
]
_SECURITY = {
    "apiKey": {"type": "apiKey", "in": "header", "name": "X-Internal-API-Key"},
    "userToken": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
    "callbackToken": {
        "type": "http",
        "scheme": "bearer",
        "description": "The `callback_token` of the job.",
    },
    "webhookSignature": {"type": "apiKey", "in": "header", "name": "webhook-signature"},
}


_METADATA: dict[str, Any] = {
    "title": "CreativeFlow AI Generation Orchestration",
    "version": __version__,
    "description": _ABOUT,
    "openapi_tags": _TAGS,
    "servers": [{"url": "/", "description": "This service"}],
    "license_info": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
    "contact": {"name": "CreativeFlow maintainers"},
    "generate_unique_id_function": lambda route: route.name,
    "docs_url": None,
    "redoc_url": None,
    "telemetry": {"metrics": False, "logs": False},  # the service has its own metrics and logs
}


def create_app(
    settings: Settings | None = None, *, migrates: bool = True, service: Container | None = None
) -> FastAPI:
    """Return the application; its lifespan starts and stops the roles of this process.

    A `service` that is passed is used as is, neither started nor stopped.
    """
    settings = service.settings if service else settings or Settings()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        if service is not None:
            _provide(app, service)
            yield
            await app.state.web_services.snapshots.close()
            return
        running = await start_service(settings, migrates=migrates)
        _provide(app, running)
        _calm_the_collector()
        try:
            yield
        finally:
            await app.state.web_services.snapshots.close()
            await running.stop()

    app = FastAPI(**_METADATA, lifespan=lifespan)
    if prefix := path_prefix(settings.public_url):
        app.servers = [{"url": f"{prefix}/", "description": "This service"}]
    uploads = {
        callbacks.UPLOADS: settings.asset_limit_bytes,
        reference_images.UPLOADS: settings.web_upload_bytes,
    }
    app.add_middleware(
        RequestContext,
        body_limit=settings.body_limit_bytes,
        upload_limits=uploads,
        public_url=settings.public_url,
    )
    errors.install(app)
    files = static_files.StaticFiles()
    app.state.error_presentation = ErrorPresentation(
        translations=Translations.load(), page=error_pages.present
    )
    app.state.page_support = PageSupport(pages=Pages(settings, files), static_files=files)
    pages = (static_files.router, sign_in.router, *studio.ROUTERS, *console.ROUTERS)
    add_routes(app, (*routes.ROUTERS, *pages))
    app.openapi = lambda: _describe(app)  # type: ignore[method-assign]
    return app


async def start_service(settings: Settings, *, migrates: bool = True) -> Container:
    """Migrate the schema if asked to, then build and start the container."""
    url = await asyncio.to_thread(database_url, settings)
    if migrates:
        await migrate(url)
    service = Container(settings, database_url=url)
    await service.start()
    return service


def _calm_the_collector() -> None:
    """Freeze what was built at start, so that full collections do not stall calls for 100 ms."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


def _provide(app: FastAPI, service: Container) -> None:
    services = Services(
        settings=service.settings,
        policy=service.policy,
        now=service.now,
        new_id=service.new_id,
        authenticator=service.authenticator,
        rate_limiter=RateLimiter(
            service.settings.rate_limit_per_minute,
            per_key=service.settings.rate_limit_key_per_minute,
        ),
        generations=service.generations,
        worker_reports=service.worker_reports,
        accounts=service.accounts,
        webhook_endpoints=service.webhook_endpoints,
        reconciliation=service.reconciliation,
        entitlements=service.entitlements,
        routing=service.routing,
        updates=service.updates,
        queries=service.queries,
        invariants=service.invariants,
        outbox=service.outbox,
        statistics=service.statistics,
        accounting=service.accounting,
        account_flags=service.account_flags,
        watchdog=service.watchdog,
        broker=service.broker,
        broker_queues=broker_queues(service.settings),
        assets=service.assets,
        save_upload=service.save_upload,
        save_reference=service.save_reference,
        checks=service.health.checks,
        refresh_gauges=service.health.refresh_gauges,
    )
    provide_services(app, services)
    sessions = Sessions(
        service.secrets.keys,
        service.authenticator,
        service.revoked_sessions,
        now=service.now,
        secure=service.public_url.startswith("https:"),
    )
    app.state.web_services = WebServices(sessions=sessions, snapshots=SnapshotCache(services))


def _describe(app: FastAPI) -> dict[str, Any]:
    """Return the API description, with bodies that endpoints read as bytes and with the
    authentication schemes.
    """
    if app.openapi_schema is None:
        described = get_openapi(
            title=app.title,
            version=app.version,
            description=app.description,
            routes=app.routes,
            tags=app.openapi_tags,
            servers=app.servers,
            license_info=app.license_info,
            contact=app.contact,
        )
        components = described.setdefault("components", {})
        for model in callbacks.DESCRIBED:
            schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
            components["schemas"] |= schema.pop("$defs", {})
            components["schemas"][model.__name__] = schema
        _declare_refusals(described)
        components["securitySchemes"] = _SECURITY
        described["security"] = [{}, {"apiKey": []}, {"userToken": []}]
        app.openapi_schema = described
    return app.openapi_schema


def _declare_refusals(described: dict[str, Any]) -> None:
    """Declare the problem responses of every call instead of the framework's."""
    for path, calls in described["paths"].items():
        for method, call in calls.items():
            answers: dict[str, Any] = call["responses"]
            if "422" in answers or path.startswith(
                "/api/"
            ):  # unknown parameters are rejected everywhere
                answers["422"] = _refusal(422)
            if "401" in answers and not path.startswith(callbacks.router.prefix):
                answers["429"] = _refusal(429)  # a lock-out after wrong credentials
            if path.startswith("/api/"):
                answers["400"] = _refusal(400)  # a header that is not UTF-8
            unreadable = (400,) if method != "get" else ()
            refused = (*unreadable, 413, 415) if "requestBody" in call else unreadable
            answers |= {
                str(status): _refusal(status) for status in refused if str(status) not in answers
            }
            call["responses"] = dict(sorted(answers.items()))
    for name in ("HTTPValidationError", "ValidationError"):
        described["components"]["schemas"].pop(name, None)


def _refusal(status: int) -> dict[str, Any]:
    schema = {"schema": {"$ref": "#/components/schemas/Problem"}}
    return {"description": HTTPStatus(status).phrase, "content": {errors.MEDIA_TYPE: schema}}
