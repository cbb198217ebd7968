"""`aigen demo`: the real service in a process of its own, one real request over HTTP, watched live."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import orjson
from PIL import Image
from rich.color import Color
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.style import Style
from rich.text import Text

from creativeflow.services.aigeneration.settings import Settings, scheme
from creativeflow.services.aigeneration.wiring import asset_directory

PROMPT = "A lighthouse at dawn, calm sea, the first light on the rocks"
USER = "demo-user"
_START_SECONDS = 120.0
_WORK_SECONDS = 180.0

_WORDS = {
    "VALIDATING_CREDITS": "checking credits",
    "PENDING": "waiting for its turn",
    "PUBLISHING_TO_QUEUE": "on its way to the engine",
    "PROCESSING_SAMPLES": "drawing four samples",
    "AWAITING_SELECTION": "samples are ready",
    "PROCESSING_FINAL": "drawing the final",
    "COMPLETED": "done",
}


class DemoFailedError(RuntimeError):
    """The demo could not go on; the sentence says what to look at."""


def run_demo(settings: Settings, *, leave: bool, prompt: str | None, console: Console) -> int:
    """Run the whole story; the exit code. Keeps serving afterwards unless told to leave."""
    with ExitStack() as stack:
        try:
            base, log = _start(settings, stack, console)
            with httpx.Client(base_url=base, timeout=30) as client:
                finished = _tell(client, settings, prompt or PROMPT, console)
        except (DemoFailedError, httpx.HTTPError) as error:
            console.print(f"[bold red]The demo could not go on:[/] {error}")
            return 1
        _summary(finished, settings, base, log, console)
        if not leave:
            _keep_serving(console)
    return 0


def _start(settings: Settings, stack: ExitStack, console: Console) -> tuple[str, Path]:
    """The service, and a stand-in worker where jobs go through RabbitMQ; both end with the demo."""
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    log = settings.data_dir / "demo.log"
    port = settings.port if _is_free(settings.port) else _free_port()
    base = f"http://127.0.0.1:{port}"
    environment = os.environ | {"AIGEN_HOST": "127.0.0.1", "AIGEN_PORT": str(port), "AIGEN_LOG_FORMAT": "json"}
    environment.setdefault("AIGEN_PUBLIC_URL", base)
    output = stack.enter_context(log.open("wb"))
    where = "its own PostgreSQL" if settings.database_url is None else "your PostgreSQL"
    with console.status(f"Starting the service on {where} …"):
        service = stack.enter_context(_process(["serve"], environment, output))
        _wait_ready(base, service, log)
        if scheme(settings.engine_url) != "local":
            stack.enter_context(_process(["worker"], environment, output))
    return base, log


def _tell(client: httpx.Client, settings: Settings, prompt: str, console: Console) -> dict[str, Any]:
    """Credits, request, samples, selection, final."""
    if settings.open_to_all and scheme(settings.credits_url) == "local":
        grant = {"user_id": USER, "amount": "2.00", "plan": "pro", "reason": "demo"}
        _said(client.post("/api/v1/operations/credits/grants", json=grant))
        console.print(f"2.00 credits and the Pro plan for {USER}")
    order = {
        "user_id": USER, "input_prompt": prompt, "output_format": "InstagramPost_1x1", "emotional_tone": "calm",
        "color_scheme": ["#0b3954", "#ff6663", "#e0ff4f"],
    }  # fmt: skip
    quoted = _said(client.post("/api/v1/generation-requests/quote", json=order))
    console.print(f"POST /api/v1/generation-requests · {quoted['plan']} plan · “{prompt}”")
    request = _said(client.post("/api/v1/generation-requests", json=order))
    request = _watch(client, request["id"], console, until={"AWAITING_SELECTION"})
    chosen = request["samples"][0]
    console.print(f"Selecting sample 1 of {len(request['samples'])}, in 2048x2048")
    selection = {"selected_sample_id": chosen["asset_id"], "desired_resolution": "2048x2048"}
    _said(client.post(f"/api/v1/generation-requests/{request['id']}/select-sample", json=selection))
    return _watch(client, request["id"], console, until={"COMPLETED"})


def _watch(client: httpx.Client, request_id: str, console: Console, *, until: set[str]) -> dict[str, Any]:
    """Follow the live stream until one of the states, showing each change."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("waiting", total=100)
        for request in _updates(client, request_id):
            done = (request["progress"] or {}).get("percent", 0)
            progress.update(task, description=_WORDS.get(request["status"], request["status"]), completed=done)
            if request["status"] in until:
                progress.console.print(f"[green]✓[/] {_WORDS[request['status']]}")
                return request
            if not request["actions"] or request["actions"] == ["retry"]:
                told = request["failure"] or {"message": request["status"]}
                raise DemoFailedError(told["message"])
    raise DemoFailedError("the live stream ended early; `aigen requests list` shows where the request stands")


