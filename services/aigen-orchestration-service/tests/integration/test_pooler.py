"""Behind a real PgBouncer the service works, or refuses to start and says what to do."""

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import SplitResult, urlsplit, urlunsplit

import asyncpg
import pytest

from creativeflow.services.aigeneration.settings import Settings
from creativeflow.services.aigeneration.storage.database import Database
from creativeflow.services.aigeneration.storage.migrations import migrate
from tests.support.app import ServiceUnderTest
from tests.support.command_line import CommandResult, run_aigen
from tests.support.processes import free_port
from tests.support.services import ensure_pgbouncer

_IGNORED = (
    "jit,enable_seqscan,enable_hashjoin,enable_mergejoin,plan_cache_mode,lock_timeout,"
    "statement_timeout,timezone"
)
_OF_THE_ROLE = {
    "jit": "off",
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "plan_cache_mode": "force_generic_plan",
}


@asynccontextmanager
async def pgbouncer(url: str, folder: Path, *, mode: str, ignored: str = "") -> AsyncIterator[str]:
    """Run PgBouncer in front of a database; yields the URL through it."""
    parts, port = urlsplit(url), free_port()
    running = _start(parts, port, folder, mode=mode, ignored=ignored)
    through = urlunsplit(parts._replace(netloc=f"{_user(parts)[0]}@127.0.0.1:{port}"))
    try:
        async with asyncio.timeout(10):
            while not await _answers(through):
                await asyncio.sleep(0.05)
        yield through
    finally:
        running.terminate()
        await asyncio.to_thread(running.wait, 10)


def _user(parts: SplitResult) -> tuple[str, str]:
    user, _, password = (parts.netloc.rpartition("@")[0] or "postgres").partition(":")
    return user, password


def _start(
    parts: SplitResult, port: int, folder: Path, *, mode: str, ignored: str
) -> "subprocess.Popen[bytes]":
    user, password = _user(parts)
    (folder / "users").write_text(f'"{user}" "{password}"\n')
    (folder / "pgbouncer.ini").write_text(
        "[databases]\n"
        f"* = host={parts.hostname} port={parts.port or 5432}\n"
        "[pgbouncer]\n"
        f"listen_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n"
        f"auth_type = trust\nauth_file = {folder / 'users'}\n"
        f"pool_mode = {mode}\nmin_pool_size = 2\n"
        + (f"ignore_startup_parameters = {ignored}\n" if ignored else "")
    )
    command = [ensure_pgbouncer(), str(folder / "pgbouncer.ini")]
    if os.geteuid() == 0:  # it refuses to run as root
        for path in (folder, *folder.iterdir()):
            path.chmod(0o755)
        command += ["-u", "nobody"]
    with (folder / "log").open("wb") as log:
        return subprocess.Popen(command, stdout=log, stderr=log)


async def _answers(url: str) -> bool:
    try:
        connection = await asyncpg.connect(url, statement_cache_size=0)
    except OSError:
        return False
    await connection.close()
    return True


@pytest.fixture
def folder() -> Path:
    """A folder that an unprivileged user can read."""
    import tempfile  # noqa: PLC0415

    return Path(tempfile.mkdtemp(prefix="aigen-pgbouncer-"))


@pytest.fixture
def aigen(tmp_path: Path) -> Callable[..., Awaitable[CommandResult]]:
    async def run(*arguments: str, **environment: str) -> CommandResult:
        return await run_aigen(*arguments, folder=tmp_path, environment=environment)

    return run


@pytest.mark.parametrize("ignored", ["", _IGNORED])
@pytest.mark.parametrize("mode", ["transaction", "session"])
async def test_serve_behind_a_pooler_without_its_settings_is_refused_with_the_remedy(
    aigen: Callable[..., Awaitable[CommandResult]],
    database_url: str,
    folder: Path,
    mode: str,
    ignored: str,
) -> None:
    await migrate(database_url)
    async with pgbouncer(database_url, folder, mode=mode, ignored=ignored) as url:
        ended = await aigen("serve", "--no-migrate", AIGEN_DATABASE_URL=url)
    assert ended.code == 1
    assert "behind a pooler" in ended.text
    assert "pool_mode = session" in ended.text
    assert "Traceback" not in ended.text


async def test_service_behind_a_session_pooler_with_the_settings_of_the_role_works(
    database_url: str, folder: Path, settings: Settings
) -> None:
    direct = Database(database_url)
    name = urlsplit(database_url).path.removeprefix("/")
    for setting, value in _OF_THE_ROLE.items():
        await direct.execute(f'ALTER DATABASE "{name}" SET {setting} = {value}')
    await direct.close()
    async with pgbouncer(database_url, folder, mode="session", ignored=_IGNORED) as url:
        test_app = ServiceUnderTest(url, settings, ledger_here=True)
        await test_app.grant("user", 1_000, "payg")
        shown = await test_app.with_samples("user")
        await test_app.select(shown)
        await test_app.deliver(await test_app.next_job())
        await test_app.check()
        assert await test_app.balance() == 1_000 - 125
        await test_app.close()
