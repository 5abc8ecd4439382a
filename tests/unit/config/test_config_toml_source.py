"""Which line a key stands on, and what is said about a file that is not TOML."""

import pytest

from core.config.toml_source import TomlSource
from core.errors import ConfigError
from core.i18n import N_


@pytest.fixture
def read(tmp_path):
    def read(data: str | bytes) -> TomlSource:
        file = tmp_path / "lanes.toml"
        file.write_bytes(data.encode() if isinstance(data, str) else data)
        return TomlSource.read(file)

    return read


def line_of(source: TomlSource, *path: str) -> str:
    return source.error(path, N_("{key} is wrong."), "").message.split(":")[0]


def test_keys_keep_their_lines_past_values_that_look_like_keys(read):
    source = read(
        "# a = 1\n"
        "[t]\n"
        'text = """\n'
        "fake = 1\n"
        "[other]\n"
        '"""\n'
        "list = [\n"
        "  1, # comment ]\n"
        "]\n"
        "real = 2\n"
        "[other] # here\n"
        '"quoted.key" = 3\n'
    )
    assert line_of(source, "t") == "lanes.toml, line 2"
    assert line_of(source, "t", "text") == "lanes.toml, line 3"
    assert line_of(source, "t", "list") == "lanes.toml, line 7"
    assert line_of(source, "t", "real") == "lanes.toml, line 10"
    assert line_of(source, "other") == "lanes.toml, line 11"
    assert line_of(source, "other", "quoted.key") == "lanes.toml, line 12"


def test_dotted_keys_and_inline_tables_have_lines_too(read):
    source = read('a.b.c = 1\n[lanes]\nhf = {engine = "x", model = "y"}\ntm.tp = 0\n')
    assert line_of(source, "a", "b", "c") == "lanes.toml, line 1"
    assert line_of(source, "lanes", "hf", "model") == "lanes.toml, line 3"
    assert line_of(source, "lanes", "tm", "tp") == "lanes.toml, line 4"


def test_a_missing_key_is_reported_at_its_table(read):
    assert line_of(read("\n[lanes.hf]\n"), "lanes", "hf", "engine") == "lanes.toml, line 2"
    assert line_of(read(""), "lanes") == "lanes.toml"


def test_windows_line_ends_and_a_byte_order_mark_are_fine(read):
    source = read(b"\xef\xbb\xbf[a]\r\nb = 1\r\nc = 2\r\n")
    assert source.values == {"a": {"b": 1, "c": 2}}
    assert line_of(source, "a", "c") == "lanes.toml, line 3"


@pytest.mark.parametrize(
    ("text", "place", "hint"),
    [
        ("[lanes.hf]\nengine = transformers\n", "lanes.toml, line 2", "double quotes"),
        ("[lanes.hf]\nengine\n", "lanes.toml, line 2", "key = value"),
        ('a = "\n', "lanes.toml, line 1", "double quotes"),
        ("[a]\nb = [1,\n\n", "lanes.toml, line 2", "key = value"),
        ("[a]\nb = 1\nb = 2\n", "lanes.toml, line 3", "once"),
        ("[a]\nb = 1\n[a]\n", "lanes.toml, line 3", "once"),
    ],
)
def test_what_is_not_toml_gives_its_line(read, text, place, hint):
    with pytest.raises(ConfigError) as caught:
        read(text)
    assert caught.value.message.startswith(place)
    assert "not valid TOML" in caught.value.message
    assert hint in caught.value.hint


def test_files_that_cannot_be_read(read, tmp_path):
    with pytest.raises(ConfigError, match="UTF-8"):
        read(b"a = '\xff'")
    with pytest.raises(ConfigError, match="can't be read: Is a directory"):
        TomlSource.read(tmp_path)
