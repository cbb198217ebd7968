"""Options of the brief form with their labels."""

from dataclasses import dataclass
from math import gcd
from types import MappingProxyType

from creativeflow.services.aigeneration.domain.formats import FORMATS, Size

TONES = ("Professional", "Playful", "Warm", "Bold", "Elegant", "Calm", "Urgent", "Humorous")
INDUSTRIES = (
    "Luxury",
    "Technology",
    "Lifestyle",
    "Food and drink",
    "Fashion",
    "Travel",
    "Health",
    "Finance",
    "Real estate",
    "Sports",
    "Education",
    "Non-profit",
)
_NAMES = MappingProxyType(
    {
        "InstagramPost_1x1": ("Instagram", "Post"),
        "InstagramStory_9x16": ("Instagram", "Story"),
        "InstagramReel_9x16": ("Instagram", "Reel"),
        "FacebookPost": ("Facebook", "Post"),
        "FacebookAd": ("Facebook", "Ad"),
        "LinkedInPost": ("LinkedIn", "Post"),
        "LinkedInArticle": ("LinkedIn", "Article"),
        "XPost": ("X", "Post"),
        "TikTok_9x16": ("TikTok", "Video"),
        "YouTubeThumbnail_16x9": ("YouTube", "Thumbnail"),
        "PinterestPin_2x3": ("Pinterest", "Pin"),
    }
)
_DRAWING_SIDE = 30
_RATIO_MAX = 32


@dataclass(frozen=True, slots=True)
class FormatOption:
    """A format with its platform, its name there and its shape."""

    name: str
    platform: str
    kind: str
    size: Size

    @property
    def ratio(self) -> str:
        """The aspect ratio, such as 16:9, or 1.90:1 if whole numbers would be large."""
        divisor = gcd(*self.size)
        width, height = self.size.width // divisor, self.size.height // divisor
        return (
            f"{width}:{height}"
            if max(width, height) <= _RATIO_MAX
            else f"{self.size.width / self.size.height:.2f}:1"
        )

    @property
    def drawing(self) -> Size:
        """The size scaled to fit a small square."""
        return self.size.scaled(_DRAWING_SIDE)


FORMAT_OPTIONS = tuple(
    FormatOption(name, *_NAMES.get(name, ("", name)), size) for name, size in FORMATS.items()
)


def get_format_title(name: str) -> str:
    """Return the title of a format, such as "Instagram Post"."""
    return " ".join(_NAMES[name]) if name in _NAMES else name
