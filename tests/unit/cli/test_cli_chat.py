"""`chat` from end to end against a scripted server, with and without images."""

import base64
import json
import sys

import pytest
from PIL import Image

from core import __main__ as program
from core.engines.manager import EngineManager
from core.meter import turns
from core.settings import load_settings
from core.store.turns import Store
from tests.scripted_server import running
from tests.vision_checkpoints import LLAVA, LLAVA_FILES, TEXT_ONLY, write_checkpoint

MODEL = json.dumps({"text": "It is red."})


@pytest.fixture
def server():
    with running() as server:
        yield server


@pytest.fixture
def run(monkeypatch, tmp_path, capsys):
    """Runs `lmdyno chat …`; returns its exit code and what it printed."""
    monkeypatch.setenv("LMDYNO_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("LMDYNO_DATABASE_URL", raising=False)
    text, llava = tmp_path / "text", tmp_path / "llava"
    write_checkpoint(text, TEXT_ONLY)
    write_checkpoint(llava, LLAVA, LLAVA_FILES)
    lanes = tmp_path / "lanes.toml"
    lanes.write_text(
        f'[models.words]\ncheckpoint = "{text}"\n[models.llava]\ncheckpoint = "{llava}"\n'
        '[lanes.words]\nengine = "transformers"\nmodel = "words"\n'
        '[lanes.llava-tm]\nengine = "turbomind"\nmodel = "llava"\n'
    )
    monkeypatch.setenv("LMDYNO_LANES", str(lanes))

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["core", "chat", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            program.main()
        printed = capsys.readouterr()
        return ended.value.code, printed.out, printed.err

    return call


@pytest.fixture
def red(tmp_path):
    file = tmp_path / "red.png"
    Image.new("RGB", (60, 40), "red").save(file)
    return file


def remote(server, *more):
    return ["--endpoint", server.url, "--model", MODEL, *more]


def test_an_image_reaches_the_server_and_the_store(run, server, red):
    code, out, _ = run("What colour?", *remote(server), "--image", red, "--image", red, "--json")
    assert code == 0
    told = json.loads(out)
    (lane,) = told["lanes"]
    assert (lane["text"], lane["error"], lane["prompt_tokens"]) == ("It is red.", None, 7)
    one, two = told["images"]
    assert one == two
    assert (one["name"], one["width_px"], one["height_px"]) == ("red.png", 60, 40)
    assert one["lanes"] == {"endpoint-1": None}

    first, second, text = server.seen[0].body["messages"][0]["content"]
    assert first == second
    assert text == {"type": "text", "text": "What colour?"}
    head, _, data = first["image_url"]["url"].partition(",")
    assert head == "data:image/png;base64"
    assert base64.b64decode(data).startswith(b"\x89PNG")

    store = Store(load_settings().database_url)
    turn = store.turn(told["turn_id"])
    store.close()
    assert [image.sha256 for image in turn.images] == [one["sha256"]] * 2
    assert turn.requests[0].image_count == 2


def test_without_images_none_are_told(run, server):
    code, out, _ = run("Hi", *remote(server), "--json")
    assert (code, json.loads(out)["images"]) == (0, [])
    assert server.seen[0].body["messages"] == [{"role": "user", "content": "Hi"}]


@pytest.mark.parametrize(
    ("lane", "code", "word"),
    [("words", "text-only", "text-only"), ("llava-tm", "engine-without-vision", "TurboMind")],
)
def test_a_lane_that_takes_no_images_is_refused_and_the_others_answer(
    run, server, red, monkeypatch, lane, code, word
):
    monkeypatch.setattr(EngineManager, "ensure", lambda manager, name: pytest.fail(f"{name} was started"))
    returned, out, _ = run("What?", "--lane", lane, *remote(server), "--image", red, "--json")
    refused, answered = json.loads(out)["lanes"]
    assert returned == 1
    assert refused["error"]["code"] == code
    assert word in refused["error"]["message"]
    assert refused["error"]["hint"]
    assert (answered["text"], answered["error"]) == ("It is red.", None)


def test_what_the_model_sees_is_told_before_it_is_asked(run, red, monkeypatch):
    monkeypatch.setattr(EngineManager, "ensure", lambda manager, name: pytest.fail(f"{name} was started"))
    code, out, err = run("What?", "--lane", "llava-tm", "--image", red)
    assert code == 1
    assert err.splitlines()[:2] == ["red.png: 60 × 40 px", "  llava-tm: 576 tokens at 336 × 336 px"]
    assert "doesn't support" in out


@pytest.mark.parametrize(
    ("name", "content", "word"),
    [
        ("x.png", b"", "empty"),
        ("x.svg", b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
        ("x", None, "read"),
    ],
)
def test_a_bad_image_ends_it_before_anything_is_sent(run, server, tmp_path, red, name, content, word):
    bad = tmp_path / name
    if content is not None:
        bad.write_bytes(content)
    code, _, err = run("What?", *remote(server), "--image", red, "--image", bad)
    assert code == 2
    assert word.lower() in err.lower()
    assert server.seen == []
    assert not any(path.is_file() for path in load_settings().images_dir.rglob("*"))


def test_more_images_than_a_turn_takes(run, server, red):
    code, _, err = run("What?", *remote(server), *["--image", red] * 9)
    assert code == 2
    assert "Too many images (9)" in err


@pytest.mark.parametrize("url", ["foo", "ftp://lab/v1", "http://me:hush@lab/v1"])
def test_an_endpoint_that_is_no_url_is_wrong_usage(run, url):
    code, _, err = run("Hi", "--endpoint", url)
    assert code == 2
    assert "--endpoint 1" in err
    assert "hush" not in err


def test_no_lane_at_all_is_wrong_usage(run):
    assert run("Hi")[0] == 2


HOSTILE = "[/INST] [red]x[/red] :smile: \x1b[31mred\x1b[0m \x07"


def test_foreign_text_is_printed_as_it_is_and_commands_no_terminal(run):
    with running() as server:
        code, out, _ = run(
            HOSTILE, "--endpoint", server.url, "--model", json.dumps({"text": HOSTILE, "chunks": 3})
        )
    assert code == 0
    assert "[/INST] [red]x[/red] :smile:" in out
    assert "\x1b" not in out
    assert "\x07" not in out


def test_a_servers_words_are_no_markup(run):
    with running() as server:
        failing = json.dumps({"status": 500, "error": "no [/INST] \x1b[31m here"})
        code, out, _ = run("Hi", "--endpoint", server.url, "--model", failing)
    assert code == 1
    assert "no [/INST]" in out
    assert "\x1b" not in out


def test_notes_and_reasoning_reach_the_terminal_and_the_document(run):
    scenario = json.dumps({"text": "hm so yes", "reasoning_chunks": 2, "usage": "none"})
    with running() as server:
        arguments = ("Hi", "--endpoint", server.url, "--model", scenario)
        _, out, _ = run(*arguments)
        _, document, _ = run(*arguments, "--json")
    assert "hm so" in out
    assert "no token counts" in out
    (lane,) = json.loads(document)["lanes"]
    assert (lane["reasoning"], lane["text"]) == ("hm so ", "yes")
    assert lane["reasoning_ttft_s"] is not None
    assert any("no token counts" in note for note in lane["notes"])


def test_a_stopped_chat_exits_with_130(run, monkeypatch):
    async def stopped(*arguments, **more):
        more["cancel"].set()
        return await run_turn(*arguments, **more)

    run_turn = turns.run_turn
    monkeypatch.setattr(turns, "run_turn", stopped)
    with running() as server:
        code, _, _ = run("Hi", "--endpoint", server.url, "--model", json.dumps({"hang": True}))
    assert code == 130


def test_a_key_goes_with_the_endpoint_that_it_is_given_for(run, monkeypatch):
    monkeypatch.setenv("LMDYNO_KEY_LAB", " sk-right\n")
    scenario = json.dumps({"text": "yes", "api_key": "sk-right"})
    with running() as server:
        arguments = ("Hi", "--endpoint", f" {server.url} ", "--model", scenario)
        assert run(*arguments)[0] == 1
        code, out, _ = run(*arguments, "--api-key", "LMDYNO_KEY_LAB")
        assert code == 0
        assert "sk-right" not in out
        code, _, err = run(*arguments, "--api-key", "PATH")
        assert code == 2
        assert "LMDYNO_KEY_" in err


def test_keys_that_do_not_match_the_endpoints(run):
    code, _, err = run(
        "Hi", "--endpoint", "http://a/v1", "--api-key", "LMDYNO_KEY_A", "--api-key", "LMDYNO_KEY_B"
    )
    assert code == 2
    assert "API keys (2)" in err


def test_a_hostile_prompt_makes_no_later_list_fail(run, monkeypatch, capsys):
    with running() as server:
        run(HOSTILE, "--endpoint", server.url, "--model", MODEL)
    monkeypatch.setattr(sys, "argv", ["core", "runs", "list"])
    with pytest.raises(SystemExit) as ended:
        program.main()
    assert ended.value.code == 0
    assert "[/INST]" in capsys.readouterr().out
