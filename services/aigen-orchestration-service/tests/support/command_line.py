"""Run `aigen …` in a separate process."""

import asyncio
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from tests.support.processes import MODULE

_SECONDS_MAX = 60


class CommandResult(NamedTuple):
    """Exit code and output of a command."""

    code: int
    out: str
    err: str

    @property
    def text(self) -> str:
        """Standard output and standard error."""
        return self.out + self.err


async def run_aigen(
    *arguments: str, folder: Path, environment: Mapping[str, str], answer: str = ""
) -> CommandResult:
    """Run a command to its end; `answer` is its standard input."""
    running = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        MODULE,
        *arguments,
        env={**os.environ, "COLUMNS": "200", "AIGEN_DATA_DIR": str(folder), **environment},
        cwd=folder,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        out, err = await asyncio.wait_for(running.communicate(answer.encode()), _SECONDS_MAX)
    except TimeoutError:
        running.kill()
        raise
    return CommandResult(running.returncode or 0, out.decode(), err.decode())
