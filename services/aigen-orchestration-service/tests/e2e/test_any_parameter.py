"""No parameter of a page or of the API, and no cookie, makes a 5xx: each route, each value."""

import re
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from fastapi.routing import APIRoute

from tests.e2e.journey import NOBODY, Caller
from tests.e2e.test_access import addresses

VALUES = [
    b"\0",
    b"a\0b",
    b"\xff\xfe",
    "\ud800".encode(errors="surrogatepass"),
    "\u202e\u200b".encode(),
    b"9999-12-31",
    b"0001-01-01",
    b"9999-12-31T23:59:59-14:00",
    b"0001-01-01T00:00:00+14:00",
    b"-1",
    b"0",
    b"99999999999999999999",
    b"1e400",
    b"NaN",
    b"'; --",
    b"%",
    b"=" * 9,
    b"\n",
    b"a" * 3000,
    "ﷺ".encode() * 60,
]


@pytest.fixture(scope="module")
async def shared(make_shared: Callable[..., Awaitable[Caller]]) -> Caller:
    return await make_shared()


def endpoints(routes: Iterable[Any]) -> Iterator[APIRoute]:
    for route in routes:
        if isinstance(route, APIRoute):
            yield route
        elif not hasattr(route, "methods"):
            yield from endpoints(route.original_router.routes)


def parameters(caller: Caller) -> list[tuple[str, str]]:
    """Return path and query parameter of every GET route that ends by itself."""
    return [
        (route.path, name)
        for route in endpoints(caller.app.routes)
        if "GET" in route.methods and not route.path.endswith(("/stream", "/changes"))
        for name in [field.alias for field in route.dependant.query_params]
    ]


def filled(path: str, value: str = NOBODY) -> str:
    return re.sub(r"\{[^}]+\}", value, path)


@pytest.mark.parametrize("value", VALUES)
async def test_query_parameter_of_any_value_is_no_fault(shared: Caller, value: bytes) -> None:
    faults = []
    found = parameters(shared)
    assert len(found) > 30
    assert ("/console/requests", "until") in found
    for path, name in found:
        answer = await shared.get(f"{filled(path)}?{quote(name)}={quote(value)}")
        if answer.status_code >= httpx.codes.INTERNAL_SERVER_ERROR and path != "/ready":
            faults.append(f"{path}?{name}: {answer.status_code}")
    assert faults == []


@pytest.mark.parametrize("value", VALUES)
async def test_path_parameter_of_any_value_is_no_fault(shared: Caller, value: bytes) -> None:
    faults = []
    for method, path in sorted(addresses(shared.app.routes)):
        if "{" not in path:
            continue
        more: dict[str, Any] = {} if method == "GET" else {"json": {}}
        answer = await shared.request(method, filled(path, quote(value, safe="")), **more)
        if answer.status_code >= httpx.codes.INTERNAL_SERVER_ERROR:
            faults.append(f"{method} {path}: {answer.status_code}")
    assert faults == []


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("name", ["aigen_session", "another", ""])
async def test_cookie_of_any_value_is_no_fault(shared: Caller, name: str, value: bytes) -> None:
    if b"\n" in value or b"\0" in value:
        value = value.replace(b"\n", b"").replace(b"\0", b"")
    for path in ("/studio", "/console", "/sign-in"):
        answer = await shared.get(path, headers={b"Cookie": name.encode() + b"=" + value})
        assert answer.status_code < httpx.codes.INTERNAL_SERVER_ERROR
