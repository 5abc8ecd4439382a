"""Bring the catalogues in core/locale up to date with the texts in the code: `make messages`.

New texts come in untranslated, texts that the code no longer has go out, and a text whose English changed
starts anew. The files hold no dates and no line numbers, so that they change only with the texts.
"""

import sys
import tomllib
import warnings
from io import BytesIO
from pathlib import Path

from babel.messages.catalog import Catalog
from babel.messages.extract import extract_from_dir
from babel.messages.pofile import read_po, write_po

ROOT = Path(__file__).resolve().parents[1]
LOCALE_DIR = ROOT / "core" / "locale"
KEYWORDS = {"_": None, "N_": None, "ngettext": (1, 2), "N_plural": (1, 2), "pgettext": ((1, "c"), 2)}
SOURCES = [("core/**.py", "python"), ("pages/**.py", "python"), ("streamlit_app.py", "python")]


def collect(root: Path = ROOT) -> Catalog:
    """Every text in the code, without translations."""
    texts = Catalog(project="LMDyno", charset="utf-8")
    # Of f-strings among a text's values; tests see to it that no text is one itself.
    warnings.simplefilter("ignore", SyntaxWarning)
    for _file, _line, id, _comments, context in extract_from_dir(
        root, SOURCES, keywords=KEYWORDS, directory_filter=lambda path: not Path(path).name.startswith(".")
    ):
        texts.add(id, context=context)
    for image in tomllib.loads((root / "assets" / "gallery" / "gallery.toml").read_text("utf-8"))[
        "images"
    ].values():
        for key in ("title", "note"):
            if key in image:
                texts.add(image[key])
    return texts


def updated(file: Path, texts: Catalog) -> Catalog:
    """The catalogue in the file with the texts of the code, and the translations that still fit."""
    with file.open("rb") as stream:
        catalogue = read_po(stream)
    catalogue.update(texts, no_fuzzy_matching=True, update_creation_date=False)
    catalogue.obsolete.clear()
    return catalogue


def written(catalogue: Catalog) -> bytes:
    stream = BytesIO()
    write_po(
        stream,
        catalogue,
        width=110,
        no_location=True,
        omit_header=True,
        sort_output=True,
        ignore_obsolete=True,
    )
    header = (
        'msgid ""\nmsgstr ""\n'
        '"Content-Type: text/plain; charset=utf-8\\n"\n'
        f'"Language: {catalogue.locale}\\n"\n'
        f'"Plural-Forms: {catalogue.plural_forms}\\n"\n\n'
    )
    return header.encode() + stream.getvalue().strip() + b"\n"


def main() -> int:
    texts = collect()
    for file in sorted(LOCALE_DIR.glob("*/LC_MESSAGES/lmdyno.po")):
        catalogue = updated(file, texts)
        file.write_bytes(written(catalogue))
        missing = sum(not message.string or not all(message.string) for message in catalogue if message.id)
        print(f"{file.relative_to(ROOT)}: {len(catalogue)} texts, {missing} without a translation")
    return 0


if __name__ == "__main__":
    sys.exit(main())
