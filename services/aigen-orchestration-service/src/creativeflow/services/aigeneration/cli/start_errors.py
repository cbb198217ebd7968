"""Errors at start as one line with a remedy: database, data directory, files, broker URL."""

import socket
import ssl
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import parse_qs

import asyncpg
from alembic.util import CommandError

from creativeflow.services.aigeneration.adapters.model_routing_file import RoutingFileError
from creativeflow.services.aigeneration.adapters.moderation.word_lists import SafetyFileError
from creativeflow.services.aigeneration.domain.errors import AigenError
from creativeflow.services.aigeneration.settings import Settings
from creativeflow.services.aigeneration.storage.embedded import EmbeddedPostgresMissingError

_SCHEMA_MISSING = (
    asyncpg.UndefinedTableError,
    asyncpg.UndefinedColumnError,
    asyncpg.UndefinedFunctionError,
    asyncpg.UndefinedObjectError,
)
_LOCKED = (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError)
_READ_ONLY = (asyncpg.ReadOnlySQLTransactionError, asyncpg.TargetServerAttributeNotMatched)

NO_POOLER = (
    "Name the server itself in AIGEN_DATABASE_URL; the service has a pool of its own. Or give it a"
    " pool with pool_mode = session, as docs/operations.md describes."
)
"""The remedy for a pooler that shares sessions."""


def pooler_problem(address: str) -> str:
    """Return the problem of a pooler that does not give the service sessions of its own."""
    return (
        f"PostgreSQL at {address} is behind a pooler, such as PgBouncer, that does not pass on the"
        " settings of a session."
    )


GRANT = "Grant SELECT, INSERT, UPDATE and DELETE on all tables to this user."


@dataclass(frozen=True, slots=True)
class StartProblem:
    """What is wrong, without credentials, and the remedy."""

    reason: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.reason} {self.remedy}"


def explain_start_error(error: BaseException, settings: Settings) -> StartProblem | None:
    """Return the problem behind an exception; None for one that an operator cannot correct."""
    if problem := _explain_local_error(error, settings):
        return problem
    if isinstance(error, AigenError) and error.__cause__ is None:
        return StartProblem(str(error), "`aigen doctor` checks every dependency.")
    url = settings.database_url.get_secret_value() if settings.database_url else ""
    return explain_database_error(error, url)


def explain_data_directory_error(error: OSError, settings: Settings) -> StartProblem:
    """Return the problem with the data directory."""
    return StartProblem(
        f"The data directory {settings.data_dir} is not writable ({_system_reason(error)}).",
        "Give this user the right to write there, or set AIGEN_DATA_DIR.",
    )


def explain_database_error(error: BaseException, url: str) -> StartProblem | None:
    """Return the problem behind an error of the database; None for any other error.

    The innermost cause decides: the pool and the migrations wrap the driver's errors.
    """
    for cause in reversed(list(_causes(error))):
        for explain in (_refused, _unusable, _insecure, _unreachable):
            if problem := explain(cause, url):
                return problem
    return None


def database_address(url: str) -> str:
    """Return host, port and name of a database URL, never its credentials."""
    if not url:
        return "the embedded PostgreSQL"
    place, _, query = url.partition("://")[2].partition("?")
    if "@" in query:  # part of a password, or of an option: nothing can be shown safely
        return "AIGEN_DATABASE_URL"
    hosts, _, name = place.rpartition("@")[2].partition("/")
    return f"{hosts or parse_qs(query).get('host', ['localhost'])[0]}/{name}"


def _explain_local_error(error: BaseException, settings: Settings) -> StartProblem | None:
    """Return the problem with something on this machine: files, directories, settings."""
    match error:
        case EmbeddedPostgresMissingError():
            reason, _, remedy = str(error).partition(". ")
            return StartProblem(f"{reason}.", remedy)
        case RoutingFileError() | SafetyFileError():
            setting = "ROUTING" if isinstance(error, RoutingFileError) else "SAFETY"
            return StartProblem(f"{error}.", f"Correct the file, or AIGEN_{setting}_FILE.")
        case subprocess.CalledProcessError() | subprocess.TimeoutExpired():
            return StartProblem(
                f"The embedded PostgreSQL in {settings.data_dir / 'postgres'} does not start.",
                "Read the file `log` there, or set AIGEN_DATABASE_URL.",
            )
        case OSError(filename=str(path)) if path.startswith(str(settings.data_dir)):
            return explain_data_directory_error(error, settings)
        case ValueError() if "broker URL" in str(error):
            return StartProblem(f"{error}.", "Correct AIGEN_ENGINE_URL or AIGEN_NOTIFY_URL.")
    return None


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__


