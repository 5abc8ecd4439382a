"""The tutorial's steps on a CPU, with a real engine and without images, from the start to the report."""

from dataclasses import replace

import pytest

from core.config import demo_model
from core.domain.runs import RunKind, RunState
from core.domain.walk import StepKind, StepState
from core.models.demo_models import is_text_prepared
from core.reports.html import walk_html
from core.settings import load_settings
from core.store.history import History
from core.walk.job import take_walk

SETTINGS = load_settings()


@pytest.mark.skipif(not is_text_prepared(SETTINGS), reason="`lmdyno models demo` has not run")
def test_a_walk_takes_the_steps_that_a_cpu_can_take(tmp_path, monkeypatch):
    monkeypatch.setattr("core.telemetry.nvml.Nvml.devices", lambda _nvml: ())
    lanes_file = tmp_path / "lanes.toml"
    lanes_file.write_text(
        f'[models.demo]\ncheckpoint = "{demo_model(SETTINGS).checkpoint}"\n'
        '[lanes.hf]\nengine = "transformers"\nmodel = "demo"\ndevice = "cpu"\n',
        "utf-8",
    )
    database_url = f"sqlite:///{tmp_path}/lmdyno.db"
    settings = replace(SETTINGS, home=tmp_path, lanes_file=lanes_file, database_url=database_url)
    shares = []

    walk = take_walk(settings, None, "walk1", lambda _words, share: shares.append(share))

    steps = {step.kind: step for step in walk.steps}
    done = {kind for kind, step in steps.items() if step.state is StepState.DONE}
    assert done == {StepKind.ENVIRONMENT, StepKind.TRANSFORMERS, StepKind.SERVER, StepKind.PUBLISH}
    assert all(step.reason for step in walk.steps if step.state is StepState.SKIPPED)
    assert shares == sorted(shares)
    for kind in (StepKind.TRANSFORMERS, StepKind.SERVER):
        assert all(figure.value is not None and figure.value > 0 for figure in steps[kind].figures)
        assert any("Tokyo" in answer.text for answer in steps[kind].answers), steps[kind].answers
    assert "Tokyo" in walk_html(walk)
    history = History(database_url)
    try:
        (entry,) = history.find(["walk1"])
    finally:
        history.close()
    assert (entry.kind, entry.state) == (RunKind.WALK, RunState.DONE)
