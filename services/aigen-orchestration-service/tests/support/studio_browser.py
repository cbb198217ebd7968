"""A person at the studio in a real Chromium, and the real service they look at: for the tests and
for pictures.
"""

import re
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
from playwright.async_api import Browser, BrowserContext, Page, Request, async_playwright

from creativeflow.services.aigeneration.api.auth import Authenticator
from creativeflow.services.aigeneration.kit.clock import now
from creativeflow.services.aigeneration.web.sessions import Sessions
from tests.support.processes import MODULE, free_port, process, service_environment, wait_ready_now
from tests.support.services import chromium, ensure_chromium

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
QUICK = {
    "AIGEN_RETRY_DELAY": "0.1",
    "AIGEN_SWEEP_INTERVAL": "0.2",
    "AIGEN_POLL_INTERVAL": "0.2",
    "AIGEN_MAX_ATTEMPTS": "2",
}
SECRET = b"test-secret-of-enough-length"
PATIENCE_MS = 15_000
_EXPECTED = re.compile(r"status of (402|403|404|409|412|422)")


@contextmanager
def serving(database_url: str, folder: Path, **more: str) -> Iterator[str]:
    """A real service that is open and draws by itself; its address."""
    port = free_port()
    environment = service_environment(
        database_url, folder, port, AIGEN_ENGINE_URL="local://", **QUICK, **more
    )
    with process(["-m", MODULE, "serve"], environment, folder / "log") as running:
        wait_ready_now(port, running, "/ready")
        yield f"http://127.0.0.1:{port}"


@asynccontextmanager
async def chromium_running() -> AsyncIterator[Browser]:
    """A headless Chromium."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=chromium() or ensure_chromium(), args=FLAGS
        )
        yield browser
        await browser.close()


@dataclass
class Seen:
    """What a browser did behind the page: every request, and everything it complained of."""

    requests: list[Request] = field(default_factory=list)
    finished: list[Request] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def watch(self, page: Page) -> None:
        """Take note of what this page does."""
        page.on("request", lambda request: self.requests.append(request))  # noqa: PLW0108 - a list's own method is refused
        page.on("requestfinished", lambda request: self.finished.append(request))  # noqa: PLW0108 - as above
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("console", lambda said: self._console(said.type, said.text))

    def _console(self, kind: str, text: str) -> None:
        if kind in {"error", "warning"} and not _EXPECTED.search(text):
            self.complaints.append(f"{kind}: {text}")

    def strangers(self, address: str) -> set[str]:
        """Hosts that were called and are not the service."""
        return {urlsplit(request.url).netloc for request in self.requests} - {
            urlsplit(address).netloc
        }

    async def weight(self) -> int:
        """Bytes that came over the wire so far, pictures that were made left out."""
        total = 0
        for request in self.finished:
            if "/assets/" not in request.url and "/stream" not in request.url:
                sizes = await request.sizes()
                total += sizes["responseBodySize"] + sizes["responseHeadersSize"]
        return total


class Visit:
    """One person's visit: a browser of their own, signed in as one user of an open service."""

    def __init__(self, context: BrowserContext, address: str, user_id: str) -> None:
        self.context, self.address, self.user_id = context, address, user_id
        self.seen = Seen()
        self.page: Page
        self.api = httpx.AsyncClient(base_url=f"{address}/api/v1", timeout=20)

    async def begin(self) -> None:
        """Sign in and open a first page."""
        gate = Authenticator(keys=[], jwt_secret=None, jwks=None, audience=None, issuer=None)
        sessions = Sessions([SECRET], gate, now=now, secure=False)
        sealed = sessions.seal(sessions.guest(self.user_id))
        await self.context.add_cookies(
            [{"name": sessions.cookie, "value": sealed, "url": self.address}]
        )
        self.page = await self.window()

    async def window(self) -> Page:
        """Another window of the same browser."""
        page = await self.context.new_page()
        page.set_default_timeout(PATIENCE_MS)
        self.seen.watch(page)
        return page

    async def open(self, path: str = "/studio") -> Page:
        """Look at a page."""
        await self.page.goto(f"{self.address}{path}")
        return self.page

    async def grant(self, amount: str, plan: str = "payg") -> None:
        """Give the user credits."""
        body = {"user_id": self.user_id, "amount": amount, "plan": plan}
        answer = await self.api.post("/operations/credits/grants", json=body)
        assert answer.status_code == httpx.codes.CREATED, answer.text

    async def balance(self) -> str:
        """What the user has."""
        answer = await self.api.get(f"/operations/users/{self.user_id}/statement")
        return str(answer.json()["balance"])

    async def ask(self, prompt: str, shape: str = "YouTubeThumbnail_16x9") -> Page:
        """Fill the form in and press the button."""
        page = await self.open()
        await page.fill("#input_prompt", prompt)
        await page.check(f'input[value="{shape}"]', force=True)
        await page.click(".go")
        return page

    async def until(self, state: str, page: Page | None = None) -> None:
        """Wait until the page shows this state."""
        await (page or self.page).wait_for_selector(f'[data-state="{state}"]')

    async def text(self) -> str:
        """What the page says."""
        return " ".join((await self.page.inner_text("body")).split())

    @property
    def request_id(self) -> str:
        """The id of the request that the page shows."""
        return self.page.url.rpartition("/")[2]

    async def end(self) -> None:
        """Leave."""
        await self.api.aclose()
        await self.context.close()


async def eventually(condition: Any, seconds: float = 10) -> None:
    """Wait until an asynchronous condition holds."""
    ends = time.monotonic() + seconds
    while not await condition():
        assert time.monotonic() < ends, "it did not happen in time"


async def tab_to(page: Page, selector: str) -> None:
    """Press Tab until this has the focus."""
    for _ in range(40):
        if await page.locator(selector).evaluate("one => one === document.activeElement"):
            return
        await page.keyboard.press("Tab")
    raise AssertionError(f"{selector} cannot be reached with the keyboard")


async def axe(page: Page) -> list[str]:
    """What axe-core finds on the page as it is."""
    from axe_playwright_python.async_playwright import Axe  # noqa: PLC0415 - reads its script when it is loaded

    found = await Axe().run(page)
    return [
        f"{rule['id']}: {node['html'][:160]}"
        for rule in found.response["violations"]
        for node in rule["nodes"]
    ]
