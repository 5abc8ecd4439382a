"""Untrusted bytes in, harmless images out."""

import hashlib
import struct
import threading
import zlib

import pytest
from PIL import Image, ImageChops

from core.errors import InputError
from core.images.sanitise import Limits, Variants, sanitise
from tests.unit.images.image_files import (
    BLUE,
    GREEN,
    RED,
    WHITE,
    animation,
    chunk,
    colourful,
    corners,
    encoded,
    exif,
    four_corners,
    good_files,
    opened,
    png,
    png_row,
    srgb_profile,
    swapping_profile,
)

SIZES = [(8, 8), (64, 32), (9, 17), (50, 64), (200, 150), (33, 71), (8, 300)]
"""One row of blocks, whole rows, rows that are cut short, and more rows than there are restart markers."""


def pixels(data: bytes, **options) -> Image.Image:
    """The taken image, decoded again."""
    return opened(sanitise(data, **options).data)


def near(seen, wanted, tolerance=3):
    return all(abs(a - b) <= tolerance for a, b in zip(seen, wanted, strict=True))


def refusal(data: bytes, **options) -> InputError:
    with pytest.raises(InputError) as caught:
        sanitise(data, **options)
    return caught.value


# What is taken


@pytest.mark.parametrize("kind", ["PNG", "GIF", "BMP", "WEBP"])
def test_lossless_images_of_few_colours_stay_as_they_are(kind):
    options = {"lossless": True} if kind == "WEBP" else {}
    taken = sanitise(encoded(four_corners(), kind, **options), name="corners")
    assert taken.image.media_type == "image/png"
    assert opened(taken.data).tobytes() == four_corners().tobytes()
    assert (taken.image.width_px, taken.image.height_px) == (64, 32)
    assert taken.image.size_bytes == len(taken.data)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP"])
def test_photographs_become_jpegs_near_the_original(kind):
    taken = sanitise(encoded(colourful(), kind))
    assert taken.image.media_type == "image/jpeg"
    again, original = opened(taken.data), colourful()
    for place in ((5, 5), (100, 75), (190, 140)):
        assert near(again.getpixel(place), original.getpixel(place), 12)


def test_a_jpeg_stays_one_even_with_few_colours():
    assert sanitise(encoded(four_corners().convert("L"), "JPEG")).image.media_type == "image/jpeg"


def test_few_colours_that_make_a_large_png_become_a_jpeg(monkeypatch):
    noise = encoded(Image.effect_noise((100, 100), 90), "PNG")
    assert sanitise(noise).image.media_type == "image/png"
    monkeypatch.setattr("core.images.sanitise.MAX_PNG_BYTES", 1000)
    assert sanitise(noise).image.media_type == "image/jpeg"


def test_the_hash_is_that_of_the_stored_bytes_and_always_the_same():
    data = encoded(colourful(), "WEBP")
    first, second = sanitise(data, name="a"), sanitise(data, name="b")
    assert first.image.sha256 == second.image.sha256 == hashlib.sha256(first.data).hexdigest()


@pytest.mark.parametrize("name", [name for name in good_files() if "animated" not in name])
def test_every_mode_of_every_kind_is_taken(name):
    taken = sanitise(good_files()[name])
    assert opened(taken.data).mode == "RGB"


def test_what_was_taken_can_be_taken_again():
    once = sanitise(encoded(colourful(), "BMP"))
    assert sanitise(once.data).image.media_type == once.image.media_type


# Colours


def test_sixteen_bit_grey_is_scaled_not_clipped():
    row = struct.pack(">8H", 0, 257, 1000, 64 * 257, 128 * 257, 200 * 257, 65000, 65535)
    image = pixels(png(8, 8, 16, 0, png_row(row)))
    assert [image.getpixel((x, 0))[0] for x in range(8)] == [0, 1, 4, 64, 128, 200, 253, 255]


def test_sixteen_bit_colours_with_alpha():
    row = struct.pack(">4H", 65535, 0, 32768, 65535) * 4 + struct.pack(">4H", 0, 0, 0, 0) * 4
    image = pixels(png(8, 8, 16, 6, png_row(row)))
    assert near(image.getpixel((0, 0)), (255, 0, 128), 1)
    assert image.getpixel((7, 0)) == WHITE


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_alpha_is_laid_on_white(kind):
    image = Image.new("RGBA", (16, 16), (255, 0, 0, 255))
    image.paste((0, 0, 0, 0), (0, 0, 8, 8))
    image.paste((0, 0, 255, 128), (8, 8, 16, 16))
    seen = pixels(encoded(image, kind, lossless=True) if kind == "WEBP" else encoded(image, kind))
    assert seen.getpixel((2, 2)) == WHITE
    assert seen.getpixel((12, 2)) == RED
    assert near(seen.getpixel((12, 12)), (127, 127, 255), 1)


