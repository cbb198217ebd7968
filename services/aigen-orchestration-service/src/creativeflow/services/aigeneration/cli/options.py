"""What the commands over the API of a running service take, each checked before anything is
asked.
"""

import re
from pathlib import Path
from typing import Annotated, Literal
from uuid import UUID

import httpx
import typer

HERE = "http://127.0.0.1:8000"


def _address(url: str) -> str:
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL:
        parsed = httpx.URL()
    if parsed.scheme not in {"http", "https"} or not parsed.host or parsed.userinfo:
        raise typer.BadParameter(f"Give the address of a service, such as {HERE}.")
    return url


def _header(text: str | None) -> str | None:
    if text is not None and not (text.isascii() and text.isprintable()):
        raise typer.BadParameter("It may have visible ASCII characters only.")
    return text


def _file(path: Path | None) -> Path | None:
    try:
        fits = path is None or (not path.is_dir() and path.absolute().parent.is_dir())
    except OSError:
        fits = False
    if not fits:
        raise typer.BadParameter("Name a file in a folder that exists.")
    return path


def _size(text: str | None) -> str | None:
    if text is not None and not re.fullmatch(r"[1-9]\d{0,4}x[1-9]\d{0,4}", text):
        raise typer.BadParameter("A size is a width and a height in pixels, such as 800x600.")
    return text


Url = Annotated[
    str,
    typer.Option("--url", envvar="AIGEN_URL", callback=_address, help="Address of the service."),
]
Key = Annotated[
    str | None,
    typer.Option(
        "--key",
        envvar="AIGEN_API_KEY",
        callback=_header,
        help=(
            "API key of a service or an operator; on the line others can read it, so put it into"
            " the environment."
        ),
    ),
]
Token = Annotated[
    str | None,
    typer.Option(
        "--token", envvar="AIGEN_TOKEN", callback=_header, help="Token of an end user, likewise."
    ),
]
User = Annotated[str | None, typer.Option("--user", callback=_header, help="Act for this user.")]
Json = Annotated[
    bool, typer.Option("--json", help="Write JSON for a program, and nothing for people.")
]
Id = Annotated[UUID, typer.Argument(help="The generation's id.", show_default=False)]
Format = Annotated[
    str,
    typer.Option(
        "--format", help="What it is for, such as InstagramPost_1x1; Custom has a --size."
    ),
]
Pixels = Annotated[
    str | None,
    typer.Option("--size", callback=_size, help="Of the format Custom, such as 800x600."),
]
Style = Annotated[str | None, typer.Option("--style", help="How it should look.")]
Tone = Annotated[str | None, typer.Option("--tone", help="The feeling it should give.")]
Model = Annotated[str | None, typer.Option("--model", help="A model, or quality, cost or fastest.")]
QuoteId = Annotated[
    str | None, typer.Option("--quote", help="Id of a quote: it costs that, or is refused.")
]
Wait = Annotated[
    bool, typer.Option("--wait", help="Watch it live until there is something to see.")
]
Patience = Annotated[
    float, typer.Option("--wait-seconds", min=1, help="Watch so long at most; it goes on.")
]
Download = Annotated[
    Path | None,
    typer.Option(
        "--download",
        callback=_file,
        help="Wait for the final and write it into this file.",
        dir_okay=False,
    ),
]
Resolution = Annotated[
    str | None, typer.Option("--resolution", help="Of the final: 2048x2048, HD, FHD, 2K or 4K.")
]
FileFormat = Annotated[
    Literal["png", "jpg", "webp"] | None,
    typer.Option("--file-format", help="Of the final; else as --download ends."),
]
OtherWords = Annotated[str | None, typer.Option("--prompt", help="In these words instead.")]
Prompt = Annotated[str, typer.Argument(help="What to draw.")]
Number = Annotated[int, typer.Argument(min=1, help="Which sample, counted from 1.")]
Selected = Annotated[
    int | None, typer.Option("--select", min=1, help="Pick this sample when they are ready.")
]
Once = Annotated[
    str | None,
    typer.Option(
        "--idempotency-key",
        callback=_header,
        help="Ask again under an earlier try's key: it starts once.",
    ),
]
