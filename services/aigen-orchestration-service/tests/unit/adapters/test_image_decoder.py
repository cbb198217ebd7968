"""Inspection of picture bytes: facts of valid pictures, a reason for every other one, never another
exception.
"""

import io
import struct
import zlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from creativeflow.services.aigeneration.adapters.asset_files import REFERENCE_LIMITS
from creativeflow.services.aigeneration.adapters.images import decoder
from creativeflow.services.aigeneration.adapters.images.decoder import RefusedPictureError
from creativeflow.services.aigeneration.adapters.images.inspection import REASONS
from tests.support.picture_server import animated, picture, plain

SIDE = 4096


def inspect(tmp_path: Path, data: bytes) -> dict[str, object]:
    path = tmp_path / "in.part"
    path.write_bytes(data)
    return decoder.inspect(path, pixels_max=SIDE * SIDE, side_max=SIDE)


def reduced(tmp_path: Path, data: bytes) -> Image.Image:
    path, target = tmp_path / "in.part", tmp_path / "out.part"
    path.write_bytes(data)
    decoder.reduce(path, target, **REFERENCE_LIMITS)
    image = Image.open(io.BytesIO(target.read_bytes()))
    image.load()
    return image


def refusal(tmp_path: Path, data: bytes) -> str:
    with pytest.raises(RefusedPictureError) as refused:
        inspect(tmp_path, data)
    assert refused.value.reason in REASONS
    return refused.value.reason


def chunk(name: bytes, content: bytes) -> bytes:
    return (
        struct.pack(">I", len(content))
        + name
        + content
        + struct.pack(">I", zlib.crc32(name + content))
    )


