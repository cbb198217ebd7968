"""The local engine's pictures: right in size and format, equal for equal input, different where it
counts.
"""

import io
from itertools import combinations, pairwise

import pytest
from PIL import Image, ImageChops, ImageDraw, ImageStat

from creativeflow.services.aigeneration.adapters.engine.drawing import Drawing, draw
from creativeflow.services.aigeneration.domain.formats import Size, sample_size

PROMPT = "Autumn coffee festival in the old town"
RATIOS = [
    (256, 256),
    (320, 180),
    (180, 320),
    (205, 256),
    (256, 134),
    (64, 64),
    (256, 64),
    (1, 1),
    (3, 300),
]
ROUNDS = [f"request-{number}:1" for number in range(3)]


def sample(
    index: int = 0, seed: str = "request-7:1", size: tuple[int, int] = (128, 128), **rest: object
) -> Drawing:
    arguments: dict[str, object] = {"prompt": PROMPT, "seed": seed, "index": index, **rest}
    return draw(**{"width": size[0], "height": size[1], **arguments})


def pixels(picture: Drawing) -> Image.Image:
    return Image.open(io.BytesIO(picture.data)).convert("RGB")


def difference(first: Image.Image, second: Image.Image) -> float:
    """Mean absolute difference per channel, 0..255."""
    return sum(ImageStat.Stat(ImageChops.difference(first, second)).mean) / 3


def share_near(image: Image.Image, colour: tuple[int, int, int]) -> float:
    """Return the share of the picture whose pixels have this colour, except for edges."""
    away = ImageChops.difference(image, Image.new("RGB", image.size, colour)).split()
    furthest = ImageChops.lighter(ImageChops.lighter(away[0], away[1]), away[2])
    return sum(furthest.histogram()[:4]) / (image.width * image.height)


@pytest.mark.parametrize(("index", "size"), list(enumerate(RATIOS)))
def test_draw_any_size_has_exactly_that_size(index: int, size: tuple[int, int]) -> None:
    picture = sample(index, size=size, watermark=True)
    assert (picture.width, picture.height) == size
    assert pixels(picture).size == size


def test_draw_side_of_4096_is_possible() -> None:
    picture = sample(size=(4096, 1024))
    assert pixels(picture).size == (4096, 1024)


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ((4096, 4096), (512, 512)),
        ((4096, 2304), (512, 288)),
        ((1080, 1350), (410, 512)),
        ((300, 200), (300, 200)),
        ((4096, 1), (512, 1)),
        ((512, 513), (511, 512)),
    ],
)
def test_sample_size_is_the_largest_of_its_ratio_in_the_box(
    asked: tuple[int, int], expected: tuple[int, int]
) -> None:
    assert sample_size(Size(*asked)) == expected


def test_sample_size_in_another_box_fits_it() -> None:
    assert Size(1920, 1080).scaled(256) == (256, 144)


@pytest.mark.parametrize(("index", "file_format"), list(enumerate(["png", "jpg", "webp", "png"])))
def test_draw_equal_arguments_give_equal_bytes(index: int, file_format: str) -> None:
    arguments = {
        "colours": ["#0057ff"],
        "tone": "urgent",
        "watermark": True,
        "file_format": file_format,
    }
    assert sample(index, **arguments) == sample(index, **arguments)


@pytest.mark.parametrize("colours", [(), ("#0057ff",)])
@pytest.mark.parametrize("seed", ROUNDS)
def test_draw_four_samples_of_a_round_differ_visibly(seed: str, colours: tuple[str, ...]) -> None:
    four = [pixels(sample(index, seed, (96, 96), colours=colours)) for index in range(4)]
    assert min(difference(*pair) for pair in combinations(four, 2)) > 30


@pytest.mark.parametrize("index", range(4))
def test_draw_another_round_gives_other_pictures(index: int) -> None:
    rounds = [pixels(sample(index, seed, (96, 96), colours=["teal"])) for seed in ROUNDS]
    assert min(difference(*pair) for pair in combinations(rounds, 2)) > 8


@pytest.mark.parametrize(
    "changed", [{"style": "retro"}, {"tone": "playful"}, {"industry": "travel"}, {"prompt": "Tea"}]
)
def test_draw_every_text_changes_the_picture(changed: dict[str, str]) -> None:
    assert difference(pixels(sample()), pixels(sample(**changed))) > 5


