import copy
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextvars import Context, copy_context
from dataclasses import dataclass

import pytest

from core import i18n
from core.codec import decode, encode, encode_plain
from core.domain.turns import ErrorInfo
from core.errors import ConfigError, InputError
from core.i18n import N_, Language, N_plural, Text, _, ngettext, pgettext, use_language

CHINESE = i18n.Catalogue(
    texts={
        (None, "Stop"): ("停止",),
        (None, "Lane {name}: {problem}"): ("通道 {name}：{problem}",),
        (None, "No GPU"): ("没有 GPU",),
        (None, "{n} lane"): ("{n} 个通道",),
        ("verb", "Open"): ("打开",),
        (None, "{done} of {total}"): ("共 {total}，已完成 {done}",),
    },
    plural_form=lambda _n: 0,
)


@pytest.fixture(autouse=True)
def catalogue(monkeypatch):
    monkeypatch.setattr(
        i18n, "catalogue", lambda language: CHINESE if language == "zh_CN" else i18n.Catalogue()
    )


def test_english_is_the_text_itself():
    assert _("Stop") == "Stop"
    assert _("{done} of {total}", total=3, done=1) == "1 of 3"
    assert ngettext("{n} lane", "{n} lanes", 1) == "1 lane"
    assert ngettext("{n} lane", "{n} lanes", 0) == "0 lanes"


def test_texts_are_in_the_language_of_the_context():
    with use_language("zh_CN"):
        assert _("Stop") == "停止"
        assert _("{done} of {total}", total=3, done=1) == "共 3，已完成 1"
        assert ngettext("{n} lane", "{n} lanes", 2) == "2 个通道"
        assert pgettext("verb", "Open") == "打开"
        assert _("Not translated: {x}", x=1) == "Not translated: 1"
    assert _("Stop") == "Stop"


def test_text_with_braces_and_no_values_stays_as_it_is():
    assert _("a {b} c") == "a {b} c"
    assert N_("a {b} c") == "a {b} c"


def test_values_are_never_formatted_again():
    assert _("{name}", name="{evil.__class__}") == "{evil.__class__}"


def test_a_text_for_later_is_english_and_is_drawn_in_the_readers_language():
    text = N_("Lane {name}: {problem}", name="hf", problem=N_("No GPU"))
    assert text == "Lane hf: No GPU"
    assert _(text) == "Lane hf: No GPU"
    with use_language("zh_CN"):
        assert text == "Lane hf: No GPU"
        assert _(text) == "通道 hf：没有 GPU"
        assert _("Lane {name}: {problem}", name="q4", problem=N_("No GPU")) == "通道 q4：没有 GPU"
        assert _(N_plural("{n} lane", "{n} lanes", 4)) == "4 个通道"


def test_a_table_of_texts_gets_its_values_later():
    template = N_("Lane {name}: {problem}")
    with use_language("zh_CN"):
        assert _(template, name="hf", problem="?") == "通道 hf：?"
        assert _(template.filled(name="hf", problem="?")) == "通道 hf：?"


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda text: pickle.loads(pickle.dumps(text))])
def test_a_text_for_later_can_be_copied(copied):
    text = copied(N_("Lane {name}: {problem}", name="hf", problem=N_("No GPU")))
    with use_language("zh_CN"):
        assert _(text) == "通道 hf：没有 GPU"


def test_an_error_is_drawn_in_another_language_than_it_was_raised_or_stored_in():
    error = ConfigError(N_("Lane {name}: {problem}", name="hf", problem=N_("No GPU")), hint=N_("Stop"))
    assert str(error) == "Lane hf: No GPU"
    error = pickle.loads(pickle.dumps(error))
    stored = decode(ErrorInfo, encode(ErrorInfo.of(error)))
    assert stored == ErrorInfo("config", "Lane hf: No GPU", "Stop")
    with use_language("zh_CN"):
        assert _(error.message) == _(stored.message) == "通道 hf：没有 GPU"
        assert _(stored.hint) == "停止"


def test_records_of_before_have_plain_texts():
    stored = decode(ErrorInfo, b'{"code": "x", "message": "No GPU", "hint": "Buy {one}"}')
    assert stored.message == "No GPU"
    with use_language("zh_CN"):
        assert _(stored.message) == "没有 GPU"
        assert _(stored.hint) == "Buy {one}"


