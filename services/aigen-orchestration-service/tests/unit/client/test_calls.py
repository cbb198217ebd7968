"""The client covers the API description: every operation, its parameters, bodies and responses."""

import inspect
import re
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import fields
from typing import Any

import httpx
import orjson
import pytest

from creativeflow.clients.aigeneration import AsyncClient, Client, parameters
from creativeflow.clients.aigeneration.resources import generations, webhook_endpoints
from creativeflow.clients.aigeneration.resources.parsing import Resource
from creativeflow.services.aigeneration.domain.lifecycle import TERMINAL
from tests.unit.client.cases import (
    CASES,
    COMPOSED,
    DESCRIPTION,
    ROOT,
    SCHEMAS,
    UNCOVERED,
    Case,
    example,
)

OPERATIONS: dict[str, tuple[str, str, dict[str, Any]]] = {
    operation["operationId"]: (method.upper(), path, operation)
    for path, operations in DESCRIPTION["paths"].items()
    for method, operation in operations.items()
}


def test_every_operation_is_covered_or_excused() -> None:
    covered = {case.operation for case in CASES}
    assert covered & UNCOVERED.keys() == set()
    assert covered | UNCOVERED.keys() == OPERATIONS.keys()


def test_every_public_method_has_a_case() -> None:
    with Client("http://aigen") as client:
        methods = {
            name for name in vars(Client) if not name.startswith("_") and name != "close"
        } | {
            f"{group}.{name}"
            for group in ("webhook_endpoints", "operations", "accounts")
            for name in vars(type(getattr(client, group)))
            if not name.startswith("_")
        }
    assert methods == {case.method for case in CASES} | COMPOSED.keys()


def test_document_lists_every_call() -> None:
    text = (ROOT / "docs" / "python-client.md").read_text("utf-8")
    rows = re.findall(r"^\| `([\w.]+)` \| `(\w+) (/\S+)` \|$", text, re.MULTILINE)
    assert rows == [(case.method, *OPERATIONS[case.operation][:2]) for case in CASES]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.method)
def test_call_fits_the_description(case: Case) -> None:
    with Client("http://aigen", transport=httpx.MockTransport(_answer(case))) as client:
        result = case.call(client)
        if isinstance(result, Iterator):
            result = list(result)
    assert_parsed(result, case)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.method)
async def test_asynchronous_call_fits_the_description(case: Case) -> None:
    transport = httpx.MockTransport(_answer(case))
    async with AsyncClient("http://aigen", transport=transport) as client:
        result = case.call(client)
        if isinstance(result, AsyncIterator):
            result = [item async for item in result]
        elif inspect.isawaitable(result):
            result = await result
    assert_parsed(result, case)


def _answer(case: Case) -> Callable[[httpx.Request], httpx.Response]:
    """Check a request against its operation, and build a response of its schema."""

    def handle(request: httpx.Request) -> httpx.Response:
        method, path, operation = OPERATIONS[case.operation]
        assert request.method == method
        pattern = re.sub(r"\\\{\w+\\\}", "[^/]+", re.escape(path))
        assert re.fullmatch(pattern, request.url.raw_path.decode().partition("?")[0])
        declared = {
            kind: {p["name"] for p in operation.get("parameters", ()) if p["in"] == kind}
            for kind in ("query", "header")
        }
        assert set(request.url.params) == declared["query"] - {"cursor"}
        sent = {"Idempotency-Key", "If-Match"} & {_title(name) for name in request.headers}
        assert sent == declared["header"]
        _check_body(request, operation.get("requestBody"))
        return _response(case, operation)

    return handle


def _title(header: str) -> str:
    return "-".join(word.capitalize() for word in header.split("-"))


def _check_body(request: httpx.Request, described: dict[str, Any] | None) -> None:
    if described is None:
        assert request.content == b""
        return
    schema = described["content"]["application/json"]["schema"]
    while "properties" not in schema:
        reference = schema.get("$ref") or schema["anyOf"][0]["$ref"]
        schema = SCHEMAS[reference.rpartition("/")[2]]
    assert set(orjson.loads(request.content)) == set(schema["properties"])


def _response(case: Case, operation: dict[str, Any]) -> httpx.Response:
    status = next(code for code in operation["responses"] if code.startswith("2"))
    if isinstance(case.response, bytes):
        return httpx.Response(int(status), content=case.response)
    if status == "204":
        return httpx.Response(204)
    if case.operation == "stream_generation":
        document = example({"$ref": "#/components/schemas/GenerationRequest"})
        data = orjson.dumps(document | {"status": "COMPLETED"})
        return httpx.Response(200, content=b"id: 1\nevent: generation.updated\ndata: %b\n\n" % data)
    schema = operation["responses"][status]["content"]["application/json"]["schema"]
    described = case.response is None
    document = example(schema) if described else case.response
    assert described == ("$ref" in schema), "give a response exactly where there is no schema"
    return httpx.Response(int(status), json=document)


def assert_parsed(result: Any, case: Case) -> None:
    """The result is typed; a call that returns nothing answers only with a status."""
    if result is None:
        assert case.operation.startswith(("delete_", "replay_", "drop_"))
        return
    items = result if isinstance(result, list | tuple) else [result]
    assert items
    if case.method == "accounts.export_usage":
        assert b"".join(items) == case.response
        return
    for item in items:
        assert isinstance(item, Resource)
        for each in fields(item):
            assert each.name == "raw" or each.name in item.raw, (
                f"{each.name} was not in the example"
            )


def test_options_are_the_fields_of_the_bodies() -> None:
    create = {"input_prompt", "output_format", *parameters.BriefOptions.__annotations__}
    assert create == set(SCHEMAS["CreateRequest"]["properties"])
    changes = set(parameters.BriefChanges.__annotations__)
    assert changes == set(SCHEMAS["BriefChanges"]["properties"])
    dimensions = set(parameters.Dimensions.__annotations__)
    assert dimensions == set(SCHEMAS["Dimensions"]["properties"])


@pytest.mark.parametrize(
    ("resource", "schema"),
    [
        (generations.Asset, "AssetOut"),
        (generations.SampleFailure, "SampleFailureOut"),
        (generations.Cost, "Cost"),
        (generations.FailureReason, "FailureOut"),
        (generations.Generation, "GenerationRequest"),
        (generations.Cancellation, "Cancelled"),
        (generations.Page, "Page"),
        (generations.TimelineEntry, "TimelineEntry"),
        (generations.QuoteItem, "QuoteItem"),
        (generations.Quote, "Quote"),
        (webhook_endpoints.WebhookEndpoint, "WebhookEndpointOut"),
        (webhook_endpoints.WebhookEndpointWithSecret, "WebhookEndpointWithSecret"),
        (webhook_endpoints.Delivery, "DeliveryOut"),
        (webhook_endpoints.DeliveryScheduled, "DeliveryScheduled"),
    ],
)
def test_resource_has_the_fields_of_its_schema(resource: type[Resource], schema: str) -> None:
    assert {each.name for each in fields(resource)} - {"raw"} == set(SCHEMAS[schema]["properties"])


def test_states_that_end_are_the_terminal_ones() -> None:
    assert {state.value for state in TERMINAL} == generations.ENDED


def test_secret_is_not_in_the_representation() -> None:
    document = example(SCHEMAS["WebhookEndpointWithSecret"]) | {"secret": "whsec_hidden"}
    endpoint = webhook_endpoints.WebhookEndpointWithSecret.parse(document)
    assert (endpoint.secret, "whsec_hidden" in repr(endpoint)) == ("whsec_hidden", False)
