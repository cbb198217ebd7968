"""The tutorial's commands, run by a shell against a real service."""

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import httpx

from tests.support.processes import free_port, process, service_environment, wait_ready_now

TUTORIAL = Path(__file__).parents[4] / "docs" / "tutorial.md"


def commands() -> list[str]:
    blocks = re.findall(r"```sh\n(.*?)```", TUTORIAL.read_text("utf-8"), re.DOTALL)
    return [block for block in blocks if block.startswith("curl")]


def test_tutorial_followed_ends_with_a_picture(database_url: str, tmp_path: Path) -> None:
    port = free_port()
    quote, create, stream, select, events = commands()
    variables = dict(os.environ)

    def run(command: str, seconds: float = 30) -> str:
        mine = command.replace(":8000", f":{port}").replace("curl ", "curl -s --noproxy '*' ", 1)
        shell = ["bash", "-c", mine]
        done = subprocess.run(
            shell, env=variables, capture_output=True, text=True, timeout=seconds, check=True
        )
        return done.stdout

    def read(command: str) -> Any:
        return json.loads(run(command))

    serve = ["-m", "creativeflow.services.aigeneration", "serve"]
    with process(serve, service_environment(database_url, tmp_path, port)) as running:
        wait_ready_now(port, running, "/ready")
        assert read(quote)["quote_id"]
        request = read(create)
        assert read(create)["id"] == request["id"], "the key makes a repeated call the same request"
        variables["ID"] = request["id"]
        seen = run(f"timeout 20 {stream.strip()} | grep -m1 AWAITING_SELECTION")
        samples = json.loads(seen.removeprefix("data: "))["samples"]
        assert len(samples) == 4
        variables["SAMPLE"] = samples[1]["asset_id"]
        assert read(select)["stage"] == "final"
        ended = run(f"timeout 20 {stream.strip()} | grep -m1 COMPLETED")
        final = json.loads(ended.removeprefix("data: "))["final_asset"]
        picture = httpx.get(final["url"], trust_env=False)
        assert picture.headers["content-type"] == "image/png"
        happened = [event["event"] for event in read(events)["items"]]
        assert happened[0] == "submitted"
        assert "final_delivered" in happened
