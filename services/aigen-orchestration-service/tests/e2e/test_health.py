"""Health, readiness, metrics, traces and logs."""

import hashlib
import logging
import re
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import jwt
import orjson
import pytest
import structlog
from fastapi import FastAPI
from prometheus_client.parser import text_string_to_metric_families

from creativeflow.services.aigeneration.app import create_app
from creativeflow.services.aigeneration.bootstrap.container import Container
from creativeflow.services.aigeneration.kit.logging import configure_logging
from creativeflow.services.aigeneration.settings import Settings
from tests.e2e.journey import CALLBACKS, OPERATIONS, PLAIN, PROMPT, REQUESTS, Caller, assert_problem

JWT_SECRET = "the secret of the end users' tokens"
API_KEY = "a-key-of-enough-length"
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


@pytest.fixture(scope="module")
async def shared(make_shared: Callable[..., Awaitable[Caller]]) -> Caller:
    """A shared client for tests that store nothing."""
    return await make_shared()


Metrics = dict[tuple[str, frozenset[tuple[str, str]]], float]


async def read_metrics(client: Caller) -> Metrics:
    """Return every sample of /metrics by name and labels."""
    answer = await client.get("/metrics")
    assert answer.status_code == httpx.codes.OK
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def grown(before: Metrics, after: Metrics, name: str, **labels: str) -> float:
    """Return the increase of a metric; all tests of a run share the metrics of the process."""
    key = (name, frozenset(labels.items()))
    assert key in after, f"{name} {labels} is not among the metrics"
    return after[key] - before.get(key, 0.0)


# Health and readiness


async def test_health_running_process_is_200(shared: Caller) -> None:
    answer = await shared.get("/health")
    assert (answer.status_code, answer.json()) == (
        200,
        {"status": "ok", "version": shared.app.version},
    )


async def test_ready_with_database_is_200(shared: Caller) -> None:
    answer = await shared.get("/ready")
    assert answer.status_code == httpx.codes.OK
    assert answer.json()["status"] == "ready"
    database = answer.json()["checks"]["database"]
    assert database["ok"]
    assert re.fullmatch(r"PostgreSQL \S.*, schema \S+", database["detail"])


async def test_ready_with_another_schema_is_503_with_remedy(client: Caller) -> None:
    await client.test_app.database.execute("UPDATE alembic_version SET version_num = '0000'")
    answer = await client.get("/ready")
    assert (answer.status_code, answer.json()["status"]) == (503, "not_ready")
    assert answer.json()["checks"]["database"]["detail"] == "schema is at 0000: run aigen migrate"


@asynccontextmanager
async def _without_database(settings: Settings) -> AsyncIterator[tuple[FastAPI, httpx.AsyncClient]]:
    with socket.socket() as closed:
        closed.bind(
            ("127.0.0.1", 0)
        )  # bound but not listening: the port stays taken and refuses connections
        url = f"postgresql://nobody@127.0.0.1:{closed.getsockname()[1]}/nothing"
        service = Container(settings, database_url=url)
        app = create_app(service=service)
        transport = httpx.ASGITransport(app=app)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://t") as asks,
        ):
            yield app, asks
        await service.stop()


async def test_ready_without_database_is_503_and_health_200(settings: Settings) -> None:
    async with _without_database(settings) as (_, asks):
        assert (await asks.get("/health")).status_code == httpx.codes.OK
        answer = await asks.get("/ready")
        assert (answer.status_code, answer.json()["status"]) == (503, "not_ready")
        assert answer.json()["checks"]["database"] == {
            "ok": False,
            "required": True,
            "detail": "does not answer",
        }
        assert (await asks.get("/metrics")).status_code == httpx.codes.OK


