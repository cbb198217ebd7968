"""The pictures of the console in the documents: `python -m browser.console_shots`, on an hour that
was not all well.
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

from tests.browser.shots import PHONE, begin, keep
from tests.support.databases import a_database_outside
from tests.support.services import database_admin_url
from tests.support.studio_browser import chromium_running, eventually, serving

WIDE = {"viewport": {"width": 1360, "height": 1000}, "device_scale_factor": 1.25}
SHOPS = ("atelier-nord", "harbour-books", "kim.lindqvist", "mare-cafe", "studio-otter")
ASKED = (
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

# Each copy is a whole lifecycle at another time of the last hour, and slower than this machine
# draws.
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
        'amount', 25, 'action', 'sample_generation'), now(), 3, 'the key stands for another hold',
        now() - interval '14 minutes')"""
_FLAG = """
INSERT INTO account_flags (user_id, reason, hold_key, request_id, raised_at)
VALUES ('mare-cafe', 'charge_failed', $1::uuid || ':samples:1:1', $1, now()
    - interval '14 minutes')"""
_DOUBT = """
INSERT INTO holds (key, request_id, user_id, stage, round, action, funding, amount, state,
    began_at, parked_at,
                   parked_reason)
VALUES ($1::uuid || ':final:1:1', $1, 'kim.lindqvist', 'final', 1, 'standard_generation',
    'credits', 100, 'placing',
        now(), now(), 'no answer in time, and the adapter has no look-up')"""


async def fill(address: str, url: str) -> dict[str, Any]:
    """An hour of work, and what an operator is needed for; the requests by user."""
    made = {}
    async with httpx.AsyncClient(base_url=f"{address}/api/v1", timeout=30) as api:
        for user in SHOPS:
            grant = {"user_id": user, "amount": "25.00", "plan": "payg", "reason": "order 4711"}
            (await api.post("/operations/credits/grants", json=grant)).raise_for_status()
        for user, prompt, shape in ASKED:
            made[user] = await _lead(
                api, user, prompt, shape, to_the_end=user in {"atelier-nord", "studio-otter"}
            )
        doubtful = {
            "user_id": "studio-otter",
            "input_prompt": "a nude statue of an otter",
            "output_format": "XPost",
        }
        (await api.post("/generation-requests", json=doubtful)).raise_for_status()
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
    await connection.execute(_DOUBT, made["kim.lindqvist"])
    await connection.close()
    return made


async def _lead(
    api: httpx.AsyncClient, user: str, prompt: str, shape: str, *, to_the_end: bool
) -> str:
    body = {"user_id": user, "project_id": "spring", "input_prompt": prompt, "output_format": shape}
    request = (await api.post("/generation-requests", json=body)).raise_for_status().json()
    path = f"/generation-requests/{request['id']}"

    async def stands(*states: str) -> bool:
        return (await api.get(path)).json()["status"] in states

    await eventually(lambda: stands("AWAITING_SELECTION", "FAILED"), 30)
    if to_the_end:
        samples = (await api.get(path)).json()["samples"]
        choice = {"selected_sample_id": samples[1]["asset_id"]}
        (await api.post(f"{path}/select-sample", json=choice)).raise_for_status()
        await eventually(lambda: stands("COMPLETED"), 30)
    return str(request["id"])


async def take(address: str, url: str) -> None:
    """Take them all."""
    made = await fill(address, url)
    async with chromium_running() as browser:
        await _shoot(browser, address, "/console", "console-now")
        await _shoot(browser, address, "/console", "console-now-dark", scheme="dark")
        await _shoot(
            browser, address, f"/console/requests/{made['atelier-nord']}", "console-request"
        )
        await _shoot(
            browser,
            address,
            "/console/attention",
            "console-attention",
            opens="summary:has-text('Replay')",
        )
        await _shoot(browser, address, "/console/accounts/mare-cafe", "console-account")
        await _shoot(
            browser, address, f"/console/requests/{made['mare-cafe']}", "console-phone", **PHONE
        )


async def _shoot(
    browser: Browser,
    address: str,
    path: str,
    name: str,
    *,
    scheme: str = "light",
    opens: str = "",
    **context: object,
) -> None:
    visit = await begin(browser, address, scheme, **(context or WIDE))
    page = await visit.open(path)
    if opens:
        await page.click(opens)
    await page.wait_for_timeout(1500)
    await keep(visit, name)
    await visit.end()


def main() -> None:
    """Take the pictures on a service and a database of their own."""
    with (
        a_database_outside(database_admin_url(), "aigen_shots") as url,
        tempfile.TemporaryDirectory() as folder,
        serving(url, Path(folder)) as address,
    ):
        asyncio.run(take(address, url))


if __name__ == "__main__":
    sys.exit(main())