def _updates(client: httpx.Client, request_id: str) -> Iterator[dict[str, Any]]:
    path = f"/api/v1/generation-requests/{request_id}/stream"
    ends = time.monotonic() + _WORK_SECONDS
    with client.stream("GET", path, headers={"Accept": "text/event-stream"}) as answer:
        for line in answer.iter_lines():
            if line.startswith("data: "):
                yield orjson.loads(line.removeprefix("data: "))
            if time.monotonic() > ends:
                raise DemoFailedError("it took too long; the log says why")


def _summary(request: dict[str, Any], settings: Settings, base: str, log: Path, console: Console) -> None:
    folder = asset_directory(settings)
    samples = [folder / sample["url"].rpartition("/")[2] for sample in request["samples"]]
    final = folder / request["final_asset"]["url"].rpartition("/")[2]
    if console.color_system:
        console.print(side_by_side([*samples, final], width=console.width))
    console.print(f"The pictures lie in {folder}:", soft_wrap=True)
    for number, (path, asset) in enumerate(zip(samples, request["samples"], strict=True), start=1):
        console.print(f"  sample {number}  {asset['resolution']:>9}  {path.name}", highlight=False, soft_wrap=True)
    console.print(
        f"  final     {request['final_asset']['resolution']:>9}  {final.name}", highlight=False, soft_wrap=True
    )
    cost = request["cost"]
    console.print(f"Cost: samples {cost['samples']} + final {cost['final']} = [bold]{cost['total']} credits[/]")
    for line in (
        f"API documentation  {base}/docs",
        f"The request        {base}/api/v1/generation-requests/{request['id']}",
        f"Its timeline       {base}/api/v1/generation-requests/{request['id']}/events",
        f"Log                {log}",
    ):
        console.print(line, soft_wrap=True)


def side_by_side(paths: Sequence[Path], *, width: int) -> Text:
    """The pictures as coloured half blocks, two pixels to a character, next to each other."""
    side = max(8, min(24, width // len(paths) - 1))
    text = Text()
    shown = [Image.open(path).convert("RGB").resize((side, side)) for path in paths]
    for row in range(0, side - 1, 2):
        for picture in shown:
            for column in range(side):
                upper, lower = (picture.getpixel((column, row + half)) for half in (0, 1))
                text.append("▀", Style(color=_colour(upper), bgcolor=_colour(lower)))
            text.append(" ")
        text.append("\n")
    return text


def _colour(pixel: Any) -> Color:
    return Color.from_rgb(*pixel)


def _keep_serving(console: Console) -> None:
    console.print("The service keeps running. [bold]Ctrl-C[/] ends it.")
    try:
        while True:
            time.sleep(3600)
    except KeyboardInterrupt:
        console.print("Stopping …")


@contextmanager
def _process(arguments: list[str], environment: dict[str, str], output: Any) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "creativeflow.services.aigeneration", *arguments]
    running = subprocess.Popen(command, env=environment, stdout=output, stderr=output)  # noqa: S603 - ourselves
    try:
        yield running
    finally:
        running.terminate()
        try:
            running.wait(20)
        except subprocess.TimeoutExpired:
            running.kill()


def _wait_ready(base: str, service: subprocess.Popen[bytes], log: Path) -> None:
    ends = time.monotonic() + _START_SECONDS
    while time.monotonic() < ends:
        if service.poll() is not None:
            raise DemoFailedError(f"the service ended while starting; see {log}")
        try:
            if httpx.get(f"{base}/ready", timeout=5).is_success:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.1)
    raise DemoFailedError(f"the service is not ready after {_START_SECONDS:.0f} s; see {log}")


def _said(answer: httpx.Response) -> dict[str, Any]:
    body: dict[str, Any] = answer.json()
    if answer.is_error:
        raise DemoFailedError(body.get("detail", answer.text))
    return body


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