def test_transparent_entries_of_a_palette_are_laid_on_white():
    image = Image.new("P", (16, 16), 1)
    image.putpalette([0, 0, 0, 0, 255, 0, 255, 0, 0])
    image.paste(2, (0, 0, 8, 16))
    for data in (
        encoded(image, "PNG", transparency=bytes([255, 255, 0])),
        encoded(image, "GIF", transparency=2),
    ):
        assert pixels(data).getpixel((2, 2)) == WHITE
        assert pixels(data).getpixel((12, 2)) == GREEN


@pytest.mark.parametrize(
    ("depth", "colour_type", "row", "clear"),
    [
        (1, 0, bytes([0b01010101]), (1,)),
        (2, 0, bytes([0b00010001] * 2), (1,)),
        (4, 0, bytes([0x05] * 4), (5,)),
        (8, 0, bytes([0, 90] * 4), (90,)),
        (16, 0, struct.pack(">2H", 0, 23130) * 4, (23130,)),
        (8, 2, bytes([0, 0, 0, 90, 91, 92] * 4), (90, 91, 92)),
        (16, 2, struct.pack(">6H", 0, 0, 0, 23130, 1000, 65535) * 4, (23130, 1000, 65535)),
    ],
)
def test_the_transparent_colour_of_a_png_is_found_at_every_depth(depth, colour_type, row, clear):
    transparent = chunk(b"tRNS", struct.pack(f">{len(clear)}H", *clear))
    image = pixels(png(8, 8, depth, colour_type, png_row(row), transparent))
    assert image.getpixel((0, 0)) == (0, 0, 0)
    assert image.getpixel((1, 0)) == WHITE


@pytest.mark.parametrize(("depth", "colour_type"), [(0, 0), (3, 0), (16, 3), (8, 9)])
def test_depths_that_no_png_has(depth, colour_type):
    transparent = chunk(b"tRNS", bytes(6))
    data = png(8, 8, depth, colour_type, png_row(bytes(64)), chunk(b"PLTE", bytes(6)), transparent)
    assert refusal(data).code == "image-damaged"


@pytest.mark.parametrize("marked", [True, False])
def test_cmyk_is_not_inverted(marked):
    data = encoded(four_corners().convert("CMYK"), "JPEG", quality=95, subsampling=0)
    at = data.index(b"\xff\xee")
    assert data[at + 4 : at + 9] == b"Adobe"
    if not marked:
        data = data[:at] + data[at + 2 + int.from_bytes(data[at + 2 : at + 4]) :]
    seen = corners(pixels(data))
    assert all(near(a, b, 8) for a, b in zip(seen, (RED, GREEN, BLUE, WHITE), strict=True))


def test_a_colour_profile_is_applied():
    assert near(corners(pixels(encoded(four_corners(), "PNG", icc_profile=swapping_profile())))[0], BLUE)
    assert near(corners(pixels(encoded(four_corners(), "PNG", icc_profile=srgb_profile())))[0], RED)


@pytest.mark.parametrize(
    "profile", [b"nonsense", srgb_profile()[:200], bytes(3000)], ids=["text", "cut", "zeros"]
)
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_a_broken_profile_is_dropped(kind, profile):
    options = {"lossless": True} if kind == "WEBP" else {}
    seen = corners(pixels(encoded(four_corners(), kind, icc_profile=profile, **options)))
    assert near(seen[0], RED, 8)


def test_a_profile_for_other_pixels_is_dropped():
    grey = encoded(four_corners().convert("L"), "JPEG", icc_profile=srgb_profile())
    assert corners(pixels(grey))[3] == WHITE


# Orientation and metadata

UPRIGHT = (RED, GREEN, BLUE, WHITE)
TURNED_BACK = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
"""How a camera stored an upright scene that it marked so: the inverse of how it is to be shown."""


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_images_stand_upright(kind, orientation):
    turn = TURNED_BACK[orientation]
    stored = four_corners() if turn is None else four_corners().transpose(turn)
    taken = sanitise(encoded(stored, kind, exif=exif(orientation), quality=95))
    assert (taken.image.width_px, taken.image.height_px) == (64, 32)
    assert all(near(a, b, 12) for a, b in zip(corners(opened(taken.data)), UPRIGHT, strict=True))