@pytest.mark.parametrize("final", [(1024, 1024), (800, 1000)])
@pytest.mark.parametrize("index", range(4))
def test_draw_final_shows_the_scene_of_its_sample(index: int, final: tuple[int, int]) -> None:
    box = sample_size(Size(*final))
    large = pixels(sample(index, size=final)).resize(box, Image.Resampling.BOX)
    assert difference(large, pixels(sample(index, size=box))) < 5


def test_draw_largest_final_shows_the_scene_of_its_sample() -> None:
    large = pixels(sample(2, size=(4096, 1728))).resize((512, 216), Image.Resampling.BOX)
    assert difference(large, pixels(sample(2, size=(512, 216)))) < 5


@pytest.mark.parametrize("index", range(4))
@pytest.mark.parametrize("seed", ROUNDS)
def test_draw_brand_colour_appears_unchanged(seed: str, index: int) -> None:
    picture = pixels(sample(index, seed, colours=["#0057FF", "#ff5a36"]))
    assert max(share_near(picture, (0, 87, 255)), share_near(picture, (255, 90, 54))) > 0.015


def test_draw_colours_in_three_notations_are_read() -> None:
    plain = sample(colours=["#ff0000"])
    assert sample(colours=["#f00"]) == plain
    assert sample(colours=[" Red "]) == plain
    assert sample(colours=["", "#12", "corporate blue", "rgb(999,0,0)", "red"]) == plain
    assert sample(colours=["no colour at all"]) == sample()


def test_draw_colours_change_the_picture() -> None:
    assert difference(pixels(sample(colours=["#0057ff"])), pixels(sample(colours=["#e0263c"]))) > 20


@pytest.mark.parametrize("size", [(512, 512), (288, 512)])
@pytest.mark.parametrize("index", [1, 3])
def test_draw_watermark_covers_and_leaves_the_picture_visible(
    index: int, size: tuple[int, int]
) -> None:
    clean, marked = (
        pixels(sample(index, size=size)),
        pixels(sample(index, size=size, watermark=True)),
    )
    width, height = size
    for left, right in pairwise(range(0, width + 1, width // 2)):
        for top, bottom in pairwise(range(0, height + 1, height // 2)):
            part = (left, top, right, bottom)
            assert 1.5 < difference(clean.crop(part), marked.crop(part)) < 8


@pytest.mark.parametrize(
    ("file_format", "name"), [("png", "PNG"), ("jpg", "JPEG"), ("webp", "WEBP")]
)
def test_draw_data_has_the_requested_format(file_format: str, name: str) -> None:
    picture = sample(file_format=file_format)
    image = Image.open(io.BytesIO(picture.data))
    image.load()
    assert (picture.format, image.format, image.mode) == (file_format, name, "RGB")
    assert difference(image, pixels(sample())) < 4


@pytest.mark.parametrize(
    "prompt",
    ["", "   ", "早安 咖啡", "Доброе утро", "🎉👍🏽", "\ud800", "\x00\n", "the of", "W" * 5000],
)
def test_draw_any_prompt_succeeds(prompt: str) -> None:
    assert pixels(sample(size=(96, 64), prompt=prompt)).size == (96, 64)


@pytest.mark.parametrize(
    ("prompt", "title"),
    [
        (PROMPT, "Autumn coffee festival"),
        ("summer sale! Everything must go", "Summer sale"),
        ("Café «Łódź» für zwei", "Cafe odz fur zwei"),
        ("🎉 party\ud800 time", "Party time"),
        ("早安 咖啡", ""),
    ],
)
def test_draw_title_is_the_first_words_of_the_prompt(
    monkeypatch: pytest.MonkeyPatch, prompt: str, title: str
) -> None:
    written: list[str] = []
    monkeypatch.setattr(
        ImageDraw.ImageDraw, "text", lambda *arguments, **_: written.append(arguments[2])
    )
    for index in range(4):
        written.clear()
        sample(index, size=(64, 64), prompt=prompt)
        assert " ".join(reversed(written)).strip() == title


@pytest.mark.parametrize("file_format", ["gif", "PNG", "jpeg", ""])
def test_draw_unknown_format_is_refused(file_format: str) -> None:
    with pytest.raises(ValueError, match="file_format must be one of png, jpg, webp"):
        sample(file_format=file_format)


@pytest.mark.parametrize("size", [(0, 64), (64, 0), (-1, 64), (4097, 64), (64, 4097)])
def test_draw_side_outside_the_limits_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=r"both sides must be 1\.\.4096 px"):
        sample(size=size)


def test_draw_index_beyond_four_is_another_picture() -> None:
    assert sample(4).data != sample(0).data
