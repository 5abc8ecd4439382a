"""Draws scenes, smooth at the edges, and roughens pictures as screenshots and re-encoding do."""

import importlib.util
import io
import math
import random
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from scenes.scene import Scene, Thing

SIDE_PX = 160
"""What the demo model sees; scenes can be drawn at any size."""

_OVERSAMPLING = 2
Points = tuple[tuple[float, float], ...]


@cache
def font_files() -> tuple[Path, ...]:
    """Further fonts for variety in training: those that come with matplotlib, where that is installed."""
    found = importlib.util.find_spec("matplotlib")
    if found is None or found.origin is None:
        return ()
    folder = Path(found.origin).parent / "mpl-data" / "fonts" / "ttf"
    names = ("DejaVuSans", "DejaVuSans-Bold", "DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSansMono")
    return tuple(path for name in names if (path := folder / f"{name}.ttf").is_file())


def draw(scene: Scene, width_px: int = SIDE_PX, height_px: int = SIDE_PX) -> Image.Image:
    """The scene as an RGB picture; the same pixels for the same scene and size."""
    size = (width_px * _OVERSAMPLING, height_px * _OVERSAMPLING)
    canvas = _background(scene, *size)
    pen = ImageDraw.Draw(canvas)
    for thing in scene.things:
        if thing.is_text:
            _write(canvas, thing, scene.font)
        else:
            pen.polygon([(x * size[0], y * size[1]) for x, y in outline(thing)], fill=thing.rgb)
    picture = canvas.reduce(_OVERSAMPLING)
    return _noisy(picture, scene) if scene.noise else picture


def roughen(picture: Image.Image, rng: random.Random) -> Image.Image:
    """What happens to pictures on their way: a frame around, JPEG."""
    if rng.random() < 0.3:
        shade = rng.randint(0, 255)
        pen = ImageDraw.Draw(picture)
        width_px = rng.randint(1, max(2, picture.width // 60))
        pen.rectangle((0, 0, picture.width - 1, picture.height - 1), outline=(shade,) * 3, width=width_px)
    if rng.random() < 0.5:
        packed = io.BytesIO()
        picture.save(packed, "JPEG", quality=rng.randint(55, 95))
        picture = Image.open(packed).convert("RGB")
    return picture


def outline(thing: Thing) -> Points:
    """The polygon of a shape, in shares of the picture's sides."""
    return tuple(_turned(point, thing) for point in _unit_outline(thing.shape))


@cache
def _unit_outline(shape: str) -> Points:
    """The shape within the unit circle, y downwards."""
    if shape == "circle":
        return _arc(0.0, 360.0, 48)
    if shape == "square":
        return ((-0.82, -0.82), (0.82, -0.82), (0.82, 0.82), (-0.82, 0.82))
    if shape == "triangle":
        return ((0.0, -0.95), (0.92, 0.75), (-0.92, 0.75))
    if shape == "diamond":
        return ((0.0, -1.0), (0.72, 0.0), (0.0, 1.0), (-0.72, 0.0))
    if shape == "star":
        return tuple(_polar(-90 + 36 * step, 1.0 if step % 2 == 0 else 0.42) for step in range(10))
    if shape == "cross":
        arm = ((-0.32, -0.95), (0.32, -0.95), (0.32, -0.32))
        turned = [((x, y), (-y, x), (-x, -y), (y, -x)) for x, y in arm]
        return tuple(corner[turn] for turn in range(4) for corner in turned)
    if shape == "heart":
        return tuple(_heart(2 * math.pi * step / 40) for step in range(40))
    if shape == "moon":
        outer, inner = _arc(65.0, 295.0, 32), _arc(285.0, 75.0, 24)
        return tuple((0.35 + x, y) for x, y in outer) + tuple((0.77 + 0.80 * x, 0.80 * y) for x, y in inner)
    raise ValueError(f"no outline for {shape}")


def _arc(begin: float, end: float, steps: int) -> Points:
    return tuple(_polar(begin + (end - begin) * step / (steps - 1), 1.0) for step in range(steps))


def _polar(degrees: float, radius: float) -> tuple[float, float]:
    return radius * math.cos(math.radians(degrees)), radius * math.sin(math.radians(degrees))


def _heart(t: float) -> tuple[float, float]:
    """The well-known curve of four cosines, scaled into the unit circle."""
    y = 13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)
    return 16 * math.sin(t) ** 3 / 17.5, -(y + 2.5) / 17.0


def _turned(point: tuple[float, float], thing: Thing) -> tuple[float, float]:
    turn = math.radians(-thing.angle)
    x = point[0] * math.cos(turn) - point[1] * math.sin(turn)
    y = point[0] * math.sin(turn) + point[1] * math.cos(turn)
    return thing.x + x * thing.half_width, thing.y + y * thing.half_height


def _background(scene: Scene, width_px: int, height_px: int) -> Image.Image:
    if not scene.gradient:
        return Image.new("RGB", (width_px, height_px), scene.background_rgb)
    ramp = np.linspace(-scene.gradient / 2, scene.gradient / 2, height_px)[:, None]
    column = np.clip(np.array(scene.background_rgb)[None] + ramp, 0, 255).astype(np.uint8)
    return Image.fromarray(np.broadcast_to(column[:, None], (height_px, width_px, 3)).copy())


def _write(canvas: Image.Image, thing: Thing, font: int) -> None:
    """Fit the text into the thing's box and turn it by its angle."""
    box = (2 * thing.half_width * canvas.width, 2 * thing.half_height * canvas.height)
    file = str(font_files()[font - 1]) if 0 < font <= len(font_files()) else ""
    size_px, (left, top, right, bottom) = _fitted(file, thing.text, round(box[0]), round(box[1]))
    mask = Image.new("L", (right - left, bottom - top), 0)
    ImageDraw.Draw(mask).text((-left, -top), thing.text, fill=255, font=_font(file, size_px))
    mask = mask.rotate(thing.angle, Image.Resampling.BILINEAR, expand=True)
    at = (round(thing.x * canvas.width - mask.width / 2), round(thing.y * canvas.height - mask.height / 2))
    canvas.paste(thing.rgb, (*at, at[0] + mask.width, at[1] + mask.height), mask)


@cache
def _fitted(file: str, text: str, width_px: int, height_px: int) -> tuple[int, tuple[int, int, int, int]]:
    """The largest font size whose text fits, and its box."""
    left, top, right, bottom = _font(file, 100).getbbox(text)
    size_px = max(6, int(100 * min(width_px / (right - left), height_px / (bottom - top))))
    left, top, right, bottom = _font(file, size_px).getbbox(text)
    return size_px, (int(left), int(top), math.ceil(right), math.ceil(bottom))


@cache
def _font(file: str, size_px: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.truetype(file, size_px) if file else ImageFont.load_default(size_px)


def _noisy(picture: Image.Image, scene: Scene) -> Image.Image:
    noise = np.random.default_rng(scene.seed).standard_normal((picture.height, picture.width, 1), np.float32)
    pixels = np.asarray(picture, np.float32) + noise * np.float32(scene.noise)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
