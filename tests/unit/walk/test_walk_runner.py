import asyncio
import sys
from dataclasses import replace

import pytest

from core.config import load_lanes
from core.doctor.fitness import Diagnosis
from core.domain.specs import Dialect, Endpoint, EngineKind
from core.domain.walk import STATE_NAMES, STEP_TEXTS, Answer, Figure, StepKind, StepState, Unit, WalkRun
from core.errors import ConfigError, EngineError, InputError
from core.reports.html import walk_html
from core.settings import load_settings
from core.walk.job import Walk, latest, load, save, summary, walk_plan
from core.walk.steps import AWQ_RATIO, Notes, Walker, run_client


class NoGpu:
    def devices(self):
        return ()

    def driver_version(self):
        return None


class FakeWalker:
    """Takes each step in no time; `broken` fails."""

    def __init__(self, broken=None):
        self.broken = broken
        self.taken = []

    def __getattr__(self, name):
        async def step(*arguments):
            notes = arguments[-1]
            self.taken.append(name)
            notes.seconds("end to end", 0.25)
            if name == self.broken:
                raise EngineError("It broke.", hint="Mend it.", code="broken")
            notes.answers.append(Answer(who="hf", prompt="Hi", text="<b>Hello</b>"))

        return step


@pytest.fixture
def settings(tmp_path):
    return replace(load_settings({"LMDYNO_HOME": str(tmp_path)}), lanes_file=tmp_path / "none")


def walked(settings, walker, monkeypatch):
    monkeypatch.setattr("core.walk.job.can_run", lambda lane, *, gpu: None)
    plan = walk_plan(load_lanes(settings, gpu=False), None, gpu=False)
    seen = []
    walk = Walk(plan, walker=walker, nvml=NoGpu(), run=WalkRun(model=plan.model.name))
    return walk.take(seen.append, lambda stage, share: None), seen


def test_every_step_is_described():
    assert set(STEP_TEXTS) == set(StepKind)
    assert set(STATE_NAMES) == set(StepState)


def test_a_cpu_takes_the_steps_that_apply_in_the_tutorials_order(settings, monkeypatch):
    run, seen = walked(settings, FakeWalker(), monkeypatch)
    assert [step.kind for step in run.steps] == list(StepKind)
    states = {step.kind: step.state for step in run.steps}
    done = {kind for kind, state in states.items() if state is StepState.DONE}
    assert done == {
        StepKind.ENVIRONMENT,
        StepKind.TRANSFORMERS,
        StepKind.SERVER,
        StepKind.IMAGE,
        StepKind.PUBLISH,
    }
    assert all(step.reason for step in run.steps if step.state is StepState.SKIPPED)
    assert [len(each.steps) for each in seen] == list(range(1, 11))


def test_a_failed_step_is_its_own_result_and_keeps_its_figures(settings, monkeypatch):
    run, _seen = walked(settings, FakeWalker(broken="server"), monkeypatch)
    (failed,) = [step for step in run.steps if step.state is StepState.FAILED]
    assert (failed.kind, failed.error.code) == (StepKind.SERVER, "broken")
    assert failed.figures == (Figure(label="end to end", value=0.25, unit=Unit.SECONDS),)
    assert run.steps[-1].state is StepState.DONE
    assert run.failed == 1
    assert summary(run) == "4 steps done, 5 skipped, 1 failed"


def test_a_walk_is_kept_and_found_again(settings, monkeypatch):
    run, _seen = walked(settings, FakeWalker(), monkeypatch)
    save(settings, run)
    assert load(settings, run.id) == run
    assert latest(settings) == [run]
    with pytest.raises(InputError):
        load(settings, "../elsewhere")


def test_a_report_has_every_step_and_escapes_what_models_wrote(settings, monkeypatch):
    run, _seen = walked(settings, FakeWalker(broken="image"), monkeypatch)
    page = walk_html(run)
    for number, kind in enumerate(StepKind, start=1):
        assert f"{number}. {STEP_TEXTS[kind].title}" in page
    assert "&lt;b&gt;Hello" in page
    assert "<b>Hello" not in page
    assert "It broke." in page
    assert "src=" not in page


def test_figures_of_unknown_value_are_a_dash():
    assert [Figure(label="x", value=None, unit=unit).text for unit in Unit] == ["–"] * len(Unit)


