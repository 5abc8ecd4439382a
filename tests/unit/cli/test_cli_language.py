"""The language of the command line: `--lang` before the command, else the locale."""

import os
import subprocess
import sys

import pytest

from core.__main__ import asked_language
from core.i18n import Language
from core.settings import PROJECT_ROOT


@pytest.mark.parametrize(
    ("words", "language", "rest"),
    [
        (["--lang", "zh", "chat", "Hi"], Language.CHINESE, ["chat", "Hi"]),
        (["--lang=en", "doctor"], Language.ENGLISH, ["doctor"]),
        (["--lang", "xx", "doctor"], None, ["doctor"]),
        (["chat", "--lang"], None, ["chat", "--lang"]),
        ([], None, []),
    ],
)
def test_the_option_is_taken_before_the_command(words, language, rest):
    assert asked_language(words) == (language, rest)


@pytest.mark.parametrize(
    ("words", "locale", "text"),
    [
        (["--lang", "zh"], "C.UTF-8", "停止"),
        ([], "zh_CN.UTF-8", "停止"),
        (["--lang", "en"], "zh_CN.UTF-8", "Stop a lane's engine"),
    ],
)
def test_help_is_in_the_language(words, locale, text):
    run = subprocess.run(
        [sys.executable, "-m", "core", *words, "engines", "--help"],
        env={**os.environ, "LC_ALL": locale, "COLUMNS": "200"},
        cwd=PROJECT_ROOT,
        capture_output=True,
        check=True,
        encoding="utf-8",
    )
    assert text in run.stdout
    headings = ("Usage:", "Options", "Commands", "Show this message and exit")
    assert [heading in run.stdout for heading in headings] == [words == ["--lang", "en"]] * len(headings)


def test_an_error_is_in_the_language():
    run = subprocess.run(
        [sys.executable, "-m", "core", "--lang", "zh", "engines", "stop"],
        cwd=PROJECT_ROOT,
        capture_output=True,
        check=False,
        encoding="utf-8",
    )
    assert run.returncode == 2
    assert "--all" in run.stderr
    assert "No engine is named" not in run.stderr
