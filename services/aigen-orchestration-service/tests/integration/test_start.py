"""An error at start is one line with its remedy and exit code 1; a successful start is one log
line.
"""

import asyncio
import json
import os
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

import asyncpg
import httpx
import pytest

from creativeflow.services.aigeneration import __version__
from tests.support.command_line import CommandResult, run_aigen
from tests.support.databases import a_database
from tests.support.processes import MODULE, free_port, service_environment

Run = Callable[..., Awaitable[CommandResult]]
PASSWORD = "a-password-that-nobody-sees"


@pytest.fixture
def aigen(database_url: str, tmp_path: Path) -> Run:
    """Run `aigen …` on the test's database."""

    async def run(*arguments: str, **more: str) -> CommandResult:
        environment = {"AIGEN_DATABASE_URL": database_url, **more}
        return await run_aigen(*arguments, folder=tmp_path, environment=environment)

    return run


@pytest.fixture
async def empty_database(admin_url: str) -> AsyncIterator[str]:
    """URL of a database without a schema."""
    async with a_database(admin_url, "aigen_empty") as url:
        yield url


def assert_one_line(result: CommandResult, *parts: str) -> None:
    """Check exit code 1 and a single line with these parts and no secret."""
    assert result.code == 1, result
    assert len(result.err.splitlines()) == 1, result.err
    assert result.out == ""
    for part in parts:
        assert part in result.err
    for never in ("Traceback", PASSWORD, "asyncpg", "sqlalchemy"):
        assert never not in result.err


def at(url: str, *, user: str = "", name: str = "", port: int = 0, more: str = "") -> str:
    """Return the URL with another user, database or port."""
    parts = urlsplit(url)
    host = f"{parts.hostname}:{port or parts.port or 5432}"
    login = f"{user}@" if user else f"{parts.netloc.rpartition('@')[0]}@"
    return f"postgresql://{login}{host}/{name or parts.path[1:]}{more}"


@asynccontextmanager
async def a_role(admin_url: str) -> AsyncIterator[str]:
    """Create a user who may only connect; return `name:password`."""
    name = f"aigen_role_{uuid4().hex[:12]}"
    connection = await asyncpg.connect(admin_url)
    try:
        await connection.execute(f"CREATE ROLE {name} LOGIN PASSWORD '{PASSWORD}'")
        yield f"{name}:{PASSWORD}"
        await connection.execute(f"DROP OWNED BY {name}")
    finally:
        await connection.execute(f"DROP ROLE IF EXISTS {name}")
        await connection.close()


@pytest.mark.parametrize("command", [("migrate",), ("serve",), ("serve", "--no-migrate")])
async def test_start_database_refusing_connections_is_one_line(
    aigen: Run, command: tuple[str, ...]
) -> None:
    url = f"postgresql://aigen:{PASSWORD}@127.0.0.1:{free_port()}/aigen"
    result = await aigen(*command, AIGEN_DATABASE_URL=url)
    assert_one_line(result, "does not answer (connection refused)", "correct AIGEN_DATABASE_URL")


@pytest.mark.parametrize("command", [("migrate",), ("serve",), ("serve", "--no-migrate")])
async def test_start_unknown_database_is_one_line(
    aigen: Run, database_url: str, command: tuple[str, ...]
) -> None:
    result = await aigen(*command, AIGEN_DATABASE_URL=at(database_url, name="no_such_database"))
    assert_one_line(result, "There is no such database", "/no_such_database", "createdb")


@pytest.mark.parametrize("command", [("migrate",), ("serve", "--no-migrate")])
async def test_start_unknown_user_is_one_line(
    aigen: Run, database_url: str, command: tuple[str, ...]
) -> None:
    result = await aigen(*command, AIGEN_DATABASE_URL=at(database_url, user=f"no_one:{PASSWORD}"))
    assert_one_line(result, "refuses the", "Correct", "AIGEN_DATABASE_URL")


async def test_start_unknown_host_is_one_line(aigen: Run) -> None:
    result = await aigen("migrate", AIGEN_DATABASE_URL="postgresql://db.invalid/aigen")
    assert_one_line(result, "The host name of db.invalid/aigen is not known")


async def test_start_server_without_tls_is_one_line(aigen: Run, database_url: str) -> None:
    async with _plain_postgres() as port:
        url = at(database_url, port=port, more="?sslmode=require")
        result = await aigen("migrate", AIGEN_DATABASE_URL=url)
    assert_one_line(result, "the server does not speak TLS", "sslmode")


async def test_start_unknown_certificate_is_one_line(
    aigen: Run, database_url: str, certificate: Path
) -> None:
    async with _tls_postgres(certificate) as port:
        url = at(database_url, port=port, more="?sslmode=verify-full")
        result = await aigen("migrate", AIGEN_DATABASE_URL=url, PGSSLROOTCERT=_other_roots())
    assert_one_line(result, "TLS to PostgreSQL", "sslrootcert")