@dataclass(frozen=True)
class Record:
    notes: tuple[Text, ...]
    gap: Text | None = None


def test_any_field_can_keep_a_text():
    record = Record(notes=(N_plural("{n} lane", "{n} lanes", 2), "plain"))
    again = decode(Record, encode(record))
    assert again == record == Record(notes=("2 lanes", "plain"))
    with use_language("zh_CN"):
        assert _(again.notes[0]) == "2 个通道"


def test_exports_hold_plain_english():
    assert (
        encode_plain(Record(notes=(N_("{n} of {m}", n=1, m=2),), gap=None))
        == b'{"notes":["1 of 2"],"gap":null}'
    )


@pytest.mark.parametrize("notes", ["[3]", "[{}]", '[{"id": "{a}", "values": {}, "n": 1}]', '[{"id": 3}]'])
def test_a_text_that_is_none_is_a_bad_record(notes):
    with pytest.raises(InputError, match=r"Record: notes"):
        decode(Record, f'{{"notes": {notes}}}')


@pytest.mark.parametrize(
    ("tag", "language"),
    [
        ("zh-CN", Language.CHINESE),
        ("zh", Language.CHINESE),
        ("zh-Hans-SG", Language.CHINESE),
        ("zh_CN.UTF-8", Language.CHINESE),
        ("en-GB", Language.ENGLISH),
        ("C.UTF-8", Language.ENGLISH),
        ("de-DE", None),
        ("", None),
        (None, None),
    ],
)
def test_tags_of_browsers_and_locales_are_matched(tag, language):
    assert i18n.match_language(tag) is language


@pytest.mark.parametrize(
    ("environ", "language"),
    [
        ({}, Language.ENGLISH),
        ({"LANG": "zh_CN.UTF-8"}, Language.CHINESE),
        ({"LANG": "zh_CN.UTF-8", "LC_ALL": "C.UTF-8"}, Language.ENGLISH),
        ({"LANG": "en_GB.UTF-8", "LC_MESSAGES": "zh_CN.UTF-8"}, Language.CHINESE),
        ({"LANG": "fr_FR.UTF-8"}, Language.ENGLISH),
    ],
)
def test_the_environment_names_the_language(environ, language):
    assert i18n.environment_language(environ) is language


def test_threads_and_contexts_have_languages_of_their_own():
    with ThreadPoolExecutor(1) as pool, use_language("zh_CN"):
        assert pool.submit(_, "Stop").result() == "Stop"
        assert pool.submit(copy_context().run, _, "Stop").result() == "停止"


@pytest.fixture
def fresh():
    """Calls a function in a context that has no language of its own."""
    return lambda function, *args: Context().run(function, *args)


def test_a_session_has_a_language_unless_the_context_has_one(monkeypatch, fresh):
    monkeypatch.setattr(i18n, "_find", None)
    i18n.find_language_with(lambda: Language.CHINESE)
    assert fresh(_, "Stop") == "停止"
    with use_language("en"):
        assert _("Stop") == "Stop"
    i18n.find_language_with(lambda: None)
    assert fresh(_, "Stop") == "Stop"


def test_the_session_is_asked_once_for_each_context(monkeypatch, fresh):
    asked = []
    monkeypatch.setattr(i18n, "_find", lambda: asked.append(1) or Language.CHINESE)
    assert fresh(lambda: _("Stop") + _("Stop")) == "停止停止"
    assert len(asked) == 1


def test_a_choice_holds_for_the_rest_of_its_context(fresh):
    def chosen():
        i18n.choose_language(Language.CHINESE)
        return _("Stop")

    assert fresh(chosen) == "停止"
    assert _("Stop") == "Stop"


def test_a_process_can_have_a_language(monkeypatch):
    monkeypatch.setattr(i18n, "_of_process", Language.ENGLISH)
    i18n.set_process_language(Language.CHINESE)
    assert _("Stop") == "停止"


def test_english_reads_no_catalogue():
    program = (
        "import sys; from core import i18n; i18n._('Stop'); i18n.N_('a {b}', b=1);"
        "assert i18n.catalogue.cache_info().currsize == 0; assert 'babel' not in sys.modules;"
        "assert 'pydantic' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
