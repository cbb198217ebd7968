"""What users do on the command line, over the API of a running service: price, ask, watch, pick,
download.
"""

from pathlib import Path
from typing import Any
from uuid import uuid4

import typer
from rich.console import Console
from rich.table import Table

from creativeflow.clients.aigeneration import AsyncClient, Generation, NoAnswerError
from creativeflow.services.aigeneration.cli.api_session import ApiSession
from creativeflow.services.aigeneration.cli.options import (
    HERE,
    Download,
    FileFormat,
    Format,
    Id,
    Json,
    Key,
    Model,
    Number,
    Once,
    OtherWords,
    Patience,
    Pixels,
    Prompt,
    QuoteId,
    Resolution,
    Selected,
    Style,
    Token,
    Tone,
    Url,
    User,
    Wait,
)
from creativeflow.services.aigeneration.cli.progress import COMPLETED, SAMPLES_READY, WORDS

app = typer.Typer()
_PANEL = "For users, over the API of a running service"
_FILE_FORMATS = {"png": "png", "jpg": "jpg", "jpeg": "jpg", "webp": "webp"}


@app.command(rich_help_panel=_PANEL)
def quote(
    prompt: Prompt,
    output_format: Format,
    size: Pixels = None,
    style: Style = None,
    tone: Tone = None,
    model: Model = None,
    url: Url = HERE,
    key: Key = None,
    token: Token = None,
    user: User = None,
    as_json: Json = False,
) -> None:
    """Say what it would cost; nothing is started."""
    calling = ApiSession(url=url, key=key, token=token, user=user, as_json=as_json)

    async def ask(client: AsyncClient) -> None:
        found = await client.quote(prompt, output_format, **_brief(size, style, tone, model))
        if as_json:
            calling.write(found.raw)
            return
        table = Table("for", "size", "model", "credits", "paid by")
        for item in found.raw["items"]:
            table.add_row(
                item["stage"],
                item["resolution"] or "",
                item["model"],
                item["credits"],
                item["paid_by"],
            )
        Console().print(table)
        has = "" if found.balance is None else f"; the balance is {found.balance}"
        calling.say(f"{found.total} credits for samples and the final in its own size{has}.")

    calling.run(ask)


@app.command(rich_help_panel=_PANEL)
def create(
    prompt: Prompt,
    output_format: Format,
    size: Pixels = None,
    style: Style = None,
    tone: Tone = None,
    model: Model = None,
    quote_id: QuoteId = None,
    once: Once = None,
    wait: Wait = False,
    number: Selected = None,
    resolution: Resolution = None,
    file_format: FileFormat = None,
    download: Download = None,
    wait_seconds: Patience = 600.0,
    url: Url = HERE,
    key: Key = None,
    token: Token = None,
    user: User = None,
    as_json: Json = False,
) -> None:
    """Ask for a creative; its id stands on standard output. --wait, --select and --download go all
    the way.
    """
    if download is not None and number is None:
        raise typer.BadParameter(
            "Only a final can be downloaded; say with --select which sample it is made of."
        )
    calling = ApiSession(url=url, key=key, token=token, user=user, as_json=as_json)
    brief = _brief(size, style, tone, model) | ({"quote_id": quote_id} if quote_id else {})

    async def ask(client: AsyncClient) -> None:
        found = await _started(client, prompt, output_format, once or str(uuid4()), brief)
        if not as_json:
            typer.echo(found.id)
        if wait or number is not None:
            found = await calling.follow(client, found.id, {SAMPLES_READY}, wait_seconds)
        if number is not None:
            found = await _pick(client, found, number, resolution, file_format, download)
            found = await _finish(
                calling, client, found, wait=wait, download=download, wait_seconds=wait_seconds
            )
        _conclude(calling, found)

    calling.run(ask)


@app.command(rich_help_panel=_PANEL)
def watch(
    generation: Id,
    download: Download = None,
    wait_seconds: Patience = 600.0,
    url: Url = HERE,
    key: Key = None,
    token: Token = None,
    user: User = None,
    as_json: Json = False,
) -> None:
    """Watch it live until samples wait to be picked or the final is there; --json writes a line for
    every version.
    """
    calling = ApiSession(url=url, key=key, token=token, user=user, as_json=as_json)

    async def look(client: AsyncClient) -> None:
        until = {COMPLETED} if download else {COMPLETED, SAMPLES_READY}
        found = await calling.follow(client, str(generation), until, wait_seconds, every=True)
        await calling.keep(client, found, download)
        if found.status == SAMPLES_READY:
            calling.offer(found)

    calling.run(look)


@app.command(rich_help_panel=_PANEL)
def show(
    generation: Id,
    url: Url = HERE,
    key: Key = None,
    token: Token = None,
    user: User = None,
    as_json: Json = False,
) -> None:
    """How it stands, where its pictures are, what it costs, and what can be done."""
    calling = ApiSession(url=url, key=key, token=token, user=user, as_json=as_json)

    async def look(client: AsyncClient) -> None:
        found = await client.get(str(generation))
        if as_json:
            calling.write(found.raw)
            return
        for name, value in _lines(found):
            typer.echo(f"{name:<12}  {value}")

    calling.run(look)


@app.command(rich_help_panel=_PANEL)
def select(
    generation: Id,
    number: Number,
    resolution: Resolution = None,
    file_format: FileFormat = None,
    quote_id: QuoteId = None,
    wait: Wait = False,
    download: Download = None,
    wait_seconds: Patience = 600.0,
    url: Url = HERE,
    key: Key = None,
    token: Token = None,
    user: User = None,
    as_json: Json = False,
) -> None:
    """Pick a sample and order the final."""
    calling = ApiSession(url=url, key=key, token=token, user=user, as_json=as_json)

    async def pick(client: AsyncClient) -> None:
        shown = await client.get(str(generation))
        found = await _pick(client, shown, number, resolution, file_format, download, quote_id)
        found = await _finish(
            calling, client, found, wait=wait, download=download, wait_seconds=wait_seconds
        )
        _conclude(calling, found)

    calling.run(pick)


