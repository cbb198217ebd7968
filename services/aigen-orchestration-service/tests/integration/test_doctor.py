"""`aigen doctor` checks every configured dependency and prints each error on one line with its
remedy.
"""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from time import monotonic

import httpx
import pytest

from creativeflow.services.aigeneration.bootstrap.rabbitmq import broker_queues
from creativeflow.services.aigeneration.cli import doctor
from creativeflow.services.aigeneration.cli.doctor import CheckResult, examine
from creativeflow.services.aigeneration.cli.variables import UnknownVariable
from creativeflow.services.aigeneration.settings import Settings
from tests.support.command_line import CommandResult, run_aigen
from tests.support.fake_billing import KEY as BILLING_KEY
from tests.support.fake_odoo import DATABASE, KEY, LOGIN
from tests.support.processes import free_port, process, wait_ready
from tests.support.services import RABBITMQ, unique_names

Examine = Callable[..., Awaitable[dict[str, CheckResult]]]
SECRET = "a-secret-that-nobody-sees"


@pytest.fixture
def examined(database_url: str, tmp_path: Path) -> Examine:
    """Check settings on the test's database; return the results by name."""

    async def run(**values: object) -> dict[str, CheckResult]:
        settings = Settings(
            **{"_env_file": None, "database_url": database_url, "data_dir": tmp_path, **values}  # type: ignore[arg-type]
        )
        results = await examine(settings)
        for result in results:
            line = str(result)
            assert "\n" not in line
            assert SECRET not in line
            assert "Traceback" not in line
            assert result.ok or result.remedy, line
        return {result.part: result for result in results}

    return run


@pytest.fixture
def aigen(database_url: str, tmp_path: Path) -> Callable[..., Awaitable[CommandResult]]:
    """Run `aigen …` on the test's database."""

    async def run(*arguments: str, **more: str) -> CommandResult:
        environment = {"AIGEN_DATABASE_URL": database_url, **more}
        return await run_aigen(*arguments, folder=tmp_path, environment=environment)

    return run


async def test_doctor_defaults_are_all_in_order(aigen) -> None:
    result = await aigen("doctor")
    assert (result.code, result.err) == (0, "")
    parts = re.findall(r"^✓ ([a-z ]+):", result.out, re.MULTILINE)
    assert parts == [
        "settings",
        "data directory",
        "routing file",
        "word list",
        "database",
        "engine",
        "credits",
        "notifications",
        "moderation",
        "webhooks",
    ]
    assert "local ledger in the database" in result.out
    assert "PostgreSQL" in result.out


