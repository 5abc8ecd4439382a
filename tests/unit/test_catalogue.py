"""The catalogues are complete: each text of the code is in them, translated, with the same placeholders."""

import ast
import re
from collections import Counter
from functools import cache
from string import Formatter

import pytest
from babel.messages.catalog import Catalog, Message
from babel.messages.pofile import read_po

from tools import messages

FILES = sorted(messages.LOCALE_DIR.glob("*/LC_MESSAGES/lmdyno.po"))


@cache
def _collected() -> Catalog:
    return messages.collect()


@cache
def _texts(file):
    with file.open("rb") as stream:
        return [message for message in read_po(stream) if message.id]


def _pairs(message: Message):
    """Each translation beside the English that it stands for: a plural's forms beside its plural."""
    if isinstance(message.id, str):
        return [(message.id, message.string)]
    return [(message.id[-1], string) for string in message.string]


def _placeholders(text: str) -> Counter[str]:
    return Counter(name for _literal, name, _spec, _conversion in Formatter().parse(text) if name is not None)


def _code(text: str) -> Counter[str]:
    return Counter(re.findall(r"`[^`]+`", text))


def _differing(file, marks):
    return [
        (english, string)
        for message in _texts(file)
        for english, string in _pairs(message)
        if marks(english) != marks(string)
    ]


def test_there_is_a_chinese_catalogue():
    assert [file.parts[-3] for file in FILES] == ["zh_CN"]


@pytest.mark.parametrize("file", FILES)
def test_it_is_up_to_date_with_the_code(file):
    catalogue = messages.updated(file, messages.collect())
    assert file.read_bytes() == messages.written(catalogue), "run `make messages`"


@pytest.mark.parametrize("file", FILES)
def test_every_text_is_translated(file):
    assert [m.id for m in _texts(file) if m.fuzzy or not all(string for _, string in _pairs(m))] == []


@pytest.mark.parametrize("file", FILES)
def test_translations_have_the_same_placeholders(file):
    assert _differing(file, lambda text: set(_placeholders(text))) == []


@pytest.mark.parametrize("file", FILES)
def test_chinese_has_its_own_punctuation(file):
    """A comma, colon or semicolon after a Chinese character is a full-width one."""
    assert [
        string
        for message in _texts(file)
        for _english, string in _pairs(message)
        if re.search(r"[\u4e00-\u9fff][,;:]\s?[\u4e00-\u9fff`*{]", string)
    ] == []


@pytest.mark.parametrize("file", FILES)
def test_translations_quote_the_same_code(file):
    assert _differing(file, lambda text: set(_code(text))) == []


@pytest.mark.parametrize("file", FILES)
def test_translations_have_as_much_bold(file):
    assert _differing(file, lambda text: text.count("**")) == []


@cache
def _calls():
    """Each call that draws a text: file and name of the function, and the arguments that are texts."""
    return [
        (f"{path.relative_to(messages.ROOT)}: {name}", arguments)
        for source in messages.SOURCES
        for path in messages.ROOT.glob(source)
        for name, arguments in messages.calls(path.read_text("utf-8"))
    ]


def test_no_text_is_put_together_before_it_is_translated():
    """Neither an f-string nor a sum, of which the catalogue would hold nothing."""
    assert [
        (where, ast.unparse(argument))
        for where, arguments in _calls()
        for argument in arguments
        if isinstance(argument, ast.JoinedStr | ast.BinOp)
        or (
            isinstance(argument, ast.Call)
            and isinstance(argument.func, ast.Attribute)
            and argument.func.attr == "format"
        )
    ] == []


def test_texts_for_numbers_are_literals_in_both_forms():
    assert [
        where
        for where, arguments in _calls()
        if where.endswith(("ngettext", "N_plural", "pgettext"))
        and not all(isinstance(argument, ast.Constant) for argument in arguments)
    ] == []


def test_a_text_inside_an_f_string_is_collected():
    source = '''title = f"### {_('Held within')} {ngettext('{n} lane', '{n} lanes', n)}"'''
    texts = Catalog()
    for name, arguments in messages.calls(source):
        messages.add(texts, name, arguments)
    assert [message.id for message in texts if message.id] == ["Held within", ("{n} lane", "{n} lanes")]


def test_texts_of_report_templates_are_texts_of_the_code_too():
    """Only those are collected."""
    templates = (messages.ROOT / "core" / "reports" / "templates").glob("*.j2")
    texts = {text for path in templates for text in re.findall(r'\b_\("([^"]+)"', path.read_text("utf-8"))}
    assert texts
    catalogue = _collected()
    assert [text for text in sorted(texts) if text not in catalogue] == []


def test_singular_and_plural_have_the_same_placeholders():
    """But for the number, which a singular may leave out."""
    catalogue = _collected()
    assert [
        message.id
        for message in catalogue
        if not isinstance(message.id, str)
        and set(_placeholders(message.id[0])) | {"n"} != set(_placeholders(message.id[1])) | {"n"}
    ] == []


@pytest.mark.parametrize("file", FILES)
def test_plurals_have_as_many_forms_as_the_language(file):
    with file.open("rb") as stream:
        catalogue = read_po(stream)
    assert [
        message.id
        for message in catalogue
        if message.id and not isinstance(message.id, str) and len(message.string) != catalogue.num_plurals
    ] == []
