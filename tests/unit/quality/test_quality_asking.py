import asyncio
import json
from types import SimpleNamespace

import pytest

from core.domain.runs import ExternalScore
from core.domain.specs import Dialect, Endpoint
from core.errors import EngineError, EngineNotInstalled
from core.quality import asking

RESULTS = {
    "results": {
        "gsm8k": {
            "alias": "gsm8k",
            "exact_match,strict-match": 0.25,
            "exact_match_stderr,strict-match": 0.05,
            "exact_match,none": 0.3,
            "exact_match_stderr,none": "N/A",
        }
    },
    "n-samples": {"gsm8k": {"original": 1319, "effective": 20}},
}
ENDPOINT = Endpoint(url="http://host:1/v1", model="toy", dialect=Dialect.LMDEPLOY, api_key="secret")
STAND_IN = """
import json, os, sys
from pathlib import Path
words = [word for word in sys.argv[1:] if word != "--apply_chat_template"]
options = dict(zip(words[::2], words[1::2]))
if options["--tasks"] == "broken":
    sys.exit("no such task")
assert os.environ["OPENAI_API_KEY"] == "secret" and "secret" not in " ".join(sys.argv)
assert options["--model_args"] == "model=toy,base_url=http://host:1/v1/chat/completions,num_concurrent=1"
out = Path(options["--output_path"], "toy")
out.mkdir()
results = json.loads(%r)
results["n-samples"]["gsm8k"]["effective"] = int(options["--limit"])
(out / "results_2026.json").write_text(json.dumps(results))
"""


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """A program that stands in for lm-evaluation-harness."""
    (tmp_path / "lm_eval.py").write_text(STAND_IN % json.dumps(RESULTS))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(asking, "find_spec", lambda _name: SimpleNamespace())


def test_its_results_are_read_with_errors_and_counts():
    assert asking.read_results(json.dumps(RESULTS).encode()) == (
        ExternalScore(
            program=asking.PROGRAM,
            task="gsm8k",
            metric="exact_match (strict-match)",
            value=0.25,
            standard_error=0.05,
            n=20,
        ),
        ExternalScore(program=asking.PROGRAM, task="gsm8k", metric="exact_match", value=0.3, n=20),
    )


@pytest.mark.parametrize("content", [b"", b"[]", b'{"results": 3}', b'{"results": {"a": 1}}'])
def test_a_file_that_is_no_result_is_refused(content):
    with pytest.raises(EngineError):
        asking.read_results(content)


def test_it_runs_against_the_lanes_server(installed):
    found = asyncio.run(asking.evaluate(ENDPOINT, ["gsm8k"], 7))
    assert [score.n for score in found] == [7, 7]


def test_its_failure_is_told_with_the_end_of_its_log(installed):
    with pytest.raises(EngineError, match="no such task"):
        asyncio.run(asking.evaluate(ENDPOINT, ["broken"], 7))


def test_a_missing_program_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr(asking, "find_spec", lambda _name: None)
    with pytest.raises(EngineNotInstalled, match="isn't installed"):
        asking.require_installed()
