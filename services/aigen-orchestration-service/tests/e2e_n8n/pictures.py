"""Check that pictures are as ordered by decoding them."""

import io
from itertools import combinations
from typing import Any

import httpx
from PIL import Image, ImageChops, ImageStat

from creativeflow.services.aigeneration.domain.formats import FORMATS

_BOX = 512
_RATIO = 0.03
_DIFFERENT = 2.0
"""Mean difference of brightness, of 255, above which two pictures count as different."""
_KINDS = {"PNG": "png", "JPEG": "jpg", "WEBP": "webp"}


async def faults(
    client: httpx.AsyncClient, shown: dict[str, Any], *, samples: int, final: str | None
) -> list[str]:
    """Return what is wrong with the pictures of a request; `final` is "WxH format", or None."""
    found = []
    opened = [await _open(client, sample["url"]) for sample in shown["samples"]]
    if len(opened) != samples:
        found.append(f"{len(opened)} samples in place of {samples}")
    asked = FORMATS[shown["brief"]["output_format"]]
    for sample, image in zip(shown["samples"], opened, strict=True):
        said = f"{image.width}x{image.height}"
        if sample["resolution"] != said or max(image.size) > _BOX:
            found.append(f"a sample is {said}, reported {sample['resolution']}")
        if abs(image.width / image.height / (asked.width / asked.height) - 1) > _RATIO:
            found.append(f"a sample of {said} has another ratio than {asked}")
    for one, other in combinations(opened, 2):
        if _difference(one, other) < _DIFFERENT:
            found.append("two samples are the same picture")
    if final:
        image = await _open(client, shown["final_asset"]["url"])
        if (said := f"{image.width}x{image.height} {_KINDS[image.format or '']}") != final:
            found.append(f"the final is {said} in place of {final}")
    return [f"{shown['id']}: {fault}" for fault in found]


async def _open(client: httpx.AsyncClient, url: str) -> Image.Image:
    image = Image.open(io.BytesIO((await client.get(url)).raise_for_status().content))
    image.load()
    return image


def _difference(one: Image.Image, other: Image.Image) -> float:
    small = [image.convert("L").resize((64, 64)) for image in (one, other)]
    return float(ImageStat.Stat(ImageChops.difference(*small)).mean[0])