async def test_calls_without_database_are_retryable_503(settings: Settings) -> None:
    async with _without_database(settings) as (_, asks):
        for method, path, body in (
            ("POST", REQUESTS, {"user_id": "user", **PLAIN}),
            ("POST", f"{REQUESTS}/quote", {"user_id": "user", **PLAIN}),
            ("GET", REQUESTS, None),
            ("GET", f"{REQUESTS}/01950000-0000-7000-8000-000000000000", None),
            ("GET", f"{OPERATIONS}/invariants", None),
        ):
            answer = await asks.request(method, path, json=body, headers={"Idempotency-Key": "k"})
            document = assert_problem(answer, 503, answer.json()["code"])
            assert document["retryable"]
            assert int(answer.headers["retry-after"]) > 0


# Metrics


async def test_metrics_completed_lifecycle_is_counted_timed_and_priced(client: Caller) -> None:
    await client.test_app.grant("user", 1000, "payg")
    before = await read_metrics(client)
    created = (await client.create()).json()
    job = await client.test_app.next_job()
    client.test_app.clock.advance(seconds=12)
    await client.test_app.deliver(job)
    sample = (await client.look(created["id"]))["samples"][0]["asset_id"]
    await client.act(created["id"], "select-sample", selected_sample_id=sample)
    final = await client.test_app.next_job()
    client.test_app.clock.advance(seconds=100)
    await client.test_app.deliver(final)
    after = await read_metrics(client)
    assert grown(before, after, "ai_generation_attempted_total", plan="payg") == 1
    assert grown(before, after, "ai_generation_completed_total", status="success", plan="payg") == 1
    consumed = "creativeflow_user_credits_consumed_total"
    assert grown(before, after, consumed, action="sample_generation", plan="payg") == 0.25
    assert grown(before, after, consumed, action="standard_generation", plan="payg") == 1
    name = "creativeflow_ai_generation_duration_seconds"
    place = {"plan": "payg", "provider": "default", "model": "standard"}
    for stage, seconds, bounds in (
        ("samples", 12, {"10.0": 0, "15.0": 1, "20.0": 1, "25.0": 1, "30.0": 1}),
        ("final", 100, {"15.0": 0, "30.0": 0, "60.0": 0, "90.0": 0, "120.0": 1}),
    ):
        assert grown(before, after, f"{name}_count", stage=stage, **place) == 1
        assert grown(before, after, f"{name}_sum", stage=stage, **place) == pytest.approx(
            seconds, abs=0.1
        )
        for bound, count in bounds.items():
            assert grown(before, after, f"{name}_bucket", stage=stage, le=bound, **place) == count
    found = {dict(labels)["le"] for (metric, labels) in after if metric == f"{name}_bucket"}
    assert found >= {
        "1.0",
        "5.0",
        "10.0",
        "15.0",
        "20.0",
        "25.0",
        "30.0",
        "60.0",
        "90.0",
        "120.0",
        "+Inf",
    }


@pytest.mark.parametrize(
    ("code", "status", "fault"),
    [("invalid_input", "failed", "user"), ("prompt_rejected", "rejected", "user")],
)
async def test_metrics_failed_request_is_counted_by_code_and_fault(
    client: Caller, code: str, status: str, fault: str
) -> None:
    await client.test_app.grant("user", 1000, "payg")
    before = await read_metrics(client)
    await client.create()
    await client.report("error", await client.test_app.next_job(), error_code=code)
    after = await read_metrics(client)
    assert grown(before, after, "ai_generation_completed_total", status=status, plan="payg") == 1
    failed = "ai_generation_failed_attempts_total"
    assert grown(before, after, failed, stage="samples", code=code, fault=fault) == 1


async def test_metrics_unknown_error_codes_add_no_labels(client: Caller) -> None:
    await client.test_app.grant("user", 0, "pro")
    await client.create()
    await client.report(
        "error", await client.test_app.next_job(), error_code="made-up-by-a-worker-4711"
    )
    assert "made-up-by-a-worker-4711" not in (await client.get("/metrics")).text


