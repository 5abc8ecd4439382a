"""The catalogues are complete: each text of the code is in them, translated, with the same placeholders."""

import re
from collections import Counter
from string import Formatter

import pytest
from babel.messages.catalog import Message
from babel.messages.pofile import read_po

from tools import messages

FILES = sorted(messages.LOCALE_DIR.glob("*/LC_MESSAGES/lmdyno.po"))


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
def test_translations_quote_the_same_code(file):
    assert _differing(file, lambda text: set(_code(text))) == []


@pytest.mark.parametrize("file", FILES)
def test_translations_have_as_much_bold(file):
    assert _differing(file, lambda text: text.count("**")) == []
