"""`bench` and `runs` from end to end, against a scripted server."""

import json
from pathlib import Path

import pytest
import typer
from PIL import Image

from core.cli import bench as bench_command
from core.cli import runs
from core.config import LaneRegistry
from core.domain.specs import EngineKind, LaneSpec, ModelSpec
from core.errors import InputError
from core.settings import PROJECT_ROOT, Settings
from tests.scripted_server import running
from tests.vision_checkpoints import TEXT_ONLY, write_checkpoint

CAT = PROJECT_ROOT / "assets" / "gallery" / "cat.jpg"


@pytest.fixture
def server():
    with running() as server:
        yield server


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Runs a command line; returns its exit code."""
    home = tmp_path / "home"
    settings = Settings(
        home=home, lanes_file=home / "lanes.toml", database_url=f"sqlite:///{home / 'lmdyno.db'}"
    )
    registry = LaneRegistry(models=(), lanes=(), source=None)
    monkeypatch.setattr(bench_command.context, "load", lambda: (settings, registry))
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(bench_command.bench)
    app.add_typer(runs.app, name="runs")

    def call(*arguments: str) -> int:
        return app(list(arguments), standalone_mode=False) or 0

    return call


def scenario(**fields: object) -> str:
    return json.dumps({"chunks": 5, "interval_s": 0.01} | fields)


def bench(server, *more: str, **fields: object) -> list[str]:
    words = ["--output-tokens", "99", "--prompt-tokens", "8", "--warmup", "1"]
    return ["bench", "--endpoint", server.url, "--model", scenario(**fields), *words, *more]


def test_a_load_test_prints_a_table_and_writes_its_files(run, server, tmp_path, capsys):
    page, document = tmp_path / "r.html", tmp_path / "r.json"
    arguments = ["--concurrency", "1,2", "--requests", "4", "--html", str(page), "--json", str(document)]
    assert run(*bench(server, *arguments)) == 0
    shown = capsys.readouterr().out
    assert "endpoint-1" in shown
    assert "TTFT" in shown
    found = json.loads(document.read_text("utf-8"))
    assert [point["concurrency"] for point in found["points"]] == [1, 2]
    assert [point["requests"]["ok"] for point in found["points"]] == [4, 4]
    assert found["raw"] is None
    text = page.read_text("utf-8")
    assert "Plotly.newPlot" in text
    assert "src=" not in text.split("<body>")[1]


def test_json_on_stdout_is_nothing_but_json(run, server, capsysbinary):
    assert run(*bench(server, "--requests", "2", "--json", "-", "--raw")) == 0
    found = json.loads(capsysbinary.readouterr().out)
    assert len(found["raw"]["requests"]) == 3
    assert found["raw"]["requests"][2]["timing"]["chunk_ns"]


@pytest.fixture
def scene(tmp_path):
    file = tmp_path / "scene.png"
    Image.new("RGB", (60, 40), "red").save(file)
    return file


def images_sent(server) -> list[str]:
    """The data URL in each request, behind which the text comes."""
    contents = [seen.body["messages"][-1]["content"] for seen in server.seen]
    assert all([part["type"] for part in content] == ["image_url", "text"] for content in contents)
    return [content[0]["image_url"]["url"] for content in contents]


def test_every_request_carries_an_image_that_no_other_has(run, server, scene, capsys, tmp_path):
    # At an endpoint two requests without images count first how long words are.
    document = tmp_path / "r.json"
    more = ["--prompts", "examples", "--image", str(scene), "--image", str(CAT), "--json", str(document)]
    assert run(*bench(server, "--requests", "6", "--concurrency", "2", *more)) == 0
    urls = images_sent(server)
    assert len(urls) == len(set(urls)) == 7  # with the warm-up
    assert {url.partition(",")[0] for url in urls} == {"data:image/jpeg;base64"}
    shown = " ".join(capsys.readouterr().out.split())
    assert "one of 2 images with each request" in shown
    assert "TTFT includes sending it" in shown
    found = json.loads(document.read_text("utf-8"))
    assert (found["points"][0]["images_per_request"], found["points"][0]["requests"]["ok"]) == (1, 6)
    assert [image["name"] for image in found["plan"]["workload"]["images"]] == ["scene.png", "cat.jpg"]
    assert "example" in found["environment"]["lanes"][0]["prompts"]


def test_the_same_images_and_made_up_prompts(run, server, scene):
    preset = ["--same-images", "--image", str(scene), "--requests", "3", "--rate", "20"]
    assert run(*bench(server, *preset)) == 0
    del server.seen[:2]
    urls = images_sent(server)
    assert (len(urls), len(set(urls))) == (4, 1)
    assert urls[0].startswith("data:image/png;base64,")
    assert len({seen.body["messages"][0]["content"][1]["text"] for seen in server.seen}) == 4


@pytest.mark.parametrize(
    ("name", "content", "word"), [("x.png", b"", "empty"), ("x.svg", b"<svg />", "SVG"), ("x", None, "read")]
)
def test_a_bad_image_ends_it_before_anything_is_sent(run, server, scene, tmp_path, name, content, word):
    bad = tmp_path / name
    if content is not None:
        bad.write_bytes(content)
    with pytest.raises(InputError, match=word):
        run(*bench(server, "--image", str(scene), "--image", str(bad)))
    assert server.seen == []


def test_too_many_images_are_refused(run, server, scene):
    with pytest.raises(InputError, match=r"Too many images \(65\)"):
        run(*bench(server, *["--image", str(scene)] * 65))


def test_a_lane_that_takes_no_images_is_refused_before_anything_starts(
    run, server, scene, tmp_path, monkeypatch
):
    model = ModelSpec(name="words", checkpoint=write_checkpoint(tmp_path / "words", TEXT_ONLY))
    words = LaneSpec(name="words", kind=EngineKind.TRANSFORMERS, model=model)
    registry = LaneRegistry(models=(model,), lanes=(words,), source=None)
    settings = bench_command.context.load()[0]
    monkeypatch.setattr(bench_command.context, "load", lambda: (settings, registry))
    with pytest.raises(InputError, match="words: words is a text-only model") as caught:
        run(*bench(server, "--lane", "words", "--image", str(scene)))
    assert caught.value.code == "text-only"
    assert server.seen == []


def test_any_failed_request_makes_the_exit_code_1(run, server, capsys):
    assert run(*bench(server, "--requests", "2", "--goodput", "chat", cut_after=2)) == 1
    assert "2 requests failed with connection-lost" in capsys.readouterr().out


def test_an_open_loop_and_a_sweep(run, server, capsysbinary):
    assert run(*bench(server, "--rate", "20", "--requests", "5", "--poisson", "--json", "-")) == 0
    found = json.loads(capsysbinary.readouterr().out)
    assert (found["points"][0]["rate"], found["points"][0]["requests"]["ok"]) == (20, 5)
    assert found["plan"]["load"]["arrivals"] == "poisson"
    assert run(*bench(server, "--sweep", "2", "--requests", "2", "--json", "-")) == 0
    assert json.loads(capsysbinary.readouterr().out)["plan"]["load"]["kind"] == "sweep"


@pytest.mark.parametrize(
    "arguments",
    [
        ["bench"],
        ["bench", "--endpoint", "http://x/v1", "--model", "a", "--model", "b"],
        ["bench", "--endpoint", "x:8000"],
        ["bench", "--endpoint", "http://x/v1", "--concurrency", "many"],
        ["bench", "--endpoint", "http://x/v1", "--concurrency", "1.5"],
        ["bench", "--endpoint", "http://x/v1", "--goodput", "fast"],
        ["bench", "--endpoint", "http://x/v1", "--together"],
        ["bench", "--endpoint", "http://x/v1", "--together", "--stop-others"],
        ["bench", "--endpoint", "http://x/v1", "--prompts", "/nowhere/p.txt"],
        ["runs", "show", "nobody"],
        ["runs", "import", "/nowhere/r.json"],
    ],
)
def test_wrong_usage_is_told(run, arguments):
    with pytest.raises(InputError):
        run(*arguments)


def test_runs_are_listed_shown_compared_and_carried_to_another_home(run, server, tmp_path, capsysbinary):
    for title, interval_s in (("slow", 0.02), ("fast", 0.01)):
        assert run(*bench(server, "--requests", "3", "--title", title, interval_s=interval_s)) == 0
    capsysbinary.readouterr()

    def printed(*arguments: str) -> bytes:
        assert run("runs", *arguments) == 0
        return capsysbinary.readouterr().out

    listed = json.loads(printed("list", "--json", "--kind", "bench"))
    assert [entry["title"] for entry in listed] == ["fast", "slow"]
    fast, slow = (entry["id"] for entry in listed)
    assert b"slow" in printed("list")
    assert json.loads(printed("list", "--json", "--text", "SLO"))[0]["id"] == slow

    shown = json.loads(printed("show", slow, "--json"))
    assert shown["points"][0]["tpot_s"]["p50"] == pytest.approx(0.02, rel=0.3)
    assert json.loads(printed("show", slow, "--definition", "vllm", "--json"))["definition"] == "vllm"
    assert b"endpoint-1" in printed("show", slow)

    compared = json.loads(printed("compare", slow, fast, "--baseline", fast, "--json"))
    assert compared["baseline"] == fast
    assert len(compared["points"]) == 1
    assert b"baseline" in printed("compare", slow, fast)

    exported = tmp_path / "slow.json"
    printed("export", slow, "--out", str(exported))
    assert printed("export", slow, "--format", "csv").startswith(b"run_id,lane")
    assert b"PAR1" in printed("export", slow, "--format", "parquet")
    document = json.loads(exported.read_text("utf-8")) | {
        "id": "elsewhere",
        "note": "from the lab",
        "tag": "t",
    }
    exported.write_text(json.dumps(document), "utf-8")
    assert b"Imported elsewhere" in printed("import", str(exported))
    again = json.loads(printed("show", "elsewhere", "--json"))
    assert again["points"] == shown["points"]
    assert again["note"] == "from the lab"


def test_a_run_is_imported_once(run, server, tmp_path):
    file = tmp_path / "r.json"
    assert run(*bench(server, "--requests", "1", "--json", str(file), "--raw")) == 0
    with pytest.raises(Exception, match="already exists"):
        run("runs", "import", str(file))
