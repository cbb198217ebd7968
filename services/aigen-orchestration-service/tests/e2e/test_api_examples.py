"""The examples of docs/api.md, run in their order against the service with the local engine."""

import asyncio
import json
import re
import shlex
import socket
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
import uvicorn

from creativeflow.services.aigeneration.app import create_app
from creativeflow.services.aigeneration.bootstrap.container import Container
from creativeflow.services.aigeneration.settings import Settings
from tests.support.invariants import violations
from tools.generate_docs import ROOT

STORY = ROOT / "docs" / "api.md"
LOCAL = "http://127.0.0.1:8000"
ANYTHING = "…"
_WAIT_SECONDS = 60.0
_FENCE = re.compile(r"^```(?P<info>[a-z]+(?: \d+)?)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
_PLACEHOLDER = re.compile(r"\{(\w+_id|cursor)\}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One call; without an `answer` only its success is checked."""

    line: int
    method: str
    endpoint: str
    headers: dict[str, str] = field(default_factory=dict)
    body: str | None = None
    status: int | None = None
    answer: Any = None


def examples() -> list[Example]:
    """Return every ```http block with the ```json block after it, and every curl call to the local
    service.
    """
    text = STORY.read_text(encoding="utf-8")
    found: list[Example] = []
    fences = list(_FENCE.finditer(text))
    for fence, following in zip(fences, [*fences[1:], None], strict=True):
        line = text.count("\n", 0, fence.start()) + 1
        if fence["info"] == "http":
            assert following is not None, f"line {line}: no answer follows"
            language, _, status = following["info"].partition(" ")
            assert language == "json", f"line {line}: no answer follows"
            assert status, f"line {line}: the answer has no status"
            found.append(
                _from_http(fence["text"], line, int(status), json.loads(following["text"]))
            )
        elif fence["info"] == "sh" and LOCAL in fence["text"]:
            found.append(_from_curl(fence["text"], line))
    return found


def _from_http(text: str, line: int, status: int, answer: Any) -> Example:
    head, _, body = text.partition("\n\n")
    first, *headers = head.strip().splitlines()
    method, _, endpoint = first.partition(" ")
    return Example(
        line=line,
        method=method,
        endpoint=endpoint,
        headers=dict(header.split(": ", 1) for header in headers),
        body=body.strip() or None,
        status=status,
        answer=answer,
    )


def _from_curl(text: str, line: int) -> Example:
    words = shlex.split(text.replace("\\\n", " "))[1:]
    headers, body, endpoint = {}, None, ""
    while words:
        match words.pop(0):
            case "-H":
                name, _, value = words.pop(0).partition(": ")
                headers[name] = value
            case "-d":
                body = words.pop(0)
            case word if word.startswith(LOCAL):
                endpoint = word.removeprefix(LOCAL)
    return Example(
        line=line, method="POST" if body else "GET", endpoint=endpoint, headers=headers, body=body
    )


class Story:
    """Runs examples; ids of responses are available to later ones."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client
        self._known: dict[str, str] = {}

    async def tell(self, example: Example) -> None:
        """Run one example; a GET is repeated until its response matches, because workers run
        concurrently.
        """
        ends = time.monotonic() + _WAIT_SECONDS
        while True:
            wrong = await self._try(example)
            if not wrong:
                return
            told = (
                f"docs/api.md, line {example.line}, {example.method} {example.endpoint}:"
                f" {'; '.join(wrong)}"
            )
            assert example.method == "GET", told
            assert time.monotonic() < ends, told
            await asyncio.sleep(0.1)

    async def _try(self, example: Example) -> list[str]:
        endpoint = self._filled(example.endpoint)
        headers = {"Content-Type": "application/json"} | example.headers
        if endpoint.endswith("/stream"):
            return await self._listen(endpoint, example.headers)
        body = self._filled(example.body) if example.body else None
        answer = await self._client.request(example.method, endpoint, headers=headers, content=body)
        if example.status is None:
            return [] if answer.is_success else [f"{answer.status_code} {answer.text}"]
        if answer.status_code != example.status:
            return [f"status {answer.status_code} instead of {example.status}: {answer.text}"]
        captured: dict[str, str] = {}
        wrong = self._differences(example.answer, answer.json(), "", captured)
        if not wrong:
            self._known |= captured
        return wrong

    async def _listen(self, endpoint: str, headers: dict[str, str]) -> list[str]:
        async with self._client.stream("GET", endpoint, headers=headers) as answer:
            found: list[str] = []
            async for line in answer.aiter_lines():
                found.append(line.partition(":")[0])
                if line.startswith("data: "):
                    assert json.loads(line.removeprefix("data: "))["id"] in endpoint
                    break
        return [] if found[-3:] == ["id", "event", "data"] else [f"the stream says {found}"]

    def _filled(self, text: str) -> str:
        return _PLACEHOLDER.sub(lambda match: self._known[match[1]], text)

    def _differences(
        self, wanted: Any, got: Any, place: str, captured: dict[str, str]
    ) -> list[str]:
        """Return the differences from the documented response; undocumented members are ignored."""
        if wanted == ANYTHING:
            return []
        if isinstance(wanted, str) and (match := _PLACEHOLDER.fullmatch(wanted)):
            known = self._known.get(match[1])
            captured[match[1]] = got
            return [] if known in {None, got} else [f"{place} is {got!r} instead of {known!r}"]
        if isinstance(wanted, dict) and isinstance(got, dict):
            missing = [f"{place}/{name} is missing" for name in wanted if name not in got]
            return missing + [
                wrong
                for name, value in wanted.items()
                if name in got
                for wrong in self._differences(value, got[name], f"{place}/{name}", captured)
            ]
        if isinstance(wanted, list) and isinstance(got, list):
            shown = wanted[:-1] if wanted[-1:] == [ANYTHING] else wanted
            if len(got) < len(shown) or (shown is wanted and len(got) != len(shown)):
                return [f"{place} has {len(got)} entries"]
            pairs = enumerate(zip(shown, got, strict=False))
            return [
                wrong
                for index, (value, found) in pairs
                for wrong in self._differences(value, found, f"{place}/{index}", captured)
            ]
        return [] if wanted == got else [f"{place} is {got!r} instead of {wanted!r}"]


@pytest.fixture
async def service(database_url: str, settings: Settings) -> AsyncIterator[Container]:
    """The service with all roles and the local engine."""
    quick = settings.model_copy(update={"poll_interval": 0.05, "sweep_interval": 0.2})
    service = Container(quick, database_url=database_url)
    await service.start()
    yield service
    await service.stop()


@pytest.fixture
async def client(service: Container) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the service on a real port, so that streams work."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        config = uvicorn.Config(
            create_app(service=service),
            log_config=None,
            access_log=False,
            ws="none",
            timeout_graceful_shutdown=5,
        )
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve(sockets=[listening]))
        base = f"http://127.0.0.1:{listening.getsockname()[1]}"
        async with httpx.AsyncClient(base_url=base, timeout=30) as client:
            yield client
        server.should_exit = True
        await serving


async def test_every_example_of_the_document_returns_what_it_shows(
    client: httpx.AsyncClient, service: Container
) -> None:
    story = Story(client)
    told = examples()
    assert len(told) > 20
    for example in told:
        await story.tell(example)
    ends = time.monotonic() + _WAIT_SECONDS
    while found := await violations(service.database, service.now()):
        assert time.monotonic() < ends, found
        await asyncio.sleep(0.1)


def test_every_block_with_a_call_is_an_example() -> None:
    text = STORY.read_text(encoding="utf-8")
    assert len(examples()) == len(re.findall(r"^```http$", text, re.MULTILINE)) + text.count(
        f"curl -i {LOCAL}"
    ) + (text.count(f"curl -N {LOCAL}"))