async def test_metrics_queued_and_in_flight_jobs_are_measured(client: Caller) -> None:
    await client.test_app.grant("user", 0, "pro")
    await client.create()
    assert grown({}, await read_metrics(client), "ai_generation_queued_jobs", lane="samples") == 1
    await client.test_app.next_job()
    after = await read_metrics(client)
    assert grown({}, after, "ai_generation_queued_jobs", lane="samples") == 0
    assert grown({}, after, "ai_generation_in_flight_jobs", lane="samples") == 1


async def test_metrics_paths_are_labelled_by_route(client: Caller) -> None:
    created = (await client.create()).json()
    await client.look(created["id"])
    await client.get("/otter-4711")
    text = (await client.get("/metrics")).text
    assert 'path="/api/v1/generation-requests/{request_id}"' in text
    assert created["id"] not in text
    assert "otter-4711" not in text


# Traces


async def test_request_id_and_trace_are_accepted_returned_and_stored(client: Caller) -> None:
    headers = {"X-Request-ID": "odoo:42.a_b-c", "traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"}
    answer = await client.create(headers=headers)
    assert answer.headers["x-request-id"] == "odoo:42.a_b-c"
    version, trace, span, flags = answer.headers["traceparent"].split("-")
    assert (version, trace, flags) == ("00", TRACE, "01")
    assert span != "00f067aa0ba902b7"
    job = await client.test_app.next_job()
    assert job.correlation_id == "odoo:42.a_b-c"
    assert job.traceparent is not None
    assert job.traceparent.split("-")[1] == TRACE


@pytest.mark.parametrize(
    ("request_id", "traceparent"),
    [
        ("", ""),
        ("a b", "otter"),
        ("x" * 129, f"00-{TRACE}-00f067aa0ba902b7"),
        ("a\tb", f"00-{TRACE.upper()}-00f067aa0ba902b7-01"),
        ("<script>", f"00-{'0' * 32}-00f067aa0ba902b7-01"),
        ("{}", f"00-{TRACE}-{'0' * 16}-01"),
    ],
)
async def test_request_id_and_trace_invalid_are_replaced(
    shared: Caller, request_id: str, traceparent: str
) -> None:
    answer = await shared.get(
        "/health", headers={"X-Request-ID": request_id, "traceparent": traceparent}
    )
    assert re.fullmatch(r"[0-9a-f]{32}", answer.headers["x-request-id"])
    assert re.fullmatch(
        r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}", answer.headers["traceparent"]
    )
    assert TRACE not in answer.headers["traceparent"]
    other = await shared.get("/health")
    assert other.headers["x-request-id"] != answer.headers["x-request-id"]


async def test_request_id_is_in_every_response(shared: Caller) -> None:
    for path in ("/health", "/nowhere", f"{REQUESTS}?limit=0", "/openapi.json", "/docs"):
        answer = await shared.get(path, headers={"X-Request-ID": "mine"})
        assert answer.headers["x-request-id"] == "mine"
        assert answer.headers["traceparent"].startswith("00-")
        assert answer.headers["x-content-type-options"] == "nosniff"


# Logs

SECRET_WORDS = ("otter", "Rilke")


@pytest.fixture
def lines(capsys: pytest.CaptureFixture[str]) -> Any:
    """Return the output of the standard streams with production logging."""
    before, root = structlog.get_config(), logging.getLogger()
    handlers, level = root.handlers, root.level

    def configured(*, as_json: bool) -> Callable[[], str]:
        configure_logging(level="debug", as_json=as_json)
        structlog.configure(cache_logger_on_first_use=False)

        def written() -> str:
            out, err = capsys.readouterr()
            return out + err

        return written

    yield configured
    structlog.configure(**before)
    root.handlers, root.level = handlers, level