def png(width: int, height: int, data: bytes) -> bytes:
    """A PNG of one byte a pixel with this compressed data."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("kind", ["png", "jpg", "webp"])
def test_inspect_whole_picture_returns_its_facts(tmp_path: Path, kind: str) -> None:
    data = picture(70, 50, kind)
    facts = inspect(tmp_path, data)
    assert (facts["format"], facts["width"], facts["height"], facts["bytes"]) == (
        kind,
        70,
        50,
        len(data),
    )


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_inspect_png_of_any_mode_is_accepted(tmp_path: Path, mode: str) -> None:
    assert inspect(tmp_path, plain(70, 50, mode=mode))["format"] == "png"


def test_inspect_cmyk_jpeg_is_accepted(tmp_path: Path) -> None:
    assert inspect(tmp_path, plain(70, 50, "jpg", mode="CMYK"))["format"] == "jpg"


def test_inspect_jpeg_with_a_second_picture_is_a_jpeg(tmp_path: Path) -> None:
    stream = io.BytesIO()
    second = [Image.new("RGB", (120, 90), "gray")]
    Image.new("RGB", (120, 90), "teal").save(stream, "MPO", save_all=True, append_images=second)
    facts = inspect(tmp_path, stream.getvalue())
    assert (facts["format"], facts["width"]) == ("jpg", 120)


@pytest.mark.parametrize("kind", ["png", "webp"])
def test_inspect_animated_picture_is_refused(tmp_path: Path, kind: str) -> None:
    assert refusal(tmp_path, animated(kind)) == "animated"


@pytest.mark.parametrize("kind", ["GIF", "BMP", "TIFF", "PPM", "ICO"])
def test_inspect_other_format_is_refused(tmp_path: Path, kind: str) -> None:
    assert refusal(tmp_path, plain(64, 64, kind)) == "not_a_picture"


@pytest.mark.parametrize("kind", ["png", "jpg", "webp"])
def test_inspect_too_many_pixels_is_refused_by_the_header(tmp_path: Path, kind: str) -> None:
    assert refusal(tmp_path, plain(SIDE + 1, 64, kind)) == "too_many_pixels"


def test_inspect_header_of_a_decompression_bomb_is_refused_without_decoding(tmp_path: Path) -> None:
    assert refusal(tmp_path, png(60_000, 60_000, zlib.compress(b""))) == "too_many_pixels"


def test_inspect_webp_whose_header_claims_a_huge_canvas_is_refused(tmp_path: Path) -> None:
    content = b"VP8X" + struct.pack("<I", 10) + b"\x00\x00\x00\x00" + b"\xfe\x3f\x00" * 2
    data = b"RIFF" + struct.pack("<I", 4 + len(content)) + b"WEBP" + content
    assert refusal(tmp_path, data) == "too_many_pixels"


def test_inspect_png_whose_data_unpacks_to_far_more_than_its_pixels_is_bounded(
    tmp_path: Path,
) -> None:
    bomb = zlib.compress(bytes(200_000_000), 9)
    assert len(bomb) < 250_000
    assert inspect(tmp_path, png(64, 64, bomb))["width"] == 64


def test_inspect_png_with_a_text_bomb_is_refused(tmp_path: Path) -> None:
    text = PngImagePlugin.PngInfo()
    text.add_text("Comment", "a" * 50_000_000, zip=True)
    assert refusal(tmp_path, plain(64, 64, pnginfo=text)) == "damaged"


@pytest.mark.parametrize("kind", ["png", "jpg", "webp"])
@pytest.mark.parametrize("share", [0.01, 0.3, 0.9, 0.99])
def test_inspect_truncated_picture_is_refused(tmp_path: Path, kind: str, share: float) -> None:
    whole = picture(200, 200, kind)
    refusal(tmp_path, whole[: int(len(whole) * share)])


@pytest.mark.parametrize(
    ("kind", "whole_bytes"), [("png", 60), ("png", 5000), ("jpg", 60), ("jpg", 5000), ("webp", 24)]
)
def test_inspect_zeroed_picture_is_refused(tmp_path: Path, kind: str, whole_bytes: int) -> None:
    """A lossy WebP with a valid header is excluded: its decoder reads zeros as a picture."""
    whole = picture(200, 200, kind)
    refusal(tmp_path, whole[:whole_bytes] + bytes(len(whole) - whole_bytes))


_WHOLE = {kind: picture(40, 40, kind) for kind in ("png", "jpg", "webp")}


@settings(max_examples=150, deadline=None)
@given(
    kind=st.sampled_from(sorted(_WHOLE)),
    at=st.integers(0, 5000),
    junk=st.binary(min_size=1, max_size=40),
)
def test_inspect_any_damage_gives_facts_or_a_known_reason(
    tmp_path_factory: pytest.TempPathFactory, kind: str, at: int, junk: bytes
) -> None:
    whole = _WHOLE[kind]
    at %= len(whole)
    path = tmp_path_factory.mktemp("damaged") / "in.part"
    path.write_bytes(whole[:at] + junk + whole[at + len(junk) :])
    answer = decoder.answer({"path": str(path), "pixels_max": SIDE * SIDE, "side_max": SIDE})
    assert answer.get("refused") in REASONS or answer["facts"]["format"] in {"png", "jpg", "webp"}


@pytest.mark.parametrize(
    ("kind", "size", "kept"),
    [
        ("jpg", (4000, 3000), (2048, 1536)),
        ("jpg", (8160, 6120), (2048, 1536)),
        ("png", (4096, 2048), (2048, 1024)),
        ("webp", (300, 200), (300, 200)),
    ],
)
def test_reduce_keeps_at_most_2048_px(
    tmp_path: Path, kind: str, size: tuple[int, int], kept: tuple[int, int]
) -> None:
    assert reduced(tmp_path, plain(*size, kind)).size == kept


def test_reduce_drops_everything_a_camera_or_editor_noted(tmp_path: Path) -> None:
    noted = Image.Exif()
    noted[0x010F], noted[0x0112] = "Secret Camera", 6
    kept = reduced(tmp_path, plain(400, 300, "jpg", exif=noted, comment=b"Secret place"))
    assert kept.size == (300, 400)
    assert not dict(kept.getexif())
    assert "comment" not in kept.info
    text = PngImagePlugin.PngInfo()
    text.add_text("Author", "Secret person")
    assert "Author" not in reduced(tmp_path, plain(400, 300, pnginfo=text)).info


def test_reduce_16_bit_grey_keeps_its_brightness(tmp_path: Path) -> None:
    stream = io.BytesIO()
    Image.new("I;16", (100, 100), 32_768).save(stream, "PNG")
    grey = reduced(tmp_path, stream.getvalue()).convert("L").getpixel((50, 50))
    assert isinstance(grey, int)
    assert abs(grey - 128) <= 1


@pytest.mark.parametrize("mode", ["P", "RGBA", "LA"])
def test_reduce_keeps_transparency(tmp_path: Path, mode: str) -> None:
    stream = io.BytesIO()
    options = {"transparency": 0} if mode == "P" else {}
    Image.new(mode, (100, 100)).save(stream, "PNG", **options)
    assert reduced(tmp_path, stream.getvalue()).mode == "RGBA"


@pytest.mark.parametrize("kind", ["png", "webp"])
def test_reduce_animated_picture_keeps_its_first_frame(tmp_path: Path, kind: str) -> None:
    assert not getattr(reduced(tmp_path, animated(kind)), "is_animated", False)


@pytest.mark.parametrize(
    ("kind", "size", "reason"),
    [
        ("png", (63, 500), "too_small"),
        ("png", (4097, 4096), "too_many_pixels"),
        ("webp", (8000, 8000), "too_many_pixels"),
        ("jpg", (8192, 8192), "too_many_pixels"),
        ("png", (8193, 64), "too_many_pixels"),
    ],
)
def test_reduce_size_outside_the_limits_is_refused(
    tmp_path: Path, kind: str, size: tuple[int, int], reason: str
) -> None:
    with pytest.raises(RefusedPictureError) as refused:
        reduced(tmp_path, plain(*size, kind))
    assert refused.value.reason == reason
