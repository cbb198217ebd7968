"""`aigen demo`: start the service in a child process and show one generation over HTTP."""

import asyncio
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
from PIL import Image
from rich.color import Color
from rich.console import Console
from rich.markup import escape
from rich.style import Style
from rich.text import Text

from creativeflow.clients.aigeneration import (
    Asset,
    AsyncClient,
    Generation,
    GenerationServiceError,
    Quote,
)
from creativeflow.services.aigeneration.cli.progress import follow
from creativeflow.services.aigeneration.cli.status_texts import COMPLETED, SAMPLES_READY
from creativeflow.services.aigeneration.settings import Settings, scheme

PROMPT = "A lighthouse at dawn, calm sea, the first light on the rocks"
USER = "demo-user"
_START_SECONDS = 120.0
_WORK_SECONDS = 180.0
_FORMAT = "InstagramPost_1x1"
_LOOK: dict[str, Any] = {
    "emotional_tone": "calm",
    "color_scheme": ["#0b3954", "#ff6663", "#e0ff4f"],
}
_CHOSEN = 1
_RESOLUTION = "2048x2048"


class DemoFailedError(RuntimeError):
    """The demo could not continue; the message names the cause."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedImage:
    """A downloaded picture."""

    title: str
    resolution: str
    path: Path


def run_demo(settings: Settings, *, leave: bool, prompt: str | None, console: Console) -> int:
    """Run the demo and return the exit code; keep serving afterwards unless `leave`."""
    with ExitStack() as stack:
        try:
            base, log = _start(settings, stack, console)
            operator = stack.enter_context(
                httpx.Client(base_url=f"{base}/api/v1/operations", timeout=30)
            )
            folder = settings.data_dir / "demo"
            folder.mkdir(exist_ok=True)
            keeps_credits = settings.open_to_all and scheme(settings.credits_url) == "local"
            if keeps_credits:
                _grant(operator, console)
            done, pictures = asyncio.run(_run_generation(base, folder, prompt or PROMPT, console))
            balance = (
                _json_or_fail(operator.get(f"/users/{USER}/statement"))["balance"]
                if keeps_credits
                else None
            )
        except (DemoFailedError, GenerationServiceError, httpx.HTTPError) as error:
            console.print(f"[bold red]The demo could not continue:[/] {escape(str(error))}")
            return 1
        _print_summary(done, pictures, balance, console)
        _print_addresses(base, done.id, log, console)
        if not leave:
            _keep_serving(console)
    return 0


def _start(settings: Settings, stack: ExitStack, console: Console) -> tuple[str, Path]:
    """Start the service, and a fake worker if jobs go through RabbitMQ; both end with the demo."""
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    log = settings.data_dir / "demo.log"
    port = settings.port if _is_free(settings.port) else _free_port()
    base = f"http://127.0.0.1:{port}"
    environment = os.environ | {
        "AIGEN_HOST": "127.0.0.1",
        "AIGEN_PORT": str(port),
        "AIGEN_LOG_FORMAT": "json",
    }
    environment.setdefault("AIGEN_PUBLIC_URL", base)
    output = stack.enter_context(log.open("wb"))
    where = "its own PostgreSQL" if settings.database_url is None else "your PostgreSQL"
    with console.status(f"Starting the service on {where} …"):
        service = stack.enter_context(_process(["serve"], environment, output))
        _wait_ready(base, service, log)
        if scheme(settings.engine_url) != "local":
            stack.enter_context(_process(["worker"], environment, output))
    return base, log


def _grant(operator: httpx.Client, console: Console) -> None:
    """Grant credits and a plan, as an operator."""
    grant = {"user_id": USER, "amount": "2.00", "plan": "pro", "reason": "demo"}
    _json_or_fail(operator.post("/credits/grants", json=grant))
    console.print(f"2.00 credits and the Pro plan for {USER}")


async def _run_generation(
    base: str, folder: Path, prompt: str, console: Console
) -> tuple[Generation, list[SavedImage]]:
    """Quote, create, wait for samples, select, wait for the final, download."""
    async with AsyncClient(base, user_id=USER, api_key=os.environ.get("AIGEN_API_KEY")) as client:
        quote = await client.quote(prompt, _FORMAT, **_LOOK)
        _show_price(quote, console)
        console.print(f"POST /api/v1/generation-requests · {quote.plan} plan · “{escape(prompt)}”")
        started = await client.create(prompt, _FORMAT, quote_id=quote.quote_id, **_LOOK)
        shown = await follow(
            client, started.id, console, until={SAMPLES_READY}, seconds=_WORK_SECONDS
        )
        console.print(f"Selecting sample {_CHOSEN} of {len(shown.samples)}, in {_RESOLUTION}")
        sample = shown.samples[_CHOSEN - 1]
        await client.select_sample(
            started.id, sample, desired_resolution=_RESOLUTION, quote_id=quote.quote_id
        )
        done = await follow(client, started.id, console, until={COMPLETED}, seconds=_WORK_SECONDS)
        return done, await _download_all(client, done, folder)


def _show_price(quote: Quote, console: Console) -> None:
    """Print the quoted price of each part."""
    parts = [
        " ".join(filter(None, (item.stage, item.resolution, str(item.credits))))
        for item in quote.items
    ]
    had = "" if quote.balance is None else f"; the balance is {_credits_text(quote.balance)}"
    console.print(f"Quoted, in credits: {', '.join(parts)}{had}")


async def _download_all(client: AsyncClient, done: Generation, folder: Path) -> list[SavedImage]:
    """Download every picture to the demo's folder."""
    named = [(f"sample {number}", sample) for number, sample in enumerate(done.samples, start=1)]

    async def fetched(title: str, asset: Asset) -> SavedImage:
        path = folder / f"{title.replace(' ', '_')}.{asset.format}"
        path.write_bytes(await client.download(asset))
        return SavedImage(title=title, resolution=asset.resolution, path=path)

    if done.final_asset is not None:
        named.append(("final", done.final_asset))
    return list(await asyncio.gather(*(fetched(title, asset) for title, asset in named)))


