"""Draw the pictures of the local engine: generative posters from a request's texts, colours and
seed.
"""
# ruff: noqa: PLR2004 - a drawing consists of numbers that no name would explain

import cmath
import io
import itertools
import math
import random
import re
import statistics
import textwrap
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction

from PIL import Image, ImageColor, ImageDraw, ImageFont

RGB = tuple[int, int, int]
MAX_SIDE = 4096
MARK = "CreativeFlow Free"
WHITE, BLACK = (255, 253, 247), (13, 14, 26)
_ENCODERS = {"png": "PNG", "jpg": "JPEG", "webp": "WEBP"}
# Palettes for requests without brand colours, with the words that select them.
_PALETTES = (
    ("coffee|cafe|autumn|bakery|wood|leather|vintage|chocolate", "#b5522b #f0a64f #5b2e25 #f6d9a8"),
    (
        "food|restaurant|pizza|kitchen|cafe|coffee|sport|kids|toys",
        "#e4572e #ffc145 #2e8b72 #ffe9c9",
    ),
    ("urgent|fire|sale|love|automotive|retail|shop|fitness", "#e0263c #ff8a3d #2b2d6e #ffd9a0"),
    ("rose|beauty|fashion|cosmetics|wedding|flowers?|wine", "#e8577e #ffb199 #7a2e63 #ffe0d6"),
    (
        "night|music|gaming|event|magic|evenings?|books?|education",
        "#6c3bd1 #ff4f9a #1fc8db #ffd166",
    ),
    ("tech|technology|software|saas|finance|banking|corporate", "#2457e6 #35c2f0 #ff6b4a #cfe0ff"),
    ("ocean|sea|water|travel|sky|winter|tourism|beach|summer", "#0d8fb3 #7fd8d4 #ff7f5c #ffe3b3"),
    ("health|healthcare|medical|spa|wellness|clinic", "#12a594 #8fdcb8 #2f5fa8 #ffd4a8"),
    ("eco|nature|forest|garden|organic|sustainable|plants|tea", "#2f7d4f #a8c950 #e89b3c #efe8c4"),
    ("luxury|gold|jewell?e?ry|hotel|honey", "#b98a3e #f0d48a #6e1f3a #e9dcc4"),
)
# Words of tone and style: chroma factor, energy (how many, how tall), sharpness (0 round .. 1
# angular).
_MOODS = {
    "professional|corporate|formal|geometric|modern|futuristic": (0.85, 0.85, 0.8),
    "playful|fun|friendly|joyful|whimsical": (1.2, 1.35, 0.1),
    "urgent|bold|energetic|dynamic|vibrant": (1.25, 1.3, 0.9),
    "calm|serene|minimal|minimalist|organic": (0.7, 0.6, 0.0),
    "luxury|elegant|vintage|pastel": (0.65, 0.8, 0.3),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawing:
    """An encoded picture; sides in pixels, format "png", "jpg" or "webp"."""

    data: bytes
    width: int
    height: int
    format: str


def draw(
    *,
    prompt: str,
    style: str = "",
    tone: str = "",
    industry: str = "",
    colours: Sequence[str] = (),
    seed: str,
    index: int,
    width: int,
    height: int,
    file_format: str = "png",
    watermark: bool = False,
) -> Drawing:
    """Draw picture `index` of round `seed`: equal arguments give equal bytes, another size the same
    scene.

    Raises:
        ValueError: an unknown format, or a side outside 1..4096 px.
    """
    if file_format not in _ENCODERS:
        raise ValueError(f"file_format must be one of {', '.join(_ENCODERS)}, not {file_format!r}")
    if not (1 <= width <= MAX_SIDE and 1 <= height <= MAX_SIDE):
        raise ValueError(f"both sides must be 1..{MAX_SIDE} px, not {width} x {height}")
    poster = _Poster(
        (width, height), index, (f"{industry} {prompt}", f"{tone} {style}", seed), colours
    )
    poster.compose(poster, _title(prompt))
    image = poster.image if poster.zoom == 1 else poster.image.reduce(poster.zoom)
    if watermark:
        _mark(image)
    stream = io.BytesIO()
    # The options of each encoder; chosen for the speed of a 4096 px picture.
    image.save(
        stream, _ENCODERS[file_format], compress_level=1, quality=90, subsampling=0, method=1
    )
    return Drawing(data=stream.getvalue(), width=width, height=height, format=file_format)


def _mix(first: RGB, second: RGB, share: float) -> RGB:
    """Blend towards `second` by share 0..1 (below 0: away), in squared values, so that middles stay
    clear.
    """
    pairs = zip(first, second, strict=True)
    red, green, blue = (round(math.sqrt(max(0, a * a + (b * b - a * a) * share))) for a, b in pairs)
    return min(red, 255), min(green, 255), min(blue, 255)


def _colours(names: Iterable[str]) -> list[RGB]:
    """Return the colours among the names, written as #rgb, #rrggbb or CSS names."""
    clean = [name.strip().lower() for name in names]
    known = [n for n in clean if n in ImageColor.colormap or re.fullmatch("#([0-9a-f]{3}){1,2}", n)]
    return [ImageColor.getrgb(name)[:3] for name in known]


def _title(prompt: str) -> str:
    """Return the prompt's first words in the letters of the bundled font (ASCII); empty for other
    scripts.
    """
    plain = unicodedata.normalize("NFKD", prompt[:400].replace("\u2019", "'").replace("ß", "ss"))
    words = re.findall(r"[A-Za-z0-9][!-~]*", re.sub(r'[^\s!-~]|"', "", plain))[:5]
    title = textwrap.shorten(" ".join(words), 40, placeholder="") or "".join(words[:1])[:20]
    title = re.sub(
        r"([.,;:!?]+(\s.*)?|( (an?|and|at|by|for|from|in|of|on|or|the|to|with))+)$", "", title
    )
    return title[:1].upper() + title[1:].rstrip("\"')-")


def _circle(centre: complex, r: float, start: float = 0, end: float = 360) -> list[complex]:
    """Return points (x + y i) along an arc, in degrees clockwise from the right."""
    return [
        centre + cmath.rect(r, math.radians(start + (end - start) * step / 64))
        for step in range(65)
    ]


class _Poster:
    """A picture in progress, in units of the short side, so that no shape depends on the pixel
    size.
    """

    def __init__(
        self, size: tuple[int, int], index: int, texts: Sequence[str], colours: Iterable[str]
    ) -> None:
        self.zoom = 2 if max(size) <= 2048 else 1
        self.image = Image.new("RGB", (size[0] * self.zoom, size[1] * self.zoom))
        true = min(Fraction(8), max(Fraction(1, 8), Fraction(*size)))
        # The simplest fraction nearby, so that a rounded sample has exactly the geometry of its
        # final.
        ratio = next(
            r
            for n in range(1, MAX_SIDE)
            if abs((r := true.limit_denominator(n)) / true - 1) < 0.006
        )
        self.w, self.h = float(max(Fraction(1), ratio)), float(max(Fraction(1), 1 / ratio))
        self.sx, self.sy = self.image.width / self.w, self.image.height / self.h
        deal, self.dice = (random.Random(ascii((*texts, n))) for n in ("", index))  # noqa: S311 - no secret
        self.compose = deal.sample((_horizon, _mosaic, _current, _orbit), 4)[index % 4]
        kind, palettes = deal.sample(range(4), 4)[index % 4], deal.sample(_PALETTES, len(_PALETTES))
        palettes.sort(
            key=lambda entry: not re.search(rf"\b({entry[0]})\b", texts[0], re.IGNORECASE)
        )
        moods = [
            _MOODS[known]
            for known in _MOODS
            if re.search(rf"\b({known})\b", texts[1], re.IGNORECASE)
        ]
        chroma, self.energy, sharp = map(
            statistics.fmean, zip(*(moods or [(1.0, 1.0, 0.4)]), strict=True)
        )
        self.angular = self.dice.random() < sharp
        brand = _colours(colours)
        brand = [*brand[index % max(1, len(brand)) :], *brand[: index % max(1, len(brand))]]
        greyed = [
            _mix(base, (128, 128, 128), 1 - chroma)
            for base in _colours(palettes[index % 4][1].split())
        ]
        self.dress(kind, brand or greyed)

    def dress(self, kind: int, bases: list[RGB]) -> None:
        """Choose the roles of the base colours on a night, paper, vivid or pastel ground (kind
        0..3).
        """
        lead, second = bases[0], bases[1] if len(bases) > 1 else _mix(bases[0], WHITE, 0.4)
        end, much, some = (
            (BLACK, 0.96, 0.7),
            (WHITE, 0.93, 0.7),
            (lead, 1.0, 0.5),
            (WHITE, 0.6, 0.5),
        )[kind]
        self.ground, self.glow = _mix(lead, end, much), _mix(second, end, some)
        light = 0.299 * self.ground[0] + 0.587 * self.ground[1] + 0.114 * self.ground[2]
        self.ink: RGB = WHITE if light < 148 else BLACK
        tints = [
            _mix(base, end, share)
            for base in bases
            for end, share in ((BLACK, 0.7), (WHITE, 0.5), (WHITE, 0.8))
        ]
        far = [
            c
            for c in dict.fromkeys([*bases, *tints, WHITE, BLACK])
            if math.dist(c, self.ground) > 80
        ]
        self.accents = (far * 4)[:4]

    def polygon(self, points: Iterable[complex], colour: RGB, alpha: int = 255) -> None:
        pen = ImageDraw.Draw(self.image, "RGB" if alpha == 255 else "RGBA")  # blending takes longer
        pen.polygon([(p.real * self.sx, p.imag * self.sy) for p in points], (*colour, alpha))

    def wash(self, spots: Sequence[tuple[float, float, RGB]]) -> None:
        """Cover everything with the ground and soft spots of colour, placed by 0..1 across and
        down.
        """
        tones = [self.ground] * 256
        for x, y, colour in spots:
            nears = [
                math.exp(-5 * ((n % 16 / 15 - x) ** 2 + (n // 16 / 15 - y) ** 2))
                for n in range(256)
            ]
            tones = [
                _mix(tone, colour, 0.85 * near) for tone, near in zip(tones, nears, strict=True)
            ]
        small = Image.frombytes("RGB", (16, 16), bytes(value for tone in tones for value in tone))
        self.image.paste(small.resize(self.image.size, Image.Resampling.BICUBIC))

    def title(self, text: str, box: tuple[float, float, float, float], colour: RGB) -> None:
        """Set the text as large as the box (x, y, w, h) allows: one to three lines at its foot."""
        ruler, fits = ImageFont.load_default(100), [(0.0, 0.0, [""])]
        for lines in (textwrap.wrap(text, width) for width in range(6, 41)):
            if 1 <= len(lines) <= 3:
                longest = max(ruler.getlength(line) for line in lines)
                fits.append(
                    (min(0.13, 98 * box[2] / longest, box[3] / len(lines) / 1.15), -longest, lines)
                )
        size = max(1.0, max(fits)[0] * min(self.sx, self.sy))
        pen, font = ImageDraw.Draw(self.image), ImageFont.load_default(size)
        for row, line in enumerate(reversed(max(fits)[2])):
            spot = (box[0] * self.sx, (box[1] + box[3]) * self.sy - (row * 1.1 + 0.2) * size)
            pen.text(spot, line, colour, font, "ls", stroke_width=round(size * 0.02))


def _horizon(poster: _Poster, title: str) -> None:
    """Draw a sun with rays, sometimes slit, over layered hills or peaks."""
    w, h, dice, accents = poster.w, poster.h, poster.dice, poster.accents
    sun, r = (
        complex(w * dice.uniform(0.32, 0.68), h * dice.uniform(0.36, 0.44)),
        dice.uniform(0.24, 0.33),
    )
    poster.wash([(0.2, 0.6, poster.glow), (0.8, 0.6, poster.glow)])
    rays, slit = round(dice.uniform(9, 20) * poster.energy), dice.random() < 0.6
    for ray in range(rays):
        poster.polygon(
            [sun, *_circle(sun, w + h, 360 * ray / rays, 360 * (ray + 0.5) / rays)], accents[1], 34
        )
    for ring in (2.0, 1.6, 1.25):
        poster.polygon(_circle(sun, r * ring), accents[0], 40)
    for band, (upper, lower) in enumerate(itertools.pairwise(_circle(0, r, -90, 90))):
        if not (slit and band > 32 and band % 4 < (band - 28) / 10):
            edge = (upper, lower, -lower.conjugate(), -upper.conjugate())
            poster.polygon(
                [sun + point for point in edge],
                _mix(accents[0], accents[1], max(0, band - 24) / 40),
            )
    fold = (lambda turn: math.asin(math.sin(turn)) / 1.57) if poster.angular else math.sin
    far, near = _mix(poster.glow, accents[2], 0.35), _mix(accents[2], BLACK, 0.9)
    for row in range(6):
        waves = [
            (dice.uniform(1.5, 5), dice.uniform(0, 7), dice.uniform(0.01, 0.04)) for _ in range(3)
        ]
        line = [complex(w, h), complex(0, h)]
        for x in (w * step / 120 for step in range(121)):
            rise = sum(tall * fold(pace * x + start) for pace, start, tall in waves) * (
                1 - row / 12
            )
            line.append(complex(x, h * (0.55 + 0.046 * row) - rise * poster.energy))
        tone = _mix(far, accents[2], row / 3) if row < 3 else _mix(accents[2], near, (row - 2) / 3)
        poster.polygon(line, tone)
    poster.title(title, (0.07, h * 0.97 - 0.15, w - 0.14, 0.13), WHITE)


def _mosaic(poster: _Poster, title: str) -> None:
    """Draw a grid of targets, leaves, triangles, bows and rainbows, with the title in its own
    tiles.
    """
    w, h, dice = poster.w, poster.h, poster.dice
    count = max(2, round(dice.choice((3, 4, 4)) * min(1.3, poster.energy)))
    # 0.45, for usual ratios would land on exactly one half and round either way.
    across, down = int(count * w + 0.45), int(count * h + 0.45)
    side, tall = w / across, h / down
    square = [-0.5 - 0.5j, 0.5 - 0.5j, 0.5 + 0.5j, -0.5 + 0.5j]
    rainbow = [[square[0], *_circle(square[0], r / 4, 0, 90)] for r in (4, 3, 2, 1)]
    tiles = (  # outlines in a tile of side 1 around 0, each on top of the previous one
        [_circle(0, 0.5), _circle(0, 0.32), _circle(0, 0.14)],
        [[*_circle(square[0], 1, 0, 90), *_circle(square[2], 1, 180, 270)], _circle(0, 0.13)],
        [square[:3], _circle(0, 0.2)],
        [_circle(0, 0.5, 0, 180), _circle(0, 0.25, 180, 360)],
        *(rainbow, rainbow[::2]),
    )
    for cell in range(across * down):
        centre, turn = (
            complex(cell % across + 0.5, cell // across + 0.5),
            dice.choice((1, 1j, -1, -1j)),
        )
        tones = dice.sample([poster.ground, *poster.accents], 5)
        for outline, tone in zip([square, *dice.choice(tiles)], tones, strict=False):
            points = [centre + point * turn for point in outline]
            poster.polygon(
                [complex(point.real * side, point.imag * tall) for point in points], tone
            )
    if title:
        wide, top = side * min(across, max(2, round(across * 0.6))), h - tall
        poster.polygon([top * 1j, wide + top * 1j, wide + h * 1j, h * 1j], poster.ink)
        poster.title(
            title, (side * 0.15, top + tall * 0.08, wide - side * 0.3, tall * 0.8), poster.ground
        )


def _current(poster: _Poster, title: str) -> None:
    """Draw brush strokes that follow one flow without touching, framed, with the title below."""
    w, h, dice, foot = poster.w, poster.h, poster.dice, 0.2 if title else 0.07
    poster.wash([(1, 1, poster.glow), (0.3, 0.6, poster.glow)])
    waves = [
        [dice.uniform(*ends) for ends in ((0.5, 1.3), (1, 3.2), (-3, 3), (0, 7))] for _ in range(3)
    ]
    taken: set[tuple[int, int]] = set()
    for stroke in range(round(600 * min(3, w * h) * poster.energy**0.3)):
        r = 0.022 if stroke < 70 else 0.012 if stroke < 220 else 0.006
        spot, tone = complex(dice.uniform(0, w), dice.uniform(0, h)), dice.choice(poster.accents)
        path = []
        for _ in range(dice.randrange(20, 60)):
            turn = sum(
                a * math.sin(kx * spot.real + ky * spot.imag + start) for a, kx, ky, start in waves
            )
            step = cmath.rect(1, round(turn / 0.785) * 0.785 if poster.angular else turn)
            width = [spot + step * 1j * r * side for side in (-1.4, -0.7, 0, 0.7, 1.4)]
            cells = {(int(point.real * 90), int(point.imag * 90)) for point in width}
            if cells & taken or not (0 < spot.real < w and 0 < spot.imag < h):
                break
            path.append((spot, step * 1j * r, cells))
            spot += step * 0.018
        if len(path) > 4:
            taken.update(*(cells for *_, cells in path))
            sides = [
                *(at + side for at, side, _ in path),
                *(at - side for at, side, _ in path[::-1]),
            ]
            for outline in (sides, _circle(path[0][0], r), _circle(path[-1][0], r)):
                poster.polygon(outline, tone)
    hole = [
        0.07 + 0.07j,
        complex(0.07, h - foot),
        complex(w - 0.07, h - foot),
        complex(w - 0.07, 0.07),
    ]
    poster.polygon([0, w, complex(w, h), h * 1j, 0, *hole, hole[0]], poster.ground)
    poster.title(title, (0.07, h - 0.17, w - 0.14, 0.12), poster.ink)


def _orbit(poster: _Poster, title: str) -> None:
    """Draw a lit planet with rings and moons in a haze of colour, with the title above it."""
    w, h, dice, accents = poster.w, poster.h, poster.dice, poster.accents
    poster.wash(
        [(dice.random(), dice.random(), tint) for tint in (poster.glow, accents[2], poster.glow)]
    )
    planet, r = complex(w * dice.uniform(0.4, 0.6), h * 0.63), dice.uniform(0.22, 0.27)
    tilt, balls = cmath.rect(1, dice.uniform(-0.6, 0.6)), [(planet, r, accents[0])]
    rings = [
        (r * (1.35 + ring / 5), dice.choice((0.004, 0.008, 0.02)), dice.choice(accents))
        for ring in range(4)
    ]
    for moon in range(round(5 * poster.energy)):
        spot = planet + cmath.rect(r * dice.uniform(1.3, 1.6 + w * h / 2), dice.uniform(0, 6.28))
        balls.append(
            (
                complex(spot.real, 0.4 + abs(spot.imag - 0.4)),
                dice.uniform(0.015, 0.07),
                accents[moon % 4],
            )
        )
    for number, (centre, size, colour) in enumerate(balls):
        # The far half of the rings, the planet, the near half, then the moons.
        for reach, thick, tint in rings if number < 2 else ():
            start = 180 - 180 * number
            edge = [
                *_circle(0, reach, start, start + 180),
                *_circle(0, reach - thick, start + 180, start),
            ]
            poster.polygon(
                [planet + complex(point.real, point.imag * 0.3) * tilt for point in edge], tint
            )
        _ball(poster, centre, size, colour)
    poster.title(title, (0.07, 0.05, w - 0.14, 0.24), poster.ink)


def _ball(poster: _Poster, centre: complex, size: float, colour: RGB) -> None:
    """Draw a lit ball as discs from a dark rim to a bright spot."""
    for part in (step / 700 / size for step in range(round(700 * size))):
        tone = (
            _mix(colour, BLACK, 0.7 - part / 0.7)
            if part < 0.49
            else _mix(colour, WHITE, max(0, part - 0.6))
        )
        poster.polygon(_circle(centre - size * part * (0.3 + 0.3j), size * (1 - 0.96 * part)), tone)


def _mark(image: Image.Image) -> None:
    """Repeat the Free plan's name diagonally, light with a dark edge so that it shows on any
    ground.
    """
    size = max(8.0, min(image.size) * 0.05)
    font = ImageFont.load_default(size)
    stamp = Image.new(
        "RGBA", (round(font.getlength(MARK) + size * 2), round(size * 2)), (*BLACK, 0)
    )
    pen, edge = ImageDraw.Draw(stamp), max(1, round(size * 0.06))
    pen.text(
        (size, size), MARK, (*WHITE, 190), font, "lm", stroke_width=edge, stroke_fill=(*BLACK, 110)
    )
    mark = stamp.rotate(30, Image.Resampling.BICUBIC, expand=True)
    for row in range(-1, image.height // mark.height + 2):
        for column in range(-1, image.width // stamp.width + 2):
            image.paste(
                mark, (column * stamp.width + row % 2 * stamp.width // 2, row * mark.height), mark
            )
