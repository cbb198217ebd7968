"""Generated calls, valid and invalid: every response is declared in the API description.

AIGEN_TEST_EXAMPLES sets the number of calls of each kind.
"""

import asyncio
import json
import os
import re
import tracemalloc
from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from creativeflow.services.aigeneration.adapters.rabbitmq.broker import (
    Delivery,
    PublishOutcome,
    PublishResult,
    TryAgainError,
)
from creativeflow.services.aigeneration.app import create_app
from creativeflow.services.aigeneration.settings import Settings
from creativeflow.services.aigeneration.workers.results_consumer import (
    ROUTES,
    DeadLetterConsumer,
    ResultsConsumer,
)
from tests.e2e.journey import CALLBACKS, NOBODY, Caller
from tests.support.app import ServiceUnderTest

EXAMPLES = int(os.environ.get("AIGEN_TEST_EXAMPLES", "12"))
DESCRIBED: dict[str, Any] = create_app(Settings(_env_file=None)).openapi()  # type: ignore[call-arg]
CALLS = [
    (method, path)
    for path, calls in DESCRIBED["paths"].items()
    for method in calls
    if not path.endswith(
        ("/stream", "/assets")
    )  # a stream that never ends, and uploads; both have separate tests
]
QUICKLY = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
GROWTH_MAX_BYTES = 3_000_000

plain = st.text(max_size=12)
junk: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | plain
    | st.sampled_from(["\x00", "x" * 5000]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(plain, inner, max_size=3),
    max_leaves=5,
)


