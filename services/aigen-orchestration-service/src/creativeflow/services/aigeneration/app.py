"""The HTTP application and its lifespan: what `aigen serve` runs."""

import asyncio
import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from starlette.types import Receive, Scope, Send

from creativeflow.services.aigeneration import __version__
from creativeflow.services.aigeneration.api import errors, routes
from creativeflow.services.aigeneration.api.middleware import RequestContext
from creativeflow.services.aigeneration.api.rate_limit import RateLimiter
from creativeflow.services.aigeneration.api.routes import callbacks
from creativeflow.services.aigeneration.api.routing import ShortWay
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
from creativeflow.services.aigeneration.web.sessions import Sessions
from creativeflow.services.aigeneration.web.studio import reference_images
from creativeflow.services.aigeneration.web.templating import Pages

_ABOUT = """Takes a request for an AI-made creative from credit check to final image.

Every state is true and every credit exact: holds are placed before the work and captured when it
is delivered."""

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


class App(FastAPI):
    """The framework, with a way past it for the calls that need none of it."""

    short_way: ShortWay

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one call."""
        if (found := self.short_way.find(scope)) is None:
            await super().__call__(scope, receive, send)
            return
        scope["app"] = self
        await self.short_way.lead(found, scope, receive, send)


def create_app(
    settings: Settings | None = None, *, migrates: bool = True, service: Container | None = None
) -> FastAPI:
    """The application; its lifespan starts and stops the roles of this process.

    A `service` that is given is used as it is, and neither started nor stopped.
    """
    settings = service.settings if service else settings or Settings()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        if service is not None:
            _provide(app, service)
            yield
            await app.state.overview.close()
            return
        running = await start_service(settings, migrates=migrates)
        _provide(app, running)
        _calm_the_collector()
        try:
            yield
        finally:
            await app.state.overview.close()
            await running.stop()

    app = App(
        title="CreativeFlow AI Generation Orchestration",
        version=__version__,
        description=_ABOUT,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
    )
    uploads = {
        callbacks.UPLOADS: settings.asset_limit_bytes,
        reference_images.UPLOADS: settings.web_upload_bytes,
    }
    around = partial(RequestContext, body_limit=settings.body_limit_bytes, upload_limits=uploads)
    app.add_middleware(around)
    errors.install(app)
    app.state.catalogue, app.state.statics = Translations.load(), static_files.StaticFiles()
    app.state.pages, app.state.present_error = (
        Pages(settings, app.state.statics),
        error_pages.present,
    )
    pages = (static_files.router, sign_in.router, *studio.ROUTERS, *console.ROUTERS)
    for router in (*routes.ROUTERS, *pages):
        app.router.routes.extend(
            router.routes
        )  # including a router would have each call look for its route twice
    app.short_way = ShortWay(app.router.routes, around)
    app.openapi = lambda: _describe(app)  # type: ignore[method-assign]
    return app


async def start_service(settings: Settings, *, migrates: bool = True) -> Container:
    """The parts of one process, with the schema brought up to date first; started."""
    url = await asyncio.to_thread(database_url, settings)
    if migrates:
        await migrate(url)
    service = Container(settings, database_url=url)
    await service.start()
    return service


def _calm_the_collector() -> None:
    """What was built at the start lives for ever: looking through it again and again stalls calls
    for 100 ms.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


def _provide(app: FastAPI, service: Container) -> None:
    """What endpoints find on `app.state`."""
    provided: dict[str, Any] = {
        "settings": service.settings,
        "orchestrator": service.orchestrator,
        "queries": service.queries,
        "outbox": service.outbox,
        "reports": service.reports,
        "hub": service.hub,
        "assets": service.assets,
        "save_upload": service.save_upload,
        "save_reference": service.save_reference,
        "accounts": service.accounts,
        "figures": service.figures,
        "books": service.books,
        "flags": service.flags,
        "reconciliation": service.reconciliation,
        "watchdog": service.watchdog,
        "routing": service.routing,
        "entitlements": service.entitlements,
        "gate": service.gate,
        "policy": service.policy,
        "broker": service.broker,
        "broker_queues": broker_queues(service.settings),
        "checks": service.checks,
        "refresh_gauges": service.refresh_gauges,
        "now": service.now,
        "new_id": service.new_id,
        "endpoints": service.endpoints,
        "sessions": Sessions(
            service.secrets.keys,
            service.gate,
            now=service.now,
            secure=service.public_url.startswith("https:"),
        ),
        "limiter": RateLimiter(service.settings.rate_limit_per_minute),
    }
    for name, value in provided.items():
        setattr(app.state, name, value)
    app.state.overview = SnapshotCache(app.state)


def _describe(app: FastAPI) -> dict[str, Any]:
    """The API description, with the bodies that endpoints read as bytes and the ways to sign in."""
    if app.openapi_schema is None:
        described = get_openapi(
            title=app.title, version=app.version, description=app.description, routes=app.routes
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
    """What any call may be refused for, as it is answered: the framework's own words for it are
    never sent.
    """
    for path, calls in described["paths"].items():
        for method, call in calls.items():
            answers: dict[str, Any] = call["responses"]
            if "422" in answers or path.startswith(
                "/api/"
            ):  # parameters nobody knows are refused everywhere
                answers["422"] = _refusal(422)
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
