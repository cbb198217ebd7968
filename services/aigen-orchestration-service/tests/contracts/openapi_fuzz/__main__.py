"""`make fuzz`: run schemathesis with the API description against a running service, with all
checks.

Excluded: that every valid body is accepted (credits, plans and sizes are further rules), and that a
path without a method returns 405 (`/quote` also matches an id).
"""

import argparse
import asyncio
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.support.databases import a_database
from tests.support.processes import free_port, process, service_environment, wait_ready
from tests.support.services import database_admin_url

LEFT_OUT = "positive_data_acceptance,unsupported_method"


async def fuzz(program: str, arguments: list[str]) -> int:
    """Run the tool against a service on a new database; return its exit code."""
    admin = await asyncio.to_thread(database_admin_url)
    port = free_port()
    async with a_database(admin, "aigen_fuzz") as url:
        with TemporaryDirectory(prefix="aigen-fuzz-") as folder:
            environment = service_environment(url, Path(folder), port)
            with process(
                ["-m", "creativeflow.services.aigeneration", "serve"], environment
            ) as running:
                await wait_ready(port, running)
                address = f"http://127.0.0.1:{port}/openapi.json"
                told = [
                    program,
                    "run",
                    address,
                    "--checks",
                    "all",
                    "--exclude-checks",
                    LEFT_OUT,
                    *arguments,
                ]
                ended = await asyncio.to_thread(
                    subprocess.run, told, check=False, cwd=folder, env=dict(os.environ)
                )
                return ended.returncode


def main() -> None:
    """Run the command line: the path of schemathesis, and its options."""
    parser = argparse.ArgumentParser(prog="make fuzz ARGS=", description=__doc__)
    parser.add_argument("program", help="the schemathesis program")
    told, more = parser.parse_known_args()
    sys.exit(asyncio.run(fuzz(told.program, more or ["--max-examples", "50"])))


if __name__ == "__main__":
    main()
