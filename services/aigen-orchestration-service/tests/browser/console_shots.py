"""Take the console's screenshots for the documentation: `python -m tests.browser.console_shots`.

The data is an hour with some failures.
"""

import asyncio
import math
import random
import sys
import tempfile
from pathlib import Path
from typing import Any

import asyncpg
import httpx
from playwright.async_api import Browser

from tests.browser.shots import PHONE, save_screenshot, start_visit
from tests.support.databases import a_database_outside
from tests.support.services import database_admin_url
from tests.support.studio_browser import running_chromium, running_service, wait_until

WIDE = {"viewport": {"width": 1360, "height": 1000}, "device_scale_factor": 1.25}
USERS = ("atelier-nord", "harbour-books", "kim.lindqvist", "mare-cafe", "studio-otter")
BRIEFS = (
    (
        "atelier-nord",
        "A lighthouse at dawn, calm sea, the first light on the rocks",
        "PinterestPin_2x3",
    ),
    ("studio-otter", "An otter reading in a hammock", "YouTubeThumbnail_16x9"),
    ("harbour-books", "A bookshop window in the rain [[down]]", "InstagramPost_1x1"),
    ("mare-cafe", "Espresso and a lemon cake [[partial]]", "InstagramPost_1x1"),
    ("kim.lindqvist", "Paper boats on a blue table", "XPost"),
)

# Each copy is a whole lifecycle at another time of the last hour, slower than the local engine.
_COPY = """
WITH made AS (SELECT gen_random_uuid() AS id, now() - make_interval(secs => $2::float8) AS at),
     first AS (SELECT min(at) AS at FROM generation_events WHERE request_id = $1)
INSERT INTO generation_events (request_id, version, event, state, data, at)
SELECT made.id, e.version, e.event, e.state, e.data, made.at + (e.at - first.at) * $3::float8
FROM generation_events e, made, first WHERE e.request_id = $1 ORDER BY e.seq"""
_PARK = """
INSERT INTO outbox (request_id, topic, body, due_at, attempts, parked_reason, created_at)
VALUES ($1, 'credits.capture', jsonb_build_object('key', $1::uuid
    || ':samples:1:1', 'user_id', 'mare-cafe',
        'amount', 25, 'action', 'sample_generation'), now(), 3, 'the key belongs to another hold',
        now() - interval '14 minutes')"""
_FLAG = """
INSERT INTO account_flags (user_id, reason, hold_key, request_id, raised_at)
VALUES ('mare-cafe', 'charge_failed', $1::uuid || ':samples:1:1', $1, now()
    - interval '14 minutes')"""
_PARK_HOLD = """
INSERT INTO holds (key, request_id, user_id, stage, round, action, funding, amount, state,
    began_at, parked_at,
                   parked_reason)
VALUES ($1::uuid || ':final:1:1', $1, 'kim.lindqvist', 'final', 1, 'standard_generation',
    'credits', 100, 'placing',
        now(), now(), 'timed out, and the adapter cannot look up holds')"""


async def create_data(address: str, url: str) -> dict[str, Any]:
    """Create an hour of requests and everything that needs attention; return requests by user."""
    made = {}
    async with httpx.AsyncClient(base_url=f"{address}/api/v1", timeout=30) as api:
        for user in USERS:
            grant = {"user_id": user, "amount": "25.00", "plan": "payg", "reason": "order 4711"}
            (await api.post("/operations/credits/grants", json=grant)).raise_for_status()
        for user, prompt, shape in BRIEFS:
            made[user] = await _create_request(
                api, user, prompt, shape, to_completion=user in {"atelier-nord", "studio-otter"}
            )
        for_review = {
            "user_id": "studio-otter",
            "input_prompt": "a nude statue of an otter",
            "output_format": "XPost",
        }
        (await api.post("/generation-requests", json=for_review)).raise_for_status()
    await asyncio.sleep(1)
    connection = await asyncpg.connect(url)
    drawn = random.Random(7)  # noqa: S311 - a picture, not a secret
    for minute in range(60, 0, -1):
        for _ in range(int(9 + 5 * math.sin(minute / 9) + 5 * drawn.random())):
            of = made["harbour-books" if drawn.random() < 0.03 else "atelier-nord"]
            slower = 4 + 6 * drawn.random() + (4 if 20 < minute < 28 else 0)
            await connection.execute(_COPY, of, 60 * (minute - drawn.random()), slower)
    await connection.execute(_PARK, made["mare-cafe"])
    await connection.execute(_FLAG, made["mare-cafe"])
    await connection.execute(_PARK_HOLD, made["kim.lindqvist"])
    await connection.close()
    return made


async def _create_request(
    api: httpx.AsyncClient, user: str, prompt: str, shape: str, *, to_completion: bool
) -> str:
    body = {"user_id": user, "project_id": "spring", "input_prompt": prompt, "output_format": shape}
    request = (await api.post("/generation-requests", json=body)).raise_for_status().json()
    path = f"/generation-requests/{request['id']}"

    async def has_status(*states: str) -> bool:
        return (await api.get(path)).json()["status"] in states

    await wait_until(lambda: has_status("AWAITING_SELECTION", "FAILED"), 30)
    if to_completion:
        samples = (await api.get(path)).json()["samples"]
        choice = {"selected_sample_id": samples[1]["asset_id"]}
        (await api.post(f"{path}/select-sample", json=choice)).raise_for_status()
        await wait_until(lambda: has_status("COMPLETED"), 30)
    return str(request["id"])


async def take(address: str, url: str) -> None:
    """Take all screenshots."""
    made = await create_data(address, url)
    async with running_chromium() as browser:
        await _take(browser, address, "/console", "console-now")
        await _take(browser, address, "/console", "console-now-dark", scheme="dark")
        await _take(
            browser, address, f"/console/requests/{made['atelier-nord']}", "console-request"
        )
        await _take(
            browser,
            address,
            "/console/attention",
            "console-attention",
            opens="summary:has-text('Replay')",
        )
        await _take(browser, address, "/console/accounts/mare-cafe", "console-account")
        await _take(
            browser, address, f"/console/requests/{made['mare-cafe']}", "console-phone", **PHONE
        )


async def _take(
    browser: Browser,
    address: str,
    path: str,
    name: str,
    *,
    scheme: str = "light",
    opens: str = "",
    **context: object,
) -> None:
    visit = await start_visit(browser, address, scheme, **(context or WIDE))
    page = await visit.open(path)
    if opens:
        await page.click(opens)
    await page.wait_for_timeout(1500)
    await save_screenshot(visit, name)
    await visit.close()


def main() -> None:
    """Take the screenshots with an own service and database."""
    with (
        a_database_outside(database_admin_url(), "aigen_shots") as url,
        tempfile.TemporaryDirectory() as folder,
        running_service(url, Path(folder)) as address,
    ):
        asyncio.run(take(address, url))


if __name__ == "__main__":
    sys.exit(main())