@pytest.mark.parametrize(
    "block",
    [
        b"",
        b"II*\0",
        b"II*\0\xff\xff\xff\xff",
        b"MM\0*\0\0\0\x08\xff\xff",
        b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x02\0\0\0\x01\0\x06\0\0",
        b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x09\0\0",
    ],
    ids=["empty", "no start", "start outside", "too many entries", "wrong format", "nine"],
)
def test_an_unusable_orientation_counts_as_upright(block):
    data = png(8, 16, 8, 0, png_row(bytes(8), 16), chunk(b"eXIf", block))
    assert pixels(data).size == (8, 16)


def test_no_metadata_is_left():
    secret = b"SecretText"
    text = chunk(b"tEXt", b"Comment\0" + secret) + chunk(b"zTXt", b"Comment\0\0" + zlib.compress(secret))
    files = [
        encoded(
            colourful(),
            "JPEG",
            exif=exif(1, gps=True),
            comment=secret,
            xmp=secret,
            icc_profile=srgb_profile(),
            dpi=(300, 300),
        )
        + secret,
        encoded(
            colourful(), "WEBP", exif=exif(1, gps=True), xmp=secret, icc_profile=srgb_profile(), lossless=True
        ),
        encoded(four_corners(), "GIF", comment=secret),
        png(8, 8, 8, 0, png_row(bytes(8)), text, chunk(b"eXIf", exif(1)[6:]), behind=text) + secret,
    ]
    for data in files:
        taken = sanitise(data).data
        for trace in (secret, b"Secret", b"2001:02:03", b"Exif", b"ICC_PROFILE", b"iCCP", b"tEXt", b"pHYs"):
            assert trace not in taken
        # Pillow states the density that every JPEG header has; nothing of it comes from the file.
        assert set(opened(taken).info) <= {"jfif", "jfif_version", "jfif_unit", "jfif_density"}
        assert opened(taken).info.get("jfif_density", (1, 1)) == (1, 1)


# What is refused


def test_empty():
    assert refusal(b"").code == "image-empty"


def test_too_many_bytes_are_refused_before_anything_is_read():
    error = refusal(bytes(11 * 2**20), name="film.png")
    assert error.code == "image-too-large"
    assert error.message == "film.png is larger than 10 MiB."


OTHER_FILES = {
    "SVG": b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"><script/></svg>',
    "an SVG": b"\xef\xbb\xbf  <!-- a comment --><svg width='1'/>",
    "PDF": b"%PDF-1.7\n...",
    "web page": b"<!DOCTYPE html><html><body><svg-free/></body></html>",
    "HEIC": b"\0\0\0\x24ftypheic\0\0\0\0mif1",
    "AVIF": b"\0\0\0\x1cftypavif\0\0\0\0",
    "video": b"\0\0\0\x18ftypmp42\0\0\0\0",
    "TIFF": encoded(four_corners(), "TIFF"),
    "JPEG 2000": encoded(four_corners(), "JPEG2000"),
    "JPEG XL": b"\xff\x0a\xfa\x7f",
    "Photoshop": b"8BPS\0\x01",
    "icon": encoded(four_corners(32, 32), "ICO"),
    "ZIP": b"PK\x03\x04\x14\0",
    "not an image": b"BMW is a maker of cars, and this is text.",
}


@pytest.mark.parametrize(("what", "data"), OTHER_FILES.items(), ids=OTHER_FILES)
def test_other_files_are_refused_by_their_content(what, data):
    error = refusal(data, name="innocent.png")
    assert error.code == "image-type"
    assert what in error.message
    assert error.hint


def test_compressed_bitmaps_are_refused():
    data = bytearray(encoded(four_corners().quantize(4), "BMP"))
    data[30:34] = (1).to_bytes(4, "little")
    error = refusal(bytes(data))
    assert (error.code, "run-length" in error.message) == ("image-type", True)


