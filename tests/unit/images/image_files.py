"""Image files made by code: good ones of every kind, bad ones of every sort, and mutations of both."""

import random
import struct
import zlib
from collections.abc import Iterator
from functools import cache
from io import BytesIO

from PIL import Image, ImageCms

SIZE = (24, 16)
RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def opened(data: bytes) -> Image.Image:
    image = Image.open(BytesIO(data))
    image.load()
    return image


def four_corners(width_px: int = 64, height_px: int = 32) -> Image.Image:
    """Red, green / blue, white: every turn and flip of it is another image."""
    image = Image.new("RGB", (width_px, height_px), WHITE)
    half_x, half_y = width_px // 2, height_px // 2
    image.paste(RED, (0, 0, half_x, half_y))
    image.paste(GREEN, (half_x, 0, width_px, half_y))
    image.paste(BLUE, (0, half_y, half_x, height_px))
    return image


def corners(image: Image.Image) -> tuple[tuple[int, ...], ...]:
    right, bottom = image.width - 3, image.height - 3
    return tuple(image.getpixel(place) for place in ((2, 2), (right, 2), (2, bottom), (right, bottom)))


def colourful(width_px: int = 200, height_px: int = 150) -> Image.Image:
    """A photograph's many colours."""
    level = Image.linear_gradient("L").resize((width_px, height_px))
    turned = level.transpose(Image.Transpose.ROTATE_180)
    round_one = Image.radial_gradient("L").resize((width_px, height_px))
    return Image.merge("RGB", (level, turned, round_one))


def exif(orientation: int, *, gps: bool = False) -> bytes:
    tags = Image.Exif()
    tags[274] = orientation
    tags[271] = "SecretCamera"
    if gps:
        tags.get_ifd(0x8825)[1] = "N"
        tags.get_ifd(0x8825)[29] = "2001:02:03"
    return tags.tobytes()


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(
    width_px: int,
    height_px: int,
    depth: int,
    colour_type: int,
    rows: bytes,
    *extra: bytes,
    interlace: int = 0,
    behind: bytes = b"",
) -> bytes:
    """`rows` with their filter bytes; `extra` chunks stand before the pixels, `behind` after them."""
    header = struct.pack(">IIBBBBB", width_px, height_px, depth, colour_type, 0, 0, interlace)
    before = chunk(b"IHDR", header) + b"".join(extra)
    after = chunk(b"IDAT", zlib.compress(rows)) + behind + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + before + after


def png_row(row: bytes, times: int = 8) -> bytes:
    return (b"\0" + row) * times


def srgb_profile() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def swapping_profile() -> bytes:
    """sRGB with the curves' colours exchanged, so that red comes out as blue: a profile that shows."""
    profile = bytearray(srgb_profile())
    count = struct.unpack_from(">I", profile, 128)[0]
    places = {bytes(profile[at : at + 4]): at for at in range(132, 132 + 12 * count, 12)}
    red, blue = places[b"rXYZ"], places[b"bXYZ"]
    profile[red : red + 4], profile[blue : blue + 4] = b"bXYZ", b"rXYZ"
    return bytes(profile)


def animation(kind: str, frames: int = 3) -> bytes:
    first, *others = (Image.new("RGB", (32, 32), (40 * number, 0, 0)) for number in range(frames))
    return encoded(first, kind, save_all=True, append_images=others, duration=100)


@cache
def good_files() -> dict[str, bytes]:
    """Small valid files, each on its own path through the decoders."""
    base = four_corners(*SIZE)
    clear = base.copy()
    clear.putalpha(Image.linear_gradient("L").resize(SIZE))
    paletted = base.quantize(8)
    icc = srgb_profile()
    return {
        "png-1": encoded(base.convert("1"), "PNG"),
        "png-grey": encoded(base.convert("L"), "PNG"),
        "png-grey-alpha": encoded(clear.convert("LA"), "PNG"),
        "png-palette": encoded(paletted, "PNG"),
        "png-palette-clear": encoded(paletted, "PNG", transparency=b"\0\x80\xff"),
        "png-rgb": encoded(base, "PNG", icc_profile=icc),
        "png-rgb-clear": encoded(base, "PNG", transparency=RED),
        "png-rgba": encoded(clear, "PNG", exif=exif(6)),
        "png-16": encoded(base.convert("I;16"), "PNG"),
        "png-interlaced": png(8, 8, 8, 0, bytes(64 + 15), interlace=1),
        "png-rgba-16": png(8, 8, 16, 6, png_row(bytes(range(64)))),
        "jpeg-rgb": encoded(base, "JPEG", exif=exif(8), icc_profile=icc, comment=b"hello"),
        "jpeg-grey": encoded(base.convert("L"), "JPEG"),
        "jpeg-cmyk": encoded(base.convert("CMYK"), "JPEG"),
        "jpeg-progressive": encoded(base, "JPEG", progressive=True, restart_marker_blocks=1),
        "webp-lossy": encoded(base, "WEBP", exif=exif(3), icc_profile=icc),
        "webp-lossless": encoded(base, "WEBP", lossless=True),
        "webp-alpha": encoded(clear, "WEBP"),
        "webp-animated": animation("WEBP"),
        "gif": encoded(paletted, "GIF"),
        "gif-clear": encoded(paletted, "GIF", transparency=0, interlace=1),
        "gif-animated": animation("GIF"),
        "bmp-1": encoded(base.convert("1"), "BMP"),
        "bmp-palette": encoded(paletted, "BMP"),
        "bmp-rgb": encoded(base, "BMP"),
        "bmp-rgba": encoded(clear, "BMP"),
    }


_EDGES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


def mutations(seed: int) -> Iterator[tuple[str, bytes]]:
    """Without end: the name of a good file and a damaged copy of it."""
    chance = random.Random(seed)
    files = good_files()
    names = sorted(files)
    while True:
        name = chance.choice(names)
        data = bytearray(files[name])
        for _ in range(chance.choice((1, 1, 2, 4, 16))):
            _mutate(data, files[chance.choice(names)], chance)
        if name.startswith("png") and chance.random() < 0.7:
            yield name, with_right_checksums(bytes(data))
        else:
            yield name, bytes(data)


def _mutate(data: bytearray, other: bytes, chance: random.Random) -> None:
    # Headers are where sizes and offsets stand: half of all edits go there.
    at = chance.randrange(min(len(data), 64) if chance.random() < 0.5 else len(data)) if data else 0
    length = chance.randrange(1, 33)
    match chance.randrange(7):
        case 0 if data:
            data[at] ^= 1 << chance.randrange(8)
        case 1:
            width, order = chance.choice((1, 2, 4)), chance.choice(("big", "little"))
            edge = chance.choice(_EDGES) % 256**width
            data[at : at + width] = edge.to_bytes(width, order)
        case 2 if chance.random() < 0.3:
            del data[at:]
        case 3:
            del data[at : at + length]
        case 4:
            data[at:at] = data[at : at + length] * chance.choice((1, 2, 50))
        case 5:
            start = chance.randrange(len(other))
            data[at:at] = other[start : start + length * 4]
        case _:
            data[at : at + length] = chance.randbytes(length)


def with_right_checksums(data: bytes) -> bytes:
    """A PNG whose chunks pass their check, so that mutations get to what lies behind it."""
    out, at = [data[:8]], 8
    while at + 12 <= len(data):
        length = int.from_bytes(data[at : at + 4])
        if at + 12 + length > len(data):
            break
        out.append(chunk(data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    return b"".join(out) + data[at:]