async def test_start_missing_rights_are_one_line(
    aigen: Run, admin_url: str, empty_database: str
) -> None:
    async with a_role(admin_url) as login:
        url = at(empty_database, user=login)
        assert_one_line(
            await aigen("migrate", AIGEN_DATABASE_URL=url),
            "permission denied for schema public",
            "as the owner of the database",
        )


async def test_start_without_rights_on_the_tables_is_one_line(
    aigen: Run, admin_url: str, database_url: str
) -> None:
    async with a_role(admin_url) as login:
        connection = await asyncpg.connect(database_url)
        name = login.partition(":")[0]
        await connection.execute(f"GRANT SELECT ON alembic_version TO {name}")
        url = at(database_url, user=login)
        served = await aigen("serve", "--no-migrate", AIGEN_DATABASE_URL=url)
        checked = await aigen("doctor", AIGEN_DATABASE_URL=url)
        await connection.execute(f"REVOKE ALL ON alembic_version FROM {name}")
        await connection.close()
    assert_one_line(served, "No right to write generation_requests", "Grant SELECT, INSERT")
    assert checked.code == 1
    assert "no right to write generation_requests" in checked.out


async def test_start_without_schema_and_no_migrate_names_the_command(
    aigen: Run, empty_database: str
) -> None:
    result = await aigen("serve", "--no-migrate", AIGEN_DATABASE_URL=empty_database)
    assert_one_line(result, "has no schema", "Run `aigen migrate`")


async def test_start_schema_of_a_newer_version_is_one_line(aigen: Run, database_url: str) -> None:
    connection = await asyncpg.connect(database_url)
    await connection.execute("UPDATE alembic_version SET version_num = '9999'")
    await connection.close()
    result = await aigen("migrate")
    assert_one_line(result, "a revision that this version does not know", "or a newer one")


@pytest.mark.parametrize("folder", ["file/below", "/proc/aigen"])
async def test_start_unwritable_data_directory_is_one_line(
    aigen: Run, tmp_path: Path, folder: str
) -> None:
    (tmp_path / "file").write_text("")
    for command in ("serve", "migrate"):
        result = await aigen(command, AIGEN_DATABASE_URL="", AIGEN_DATA_DIR=str(tmp_path / folder))
        assert_one_line(result, "is not writable", "AIGEN_DATA_DIR")


async def test_start_data_directory_of_assets_unwritable_is_one_line_in_the_log(
    aigen: Run, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    result = await aigen(
        "serve", AIGEN_DATA_DIR=str(tmp_path / "file" / "below"), AIGEN_PORT=str(free_port())
    )
    assert result.code == 1
    assert sum("is not writable" in line for line in result.err.splitlines()) == 1
    assert "Traceback" not in result.text


@pytest.mark.parametrize(
    ("setting", "reason"),
    [("AIGEN_ROUTING_FILE", "AIGEN_ROUTING_FILE"), ("AIGEN_SAFETY_FILE", "AIGEN_SAFETY_FILE")],
)
async def test_start_missing_file_is_one_line(aigen: Run, setting: str, reason: str) -> None:
    result = await aigen("serve", **{setting: "/no/such/file.toml"})
    assert_one_line(result, "No such file", reason)


@pytest.mark.parametrize(
    ("setting", "value", "reason"),
    [
        ("AIGEN_PROFILE", "production", "the production profile needs"),
        ("AIGEN_JWT_SECRET_FILE", "/no/such/file", "/no/such/file cannot be read"),
        ("AIGEN_CREDITS_URL", "gopher://x", "known schemes are"),
        ("AIGEN_PRICE_FINAL", "a lot", "PRICE_FINAL"),
        ("AIGEN_API_KEYS", "shop:service:short", "too short"),
        ("AIGEN_HOST", "0.0.0.0", "listens on loopback only"),  # noqa: S104 - it must be refused
        ("AIGEN_ROLES", "api,cook", "not known: cook"),
        ("AIGEN_PUBLIC_URL", "aigen.example.com", "http:// or https://"),
        ("AIGEN_DATABASE_URL", "mysql://db/aigen", "postgresql://user:password@host"),
    ],
)
async def test_start_invalid_setting_is_refused_with_a_sentence(
    aigen: Run, setting: str, value: str, reason: str
) -> None:
    result = await aigen("serve", **{setting: value})
    assert (result.code, result.out) == (1, "")
    assert reason in result.err
    assert "Traceback" not in result.err


async def test_start_misspelt_variable_is_a_warning_in_the_profile_embedded(aigen: Run) -> None:
    result = await aigen("migrate", AIGEN_DATABSE_URL="x", AIGEN_TEST_ANYTHING="x", AIGEN_URL="x")
    assert result.code == 0
    assert result.err.splitlines() == [
        "Unknown variable AIGEN_DATABSE_URL in the environment; did you mean AIGEN_DATABASE_URL?"
    ]


async def test_start_misspelt_variable_in_env_file_is_refused_in_production(
    aigen: Run, tmp_path: Path
) -> None:
    (tmp_path / ".env").write_text("AIGEN_RATE_LIMIT=5\n")
    production = {
        "AIGEN_PROFILE": "production",
        "AIGEN_ENGINE_URL": "amqp://aigen:word@127.0.0.1:1",
        "AIGEN_PUBLIC_URL": "https://aigen.example.com",
        "AIGEN_CALLBACK_SECRET": "a-secret-of-enough-length-1",
        "AIGEN_API_KEYS": "shop:service:a-key-of-enough-length",
    }
    for command in ("serve", "migrate"):
        result = await aigen(command, **production)
        assert result.code == 1
        assert "AIGEN_RATE_LIMIT in .env; did you mean AIGEN_RATE_LIMIT_PER_MINUTE?" in result.err
        assert "production refuses unknown" in result.err


@pytest.mark.parametrize("roles", ["api,dispatcher,results,relay,sweeper", "relay"])
@pytest.mark.parametrize("keys", ["", "shop:service:a-key-of-enough-length"])
async def test_start_writes_one_line_with_the_parts_in_force(
    database_url: str, tmp_path: Path, roles: str, keys: str
) -> None:
    port = free_port()
    (tmp_path / "url").write_text(f"{database_url}\n")
    database = (
        {"AIGEN_DATABASE_URL_FILE": str(tmp_path / "url")}
        if keys
        else {"AIGEN_DATABASE_URL": database_url}
    )
    running = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        MODULE,
        "serve",
        env=os.environ
        | database
        | {
            "AIGEN_DATA_DIR": str(tmp_path),
            "AIGEN_PORT": str(port),
            "AIGEN_ROLES": roles,
            "AIGEN_API_KEYS": keys,
            "AIGEN_CREDITS_URL": "http://127.0.0.1:1/api/v1",
            "AIGEN_CREDITS_API_KEY": PASSWORD,
        },
        stderr=asyncio.subprocess.PIPE,
    )
    assert running.stderr is not None
    lines = []
    async with asyncio.timeout(30):
        while not lines or lines[-1]["event"] != "service_started":
            lines.append(json.loads(await running.stderr.readline()))
    running.send_signal(signal.SIGTERM)
    rest = (await running.communicate())[1].decode()
    started = lines[-1]
    assert "service_started" not in rest
    assert (
        started
        | {
            "version": __version__,
            "address": f"http://127.0.0.1:{port}" if "api" in roles else None,
            "roles": roles,
            "profile": "embedded",
            "access": "keys" if keys else "open",
            "engine": "local",
            "credits": "billing adapter",
            "notifier": "log",
            "moderation": "word lists",
        }
        == started
    )
    assert started["database"] == database_url.rpartition("@")[2].partition("?")[0]
    assert PASSWORD not in json.dumps(lines)


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """Create a self-signed certificate with its key, in one file."""
    return _self_signed(tmp_path)