@pytest.mark.parametrize("name", [name for name in good_files() if "animated" not in name])
@pytest.mark.parametrize("tolerant", [False, True])
def test_truncated_files_are_refused(monkeypatch, name, tolerant):
    """Also where a library has told Pillow to take them."""
    monkeypatch.setattr("PIL.ImageFile.LOAD_TRUNCATED_IMAGES", tolerant)
    data = good_files()[name]
    assert refusal(data[: len(data) * 3 // 4]).code == "image-damaged"
    for length in (9, 20, 30):
        assert refusal(data[:length]).code in ("image-damaged", "image-type")


@pytest.mark.parametrize("kind", ["PNG", "GIF", "WEBP"])
def test_animations_are_refused(kind):
    assert refusal(animation(kind)).code == "image-animated"


@pytest.mark.parametrize("kind", ["PNG", "GIF", "WEBP"])
def test_an_animation_of_one_frame_is_an_image(kind):
    assert pixels(animation(kind, frames=1)).size == (32, 32)


def test_a_wrong_checksum_is_noticed():
    data = bytearray(encoded(four_corners(), "PNG"))
    data[data.index(b"IDAT") + 6] ^= 1
    assert "checksum" in refusal(bytes(data)).message


def test_a_palette_image_without_palette():
    assert refusal(png(8, 8, 8, 3, png_row(bytes(8)))).code == "image-damaged"


@pytest.mark.parametrize(("width_px", "height_px"), [(0, 8), (8, 0), (0, 0)])
def test_no_width_or_height(width_px, height_px):
    assert refusal(png(width_px, height_px, 8, 0, b"")).code == "image-damaged"


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(
    ("width_px", "height_px", "code"),
    [
        (1, 1, "image-too-small"),
        (300, 1, "image-too-small"),
        (7, 300, "image-too-small"),
        (8, 401, "image-too-narrow"),
        (401, 8, "image-too-narrow"),
        (20_000, 400, "image-too-many-pixels"),
        (6_400, 6_400, "image-too-many-pixels"),
    ],
)
def test_sizes_out_of_bounds_are_refused_by_the_header(width_px, height_px, code):
    # There is no pixel behind these headers: they are refused before decoding would fail.
    error = refusal(png(width_px, height_px, 8, 0, b""))
    assert error.code == code
    assert f"{width_px:,} × {height_px:,} pixels" in error.message


def test_a_size_at_which_pillow_gives_up_is_refused_alike():
    assert refusal(png(70_000, 70_000, 8, 0, b"")).code == "image-too-many-pixels"


def bomb(kind: str) -> bytes:
    """16,384 × 16,384 pixels by the header of a small file."""
    data = bytearray(encoded(four_corners(), kind, **({"lossless": True} if kind == "WEBP" else {})))
    side = 16_384
    if kind == "JPEG":
        at = data.index(b"\xff\xc0") + 5
        data[at : at + 4] = side.to_bytes(2) * 2
    elif kind == "GIF":
        data[6:10] = side.to_bytes(2, "little") * 2
    elif kind == "BMP":
        data[18:26] = side.to_bytes(4, "little") * 2
    else:
        data[21:25] = ((side - 1) | (side - 1) << 14).to_bytes(4, "little")
    return bytes(data)


@pytest.mark.parametrize("kind", ["JPEG", "GIF", "BMP", "WEBP"])
def test_decompression_bombs_are_refused_by_the_header(kind):
    error = refusal(bomb(kind))
    assert error.code == "image-too-many-pixels"


def test_a_gif_frame_larger_than_its_screen():
    data = bytearray(encoded(four_corners().convert("L"), "GIF"))
    at = data.index(b",", 13) + 5
    data[at : at + 4] = (16_000).to_bytes(2, "little") * 2
    assert refusal(bytes(data)).code == "image-too-many-pixels"


def test_the_second_header_of_a_png_is_not_believed():
    second = chunk(b"IHDR", struct.pack(">IIBBBBB", 6_300, 6_300, 8, 0, 0, 0, 0))
    assert pixels(png(8, 8, 8, 0, png_row(bytes(8)), second)).size == (8, 8)


def test_text_bombs_are_thrown_away_unread():
    packed = zlib.compress(bytes(2**26))
    bombs = (chunk(b"zTXt", b"k\0\0" + packed), chunk(b"iTXt", b"k\0\1\0\0\0" + packed))
    profile = chunk(b"iCCP", b"k\0\0" + packed)
    assert pixels(png(8, 8, 8, 0, png_row(bytes(8)), *bombs, profile, behind=bombs[0])).size == (8, 8)


def test_a_progressive_jpeg_of_a_thousand_scans():
    data = encoded(four_corners(), "JPEG", progressive=True)
    last = data[data.rindex(b"\xff\xda") : -2]
    assert refusal(data[:-2] + last * 1000 + data[-2:]).code == "image-too-complex"


def test_only_the_first_image_of_a_jpeg_is_read():
    data = encoded(four_corners(), "JPEG") + encoded(colourful(), "JPEG")
    assert pixels(data).size == (64, 32)


def test_limits_can_be_set():
    data = encoded(colourful(200, 150), "PNG")
    assert refusal(data, limits=Limits(max_pixels=29_999)).code == "image-too-many-pixels"
    assert refusal(data, limits=Limits(max_side_px=199)).code == "image-too-many-pixels"
    assert refusal(data, limits=Limits(max_bytes=len(data) - 1)).code == "image-too-large"
    assert sanitise(data, limits=Limits(max_pixels=30_000, max_side_px=200, max_bytes=len(data)))


def test_no_memory_is_a_message_of_its_own(monkeypatch):
    def no_memory(*_):
        raise MemoryError

    monkeypatch.setattr("core.images.sanitise.to_srgb", no_memory)
    assert refusal(encoded(four_corners(), "PNG")).code == "image-memory"


# Names


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("cat.png", "cat.png"),
        ("/etc/passwd", "passwd"),
        ("C:\\Users\\me\\cat.png", "cat.png"),
        ("../..", ""),
        ("a\nb\tc\x00\x1b[31m.png", "a b c[31m.png"),
        ("gnp.\u202etac.exe", "gnp.tac.exe"),
        ("  猫の写真.png ", "猫の写真.png"),
        ("cafe\u0301.png", "café.png"),
        ("\ud800.png", "?.png"),
        ("", ""),
    ],
)
def test_names_are_fit_to_be_shown(name, shown):
    assert sanitise(encoded(four_corners(), "PNG"), name=name).image.name == shown


