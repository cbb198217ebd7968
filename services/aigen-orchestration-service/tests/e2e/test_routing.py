"""Routing: every route is behind the middleware and open to dependency overrides; lean handlers
respond like the framework's.
"""

import re
from collections.abc import Callable
from typing import Any

import pytest
from fastapi import FastAPI, Request, Response
from fastapi.middleware.cors import CORSMiddleware
from fastapi.routing import APIRoute
from httpx import ASGITransport, AsyncClient

from creativeflow.services.aigeneration.api import routes
from creativeflow.services.aigeneration.app import create_app
from creativeflow.services.aigeneration.domain import errors
from creativeflow.services.aigeneration.web import console, sign_in, static_files, studio
from tests.e2e.journey import PLAIN, REQUESTS, Caller
from tests.support.app import ServiceUnderTest

PAGES = (static_files.router, sign_in.router, *studio.ROUTERS, *console.ROUTERS)
ORDER = PLAIN | {"user_id": "user"}
CALLBACK = "/api/v1/n8n-callbacks/started"
NOBODY = "01a2179f-0000-7000-8000-00000000abcd"
CALLS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "good": ("POST", f"{REQUESTS}/quote", {"json": ORDER}),
    "no body": ("POST", f"{REQUESTS}/quote", {}),
    "not JSON": (
        "POST",
        f"{REQUESTS}/quote",
        {"content": "{", "headers": {"content-type": "application/json"}},
    ),
    "not an object": ("POST", f"{REQUESTS}/quote", {"json": [1]}),
    "null": (
        "POST",
        f"{REQUESTS}/quote",
        {"content": "null", "headers": {"content-type": "application/json"}},
    ),
    "faults": ("POST", f"{REQUESTS}/quote", {"json": {"user_id": 5, "surprise": True}}),
    "another type": (
        "POST",
        f"{REQUESTS}/quote",
        {"content": "a=b", "headers": {"content-type": "text/plain"}},
    ),
    "too large": ("POST", f"{REQUESTS}/quote", {"json": ORDER | {"input_prompt": "x" * 2_000_000}}),
    "a query": ("POST", f"{REQUESTS}/quote?colour=red", {"json": ORDER}),
    "in German": ("POST", f"{REQUESTS}/quote", {"json": {}, "headers": {"accept-language": "de"}}),
    "a callback of nobody": (
        "POST",
        CALLBACK,
        {"json": {}, "headers": {"authorization": "Bearer x"}},
    ),
    "a callback that is no JSON": (
        "POST",
        CALLBACK,
        {"content": b"\xff", "headers": {"authorization": "Bearer x"}},
    ),
    "a callback with a query": ("POST", f"{CALLBACK}?from=n8n", {"content": b"{}"}),
    "another method": ("PUT", CALLBACK, {}),
    "a slash more": ("POST", f"{CALLBACK}/", {}),
    "no argument": ("GET", "/api/v1/operations/queues", {}),
    "an id of nobody": ("GET", f"{REQUESTS}/{NOBODY}", {}),
    "an id in capitals": ("GET", f"{REQUESTS}/{NOBODY.upper()}", {}),
    "an id without its hyphens": ("GET", f"{REQUESTS}/{NOBODY.replace('-', '')}", {}),
    "no id": ("GET", f"{REQUESTS}/somewhere", {}),
    "an id and a query": ("GET", f"{REQUESTS}/{NOBODY}?colour=red", {}),
    "braces for an id": ("GET", f"{REQUESTS}/{{}}/events", {}),
    "nothing for an id": ("GET", f"{REQUESTS}//events", {}),
    "an id and an encoded slash": ("GET", f"{REQUESTS}/{NOBODY}%2Fevents", {}),
    "a choice for nobody": (
        "POST",
        f"{REQUESTS}/{NOBODY}/select-sample",
        {"json": {"selected_sample_id": "x"}},
    ),
    "a choice of nothing": ("POST", f"{REQUESTS}/{NOBODY}/select-sample", {"json": {}}),
    "a choice without words": ("POST", f"{REQUESTS}/{NOBODY}/select-sample", {}),
    "a body that may be left out": ("POST", f"{REQUESTS}/{NOBODY}/regenerate-samples", {}),
    "an end for nobody": ("POST", f"{REQUESTS}/{NOBODY}/cancel", {}),
    "an unknown action": ("POST", f"{REQUESTS}/{NOBODY}/paint", {}),
    "an action by another method": ("PATCH", f"{REQUESTS}/{NOBODY}", {}),
}
_OWN = {"x-request-id", "traceparent", "ratelimit"}
"""Headers, and below values, that differ in every call."""
_NEW = {"request_id", "quote_id", "expires_at"}


async def told(caller: Caller, call: str) -> tuple[int, dict[str, str], Any]:
    """Return status, headers and body of a response, without what differs in every call."""
    method, path, more = CALLS[call]
    answer = await caller.request(method, path, **more)
    body = answer.json() if answer.content else None
    if isinstance(body, dict):
        body = {name: value for name, value in body.items() if name not in _NEW}
    headers = {
        name: value
        for name, value in answer.headers.items()
        if name not in _OWN | {"content-length"}
    }
    return answer.status_code, headers, body


