"""The pixel sizes of the formats by hand, and which sizes samples and finals may have (REQ-005,
REQ-009).
"""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from creativeflow.services.aigeneration.domain.errors import InvalidRequestError
from creativeflow.services.aigeneration.domain.formats import FORMATS, Size, final_size, sample_size

SIZES = {
    "InstagramPost_1x1": ("1080x1080", "512x512"),
    "InstagramStory_9x16": ("1080x1920", "288x512"),
    "InstagramReel_9x16": ("1080x1920", "288x512"),
    "FacebookPost": ("1200x630", "512x269"),
    "FacebookAd": ("1080x1080", "512x512"),
    "LinkedInPost": ("1200x627", "512x268"),
    "LinkedInArticle": ("1920x1080", "512x288"),
    "XPost": ("1600x900", "512x288"),
    "TikTok_9x16": ("1080x1920", "288x512"),
    "YouTubeThumbnail_16x9": ("1280x720", "512x288"),
    "PinterestPin_2x3": ("1000x1500", "341x512"),
}
"""Each format's own size and the size of its previews."""

SQUARE, STORY, THUMBNAIL = (
    FORMATS["InstagramPost_1x1"],
    FORMATS["InstagramStory_9x16"],
    FORMATS["YouTubeThumbnail_16x9"],
)

sides = st.integers(min_value=64, max_value=4096)
custom_sizes = st.builds(Size, sides, sides)


def refusal(asked: Size, desired: str) -> dict[str, str]:
    with pytest.raises(InvalidRequestError) as caught:
        final_size(asked, desired)
    (fault,) = caught.value.errors
    return fault


def test_formats_have_the_required_sizes() -> None:
    assert {name: str(size) for name, size in FORMATS.items()} == {
        name: own for name, (own, _) in SIZES.items()
    }


@pytest.mark.parametrize("name", list(SIZES))
def test_sample_size_fits_the_box_in_the_ratio_of_the_format(name: str) -> None:
    assert str(sample_size(FORMATS[name])) == SIZES[name][1]


@pytest.mark.parametrize(
    ("asked", "preview"),
    [
        ((64, 64), "64x64"),
        ((300, 200), "300x200"),
        ((512, 512), "512x512"),
        ((513, 512), "512x511"),
        ((4096, 4096), "512x512"),
        ((4096, 64), "512x8"),
        ((64, 4096), "8x512"),
        ((2048, 1000), "512x250"),
    ],
)
def test_sample_size_of_custom_dimensions(asked: tuple[int, int], preview: str) -> None:
    assert str(sample_size(Size(*asked))) == preview


@given(custom_sizes)
@settings(max_examples=200, deadline=None)
def test_sample_size_any_format_fits_the_box_without_enlarging(asked: Size) -> None:
    preview = sample_size(asked)
    assert max(preview) == min(512, max(asked))
    assert preview.width <= asked.width
    assert preview.height <= asked.height
    scale = max(preview) / max(asked)
    assert abs(preview.width - asked.width * scale) <= 0.5
    assert abs(preview.height - asked.height * scale) <= 0.5


def test_final_size_defaults_to_the_format() -> None:
    assert final_size(STORY, None) == (1080, 1920)


@pytest.mark.parametrize(
    ("asked", "desired", "expected"),
    [
        (SQUARE, "2048x2048", "2048x2048"),
        (SQUARE, "64x64", "64x64"),
        (SQUARE, "4096x4096", "4096x4096"),
        (SQUARE, "2048X2048", "2048x2048"),
        (SQUARE, " 2048x2048 ", "2048x2048"),
        (STORY, "1080x1920", "1080x1920"),
        (STORY, "2160x3840", "2160x3840"),
        (THUMBNAIL, "3840x2160", "3840x2160"),
        (FORMATS["LinkedInPost"], "2048x1070", "2048x1070"),
    ],
)
def test_final_size_desired_in_the_same_ratio_is_used(
    asked: Size, desired: str, expected: str
) -> None:
    assert str(final_size(asked, desired)) == expected


@pytest.mark.parametrize(
    ("asked", "desired", "expected"),
    [
        (SQUARE, "HD", "1280x1280"),
        (SQUARE, "FHD", "1920x1920"),
        (SQUARE, "2K", "2048x2048"),
        (SQUARE, "4K", "4096x4096"),
        (SQUARE, "4k", "4096x4096"),
        (SQUARE, " 4K ", "4096x4096"),
        (STORY, "HD", "720x1280"),
        (STORY, "2K", "1152x2048"),
        (STORY, "4K", "2304x4096"),
        (THUMBNAIL, "FHD", "1920x1080"),
        (THUMBNAIL, "4K", "4096x2304"),
        (FORMATS["FacebookPost"], "2K", "2048x1075"),
        (FORMATS["LinkedInPost"], "FHD", "1920x1003"),
        (FORMATS["PinterestPin_2x3"], "HD", "853x1280"),
    ],
)
def test_final_size_named_sets_the_longest_side(asked: Size, desired: str, expected: str) -> None:
    assert str(final_size(asked, desired)) == expected


@pytest.mark.parametrize(
    "desired", ["63x63", "4097x4097", "8192x8192", "99999x99999", "1x1", "64x4097", "63x4096"]
)
def test_final_size_out_of_bounds_is_refused(desired: str) -> None:
    fault = refusal(SQUARE, desired)
    assert (fault["pointer"], fault["code"]) == ("/desired_resolution", "resolution_out_of_bounds")
    assert "64 to 4096" in fault["message"]