@pytest.mark.parametrize("as_json", [True, False], ids=["json", "console"])
async def test_log_contains_no_prompt_and_no_secret(
    make_client: Callable[..., Awaitable[Caller]],
    lines: Callable[..., Callable[[], str]],
    as_json: bool,
) -> None:
    hashed = hashlib.sha256(b"a-key-only-its-owner-knows").hexdigest()
    keys = f"shop:operator:{API_KEY},odoo:service:sha256${hashed}"
    caller = await make_client(api_keys=keys, jwt_secret=JWT_SECRET)
    await caller.test_app.grant("user", 1000, "payg")
    written = lines(as_json=as_json)
    user = {
        "Authorization": (
            f"Bearer {jwt.encode({'sub': 'user', 'exp': int(time.time()) + 60}, JWT_SECRET)}"
        )
    }
    service = {"X-Internal-API-Key": API_KEY}
    created = (
        await caller.post(REQUESTS, json={**PLAIN, "metadata": {"note": PROMPT}}, headers=user)
    ).json()
    job = await caller.test_app.next_job()
    callback = caller.test_app.service.secrets.token(job.job_id)
    await caller.report("progress", job, percent=5, step="Rilke and the otter")
    await caller.report(
        "error",
        job,
        error_code="provider_error",
        error_message=f"no: {PROMPT}",
        error_details=PROMPT,
    )
    caller.test_app.clock.advance(minutes=1)
    await caller.report_result(await caller.test_app.next_job())
    await caller.post(
        f"{REQUESTS}/{created['id']}/regenerate-samples",
        json={"updated_prompt": PROMPT},
        headers=user,
    )
    await caller.post(REQUESTS, json={**PLAIN, "input_prompt": PROMPT + "\x00"}, headers=user)
    await caller.post(REQUESTS, content=PROMPT, headers=user | {"Content-Type": "application/json"})
    await caller.post(
        f"{CALLBACKS}/started", content=PROMPT, headers={"Authorization": f"Bearer {callback}"}
    )
    await caller.get(f"{REQUESTS}/otter?user_id=otter", headers=service)
    await caller.get(REQUESTS, headers={"X-Internal-API-Key": API_KEY + "x"})
    await caller.get(f"{REQUESTS}?user_id=otter", headers=service)
    caller.test_app.credits.faults.append("after")
    await caller.post(REQUESTS, json=PLAIN, headers=user)
    await _break_something(caller, user)
    caller.test_app.clock.advance(minutes=1)
    await caller.test_app.sweep()
    await caller.test_app.drain()
    text = written()
    assert text.count("http_request") >= 10
    assert "unexpected_error" in text
    for secret in (
        *SECRET_WORDS,
        API_KEY,
        JWT_SECRET,
        callback,
        user["Authorization"].split()[1],
        hashed,
    ):
        assert secret not in text, f"{secret!r} is in the log"


async def _break_something(caller: Caller, headers: dict[str, str]) -> None:
    """Raise an internal error in a call with a prompt and secrets."""
    database = caller.test_app.database
    await database.execute("ALTER TABLE holds RENAME TO holds_elsewhere")
    answer = await caller.post(REQUESTS, json=PLAIN, headers=headers)
    await database.execute("ALTER TABLE holds_elsewhere RENAME TO holds")
    assert_problem(answer, 500, "internal_error")


async def test_log_every_line_of_a_call_has_its_request_id(
    client: Caller, lines: Callable[..., Callable[[], str]]
) -> None:
    written = lines(as_json=True)
    await client.create(headers={"X-Request-ID": "odoo-42"})
    await client.create(headers={"X-Request-ID": "odoo-43"})
    found = [orjson.loads(line) for line in written().splitlines() if '"http_request"' in line]
    assert [line["request_id"] for line in found] == ["odoo-42", "odoo-43"]
    assert {line["status"] for line in found} == {202}
    assert {
        "method",
        "path",
        "status",
        "duration_ms",
        "principal",
        "timestamp",
        "level",
        "event",
    } <= set(found[0])


async def test_api_docs_page_loads_nothing_from_other_hosts(client: Caller) -> None:
    page = (await client.get("/docs")).text
    for name in ("swagger-ui-bundle.js", "swagger-ui.css", "favicon.png"):
        assert f"/docs/{name}" in page
        assert (await client.get(f"/docs/{name}")).is_success
    assert "https://" not in page
    assert (await client.get("/docs/redoc.standalone.js")).status_code == 404
