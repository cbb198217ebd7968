"""The pictures of the studio in the documents: `python -m browser.shots`, on a real service and a
real Chromium.
"""

import asyncio
import io
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.async_api import Browser, expect

from tests.support.databases import a_database_outside
from tests.support.services import database_admin_url
from tests.support.studio_browser import Visit, chromium_running, serving
from tools.generate_docs import ROOT

FOLDER = ROOT / "docs" / "pictures"
BYTES_MAX = 200_000
PROMPTS = (
    ("A lighthouse at dawn, seen from the sea", "YouTubeThumbnail_16x9"),
    ("Fresh lemonade on a hot day in the park", "InstagramPost_1x1"),
    ("Night train to Lisbon", "PinterestPin_2x3"),
    ("The city marathon, early on Sunday morning", "XPost"),
    ("A bookshop in autumn with a sleeping cat", "InstagramStory_9x16"),
    ("Ceramics workshop, opening in May", "FacebookPost"),
)
DESK = {"viewport": {"width": 1280, "height": 860}, "device_scale_factor": 1.5}
PHONE = {"viewport": {"width": 390, "height": 844}, "device_scale_factor": 2}


async def take(address: str) -> None:
    """Take them all."""
    async with chromium_running() as browser:
        await _history(browser, address)
        await _at_work(browser, address)
        await _at_work(browser, address, scheme="dark")
        await _phone(browser, address)


async def begin(browser: Browser, address: str, scheme: str = "light", **context: object) -> Visit:
    """A visit of somebody called ada, who works for the pictures."""
    made = await browser.new_context(
        color_scheme=scheme, reduced_motion="reduce", locale="en-GB", **context
    )
    visit = Visit(made, address, "ada")
    await visit.begin()
    return visit


async def _history(browser: Browser, address: str) -> None:
    """A wall of what was made, and some on the way."""
    visit = await begin(browser, address, **DESK)
    await visit.grant("40.00")
    for prompt, shape in reversed(PROMPTS):
        await visit.ask(prompt, shape)
        await visit.until("AWAITING_SELECTION")
        if shape != "XPost":
            await visit.page.locator("label.sample").nth(len(prompt) % 4).click()
            await visit.page.locator("button.size").first.click()
            await visit.until("COMPLETED")
    await visit.ask("A paper boat in the rain [[down]]")
    await visit.until("FAILED")
    await keep(visit, "studio-failed")
    await visit.open("/studio/history")
    await keep(visit, "studio-history")
    await visit.end()


async def _at_work(browser: Browser, address: str, scheme: str = "light") -> None:
    """Asking and picking in light, the final in dark."""
    visit = await begin(browser, address, scheme, **DESK)
    await visit.open()
    await visit.page.fill("#input_prompt", "A lighthouse at dawn, seen from the sea")
    await visit.page.check('input[value="YouTubeThumbnail_16x9"]', force=True)
    await expect(visit.page.locator(".bill")).to_contain_text("4096")
    if scheme == "light":
        await keep(visit, "studio-ask")
    await visit.page.click(".go")
    await visit.until("AWAITING_SELECTION")
    await visit.page.locator("label.sample").nth(1).click()
    await visit.page.mouse.move(5, 5)
    if scheme == "light":
        await keep(visit, "studio-samples")
    await visit.page.locator("button.size").first.click()
    await visit.until("COMPLETED")
    if scheme == "dark":
        await keep(visit, "studio-final-dark")
    await visit.end()


async def _phone(browser: Browser, address: str) -> None:
    """The same on a phone, side by side."""
    visit = await begin(browser, address, **PHONE)
    await visit.open()
    shots = [await visit.page.screenshot()]
    await visit.ask(*PROMPTS[1])
    await visit.until("AWAITING_SELECTION")
    await visit.page.locator("label.sample").nth(2).click()
    shots.append(await visit.page.screenshot())
    await visit.page.locator("button.size").first.click()
    await visit.until("COMPLETED")
    await visit.page.wait_for_load_state("networkidle")
    shots.append(await visit.page.screenshot())
    pictures = [Image.open(io.BytesIO(shot)).convert("RGB") for shot in shots]
    gap, (width, height) = 40, pictures[0].size
    sheet = Image.new("RGB", (len(pictures) * (width + gap) - gap, height), "#8b8b8b")
    for place, picture in enumerate(pictures):
        sheet.paste(picture, (place * (width + gap), 0))
    _save(sheet, "studio-phone")
    await visit.end()


async def keep(visit: Visit, name: str) -> None:
    """Keep a picture of what the page shows."""
    await visit.page.evaluate(
        "Promise.all([...document.images].map((one) => one.decode().catch(() => {})))"
    )
    await visit.page.wait_for_timeout(150)
    shot = await visit.page.screenshot()
    _save(Image.open(io.BytesIO(shot)).convert("RGB"), name)


def _save(picture: Image.Image, name: str) -> None:
    """Few colours, and smaller where that is not enough: these are for reading along."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    while True:
        out = io.BytesIO()
        picture.quantize(palette=_palette(picture), dither=Image.Dither.NONE).save(
            out, "PNG", optimize=True
        )
        if len(out.getvalue()) < BYTES_MAX:
            break
        picture = picture.resize(
            (picture.width * 9 // 10, picture.height * 9 // 10), Image.Resampling.LANCZOS
        )
    path = FOLDER / f"{name}.png"
    path.write_bytes(out.getvalue())
    sys.stdout.write(
        f"{path.relative_to(ROOT)}: {len(out.getvalue()) // 1000} kB,"
        f" {picture.width}x{picture.height}\n"
    )


def _palette(picture: Image.Image) -> Image.Image:
    """The page's own colours as they are, which are the most frequent, and the rest shared by what
    was drawn.
    """
    counted = sorted(picture.getcolors(picture.width * picture.height) or [], reverse=True)
    own = [channel for _, colour in counted[:96] for channel in colour]
    shared = picture.quantize(160).getpalette() or []
    palette = Image.new("P", (1, 1))
    palette.putpalette([*own, *shared][: 3 * 256])
    return palette


def main() -> None:
    """Take the pictures anew."""
    with (
        a_database_outside(database_admin_url(), "aigen_shots") as url,
        tempfile.TemporaryDirectory() as folder,
        serving(url, Path(folder), AIGEN_WEB_TOP_UP_URL="https://example.com/credits") as address,
    ):
        asyncio.run(take(address))


if __name__ == "__main__":
    main()
