"""The output formats with their pixel sizes (REQ-005), and the sizes a sample and a final may have
(REQ-009).
"""

import re
from types import MappingProxyType
from typing import NamedTuple

from creativeflow.services.aigeneration.domain.errors import InvalidRequestError

SIDE_MIN = 64
SIDE_MAX = 4096
SAMPLE_BOX = 512
CUSTOM = "Custom"
FILE_FORMATS = ("png", "jpg", "webp")
RATIO_TOLERANCE = 0.03
"""Providers work in steps of 8 to 64 px, so a sample's ratio may be off by this part."""

_NAMED_LONGEST_SIDE = {"HD": 1280, "FHD": 1920, "2K": 2048, "4K": 4096}


class Size(NamedTuple):
    """Width and height in pixels."""

    width: int
    height: int

    def __str__(self) -> str:
        return f"{self.width}x{self.height}"

    @property
    def longest(self) -> int:
        """The longest side in pixels."""
        return max(self)

    @classmethod
    def parse(cls, text: str) -> "Size":
        """Read "WxH".

        Raises:
            ValueError: the text has another shape, or a side is 0 or absurdly long.
        """
        match = re.fullmatch(r"([1-9]\d{0,4})[xX]([1-9]\d{0,4})", text.strip(), re.ASCII)
        if match is None:
            raise ValueError("not a size of the form WIDTHxHEIGHT")
        return cls(int(match[1]), int(match[2]))

    def scaled(self, longest: int) -> "Size":
        """The same ratio with another longest side, every side at least one pixel."""
        return Size(
            max(1, round(self.width * longest / self.longest)),
            max(1, round(self.height * longest / self.longest)),
        )

    def like(self, other: "Size", tolerance: float = RATIO_TOLERANCE) -> bool:
        """Whether the ratio is the other's, within `tolerance` or one pixel."""
        height = self.width * other.height / other.width
        width = self.height * other.width / other.height
        return abs(self.height - height) <= max(1.0, height * tolerance) or abs(
            self.width - width
        ) <= max(1.0, width * tolerance)


FORMATS: MappingProxyType[str, Size] = MappingProxyType(
    {
        "InstagramPost_1x1": Size(1080, 1080),
        "InstagramStory_9x16": Size(1080, 1920),
        "InstagramReel_9x16": Size(1080, 1920),
        "FacebookPost": Size(1200, 630),
        "FacebookAd": Size(1080, 1080),
        "LinkedInPost": Size(1200, 627),
        "LinkedInArticle": Size(1920, 1080),
        "XPost": Size(1600, 900),
        "TikTok_9x16": Size(1080, 1920),
        "YouTubeThumbnail_16x9": Size(1280, 720),
        "PinterestPin_2x3": Size(1000, 1500),
    }
)


def sample_size(asked: Size) -> Size:
    """The size of a preview: the asked ratio inside the 512 x 512 box, never larger than what was
    asked.
    """
    return asked.scaled(min(SAMPLE_BOX, asked.longest))


def final_size(asked: Size, desired: str | None) -> Size:
    """The size of the final: the format's own, or what was desired at selection.

    `desired` is "WIDTHxHEIGHT" in the format's ratio, or one of HD, FHD, 2K, 4K for the longest
    side.

    Raises:
        InvalidRequestError: not a size, out of bounds, or in another ratio.
    """
    if desired is None:
        return asked
    pointer = "/desired_resolution"
    if longest := _NAMED_LONGEST_SIDE.get(desired.strip().upper()):
        size = asked.scaled(longest)
    else:
        try:
            size = Size.parse(desired)
        except ValueError:
            names = ", ".join(_NAMED_LONGEST_SIDE)
            raise InvalidRequestError.at(
                pointer, "invalid_resolution", f'Use "WIDTHxHEIGHT" in pixels, or one of {names}.'
            ) from None
    if min(size) < SIDE_MIN or size.longest > SIDE_MAX:
        raise InvalidRequestError.at(
            pointer,
            "resolution_out_of_bounds",
            f"Each side must have {SIDE_MIN} to {SIDE_MAX} pixels; this has {size}.",
        )
    if not size.like(asked, tolerance=0.01):
        fitting = asked.scaled(size.longest)
        raise InvalidRequestError.at(
            pointer,
            "resolution_ratio_mismatch",
            f"The format has another ratio; the nearest that fits is {fitting}.",
        )
    return size