def _self_signed(folder: Path) -> Path:
    file = folder / "server.pem"
    subprocess.run(
        (
            "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost"
            f" -keyout {file} -out {folder / 'cert.pem'}"
        ).split(),
        check=True,
        capture_output=True,
    )
    file.write_text(file.read_text() + (folder / "cert.pem").read_text())
    return file


def _other_roots() -> str:
    return ssl.get_default_verify_paths().openssl_cafile


@asynccontextmanager
async def _plain_postgres() -> AsyncIterator[int]:
    """Serve a PostgreSQL that refuses TLS."""

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(8)
        writer.write(b"N")
        await writer.drain()
        await reader.read()
        writer.close()

    server = await asyncio.start_server(refuse, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


@asynccontextmanager
async def _tls_postgres(certificate: Path) -> AsyncIterator[int]:
    """Serve a PostgreSQL that accepts TLS with this certificate."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)

    async def agree(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(8)
        writer.write(b"S")
        await writer.drain()
        try:
            await writer.start_tls(context)
        except (ssl.SSLError, ConnectionError):
            writer.transport.abort()

    server = await asyncio.start_server(agree, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def test_server_with_an_open_stream_stops_at_once_without_an_error(
    database_url: str, tmp_path: Path
) -> None:
    port = free_port()
    environment = service_environment(database_url, tmp_path, port)
    running = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        MODULE,
        "serve",
        env=os.environ | environment | {"AIGEN_LOG_LEVEL": "info"},
        stderr=asyncio.subprocess.PIPE,
    )
    assert running.stderr is not None
    async with asyncio.timeout(30):
        while b'"service_started"' not in await running.stderr.readline():
            pass
    base = f"http://127.0.0.1:{port}/api/v1/generation-requests"
    order = {"user_id": "user", "input_prompt": "a lighthouse", "output_format": "XPost"}
    async with httpx.AsyncClient(timeout=20, trust_env=False) as client:
        created = (await client.post(base, json=order)).json()
        async with client.stream("GET", f"{base}/{created['id']}/stream") as stream:
            lines = stream.aiter_lines()
            while not (await anext(lines)).startswith("event:"):
                pass
            running.send_signal(signal.SIGTERM)
            began = time.monotonic()
            log = (await running.communicate())[1].decode()
    assert time.monotonic() - began < 5
    assert "exception" not in log
    assert "Traceback" not in log