def resolved(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """Resolve a reference to a schema."""
    while "$ref" in schema:
        schema = DESCRIBED["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return schema


def fitting(schema: Mapping[str, Any]) -> st.SearchStrategy[Any]:  # noqa: C901, PLR0911 - one case and return for each kind
    """Generate values that a schema mostly allows."""
    schema = resolved(schema)
    if "const" in schema:
        return st.just(schema["const"])
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    if options := schema.get("anyOf") or schema.get("oneOf"):
        return st.one_of(*(fitting(option) for option in options))
    examples = [st.just(example) for example in schema.get("examples", ())]
    match schema.get("type"):
        case "object":
            told = {
                name: fitting(part)
                if name in schema.get("required", ())
                else st.none() | fitting(part)
                for name, part in schema.get("properties", {}).items()
            }
            return st.fixed_dictionaries(told).map(
                lambda made: {name: value for name, value in made.items() if value is not None}
            )
        case "array":
            return st.lists(fitting(schema.get("items", {})), max_size=3)
        case "integer":
            return st.integers(schema.get("minimum", -5), min(schema.get("maximum", 9), 10**9))
        case "boolean":
            return st.booleans()
        case "null":
            return st.none()
        case "string" if schema.get("format") == "uuid":
            return st.uuids().map(str) | st.just(NOBODY)
        case "string":
            return st.one_of(
                *examples,
                st.text(min_size=schema.get("minLength", 0), max_size=20),
                st.just("user"),
            )
    return junk


@st.composite
def calls(draw: st.DrawFn, method: str, path: str) -> dict[str, Any]:
    """Generate a call: path, query, headers and body, some of it invalid."""
    operation = DESCRIBED["paths"][path][method]
    headers, query, where = {}, {}, path
    for parameter in operation.get("parameters", ()):
        value = draw(fitting(parameter["schema"]) if draw(st.integers(0, 3)) else junk)
        text = value if isinstance(value, str) else _json(value).decode()
        if parameter["in"] == "path":
            where = where.replace(
                "{" + parameter["name"] + "}",
                quote(text.encode("utf-8", "replace"), safe="") or "x",
            )
        elif parameter["in"] == "query" and draw(st.booleans()):
            query[parameter["name"]] = text
        elif parameter["in"] == "header" and draw(st.booleans()):
            headers[parameter["name"]] = re.sub(r"[^\x20-\x7e]", "?", text)[:300].strip()
    made: dict[str, Any] = {
        "method": method.upper(),
        "url": where,
        "params": query,
        "headers": headers,
    }
    if body := operation.get("requestBody"):
        schema = body["content"].get("application/json", {}).get("schema", {})
        value = draw(fitting(schema) if draw(st.integers(0, 3)) else junk)
        made["content"] = (
            draw(st.binary(max_size=60)) if not draw(st.integers(0, 5)) else _json(value)
        )
        headers["Content-Type"] = draw(st.sampled_from(["application/json"] * 5 + ["text/plain"]))
    return made


def _json(value: Any) -> bytes:
    """Encode like a caller: unlike the service's encoder with NaN and huge numbers."""
    return json.dumps(value).encode()


def misfits(value: Any, schema: Mapping[str, Any], at: str = "") -> list[str]:
    """Return where a value does not match its schema."""
    schema = resolved(schema)
    if options := schema.get("anyOf") or schema.get("oneOf"):
        found = [misfits(value, option, at) for option in options]
        return [] if [] in found else found[0]
    if "enum" in schema and value not in schema["enum"]:
        return [f"{at}: {value!r} is none of {schema['enum']}"]
    kinds: dict[str, Any] = {
        "object": dict,
        "array": list,
        "string": str,
        "integer": int,
        "boolean": bool,
        "null": type(None),
        "number": (int, float),
    }
    if (kind := schema.get("type")) and not isinstance(value, kinds[kind]):
        return [f"{at}: {value!r} is no {kind}"]
    if kind == "array":
        return [
            text for item in value for text in misfits(item, schema.get("items", {}), f"{at}[]")
        ]
    if kind != "object":
        return []
    parts = schema.get("properties", {})
    missing = [
        f"{at}.{name} is missing" for name in schema.get("required", ()) if name not in value
    ]
    if parts and schema.get("additionalProperties") is False:
        missing += [f"{at}.{name} is not described" for name in value if name not in parts]
    there = {name: part for name, part in parts.items() if name in value}
    return missing + [
        text for name, part in there.items() for text in misfits(value[name], part, f"{at}.{name}")
    ]


def check(answer: httpx.Response, method: str, path: str) -> None:
    """Check that a response is declared, in status, type and form."""
    declared = DESCRIBED["paths"][path][method]["responses"]
    asked = answer.request
    told = f"{asked.method} {asked.url} {asked.content!r}: {answer.status_code} {answer.text}"
    assert str(answer.status_code) in declared, told
    assert answer.status_code < 500 or answer.status_code == 503, told
    content = declared[str(answer.status_code)].get("content", {})
    kind = answer.headers.get("content-type", "").partition(";")[0]
    if answer.content and content:
        assert kind in content, told
        if kind.endswith("json"):
            assert misfits(answer.json(), content[kind].get("schema", {})) == [], told


@pytest.mark.timeout(180)
@pytest.mark.parametrize(("method", "path"), CALLS)
async def test_api_every_response_is_declared(client: Caller, method: str, path: str) -> None:
    await fuzzed(calls(method, path), lambda call: _call_and_check(client, call, method, path))


async def _call_and_check(client: Caller, call: dict[str, Any], method: str, path: str) -> None:
    answer = await client.request(**call)
    if (
        answer.status_code in {404, 405}
        and answer.headers.get("content-type") == "application/problem+json"
    ):
        # The generated path may be another one, or none.
        return
    check(answer, method, path)


async def fuzzed(made: st.SearchStrategy[Any], act: Callable[[Any], Awaitable[None]]) -> None:
    """Run Hypothesis in a separate thread and execute its examples here."""
    loop = asyncio.get_running_loop()

    @QUICKLY
    @given(made)
    def run(example: Any) -> None:
        asyncio.run_coroutine_threadsafe(act(example), loop).result(30)  # type: ignore[arg-type]

    await asyncio.to_thread(run)


@pytest.mark.timeout(120)
async def test_results_consumer_any_message_is_handled(test_app: ServiceUnderTest) -> None:
    job = await _job(test_app)
    token = test_app.service.secrets.token(job.job_id)
    consumer = ResultsConsumer(
        test_app.service.worker_reports, _NoBroker(), dead_letter_exchange="dead"
    )  # type: ignore[arg-type]
    dead = DeadLetterConsumer(
        test_app.generations,
        test_app.service.outbox,
        job_queues={"jobs"},
        now=test_app.clock,
        proves=test_app.service.secrets.opens,
    )

    async def take(made: tuple[str, bytes]) -> None:
        delivery = a_delivery(*made)
        for handler in (consumer, dead):
            try:
                await handler.handle(delivery)
            except TryAgainError as error:
                assert "fuzz" in str(error)  # noqa: PT017 - our own broker took it for buried

    await fuzzed(st.tuples(st.sampled_from([*ROUTES, "other"]), bodies(job, token)), take)
    await test_app.database.execute("DELETE FROM outbox WHERE topic = 'dead_letter'")


@pytest.mark.timeout(120)
async def test_callback_any_bytes_get_a_declared_response_in_constant_memory(
    client: Caller,
) -> None:
    job = await _job(client.test_app)
    token = client.test_app.service.secrets.token(job.job_id)
    kinds = ["started", "progress", "sample-result", "final-result", "error"]

    async def send(made: tuple[str, bytes]) -> None:
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {token}"}
        answer = await client.post(f"{CALLBACKS}/{made[0]}", content=made[1], headers=headers)
        check(answer, "post", f"{CALLBACKS}/{made[0]}")

    sent = st.tuples(st.sampled_from(kinds), bodies(job))
    await fuzzed(sent, send)
    tracemalloc.start()
    await fuzzed(sent, send)
    before = tracemalloc.get_traced_memory()[0]
    for _ in range(3):
        await fuzzed(sent, send)
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert grown < GROWTH_MAX_BYTES


def bodies(job: Any, token: str | None = None) -> st.SearchStrategy[bytes]:
    """Generate bytes, any JSON, and results that nearly match an existing job."""
    schemas = [
        DESCRIBED["components"]["schemas"][name]
        for name in ("SamplesReport", "FinalReport", "ErrorReport")
    ]
    nearly = st.one_of(*(fitting(schema) for schema in schemas)).map(
        lambda made: {
            **made,
            "generation_request_id": str(job.id),
            "job_id": str(job.job_id),
            "callback_token": token,
        }
    )
    return st.binary(max_size=200) | junk.map(_json) | nearly.map(_json)


async def _job(test_app: ServiceUnderTest) -> Any:
    await test_app.submitted()
    return await test_app.next_job()


class _NoBroker:
    """A broker without dead letters: unreadable messages are requeued."""

    async def publish(self, messages: list[Any]) -> list[Any]:
        return [PublishResult(PublishOutcome.REFUSED, "fuzz") for _ in messages]


def a_delivery(routing_key: str, body: bytes) -> Any:
    """Return a message as delivered by the broker."""
    fields: dict[str, Any] = {
        "routing_key": routing_key,
        "body": body,
        "message_id": "m",
        "correlation_id": "c",
        "type": "t",
        "headers": {},
        "redelivered": False,
        "exchange": "e",
        "queue": "q",
    }
    return Delivery(
        **{name: value for name, value in fields.items() if name in Delivery.__dataclass_fields__}
    )
