"""Chromium sessions against a real service, for browser tests and screenshots."""

import re
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
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
FAST_SETTINGS = {
    "AIGEN_RETRY_DELAY": "0.1",
    "AIGEN_SWEEP_INTERVAL": "0.2",
    "AIGEN_POLL_INTERVAL": "0.2",
    "AIGEN_MAX_ATTEMPTS": "2",
}
SECRET = b"test-secret-of-enough-length"
TIMEOUT_MS = 15_000
_EXPECTED_ERRORS = re.compile(r"status of (402|403|404|409|412|422)")


@contextmanager
def running_service(database_url: str, folder: Path, **more: str) -> Iterator[str]:
    """Run an open service with the local engine; yield its address."""
    port = free_port()
    environment = service_environment(
        database_url, folder, port, AIGEN_ENGINE_URL="local://", **FAST_SETTINGS, **more
    )
    with process(["-m", MODULE, "serve"], environment, folder / "log") as running:
        wait_ready_now(port, running, "/ready")
        yield f"http://127.0.0.1:{port}"


@asynccontextmanager
async def running_chromium() -> AsyncIterator[Browser]:
    """Run a headless Chromium."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=chromium() or ensure_chromium(), args=FLAGS
        )
        yield browser
        await browser.close()


@dataclass
class BrowserLog:
    """The requests of a browser and the errors and warnings of its console."""

    requests: list[Request] = field(default_factory=list)
    finished: list[Request] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def watch(self, page: Page) -> None:
        """Record what this page does."""
        page.on("request", lambda request: self.requests.append(request))  # noqa: PLW0108 - playwright rejects a bound list method
        page.on("requestfinished", lambda request: self.finished.append(request))  # noqa: PLW0108 - as above
        page.on("pageerror", lambda error: self.problems.append(str(error)))
        page.on("console", lambda message: self._record_message(message.type, message.text))

    def _record_message(self, kind: str, text: str) -> None:
        if kind in {"error", "warning"} and not _EXPECTED_ERRORS.search(text):
            self.problems.append(f"{kind}: {text}")

    def foreign_hosts(self, address: str) -> set[str]:
        """Return requested hosts other than the service."""
        return {urlsplit(request.url).netloc for request in self.requests} - {
            urlsplit(address).netloc
        }

    async def weight(self) -> int:
        """Return the bytes received so far, without generated images and streams."""
        total = 0
        for request in self.finished:
            if "/assets/" not in request.url and "/stream" not in request.url:
                sizes = await request.sizes()
                total += sizes["responseBodySize"] + sizes["responseHeadersSize"]
        return total


class NoRevocations:
    """No session is signed out."""

    async def add(self, session_id: str, expires_at: datetime) -> None:
        """Not used: this process only signs in."""

    async def contains(self, session_id: str) -> bool:  # noqa: ARG002 - the protocol's parameter
        """Return False."""
        return False


class Visit:
    """A browser context signed in as one user of an open service."""

    def __init__(self, context: BrowserContext, address: str, user_id: str) -> None:
        self.context, self.address, self.user_id = context, address, user_id
        self.log = BrowserLog()
        self.page: Page
        self.api = httpx.AsyncClient(base_url=f"{address}/api/v1", timeout=20)

    async def begin(self) -> None:
        """Sign in and open a window."""
        authenticator = Authenticator(
            keys=[], jwt_secrets=(), jwks=None, audience=None, issuer=None
        )
        sessions = Sessions([SECRET], authenticator, NoRevocations(), now=now, secure=False)
        cookie = sessions.seal(sessions.create_guest(self.user_id))
        await self.context.add_cookies(
            [{"name": sessions.cookie, "value": cookie, "url": self.address}]
        )
        self.page = await self.open_window()

    async def open_window(self) -> Page:
        """Open another window of the same browser context."""
        page = await self.context.new_page()
        page.set_default_timeout(TIMEOUT_MS)
        self.log.watch(page)
        return page

    async def open(self, path: str = "/studio") -> Page:
        """Open a page."""
        await self.page.goto(f"{self.address}{path}")
        return self.page

    async def grant(self, amount: str, plan: str = "payg") -> None:
        """Grant credits to the user."""
        body = {"user_id": self.user_id, "amount": amount, "plan": plan}
        response = await self.api.post("/operations/credits/grants", json=body)
        assert response.status_code == httpx.codes.CREATED, response.text

    async def balance(self) -> str:
        """Return the user's balance."""
        response = await self.api.get(f"/operations/users/{self.user_id}/statement")
        return str(response.json()["balance"])

    async def submit_brief(self, prompt: str, shape: str = "YouTubeThumbnail_16x9") -> Page:
        """Fill in and submit the brief form."""
        page = await self.open()
        await page.fill("#input_prompt", prompt)
        await page.check(f'input[value="{shape}"]', force=True)
        await page.click(".submit")
        return page

    async def wait_for_state(self, state: str, page: Page | None = None) -> None:
        """Wait until the page shows a state."""
        await (page or self.page).wait_for_selector(f'[data-state="{state}"]')

    async def text(self) -> str:
        """Return the visible text of the page."""
        return " ".join((await self.page.inner_text("body")).split())

    @property
    def request_id(self) -> str:
        """The id of the request on the page."""
        return self.page.url.rpartition("/")[2]

    async def close(self) -> None:
        """Close the browser context."""
        await self.api.aclose()
        await self.context.close()


async def wait_until(condition: Any, seconds: float = 10) -> None:
    """Poll until an asynchronous condition holds."""
    ends = time.monotonic() + seconds
    while not await condition():
        assert time.monotonic() < ends, "the condition did not become true in time"


async def tab_to(page: Page, selector: str) -> None:
    """Press Tab until the element has the focus."""
    for _ in range(40):
        if await page.locator(selector).evaluate("one => one === document.activeElement"):
            return
        await page.keyboard.press("Tab")
    raise AssertionError(f"{selector} cannot be reached with the keyboard")


async def find_accessibility_violations(page: Page) -> list[str]:
    """Return the violations that axe-core finds on the page."""
    from axe_playwright_python.async_playwright import Axe  # noqa: PLC0415 - reads its script on import

    found = await Axe().run(page)
    return [
        f"{rule['id']}: {node['html'][:160]}"
        for rule in found.response["violations"]
        for node in rule["nodes"]
    ]
