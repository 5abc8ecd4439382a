import pytest

from core import i18n

CATALOGUE = r"""
# A translator's comment
msgid ""
msgstr ""
"Language: pl\n"
"Plural-Forms: nplurals=3; plural=(n==1 ? 0 : n%10>=2 && n%10<=4 ? 1 : 2);\n"

#, python-brace-format
msgid "Hello, {name}"
msgstr "Cześć, {name}"

msgid ""
"One line\n"
"and \"another\""
msgstr ""
"Jedna\n"
"i „druga”"

msgid "{n} lane"
msgid_plural "{n} lanes"
msgstr[0] "{n} tor"
msgstr[1] "{n} tory"
msgstr[2] "{n} torów"

msgctxt "verb"
msgid "Open"
msgstr "Otwórz"

#, fuzzy
msgid "Close"
msgstr "Zamknij?"

msgid "Untranslated"
msgstr ""
"""


@pytest.fixture
def catalogue(tmp_path):
    file = tmp_path / "lmdyno.po"
    file.write_text(CATALOGUE, "utf-8")
    return i18n.read(file)


def test_texts_are_read_over_several_lines(catalogue):
    assert catalogue.text("Hello, {name}") == "Cześć, {name}"
    assert catalogue.text('One line\nand "another"') == "Jedna\ni „druga”"


@pytest.mark.parametrize(("n", "form"), [(1, "{n} tor"), (3, "{n} tory"), (5, "{n} torów")])
def test_plural_forms_follow_the_header(catalogue, n, form):
    assert catalogue.plural("{n} lane", n) == form


def test_a_context_tells_texts_apart(catalogue):
    assert catalogue.text("Open", "verb") == "Otwórz"
    assert catalogue.text("Open") is None


def test_fuzzy_and_untranslated_texts_are_left_out(catalogue):
    assert catalogue.text("Close") is None
    assert catalogue.text("Untranslated") is None


def test_what_is_no_catalogue_is_refused(tmp_path):
    file = tmp_path / "lmdyno.po"
    file.write_text("hello", "utf-8")
    with pytest.raises(ValueError, match="hello"):
        i18n.read(file)
