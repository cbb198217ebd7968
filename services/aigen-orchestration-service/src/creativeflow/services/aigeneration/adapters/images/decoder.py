"""Decode untrusted pictures in a separate process: limited memory, no secrets, one picture at a
time.

`python -m …adapters.images.decoder` reads one JSON object per line from stdin and responds to each
with one on stdout; it ends with stdin. A picture that exhausts the memory limit or crashes a
decoder ends only this process.
"""

import contextlib
import hashlib
import io
import json
import os
import sys
import warnings
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps, UnidentifiedImageError

FORMATS = {"PNG": "png", "JPEG": "jpg", "MPO": "jpg", "WEBP": "webp"}
"""The formats that are read. MPO is the JPEG of a phone followed by further pictures, which are
ignored.
"""
OPENED = ("PNG", "JPEG", "WEBP")
MEMORY_BYTES = 640 * 1024 * 1024
"""Address space of the process. The largest pictures, 4096 x 4096 px in WebP or 8192 x 6144 px in
progressive JPEG, need 400 MB.
"""

_ICC_PROFILE_BYTES = 100_000
_ORIENTATION, _QUARTER_TURNS = 0x0112, (5, 6, 7, 8)
_QUALITY = 90


class RefusedPictureError(Exception):
    """A picture that is not accepted; `reason` is one of the codes of `inspection.REASONS`."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def inspect(path: Path, *, pixels_max: int, side_max: int) -> dict[str, Any]:
    """Decode a still picture completely; return its format, displayed size, length and SHA-256.

    Raises:
        RefusedPictureError: not a complete PNG, JPEG or WebP picture, animated, or larger than
        the limits.
    """
    data = path.read_bytes()
    with _refusing(), _opened(data, pixels_max=pixels_max, side_max=side_max) as image:
        if FORMATS[image.format or ""] != "jpg" and getattr(image, "is_animated", False):
            raise RefusedPictureError("animated")
        image.load()
        _check_complete(data, image)
        size = _displayed_size(image)
        return {
            "format": FORMATS[image.format or ""],
            "width": size[0],
            "height": size[1],
            "bytes": len(data),
            "sha256": hashlib.sha256(data).hexdigest(),
        }


def reduce(
    path: Path,
    target: Path,
    *,
    side_min: int,
    side_max: int,
    pixels_max: int,
    jpeg_pixels_max: int,
    side_kept: int,
) -> dict[str, Any]:
    """Write the first frame upright, at most `side_kept` px, without metadata; return its facts.

    Raises:
        RefusedPictureError: not a readable PNG, JPEG or WebP picture, or outside the limits.
    """
    data = path.read_bytes()
    with _refusing(), _opened(data, pixels_max=jpeg_pixels_max, side_max=side_max) as image:
        name = "JPEG" if image.format == "MPO" else image.format or ""
        if min(image.size) < side_min:
            raise RefusedPictureError("too_small")
        if name != "JPEG" and image.width * image.height > pixels_max:
            raise RefusedPictureError("too_many_pixels")
        # A JPEG is decoded at 1/2, 1/4 or 1/8 of its size, which needs less memory.
        image.draft(None, (side_kept, side_kept))
        image.load()
        profile = _kept_profile(image)
        mode = "RGBA" if image.has_transparency_data and name != "JPEG" else "RGB"
        upright = _turn_upright(_scale_down(image, mode, side_kept), image)
        # The rest is metadata of a camera or an editor: place, time, comments, a preview.
        upright.info = {}
        upright.save(target, name, quality=_QUALITY, icc_profile=profile, exif=b"")
    return inspect(target, pixels_max=side_kept * side_kept, side_max=side_kept)


def _scale_down(image: Image.Image, mode: str, side_kept: int) -> Image.Image:
    """Return the picture in `mode` with at most `side_kept` px."""
    scaled = image
    # 16 bits of grey: converting alone would cut off the upper half.
    if image.mode.startswith("I"):
        scaled = image.convert("I").point(lambda value: value * (1 / 256)).convert("L")
    # Palettes cannot be scaled smoothly; not converting the others here saves a copy.
    if scaled.mode not in {"RGB", "RGBA"}:
        scaled = scaled.convert(mode)
    scaled.thumbnail((side_kept, side_kept))
    return scaled.convert(mode)


def _turn_upright(scaled: Image.Image, original: Image.Image) -> Image.Image:
    """Return the picture turned as the Exif data of the original demand."""
    upright = scaled
    with contextlib.suppress(Exception):  # a damaged Exif block leaves the orientation unchanged
        scaled.getexif().update(original.getexif())
        upright = ImageOps.exif_transpose(scaled)
    return upright


def _kept_profile(image: Image.Image) -> bytes | None:
    """Return the colour profile if it stays valid and is not too large."""
    profile: bytes | None = image.info.get("icc_profile")
    if profile and len(profile) <= _ICC_PROFILE_BYTES and image.mode in _PROFILED:
        return profile
    return None


_PROFILED = ("RGB", "RGBA", "P")
"""Modes whose colour profile is still valid after the conversion to RGB."""


def _opened(data: bytes, *, pixels_max: int, side_max: int) -> Image.Image:
    """Return the picture with only its header read; refuse one whose header claims too large a
    size.
    """
    Image.MAX_IMAGE_PIXELS = pixels_max
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image = Image.open(io.BytesIO(data), formats=OPENED)
    if image.format not in FORMATS:
        raise RefusedPictureError("not_a_picture")
    if max(image.size) > side_max or image.width * image.height > pixels_max:
        raise RefusedPictureError("too_many_pixels")
    return image


def _check_complete(data: bytes, image: Image.Image) -> None:
    """Find damage that a decoder tolerates: wrong checksums of a PNG, a JPEG without its end."""
    if image.format == "PNG":
        with Image.open(io.BytesIO(data), formats=["PNG"]) as again:
            again.verify()
    elif image.format in {"JPEG", "MPO"} and data.find(b"\xff\xd9", data.find(b"\xff\xda")) < 0:
        raise RefusedPictureError("truncated")


def _displayed_size(image: Image.Image) -> tuple[int, int]:
    orientation = None
    with contextlib.suppress(Exception):  # a damaged Exif block has no orientation
        orientation = image.getexif().get(_ORIENTATION)
    return (image.height, image.width) if orientation in _QUARTER_TURNS else image.size


@contextlib.contextmanager
def _refusing() -> Any:
    """Convert any exception of a decoder on hostile bytes to a refusal."""
    try:
        yield
    except RefusedPictureError:
        raise
    except UnidentifiedImageError:
        raise RefusedPictureError("not_a_picture") from None
    except Image.DecompressionBombError:
        raise RefusedPictureError("too_many_pixels") from None
    except MemoryError:
        raise RefusedPictureError("too_much_memory") from None
    except OSError as error:
        raise RefusedPictureError("truncated" if "truncated" in str(error) else "damaged") from None
    except Exception:  # noqa: BLE001 - decoders raise SyntaxError, ValueError, struct.error, zlib.error …
        raise RefusedPictureError("damaged") from None


def _limit_process() -> None:
    """Limit the resources of the process, as far as the system supports it."""
    try:
        import resource  # noqa: PLC0415 - not there on Windows
    except ImportError:
        return
    for limit, value in ((resource.RLIMIT_AS, MEMORY_BYTES), (resource.RLIMIT_CORE, 0)):
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(limit, (value, value))
    with contextlib.suppress(OSError):
        os.nice(5)


def answer(order: dict[str, Any]) -> dict[str, Any]:
    """Carry out one order; return facts, the reason of a refusal, or an internal error."""
    try:
        path = Path(order.pop("path"))
        if target := order.pop("target", None):
            return {"facts": reduce(path, Path(target), **order)}
        return {"facts": inspect(path, **order)}
    except RefusedPictureError as error:
        return {"refused": error.reason}
    except MemoryError:
        return {"refused": "too_much_memory"}
    except OSError as error:
        return {"failed": type(error).__name__}


def main() -> None:
    """Carry out orders until stdin ends."""
    _limit_process()
    for line in sys.stdin.buffer:
        sys.stdout.write(json.dumps(answer(json.loads(line))) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