def _refused(error: BaseException, url: str) -> StartProblem | None:
    """Return the problem if the server refuses this user."""
    address = database_address(url)
    match error:
        case asyncpg.InvalidPasswordError():
            return StartProblem(
                f"PostgreSQL at {address} refuses the password.",
                "Correct user and password in AIGEN_DATABASE_URL.",
            )
        case asyncpg.InvalidAuthorizationSpecificationError():
            return StartProblem(
                f"PostgreSQL at {address} refuses the login ({_first_line(error)}).",
                "Correct the user in AIGEN_DATABASE_URL, allow it in pg_hba.conf, or add"
                " ?sslmode=require.",
            )
        case asyncpg.InvalidCatalogNameError():
            return StartProblem(
                f"There is no such database at {address}.",
                "Create it with `createdb`, or correct the name in AIGEN_DATABASE_URL.",
            )
        case asyncpg.InsufficientPrivilegeError():
            return StartProblem(
                f"The user of AIGEN_DATABASE_URL lacks a right ({_first_line(error)}).",
                "Run `aigen migrate` as the owner of the database, or grant the right.",
            )
    return None


def _unusable(error: BaseException, url: str) -> StartProblem | None:
    """Return the problem if the database exists but cannot be used."""
    address = database_address(url)
    if _is_of_a_pooler(error):
        return StartProblem(pooler_problem(address), NO_POOLER)
    if isinstance(error, _SCHEMA_MISSING):
        return StartProblem(
            f"The schema of {address} is missing or outdated ({_first_line(error)}).",
            "Run `aigen migrate`.",
        )
    if isinstance(error, _READ_ONLY):
        return StartProblem(
            f"PostgreSQL at {address} takes no writes: it is a standby or set to read-only.",
            "Name the primary in AIGEN_DATABASE_URL, or all hosts: host1:5432,host2:5432.",
        )
    if isinstance(error, _LOCKED):
        return StartProblem(
            f"Other transactions hold locks in {address} ({_first_line(error)}).",
            "Repeat the command when they have ended.",
        )
    if isinstance(error, CommandError):
        return StartProblem(
            f"The schema of {address} has a revision that this version does not know.",
            "Install the version of the service that made it, or a newer one.",
        )
    return None


def _is_of_a_pooler(error: BaseException) -> bool:
    """Return whether a pooler in front of the server drops settings or prepared statements."""
    lost = (asyncpg.InvalidSQLStatementNameError, asyncpg.DuplicatePreparedStatementError)
    return isinstance(error, lost) or "unsupported startup parameter" in str(error)


def _unreachable(error: BaseException, url: str) -> StartProblem | None:
    """Return the problem if there is no usable connection at all."""
    address = database_address(url)
    match error:
        case asyncpg.ClientConfigurationError():
            return StartProblem(
                "AIGEN_DATABASE_URL cannot be read.",
                "Write it as postgresql://user:password@host:5432/database.",
            )
        case socket.gaierror():
            return StartProblem(
                f"The host name of {address} is not known.", "Correct it in AIGEN_DATABASE_URL."
            )
        case TimeoutError() | OSError():
            return StartProblem(
                f"PostgreSQL at {address} does not answer ({_system_reason(error)}).",
                "Start it, or correct AIGEN_DATABASE_URL.",
            )
        case asyncpg.TooManyConnectionsError() | asyncpg.CannotConnectNowError():
            return StartProblem(
                f"PostgreSQL at {address} takes no connection now ({_first_line(error)}).",
                "Repeat the command when it has room.",
            )
        case asyncpg.PostgresError() | asyncpg.InterfaceError() | asyncpg.InternalClientError():
            return StartProblem(
                f"PostgreSQL at {address} reports an error ({_first_line(error)}).",
                "Read the log of the server.",
            )
    return None


def _insecure(error: BaseException, url: str) -> StartProblem | None:
    """Return the problem if the connection could not be encrypted."""
    if isinstance(error, ssl.SSLError):
        reason = _system_reason(error)
    elif isinstance(error, ConnectionError) and "SSL" in str(error):
        reason = "the server does not speak TLS"
    else:
        return None
    return StartProblem(
        f"TLS to PostgreSQL at {database_address(url)} fails ({reason}).",
        "Correct sslmode and sslrootcert in AIGEN_DATABASE_URL, or the server's certificate.",
    )


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _system_reason(error: BaseException) -> str:
    match error:
        case ssl.SSLCertVerificationError(verify_message=str(message)) if message:
            return message
        case ConnectionRefusedError():
            return "connection refused"
        case TimeoutError():
            return "no answer in time"
        case OSError(strerror=str(reason)) if reason and not reason.startswith("Multiple"):
            return reason.lower()
        case OSError() if "Multiple exceptions" in str(error):
            return "connection refused" if "refused" in str(error) else "no address answers"
    return _first_line(error)