def test_final_size_named_with_too_short_side_is_refused() -> None:
    assert refusal(Size(4096, 64), "HD")["code"] == "resolution_out_of_bounds"


@pytest.mark.parametrize(
    ("asked", "desired", "nearest"),
    [
        (STORY, "1080x1080", "608x1080"),
        (STORY, "1920x1080", "1080x1920"),
        (SQUARE, "1920x1080", "1920x1920"),
        (SQUARE, "1000x1011", "1011x1011"),
        (SQUARE, "1011x1000", "1011x1011"),
        (THUMBNAIL, "1280x800", "1280x720"),
    ],
)
def test_final_size_in_another_ratio_names_the_nearest(
    asked: Size, desired: str, nearest: str
) -> None:
    fault = refusal(asked, desired)
    assert (fault["pointer"], fault["code"]) == ("/desired_resolution", "resolution_ratio_mismatch")
    assert fault["message"].endswith(f"the nearest that fits is {nearest}.")


@pytest.mark.parametrize(
    "desired",
    [
        "",
        " ",
        "big",
        "1024",
        "1024x",
        "x1024",
        "1024x1024x3",
        "1024*1024",
        "1024 x 1024",
        "0x0",
        "0x1024",
        "-1x5",
        "+1x5",
        "01024x1024",
        "1e3x1e3",
        "10.5x10.5",
        "100000x100000",
        "9" * 5000 + "x1",
        "8K",
        "K",
        "4K4K",
        "NaNxNaN",
        "1024x1024\x00",
        "1024\nx1024",
        "\uff11\uff10\uff12\uff14x\uff11\uff10\uff12\uff14",
        "1024\u00d71024",
        "٢x٢",
        "1٢x1٢",
        "<script>",
        "None",
    ],
)
def test_final_size_invalid_text_is_refused_without_repeating_it(desired: str) -> None:
    fault = refusal(SQUARE, desired)
    assert (fault["pointer"], fault["code"]) == ("/desired_resolution", "invalid_resolution")
    assert fault["message"] == 'Use "WIDTHxHEIGHT" in pixels, or one of HD, FHD, 2K, 4K.'


@given(custom_sizes)
@settings(max_examples=100, deadline=None)
def test_final_size_every_custom_size_is_valid(asked: Size) -> None:
    assert final_size(asked, str(asked)) == asked


@given(custom_sizes, st.sampled_from([("HD", 1280), ("FHD", 1920), ("2K", 2048), ("4K", 4096)]))
@settings(max_examples=150, deadline=None)
def test_final_size_any_named_size_fits_or_is_too_thin(asked: Size, named: tuple[str, int]) -> None:
    name, longest = named
    try:
        size = final_size(asked, name)
    except InvalidRequestError as error:
        assert [fault["code"] for fault in error.errors] == ["resolution_out_of_bounds"]  # noqa: PT017
        assert min(asked) * longest / max(asked) < 64
    else:
        assert max(size) == longest


@given(custom_sizes, st.text(max_size=12) | st.text("0123456789xX", max_size=10))
@settings(max_examples=150, deadline=None)
def test_final_size_any_text_is_in_bounds_or_refused(asked: Size, desired: str) -> None:
    try:
        size = final_size(asked, desired)
    except InvalidRequestError as error:
        assert error.errors[0]["pointer"] == "/desired_resolution"  # noqa: PT017 - most texts are refused
    else:
        assert 64 <= min(size) <= max(size) <= 4096


@pytest.mark.parametrize(
    ("text", "size"), [("1x1", (1, 1)), ("512X288", (512, 288)), ("99999x64", (99999, 64))]
)
def test_size_parse_valid_text(text: str, size: tuple[int, int]) -> None:
    assert Size.parse(text) == size


@pytest.mark.parametrize(
    "text", ["", "x", "0x1", "1x0", "1x", "100000x1", "1x1 1", "1xx1", "a1x1", "\uff11x\uff11"]
)
def test_size_parse_invalid_text_raises(text: str) -> None:
    with pytest.raises(ValueError, match="WIDTHxHEIGHT"):
        Size.parse(text)


@given(custom_sizes)
@settings(max_examples=50, deadline=None)
def test_size_text_round_trip_is_equal(size: Size) -> None:
    assert Size.parse(str(size)) == size


@pytest.mark.parametrize(
    ("size", "other", "alike"),
    [
        ((512, 512), (1080, 1080), True),
        ((288, 512), (1080, 1920), True),
        ((512, 288), (1080, 1920), False),
        ((512, 512), (1080, 1920), False),
        ((512, 497), (1080, 1080), True),
        ((512, 496), (1080, 1080), False),
        ((512, 527), (1080, 1080), True),
        ((512, 528), (1080, 1080), False),
        ((20, 11), (1080, 1080), False),
        ((8, 7), (1080, 1080), True),
        ((8, 6), (1080, 1080), False),
    ],
)
def test_size_like_tolerates_three_percent_or_one_pixel(
    size: tuple[int, int], other: tuple[int, int], alike: bool
) -> None:
    assert Size(*size).like(Size(*other)) is alike


def test_size_like_tolerates_one_pixel_on_either_side() -> None:
    assert Size(512, 8).like(Size(4096, 68)) is True
    assert Size(8, 512).like(Size(68, 4096)) is True
