"""The short way to an endpoint: what is told, and to whom, is the same as on the framework's own
way.
"""

from typing import Any

import pytest
from starlette.routing import Match

from creativeflow.services.aigeneration.api.routing import ShortRoute, ShortWay
from tests.e2e.journey import PLAIN, REQUESTS, Caller

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
"""Headers, and below values, that are new for every call."""
_NEW = {"request_id", "quote_id", "expires_at"}


NONE = ShortWay([], lambda app: app)
"""Every call goes the framework's way."""


async def told(caller: Caller, call: str) -> tuple[int, dict[str, str], Any]:
    """Status, headers and body of the answer, without what is new for every call."""
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


@pytest.mark.parametrize("call", CALLS)
async def test_both_ways_answer_alike(client: Caller, call: str) -> None:
    short = await told(client, call)
    client.app.short_way = NONE
    assert await told(client, call) == short


async def test_the_short_way_leads_where_the_router_would_lead(client: Caller) -> None:
    taken = client.app.short_way.routes
    assert ("POST", REQUESTS) in taken
    assert ("POST", f"{REQUESTS}/", "/select-sample") in taken
    for (method, *parts), route in taken.items():
        path = NOBODY.join(parts)
        scope = {"type": "http", "method": method, "path": path, "root_path": "", "headers": []}
        fitting = [
            other for other in client.app.router.routes if other.matches(scope)[0] is Match.FULL
        ]
        assert fitting[0] is route, path
        assert isinstance(route, ShortRoute)


async def test_a_request_is_read_and_ended_alike_on_both_ways(client: Caller) -> None:
    for way in (client.app.short_way, NONE):
        client.app.short_way = way
        made = (await client.post(REQUESTS, json=ORDER)).json()
        found = await client.get(f"{REQUESTS}/{made['id']}")
        assert (found.status_code, found.json()["id"]) == (200, made["id"])
        ended = await client.post(
            f"{REQUESTS}/{made['id']}/cancel", headers={"X-User-ID": "somebody else"}
        )
        assert ended.status_code == 404
        assert (await client.post(f"{REQUESTS}/{made['id']}/cancel")).json()[
            "outcome"
        ] == "cancelled"
        events = [
            entry["event"]
            for entry in (await client.get(f"{REQUESTS}/{made['id']}/events")).json()["items"]
        ]
        assert {"submitted", "cancel_requested"} <= set(events)


async def test_what_is_counted_names_the_route_on_both_ways(client: Caller) -> None:
    async def counted() -> float:
        figures = (await client.get("/metrics")).text.splitlines()
        mine = [
            line
            for line in figures
            if f'path="{REQUESTS}/quote"' in line and 'status="2xx"' in line
        ]
        return sum(float(line.rpartition(" ")[2]) for line in mine if "_count{" in line)

    before = await counted()
    for way in (client.app.short_way, NONE):
        client.app.short_way = way
        assert (await client.post(f"{REQUESTS}/quote", json=ORDER)).is_success
    assert await counted() == before + 2