async def test_doctor_everything_broken_prints_one_line_each_and_exits_with_1(
    aigen, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    away = f"127.0.0.1:{free_port()}"
    began = monotonic()
    result = await aigen(
        "doctor",
        AIGEN_DATABASE_URL=f"postgresql://aigen:{SECRET}@{away}/aigen",
        AIGEN_DATA_DIR=str(tmp_path / "file" / "below"),
        AIGEN_ROUTING_FILE="/no/routing.toml",
        AIGEN_SAFETY_FILE="/no/words.toml",
        AIGEN_ENGINE_URL=f"amqp://aigen:{SECRET}@{away}",
        AIGEN_NOTIFY_URL=f"http://{away}/notify",
        AIGEN_CREDITS_URL=f"odoo+http://{away}/creative",
        AIGEN_CREDITS_LOGIN="aigen",
        AIGEN_CREDITS_API_KEY=SECRET,
        AIGEN_JWKS_URL=f"http://{away}/keys",
        AIGEN_PORTT="8000",
    )
    assert (result.code, result.err) == (1, "")
    assert monotonic() - began < 30
    failed = re.findall(r"^✗ ([a-z ]+): .+ → .+\.$", result.out, re.MULTILINE)
    assert failed == [
        "data directory",
        "routing file",
        "word list",
        "database",
        "engine",
        "credits",
        "notifications",
        "token keys",
    ]
    assert "did you mean AIGEN_PORT?" in result.out
    assert SECRET not in result.out


async def test_doctor_unknown_variable_fails_in_production_only(
    database_url: str, tmp_path: Path
) -> None:
    unknown = [UnknownVariable("AIGEN_PROT", "the environment", "AIGEN_PORT")]
    for profile, ok in (("embedded", True), ("production", False)):
        settings = Settings.model_construct(
            **{**Settings(_env_file=None, data_dir=tmp_path).__dict__, "profile": profile}  # type: ignore[call-arg]
        )
        results = await doctor.check_settings(settings, unknown)
        assert all(result.ok for result in results) is ok
        assert any("did you mean AIGEN_PORT?" in result.state for result in results)


async def test_doctor_database_without_schema_names_the_command(
    examined: Examine, admin_url: str
) -> None:
    results = await examined(database_url=admin_url)
    assert not results["database"].ok
    assert "schema missing" in results["database"].state
    assert "aigen migrate" in results["database"].remedy
    assert not results["credits"].ok


@pytest.mark.parametrize(
    ("url", "reason", "remedy"),
    [
        (f"amqp://guest:{SECRET}@127.0.0.1:5672/%2F", "login refused", "user and password"),
        (f"{RABBITMQ.rpartition('/')[0]}/no-such-host", "virtual host refused", "virtual host"),
        ("amqp://127.0.0.1:1", "refused", "Start RabbitMQ"),
        ("amqp://broker.invalid", "broker.invalid", "Start RabbitMQ"),
        ("amqp://127.0.0.1:no-port", "cannot be read", "AIGEN_ENGINE_URL"),
        ("amqps://127.0.0.1:5672", "", "certificate"),
    ],
)
async def test_doctor_broker_out_of_reach_names_the_remedy(
    examined: Examine, url: str, reason: str, remedy: str
) -> None:
    result = (await examined(engine_url=url))["engine"]
    assert not result.ok
    assert reason in result.state
    assert remedy in result.remedy


async def test_doctor_broker_without_queues_names_each(examined: Examine) -> None:
    names = {
        name.removeprefix("AIGEN_").lower(): value
        for name, value in unique_names("aigen.doctor").items()
    }
    results = await examined(engine_url=RABBITMQ, notify_url=RABBITMQ, **names)
    assert results["engine"].ok
    assert results["engine"].state.startswith("RabbitMQ ")
    missing = [results[queue] for queue in broker_queues(Settings(_env_file=None, **names))]  # type: ignore[arg-type,call-arg]
    assert [result.ok for result in missing] == [False] * 4
    assert "declares it at its start" in missing[0].remedy


async def test_doctor_billing_adapter_is_asked_with_its_key(
    examined: Examine, faithful_billing: int
) -> None:
    url = f"http://127.0.0.1:{faithful_billing}/api/v1"
    answers = (await examined(credits_url=url, credits_api_key=BILLING_KEY))["credits"]
    assert answers.ok, answers
    assert "billing adapter at 127.0.0.1" in answers.state
    async with _http_server(401, {}) as port:
        url = f"http://127.0.0.1:{port}/api/v1"
        wrong = (await examined(credits_url=url, credits_api_key=SECRET))["credits"]
    assert not wrong.ok
    assert "401" in wrong.state
    assert "AIGEN_CREDITS_API_KEY" in wrong.remedy
    away = (await examined(credits_url="http://127.0.0.1:1", credits_api_key=SECRET))["credits"]
    assert not away.ok


@pytest.mark.parametrize("version", ["18", "19"])
async def test_doctor_odoo_is_asked_with_its_login(
    examined: Examine, tmp_path: Path, version: str
) -> None:
    port = free_port()
    url = f"odoo+http://127.0.0.1:{port}/{DATABASE}"
    command = ["-m", "tests.support.fake_odoo", str(port), version]
    with process(command, {}, tmp_path / "odoo.log") as running:
        await wait_ready(port, running, "/web/health")
        answers = (await examined(credits_url=url, credits_login=LOGIN, credits_api_key=KEY))[
            "credits"
        ]
        denied = (await examined(credits_url=url, credits_login=LOGIN, credits_api_key=SECRET))[
            "credits"
        ]
    assert answers.ok, answers
    assert DATABASE in answers.state
    assert not denied.ok
    assert "AIGEN_CREDITS_LOGIN" in denied.remedy


@pytest.mark.parametrize(
    ("status", "body", "ok", "remedy"),
    [
        (200, {"results": [{"flagged": False}]}, True, ""),
        (401, {}, False, "AIGEN_SAFETY_API_KEY"),
        (200, {"other": 1}, False, "AIGEN_SAFETY_URL"),
    ],
)
async def test_doctor_moderation_endpoint_is_asked(
    examined: Examine, status: int, body: object, ok: bool, remedy: str
) -> None:
    async with _http_server(status, body) as port:
        result = (await examined(safety_url=f"http://127.0.0.1:{port}/v1"))["moderation"]
    assert result.ok is ok, result
    assert remedy in result.remedy


@pytest.mark.parametrize(
    ("status", "body", "ok", "state"),
    [
        (200, {"keys": []}, False, "no key set"),
        (200, {"keys": [{"kty": "oct", "kid": "1", "k": "c2VjcmV0"}]}, True, "1 keys"),
        (404, {}, False, "HTTPStatusError"),
    ],
)
async def test_doctor_key_set_is_fetched(
    examined: Examine, status: int, body: object, ok: bool, state: str
) -> None:
    async with _http_server(status, body) as port:
        result = (await examined(jwks_url=f"http://127.0.0.1:{port}/keys"))["token keys"]
    assert result.ok is ok, result
    assert state in result.state


@pytest.mark.parametrize(
    ("status", "ok", "remedy"),
    [(204, True, ""), (405, True, ""), (403, False, "AIGEN_NOTIFY_API_KEY"), (502, False, "log")],
)
async def test_doctor_notification_service_is_asked(
    examined: Examine, status: int, ok: bool, remedy: str
) -> None:
    async with _http_server(status, {}) as port:
        url = f"http://127.0.0.1:{port}/notify"
        result = (await examined(notify_url=url, notify_api_key=SECRET))["notifications"]
    assert result.ok is ok, result
    assert remedy in result.remedy


async def test_doctor_server_without_tls_is_one_line(examined: Examine) -> None:
    broker = RABBITMQ.rpartition("@")[2].partition("/")[0]
    result = (await examined(notify_url=f"https://{broker}"))["notifications"]
    assert not result.ok
    assert "SSL" in result.state


async def test_doctor_silent_dependencies_end_at_the_limit_together(
    examined: Examine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "LIMIT_SECONDS", 0.5)
    async with _silent_server() as port:
        began = monotonic()
        results = await examined(
            engine_url=f"amqp://127.0.0.1:{port}",
            notify_url=f"http://127.0.0.1:{port}",
            credits_url=f"http://127.0.0.1:{port}",
            credits_api_key=SECRET,
            safety_url=f"http://127.0.0.1:{port}",
            jwks_url=f"http://127.0.0.1:{port}",
        )
        spent = monotonic() - began
    for part in ("engine", "notifications", "credits", "moderation", "token keys"):
        assert results[part].state == "no answer within 0.5 s"
    assert spent < 5


async def test_doctor_unexpected_error_of_a_check_does_not_hide_the_others(
    examined: Examine, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(_settings: Settings) -> list[CheckResult]:
        raise RuntimeError(SECRET)

    monkeypatch.setattr(doctor, "check_key_set", broken)
    results = await examined()
    assert results["token keys"].state == "unexpected RuntimeError"
    assert results["database"].ok


async def test_doctor_webhooks_name_what_they_may_call(
    examined: Examine, monkeypatch: pytest.MonkeyPatch
) -> None:
    allowed = (await examined(webhook_allowed_networks="10.1.0.0/16", webhook_ports="443"))[
        "webhooks"
    ]
    assert "the internet and 10.1.0.0/16 on ports 443" in allowed.state
    assert (await examined(webhook_endpoints_max=0))["webhooks"].state == "off"


@asynccontextmanager
async def _http_server(status: int, body: object) -> AsyncIterator[int]:
    """Serve the same response to every call."""
    content = json.dumps(body).encode()
    head = f"HTTP/1.1 {status} {httpx.codes.get_reason_phrase(status)}\r\n"
    content = b"" if status == httpx.codes.NO_CONTENT else content
    length = b"Content-Length: %d\r\n" % len(content) if content else b""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            request = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            writer.close()
            return
        if match := re.search(rb"content-length: (\d+)", request, re.IGNORECASE):
            await reader.readexactly(int(match[1]))
        writer.write(head.encode() + length + b"Connection: close\r\n\r\n" + content)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


@asynccontextmanager
async def _silent_server() -> AsyncIterator[int]:
    """Accept connections and never respond."""
    writers = []

    async def stay_silent(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)

    server = await asyncio.start_server(stay_silent, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        for writer in writers:
            writer.transport.abort()
        server.close()
        await asyncio.sleep(0)
