"""Output formats with their pixel sizes (REQ-005), and the allowed sizes of samples and finals
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
"""Tolerance of a sample's aspect ratio: providers work in steps of 8 to 64 px."""

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
        """Parse "WxH".

        Raises:
            ValueError: the text is malformed, or a side is 0 or too long.
        """
        match = re.fullmatch(r"([1-9]\d{0,4})[xX]([1-9]\d{0,4})", text.strip(), re.ASCII)
        if match is None:
            raise ValueError("not a size of the form WIDTHxHEIGHT")
        return cls(int(match[1]), int(match[2]))

    def scaled(self, longest: int) -> "Size":
        """Return the size with the same ratio and this longest side; every side is at least one
        pixel.
        """
        return Size(
            max(1, round(self.width * longest / self.longest)),
            max(1, round(self.height * longest / self.longest)),
        )

    def like(self, other: "Size", tolerance: float = RATIO_TOLERANCE) -> bool:
        """Return whether both sizes have the same ratio, within `tolerance` or one pixel."""
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
    """Return the size of a sample: the ordered ratio within 512 x 512, never larger than
    ordered.
    """
    return asked.scaled(min(SAMPLE_BOX, asked.longest))


def final_size(asked: Size, desired: str | None) -> Size:
    """Return the size of the final: that of the format, or the one requested at selection.

    `desired` is "WIDTHxHEIGHT" in the ratio of the format, or HD, FHD, 2K or 4K for the longest
    side.

    Raises:
        InvalidRequestError: the size is malformed, out of bounds, or in another ratio.
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