def _print_summary(
    done: Generation, pictures: Sequence[SavedImage], balance: str | None, console: Console
) -> None:
    if console.color_system:
        console.print(side_by_side([picture.path for picture in pictures], width=console.width))
    console.print(f"Pictures in {pictures[0].path.parent}:", soft_wrap=True, markup=False)
    for picture in pictures:
        line = f"  {picture.title:<8}  {picture.resolution:>9}  {picture.path.name}"
        console.print(line, highlight=False, soft_wrap=True)
    left = "" if balance is None else f", {_credits_text(balance)} left"
    console.print(
        f"Cost: samples {done.cost.samples} + final {done.cost.final} ="
        f" [bold]{_credits_text(done.cost.total)}[/]{left}"
    )


def _print_addresses(base: str, request_id: str, log: Path, console: Console) -> None:
    request = f"{base}/api/v1/generation-requests/{request_id}"
    for line in (
        f"Studio             {base}/studio",
        f"Console            {base}/console",
        f"API documentation  {base}/docs",
        f"The request        {request}",
        f"Its timeline       {request}/events",
        f"Log                {log}",
    ):
        console.print(line, soft_wrap=True, markup=False)


def _credits_text(amount: Decimal | str) -> str:
    return f"{amount} credits"


def side_by_side(paths: Sequence[Path], *, width: int) -> Text:
    """Render pictures next to each other as coloured half blocks, two pixels per character."""
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
def _process(
    arguments: list[str], environment: dict[str, str], output: Any
) -> Iterator[subprocess.Popen[bytes]]:
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


def _json_or_fail(answer: httpx.Response) -> dict[str, Any]:
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
