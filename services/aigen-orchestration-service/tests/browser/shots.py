"""Take the studio's screenshots for the documentation: `python -m tests.browser.shots`."""

import asyncio
import io
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.async_api import Browser, expect

from tests.support.databases import a_database_outside
from tests.support.services import database_admin_url
from tests.support.studio_browser import Visit, running_chromium, running_service
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
DESKTOP = {"viewport": {"width": 1280, "height": 860}, "device_scale_factor": 1.5}
PHONE = {"viewport": {"width": 390, "height": 844}, "device_scale_factor": 2}


async def take(address: str) -> None:
    """Take all screenshots."""
    async with running_chromium() as browser:
        await _take_history(browser, address)
        await _take_journey(browser, address)
        await _take_journey(browser, address, scheme="dark")
        await _take_phone(browser, address)


async def start_visit(
    browser: Browser, address: str, scheme: str = "light", **context: object
) -> Visit:
    """Start a visit as the user `ada`."""
    made = await browser.new_context(
        color_scheme=scheme, reduced_motion="reduce", locale="en-GB", **context
    )
    visit = Visit(made, address, "ada")
    await visit.begin()
    return visit


async def _take_history(browser: Browser, address: str) -> None:
    """Take the gallery and a failed request."""
    visit = await start_visit(browser, address, **DESKTOP)
    await visit.grant("40.00")
    for prompt, shape in reversed(PROMPTS):
        await visit.submit_brief(prompt, shape)
        await visit.wait_for_state("AWAITING_SELECTION")
        if shape != "XPost":
            await visit.page.locator("label.sample").nth(len(prompt) % 4).click()
            await visit.page.locator("button.size").first.click()
            await visit.wait_for_state("COMPLETED")
    await visit.submit_brief("A paper boat in the rain [[down]]")
    await visit.wait_for_state("FAILED")
    await save_screenshot(visit, "studio-failed")
    await visit.open("/studio/history")
    await save_screenshot(visit, "studio-history")
    await visit.close()


async def _take_journey(browser: Browser, address: str, scheme: str = "light") -> None:
    """Take brief and selection in light, the final in dark."""
    visit = await start_visit(browser, address, scheme, **DESKTOP)
    await visit.open()
    await visit.page.fill("#input_prompt", "A lighthouse at dawn, seen from the sea")
    await visit.page.check('input[value="YouTubeThumbnail_16x9"]', force=True)
    await expect(visit.page.locator(".price-list")).to_contain_text("4096")
    if scheme == "light":
        await save_screenshot(visit, "studio-ask")
    await visit.page.click(".submit")
    await visit.wait_for_state("AWAITING_SELECTION")
    await visit.page.locator("label.sample").nth(1).click()
    await visit.page.mouse.move(5, 5)
    if scheme == "light":
        await save_screenshot(visit, "studio-samples")
    await visit.page.locator("button.size").first.click()
    await visit.wait_for_state("COMPLETED")
    if scheme == "dark":
        await save_screenshot(visit, "studio-final-dark")
    await visit.close()


async def _take_phone(browser: Browser, address: str) -> None:
    """Take the journey on a phone, side by side."""
    visit = await start_visit(browser, address, **PHONE)
    await visit.open()
    shots = [await visit.page.screenshot()]
    await visit.submit_brief(*PROMPTS[1])
    await visit.wait_for_state("AWAITING_SELECTION")
    await visit.page.locator("label.sample").nth(2).click()
    shots.append(await visit.page.screenshot())
    await visit.page.locator("button.size").first.click()
    await visit.wait_for_state("COMPLETED")
    await visit.page.wait_for_load_state("networkidle")
    shots.append(await visit.page.screenshot())
    images = [Image.open(io.BytesIO(shot)).convert("RGB") for shot in shots]
    gap, (width, height) = 40, images[0].size
    sheet = Image.new("RGB", (len(images) * (width + gap) - gap, height), "#8b8b8b")
    for place, image in enumerate(images):
        sheet.paste(image, (place * (width + gap), 0))
    _save(sheet, "studio-phone")
    await visit.close()


async def save_screenshot(visit: Visit, name: str) -> None:
    """Save a screenshot of the visible page."""
    await visit.page.evaluate(
        "Promise.all([...document.images].map((one) => one.decode().catch(() => {})))"
    )
    await visit.page.wait_for_timeout(150)
    shot = await visit.page.screenshot()
    _save(Image.open(io.BytesIO(shot)).convert("RGB"), name)


def _save(picture: Image.Image, name: str) -> None:
    """Reduce colours, then the size, until the file is below `BYTES_MAX`."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    while True:
        out = io.BytesIO()
        picture.quantize(palette=_build_palette(picture), dither=Image.Dither.NONE).save(
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


def _build_palette(picture: Image.Image) -> Image.Image:
    """Build a palette: the most frequent colours exactly, the rest quantised."""
    counted = sorted(picture.getcolors(picture.width * picture.height) or [], reverse=True)
    own = [channel for _, colour in counted[:96] for channel in colour]
    shared = picture.quantize(160).getpalette() or []
    palette = Image.new("P", (1, 1))
    palette.putpalette([*own, *shared][: 3 * 256])
    return palette


def main() -> None:
    """Take the screenshots with an own service and database."""
    with (
        a_database_outside(database_admin_url(), "aigen_shots") as url,
        tempfile.TemporaryDirectory() as folder,
        running_service(
            url, Path(folder), AIGEN_WEB_TOP_UP_URL="https://example.com/credits"
        ) as address,
    ):
        asyncio.run(take(address))


if __name__ == "__main__":
    main()
