"""transformers on the CPU with the demo weights: 16 bits against the 4-bit file and a damaged copy."""

import shutil
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from core.config import demo_model
from core.domain.runs import RunState, ScoringMethod
from core.domain.specs import EngineKind, EngineSettings, LaneSpec, Weights
from core.models.demo_models import is_text_prepared
from core.quality.job import conduct
from core.quality.plan import OWN_ANSWERS, PROMPTS, PYTHON_DOCS, QualityPlan
from core.quality.results import results
from core.quality.verdict import Level, verdicts
from core.settings import load_settings
from core.store.runs import QualityRuns

pytestmark = pytest.mark.timeout(1500)

SETTINGS = load_settings()
HF = LaneSpec(
    name="hf",
    kind=EngineKind.TRANSFORMERS,
    model=demo_model(SETTINGS),
    settings=EngineSettings(dtype="bfloat16", device="cpu"),
)
HF_Q4 = replace(HF, name="hf-q4", weights=Weights.GGUF, settings=EngineSettings(device="cpu"))


def damaged(folder: Path) -> LaneSpec:
    """A copy of the checkpoint with one weight scaled."""
    from safetensors.torch import load_file, save_file

    source = Path(HF.model.checkpoint)
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("gguf", "*.safetensors"))
    weights = load_file(source / "model.safetensors")
    weights["model.layers.15.mlp.down_proj.weight"] *= 3
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return replace(HF, name="damaged", model=replace(HF.model, name="damaged", checkpoint=str(folder)))


@pytest.mark.skipif(not is_text_prepared(SETTINGS), reason="`lmdyno models demo` has not run")
def test_four_bits_cost_little_and_a_scaled_weight_costs_much(tmp_path):
    home = replace(
        SETTINGS, home=tmp_path / "home", database_url=f"sqlite:///{tmp_path / 'home' / 'lmdyno.db'}"
    )
    plan = QualityPlan(
        lanes=(HF, HF_Q4, damaged(tmp_path / "damaged")),
        reference="hf",
        prompts=PROMPTS[:2],
        texts=(OWN_ANSWERS, PYTHON_DOCS),
        answer_tokens=12,
        text_tokens=256,
        window_tokens=128,
    )
    run = conduct(home, plan, lambda *_: None)
    assert run.state is RunState.DONE
    with closing(QualityRuns(home.database_url)) as runs:
        result = results(runs.record(run.id))
    by_name = {lane.name: lane for lane in result.lanes}
    assert result.noise.identical == 2
    docs = {name: lane.text(PYTHON_DOCS.name) for name, lane in by_name.items()}
    assert all(text.method is ScoringMethod.FORWARD_PASS for text in docs.values())
    assert by_name["hf-q4"].same_tokenizer
    assert by_name["hf-q4"].same_template
    assert abs(docs["hf-q4"].difference.value) < 0.05
    assert docs["hf-q4"].top1_ratio > 0.9
    assert docs["damaged"].difference.value > 0.1
    assert docs["damaged"].kl_nats_per_token > 10 * docs["hf-q4"].kl_nats_per_token
    levels = {verdict.lane: verdict.level for verdict in verdicts(result)}
    assert levels["damaged"] is Level.WORSE
