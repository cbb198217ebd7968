"""`aigen demo` without any installed service, which leaves no process running."""

import asyncio
import os
import re
import sys
import time
from pathlib import Path

from PIL import Image

from tests.support.processes import MODULE, free_port, process, service_environment, wait_ready


async def test_demo_with_exit_draws_pictures_prints_cost_and_ends(tmp_path: Path) -> None:
    running = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        MODULE,
        "demo",
        "--exit",
        "--prompt",
        "A lighthouse [bold] [/]",
        cwd=tmp_path,
        env=os.environ
        | {
            "AIGEN_DATA_DIR": str(tmp_path / "data"),
            "AIGEN_PORT": str(free_port()),
            "COLUMNS": "200",
        },
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    told, _ = await asyncio.wait_for(running.communicate(), 100)
    said = told.decode()
    assert running.returncode == 0, said
    pictures = re.findall(r"(sample \d|final)\s+(\d+)x(\d+)\s+(\w+\.png)", said)
    assert len(pictures) == 5
    for _, width, height, name in pictures:
        with Image.open(tmp_path / "data" / "demo" / name) as image:
            assert image.size == (int(width), int(height))
    assert "final 1080x1080 0.00, final 4096x4096 2.00; the balance is 2.00 credits" in said
    assert "[bold] [/]" in said
    assert "final 2.00 = 2.00 credits, 0.00 credits left" in said
    steps = ("drawing samples", "samples are ready", "drawing the final", "done")
    assert [said.index(step) for step in steps] == sorted(said.index(step) for step in steps)
    assert all(address in said for address in ("/studio\n", "/console\n", "/docs\n", "/events\n"))
    assert not (tmp_path / "data" / "postgres" / "postmaster.pid").exists()


async def test_serve_terminated_stops_its_embedded_database(tmp_path: Path) -> None:
    port = free_port()
    environment = service_environment("", tmp_path, port)
    with process(["-m", MODULE, "serve"], environment, tmp_path / "log") as running:
        await wait_ready(port, running)
        pid_file = tmp_path / "postgres" / "postmaster.pid"
        assert pid_file.exists()
    ends = time.monotonic() + 10
    while pid_file.exists():
        assert time.monotonic() < ends
        await asyncio.sleep(0.1)
