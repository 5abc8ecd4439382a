"""The child processes of scoring: their arithmetic, their requests, and how they fail."""

import asyncio
import json
import math
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from core.domain.specs import EngineKind, EngineSettings, Weights
from core.errors import EngineError, EngineOutOfMemory
from core.quality import engine_child, scoring
from core.quality.scoring import Scored, TextIds, by_forward_pass, engine_request
from tests.unit.quality import quality_samples as samples

IDS = [3, 1, 4, 1, 5]


def scored(logits: torch.Tensor, given: int = 1, **request) -> dict:
    reference = engine_child._Reference(request)
    found = reference.add("0/0", logits, IDS, given)
    reference.close()
    return found


def test_the_likelihood_is_that_of_the_next_tokens():
    uniform = torch.zeros(5, 10)
    assert scored(uniform)["nll_nats"] == pytest.approx(4 * math.log(10))
    assert scored(uniform, given=3) == pytest.approx({"tokens": 2, "nll_nats": 2 * math.log(10)})
    sure = torch.full((5, 10), -50.0)
    for place, token in enumerate(IDS[1:]):
        sure[place, token] = 50.0
    assert scored(sure)["nll_nats"] == pytest.approx(0, abs=1e-6)


def test_the_reference_agrees_with_itself_and_others_are_held_against_it(tmp_path):
    file = str(tmp_path / "reference.npz")
    torch.manual_seed(1)
    logits = torch.randn(5, 600) * 3
    own = scored(logits, write_reference=file)
    assert (own["top1_matches"], own["kl_nats"]) == (4, 0.0)
    same = scored(logits, read_reference=file)
    assert same["top1_matches"] == 4
    assert same["kl_nats"] == pytest.approx(0, abs=1e-5)
    other = torch.randn(5, 600) * 3
    found = scored(other, read_reference=file)
    log_p, log_q = (torch.log_softmax(each[:4].double(), -1) for each in (logits, other))
    exact = float((log_p.exp() * (log_p - log_q)).sum())
    assert found["top1_matches"] == 0
    # Over the 256 most likely tokens and the rest as one: a lower bound, and near.
    assert 0.97 * exact < found["kl_nats"] <= exact + 1e-6


def test_positions_that_the_reference_did_not_score_have_no_divergence(tmp_path):
    file = str(tmp_path / "reference.npz")
    scored(torch.zeros(5, 10), write_reference=file)
    reference = engine_child._Reference({"read_reference": file})
    assert "kl_nats" not in reference.add("9/9", torch.zeros(5, 10), IDS, 1)


def test_the_request_loads_what_the_lane_serves():
    hf = engine_request(samples.HF, "cuda:0", longest=100)
    assert (hf["engine"], hf["path"], hf["dtype"]) == ("transformers", "/models/smol", "float16")
    model = replace(samples.MODEL, gguf="/models/gguf/smol.gguf")
    packed = replace(samples.HF, model=model, weights=Weights.GGUF)
    found = engine_request(packed, "cpu", longest=100)
    assert (found["path"], found["gguf_file"]) == ("/models/gguf", "smol.gguf")
    awq = engine_request(
        replace(samples.AWQ, settings=EngineSettings(quant_policy=8, session_len=64)), "cuda:0", longest=100
    )
    assert awq["engine"] == "lmdeploy-turbomind"
    config = awq["engine_config"]
    assert (config["model_format"], config["quant_policy"], config["session_len"]) == ("awq", 8, 101)
    pytorch = replace(samples.TURBOMIND, kind=EngineKind.PYTORCH)
    assert engine_request(pytorch, "cuda:0", longest=10)["engine"] == "lmdeploy-pytorch"


TEXT = TextIds(name="book", sequences=(Scored((1, 2, 3)), Scored((1, 2, 3, 4), context_tokens=2)))


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """Puts a program in the place of the scoring process; it gets the files of the request and the result."""

    def use(program: str) -> None:
        script = tmp_path / "python"
        script.write_text(
            f"#!{sys.executable}\nimport json, sys\nrequest, result = sys.argv[3:5]\n{program}\n"
        )
        script.chmod(0o755)
        monkeypatch.setattr(scoring, "python_of", lambda _lane: str(script))

    return use


def score(progress=None):
    told = progress if progress is not None else []
    return asyncio.run(by_forward_pass(samples.HF, "cpu", [TEXT], told.append))


def test_scores_and_progress_come_from_the_process(stand_in):
    stand_in(
        "asked = json.load(open(request))\n"
        "print('@progress 0.5', flush=True)\n"
        "print('something else')\n"
        "rows = [{'tokens': len(ids) - given, 'nll_nats': 1.5} for ids, given in asked['texts'][0]]\n"
        "json.dump({'texts': [rows]}, open(result, 'w'))"
    )
    told = []
    (found,) = score(told)
    assert [sequence.tokens for sequence in found.sequences] == [2, 2]
    assert found.nats_per_token == pytest.approx(0.75)
    assert found.sha256 == TEXT.sha256
    assert told == [0.5]


def test_weights_that_do_not_fit_are_an_error_of_their_own(stand_in):
    stand_in("json.dump({'error': 'out-of-memory', 'reason': 'CUDA out of memory'}, open(result, 'w'))")
    with pytest.raises(EngineOutOfMemory):
        score()


def test_a_process_that_fails_says_why(stand_in):
    stand_in("json.dump({'error': 'scoring-failed', 'reason': 'KeyError: x'}, open(result, 'w'))")
    with pytest.raises(EngineError, match="KeyError: x"):
        score()
    stand_in("sys.exit(3)")
    with pytest.raises(EngineError, match="code 3"):
        score()


def test_an_interpreter_that_is_not_there_says_so(monkeypatch):
    monkeypatch.setattr(scoring, "python_of", lambda _lane: "/no/such/python")
    with pytest.raises(EngineError, match="/no/such/python"):
        score()


def test_a_failure_leaves_its_reason_for_the_asker(tmp_path, monkeypatch):
    def broken(_request):
        raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setitem(engine_child._ENGINES, "transformers", broken)
    request, result = tmp_path / "request.json", tmp_path / "result.json"
    request.write_text(json.dumps({"engine": "transformers", "texts": []}))
    with pytest.raises(RuntimeError):
        engine_child.score([str(request), str(result)])
    assert json.loads(result.read_text())["error"] == "out-of-memory"


def test_every_sequence_is_scored_in_order(tmp_path, monkeypatch, capsys):
    asked = []

    def logits(ids):
        asked.append(ids)
        return torch.zeros(len(ids), 10)

    engine = SimpleNamespace(logits=logits, close=lambda: asked.append("closed"), versions=dict)
    monkeypatch.setitem(engine_child._ENGINES, "transformers", lambda _request: engine)
    request, result = tmp_path / "request.json", tmp_path / "result.json"
    texts = [[[[1, 2, 3], 1], [[4, 5], 1]], [[[6, 7, 8], 2]]]
    request.write_text(json.dumps({"engine": "transformers", "texts": texts}))
    assert engine_child.score([str(request), str(result)]) == 0
    found = json.loads(result.read_text())["texts"]
    assert [[row["tokens"] for row in text] for text in found] == [[2, 1], [1]]
    assert asked == [[1, 2, 3], [4, 5], [6, 7, 8], "closed"]
    assert capsys.readouterr().out.splitlines()[-1] == "@progress 1.0"
