"""Bring the catalogues in core/locale up to date with the texts in the code: `make messages`.

New texts come in untranslated, texts that the code no longer has go out, and a text whose English changed
starts anew. The files hold no dates and no line numbers, so that they change only with the texts.
"""

import ast
import sys
import tomllib
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

from babel.messages.catalog import Catalog
from babel.messages.pofile import read_po, write_po

ROOT = Path(__file__).resolve().parents[1]
LOCALE_DIR = ROOT / "core" / "locale"
ARGUMENTS = {"_": 1, "N_": 1, "ngettext": 2, "N_plural": 2, "pgettext": 2}
"""The functions whose first arguments are texts, and how many of them: two are a singular and a plural, for
`pgettext` a context and a text."""
SOURCES = ("core/**/*.py", "pages/*.py", "streamlit_app.py")


def collect(root: Path = ROOT) -> Catalog:
    """Every text in the code, without translations."""
    texts = Catalog(project="LMDyno", charset="utf-8")
    for source in SOURCES:
        for path in sorted(root.glob(source)):
            for name, arguments in calls(path.read_text("utf-8")):
                add(texts, name, arguments)
    for image in tomllib.loads((root / "assets" / "gallery" / "gallery.toml").read_text("utf-8"))[
        "images"
    ].values():
        for key in ("title", "note", "source"):
            if key in image:
                texts.add(image[key])
    return texts


def calls(source: str) -> Iterator[tuple[str, list[ast.expr]]]:
    """The calls that draw a text: the function's name and the arguments that are texts.

    From the syntax tree: of the tokens, Python 3.11 has those within an f-string as one.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ARGUMENTS:
            yield node.func.id, node.args[: ARGUMENTS[node.func.id]]


def add(texts: Catalog, name: str, arguments: list[ast.expr]) -> None:
    """The text of a call, if it is a literal; other calls draw what was collected where it was made."""
    literals = [argument.value for argument in arguments if isinstance(argument, ast.Constant)]
    if len(literals) != ARGUMENTS[name] or not all(literals):
        return
    if name == "pgettext":
        texts.add(literals[1], context=literals[0])
    else:
        texts.add(literals[0] if len(literals) == 1 else tuple(literals))


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