@pytest.fixture
def without_lean_handlers(client: Caller) -> Callable[[], None]:
    """Make every route use the framework's own handler, as a dependency override does."""

    def switch() -> None:
        client.app.dependency_overrides[switch] = switch

    return switch


@pytest.mark.parametrize("call", CALLS)
async def test_lean_and_framework_handlers_respond_identically(
    client: Caller, call: str, without_lean_handlers: Callable[[], None]
) -> None:
    lean = await told(client, call)
    without_lean_handlers()
    assert await told(client, call) == lean


async def test_lean_and_framework_handlers_run_one_lifecycle(
    client: Caller, without_lean_handlers: Callable[[], None]
) -> None:
    await create_and_cancel(client)
    without_lean_handlers()
    await create_and_cancel(client)


async def create_and_cancel(client: Caller) -> None:
    made = (await client.post(REQUESTS, json=ORDER)).json()
    found = await client.get(f"{REQUESTS}/{made['id']}")
    assert (found.status_code, found.json()["id"]) == (200, made["id"])
    cancel = f"{REQUESTS}/{made['id']}/cancel"
    assert (await client.post(cancel, headers={"X-User-ID": "somebody else"})).status_code == 404
    assert (await client.post(cancel)).json()["outcome"] == "cancelled"
    timeline = (await client.get(f"{REQUESTS}/{made['id']}/events")).json()["items"]
    assert {"submitted", "cancel_requested"} <= {entry["event"] for entry in timeline}


async def test_metrics_name_the_route_of_either_handler(
    client: Caller, without_lean_handlers: Callable[[], None]
) -> None:
    async def counted() -> float:
        metric_lines = (await client.get("/metrics")).text.splitlines()
        label = f'path="{REQUESTS}/quote"'
        mine = [line for line in metric_lines if label in line and 'status="2xx"' in line]
        return sum(float(line.rpartition(" ")[2]) for line in mine if "_count{" in line)

    before = await counted()
    assert (await client.post(f"{REQUESTS}/quote", json=ORDER)).is_success
    without_lean_handlers()
    assert (await client.post(f"{REQUESTS}/quote", json=ORDER)).is_success
    assert await counted() == before + 2


def every_route(app: FastAPI) -> list[tuple[str, str]]:
    """Return every method and path, with an id for each parameter."""
    found = []
    for router in (*routes.ROUTERS, *PAGES):
        for route in router.routes:
            assert isinstance(route, APIRoute)
            path = re.sub(r"\{[^}]+\}", NOBODY, route.path)
            found += [(method, path) for method in route.methods]
    assert len(found) > 80
    return found


async def test_middleware_applies_to_every_route(test_app: ServiceUnderTest) -> None:
    seen: list[tuple[str, str]] = []
    app = create_app(service=test_app.service)

    @app.middleware("http")
    async def stop(request: Request, _: object) -> Response:
        seen.append((request.method, request.url.path))
        return Response(status_code=418)

    calls = every_route(app)
    async with AsyncClient(transport=ASGITransport(app), base_url="http://localhost") as http:
        for method, path in calls:
            assert (await http.request(method, path)).status_code == 418, path
    assert seen == calls


async def test_dependency_override_applies_to_every_dependent_route(
    test_app: ServiceUnderTest,
) -> None:
    app = create_app(service=test_app.service)

    called: list[str] = []

    def refuse(request: Request) -> None:
        called.append(request.url.path)
        raise errors.NotFoundError

    calls: list[str] = []
    async with app.router.lifespan_context(app):
        for router in (*routes.ROUTERS, *PAGES):
            for route in router.routes:
                assert isinstance(route, APIRoute)
                if not (dependencies := route.dependant.dependencies):
                    continue
                app.dependency_overrides = {each.call: refuse for each in dependencies}
                path = re.sub(r"\{[^}]+\}", NOBODY, route.path)
                transport = ASGITransport(app)
                async with AsyncClient(transport=transport, base_url="http://localhost") as http:
                    answer = await http.request(min(route.methods), path)
                assert answer.status_code == 404, path
                calls.append(path)
    assert called == calls
    assert len(calls) > 60


async def test_cors_applies_to_every_route(test_app: ServiceUnderTest) -> None:
    app = create_app(service=test_app.service)
    app.add_middleware(CORSMiddleware, allow_origins=["https://shop.example"], allow_methods=["*"])
    headers = {"Origin": "https://shop.example", "Access-Control-Request-Method": "POST"}
    async with AsyncClient(transport=ASGITransport(app), base_url="http://localhost") as http:
        for _, path in every_route(app):
            answer = await http.options(path, headers=headers)
            assert answer.headers["access-control-allow-origin"] == "https://shop.example", path