def test_a_gpu_walk_adds_the_lanes_that_the_registry_lacks(settings):
    settings.lanes_file.write_text(
        '[models.tiny]\ncheckpoint = "/models/tiny"\nawq = "/models/tiny-awq"\n'
        '[lanes.base]\nengine = "transformers"\nmodel = "tiny"\n'
    )
    plan = walk_plan(load_lanes(settings, gpu=True), "tiny", gpu=True)
    assert plan.transformers.name == "base"
    assert plan.turbomind.kind is EngineKind.TURBOMIND
    assert plan.awq.settings.cache_max_entry_count == AWQ_RATIO
    assert plan.vision is None
    with pytest.raises(ConfigError):
        walk_plan(load_lanes(settings, gpu=True), "nobody", gpu=True)


def test_a_client_that_fails_says_what_it_printed(tmp_path, monkeypatch):
    program = tmp_path / "client.py"
    program.write_text("import sys; sys.exit('no such server')")
    monkeypatch.setattr("core.walk.steps._CLIENT", program)
    endpoint = Endpoint(url="http://127.0.0.1:9/v1", model="m", dialect=Dialect.GENERIC)
    with pytest.raises(EngineError) as caught:
        asyncio.run(run_client(sys.executable, endpoint, ["Hi"]))
    assert caught.value.code == "program-failed"
    assert "no such server" in caught.value.hint


NODES_FILE = """
[cluster]
address = "auto"
[models.tiny]
checkpoint = "/models/tiny"
[models.big]
checkpoint = "/models/big"
[lanes.anywhere]
engine = "transformers"
model = "tiny"
[lanes.on-beta]
engine = "transformers"
model = "tiny"
node = "beta"
[lanes.on-alpha]
engine = "turbomind"
model = "tiny"
node = "alpha"
[lanes.big]
engine = "turbomind"
model = "big"
node = "alpha"
"""


@pytest.mark.parametrize(
    ("node", "transformers", "turbomind", "left_out"),
    [
        (None, "anywhere", None, ["on-beta", "on-alpha"]),
        ("beta", "on-beta", None, ["on-alpha"]),
        ("alpha", "anywhere", "on-alpha", ["on-beta"]),
    ],
)
def test_a_walk_uses_its_machines_lanes_and_names_those_of_others(
    settings, node, transformers, turbomind, left_out
):
    settings.lanes_file.write_text(NODES_FILE)
    plan = walk_plan(load_lanes(settings, gpu=False), "tiny", gpu=False, node=node)
    assert plan.transformers.name == transformers
    assert (plan.turbomind and plan.turbomind.name) == turbomind
    assert [lane.name for lane in plan.left_out] == left_out
    # The steps take every lane of the plan for one of their own machine.
    assert {lane.node for lane in plan.lanes} == {None}


def test_a_walk_without_a_lane_of_its_machine_names_the_nodes(settings):
    settings.lanes_file.write_text(
        '[cluster]\naddress = "auto"\n[models.tiny]\ncheckpoint = "/models/tiny"\n'
        '[lanes.fast]\nengine = "turbomind"\nmodel = "tiny"\nnode = "gpu-1"\n'
    )
    registry = load_lanes(settings, gpu=False)
    with pytest.raises(InputError, match=r"fast \(gpu-1\)"):
        walk_plan(registry, None, gpu=False)
    assert walk_plan(registry, None, gpu=False, node="gpu-1").turbomind.name == "fast"


def test_the_first_step_says_which_lanes_were_left_out(settings, monkeypatch):
    settings.lanes_file.write_text(NODES_FILE)
    registry = load_lanes(settings, gpu=False)
    plan = walk_plan(registry, "tiny", gpu=False)
    monkeypatch.setattr(
        "core.walk.steps.examine", lambda *_, **__: Diagnosis(findings=(), lanes=(), machine=None)
    )
    notes = Notes()
    walker = Walker(settings, registry, plan, nvml=NoGpu(), tell=lambda text: None)
    asyncio.run(walker.environment(notes))
    assert notes.notes == [
        "Lanes of other nodes were left out: on-beta (beta), on-alpha (alpha). "
        "To include them, start the walk on their node."
    ]


def test_a_report_names_the_node():
    page = walk_html(WalkRun(model="tiny", node="gpu-1"))
    assert "Walk with tiny on node gpu-1" in page