@app.command(rich_help_panel=_PANEL)
def regenerate(
    generation: Id,
    words: OtherWords = None,
    wait: Wait = False,
    wait_seconds: Patience = 600.0,
    url: Url = HERE,
    key: Key = None,
    token: Token = None,
    user: User = None,
    as_json: Json = False,
) -> None:
    """Ask for another round of samples, which costs what samples cost."""
    calling = ApiSession(url=url, key=key, token=token, user=user, as_json=as_json)

    async def ask(client: AsyncClient) -> None:
        found = await client.regenerate(str(generation), updated_prompt=words)
        if wait:
            found = await calling.follow(client, found.id, {SAMPLES_READY}, wait_seconds)
        _conclude(calling, found)

    calling.run(ask)


@app.command(rich_help_panel=_PANEL)
def retry(
    generation: Id,
    words: OtherWords = None,
    wait: Wait = False,
    wait_seconds: Patience = 600.0,
    url: Url = HERE,
    key: Key = None,
    token: Token = None,
    user: User = None,
    as_json: Json = False,
) -> None:
    """Ask again for one that has ended without its picture: a new one, whose id stands on standard
    output.
    """
    calling = ApiSession(url=url, key=key, token=token, user=user, as_json=as_json)

    async def ask(client: AsyncClient) -> None:
        found = await client.retry(str(generation), updated_prompt=words)
        if not as_json:
            typer.echo(found.id)
        if wait:
            found = await calling.follow(client, found.id, {SAMPLES_READY}, wait_seconds)
        _conclude(calling, found)

    calling.run(ask)


@app.command(rich_help_panel=_PANEL)
def cancel(
    generation: Id,
    url: Url = HERE,
    key: Key = None,
    token: Token = None,
    user: User = None,
    as_json: Json = False,
) -> None:
    """End it early; what is only held is given back. On one that has ended nothing happens."""
    calling = ApiSession(url=url, key=key, token=token, user=user, as_json=as_json)

    async def end(client: AsyncClient) -> None:
        _conclude(calling, await client.cancel(str(generation)))

    calling.run(end)


def _brief(
    size: str | None, style: str | None, tone: str | None, model: str | None
) -> dict[str, Any]:
    """What is asked beside prompt and format, without what was not said."""
    width, _, height = (size or "").partition("x")
    said: dict[str, Any] = {
        "style_guidance": style,
        "emotional_tone": tone,
        "model": model,
        "custom_dimensions": {"width": int(width), "height": int(height)} if size else None,
    }
    return {name: value for name, value in said.items() if value is not None}


async def _started(
    client: AsyncClient, prompt: str, output_format: str, once: str, brief: dict[str, Any]
) -> Generation:
    try:
        return await client.create(prompt, output_format, key=once, **brief)
    except NoAnswerError as error:
        raise NoAnswerError(
            f"{error} If it was heard, --idempotency-key {once} asks again without a second."
        ) from error


async def _pick(
    client: AsyncClient,
    shown: Generation,
    number: int,
    resolution: str | None,
    file_format: str | None,
    download: Path | None,
    quote_id: str | None = None,
) -> Generation:
    """Pick the sample of this number; one that is not there is a wrong argument, and nothing is
    ordered.
    """
    if shown.samples and number > len(shown.samples):
        raise typer.BadParameter(
            f"There are {len(shown.samples)} samples of {shown.id}; pick one of them."
        )
    sample = shown.samples[number - 1] if shown.samples else "none"
    ends_as = _FILE_FORMATS.get(download.suffix.removeprefix(".").lower()) if download else None
    return await client.select(
        shown.id,
        sample,
        resolution=resolution,
        file_format=file_format or ends_as,
        quote_id=quote_id,
    )


async def _finish(
    calling: ApiSession,
    client: AsyncClient,
    found: Generation,
    *,
    wait: bool,
    download: Path | None,
    wait_seconds: float,
) -> Generation:
    if wait or download is not None:
        found = await calling.follow(client, found.id, {COMPLETED}, wait_seconds)
        await calling.keep(client, found, download)
    return found


def _conclude(calling: ApiSession, found: Generation) -> None:
    """The last words: the whole of it for a program, how it stands and what comes next for a
    person.
    """
    if calling.as_json:
        calling.write(found.raw)
    elif found.status == SAMPLES_READY:
        calling.offer(found)
    elif not found.ended:
        calling.say(
            f"It is {WORDS.get(found.status, found.status)}. `aigen watch {found.id}` follows it."
        )
    elif found.status != COMPLETED:
        calling.say(f"It is {WORDS.get(found.status, found.status)}.")


def _lines(found: Generation) -> list[tuple[str, str]]:
    """What a person wants to know of it."""
    said = found.raw
    lines = [
        ("status", f"{found.status}: {WORDS.get(found.status, '')}"),
        ("prompt", said["brief"]["input_prompt"]),
        ("format", said["brief"]["output_format"]),
        ("cost", f"{found.cost} credits, {said['cost']['held']} of them only held"),
        ("can be done", ", ".join(found.actions) or "nothing more"),
    ]
    lines += [("failure", found.failure_message)] if found.failure_message else []
    lines += [
        (f"sample {place}", f"{shown.resolution}  {shown.url}")
        for place, shown in enumerate(found.samples, 1)
    ]
    final = found.final
    return lines + ([("final", f"{final.resolution} {final.format}  {final.url}")] if final else [])