def test_long_names_keep_their_beginning_and_end():
    name = sanitise(encoded(four_corners(), "PNG"), name="holiday-" + "x" * 500 + "-beach.png").image.name
    assert len(name) == 80
    assert name.startswith("holiday-")
    assert name.endswith("-beach.png")
    assert "…" in name


def test_messages_name_the_image_or_speak_of_the_image():
    assert refusal(b"", name="../x/cat.png").message == "cat.png is empty."
    assert refusal(b"").message == "The image is empty."


# Threads


def test_several_threads_at_once():
    files = [encoded(colourful(300 + number, 200), "JPEG") for number in range(4)] * 3
    alone = {data: sanitise(data).image.sha256 for data in files}
    together, failures = {}, []

    def work(data: bytes) -> None:
        try:
            together[data] = sanitise(data).image.sha256
        except InputError as exc:
            failures.append(exc)

    threads = [threading.Thread(target=work, args=(data,)) for data in files]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert together == alone


def a_image(size):
    return sanitise(encoded(colourful(*size), "JPEG", quality=95)).data


def difference(one, other):
    return ImageChops.difference(opened(one).convert("RGB"), opened(other).convert("RGB"))


@pytest.mark.parametrize("size", SIZES)
def test_versions_differ_in_the_lower_right_corner_only(size):
    variants = Variants(a_image(size))
    left, top, right, bottom = difference(variants.make("one"), variants.make("two")).getbbox()
    assert (right, bottom) == size
    assert top >= (size[1] - 1) // 8 * 8
    # Where the last row is low the noise is wider; the rest of its blocks shows a trace of it.
    assert right - left <= 64 // (size[1] - top) + 8


@pytest.mark.parametrize("size", SIZES)
def test_all_else_is_the_image(size):
    data = a_image(size)
    changed = difference(data, Variants(data).make("one"))
    changed.paste((0, 0, 0), (max(0, size[0] - 72), (size[1] - 1) // 8 * 8, *size))
    assert max(high for _, high in changed.getextrema()) <= 8  # encoded a second time


def test_a_seed_always_gives_the_same_version_and_every_seed_another():
    variants = Variants(a_image((64, 48)))
    made = [variants.make(f"run/{number}") for number in range(200)]
    assert len(set(made)) == 200
    assert len({opened(each).tobytes() for each in made}) == 200
    assert variants.make("run/7") == made[7]


def test_a_drawing_becomes_a_jpeg():
    data = sanitise(encoded(four_corners(), "PNG")).data
    version = Variants(data).make("one")
    assert opened(data).format == "PNG"
    assert (opened(version).format, opened(version).size) == ("JPEG", (64, 32))


def test_a_version_is_accepted_at_the_door():
    taken = sanitise(Variants(a_image((200, 150))).make("one"))
    assert (taken.image.media_type, taken.image.width_px) == ("image/jpeg", 200)
