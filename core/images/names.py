"""Image names from users, made safe for display. They are never used as paths."""

import unicodedata

MAX_NAME_LENGTH = 80

_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
"""Unicode's categories of characters that draw nothing or turn a line of text around."""


def display_name(name: str) -> str:
    """The last part of a path, on one line, without control characters; "" if nothing is left.

    Names over 80 characters lose their middle, so that the ending stays.
    """
    last = name.replace("\\", "/").rstrip("/").rpartition("/")[2]
    plain = unicodedata.normalize("NFC", last.encode("utf-8", "replace").decode("utf-8"))
    shown = "".join(
        " " if character.isspace() else character
        for character in plain
        if character.isspace() or unicodedata.category(character) not in _HIDDEN
    )
    shown = " ".join(shown.split())
    if len(shown) <= MAX_NAME_LENGTH:
        return "" if shown in (".", "..") else shown
    tail = MAX_NAME_LENGTH // 3
    return f"{shown[: MAX_NAME_LENGTH - tail - 1]}…{shown[-tail:]}"
