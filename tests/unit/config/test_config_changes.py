"""What the dashboard keeps of lanes, laid over the lanes file or the machine's own lanes."""

from dataclasses import replace
from pathlib import Path

import pytest

from core.config import changes_file, forget_lane, load_lanes, save_lane
from core.domain.specs import (
    FILE_ONLY_SETTINGS,
    SETTINGS_OF,
    Dialect,
    EndpointSpec,
    EngineKind,
    EngineSettings,
    LaneSpec,
    Weights,
)
from core.errors import ConfigError
from core.settings import load_settings


@pytest.fixture
def settings(tmp_path):
    return replace(load_settings({"LMDYNO_HOME": str(tmp_path)}), lanes_file=tmp_path / "lanes.toml")


LAB = LaneSpec(
    name="lab",
    kind=EngineKind.ENDPOINT,
    endpoint=EndpointSpec(
        url="http://lab:23333/v1",
        model='a "quoted" id',
        dialect=Dialect.LMDEPLOY,
        api_key_name="LAB_KEY",
        vision=False,
    ),
)


DEFAULT = ["hf", "hf-q4", "llava-hf"]


def names(settings):
    return [lane.name for lane in load_lanes(settings, gpu=False).lanes]


def test_an_added_endpoint_comes_after_the_lanes_there_are(settings):
    save_lane(settings, LAB)
    assert names(settings) == [*DEFAULT, "lab"]
    assert load_lanes(settings, gpu=False).lane("lab") == LAB


def test_a_changed_lane_keeps_its_place(settings):
    hf = load_lanes(settings, gpu=False).lane("hf")
    changed = replace(hf, settings=replace(hf.settings, continuous_batching=True, dtype="float32"))
    save_lane(settings, changed)
    assert names(settings) == DEFAULT
    assert load_lanes(settings, gpu=False).lane("hf") == changed


@pytest.mark.parametrize("kind", [EngineKind.TRANSFORMERS, EngineKind.TURBOMIND, EngineKind.AWQ])
def test_every_setting_of_a_kind_survives(settings, kind):
    every = {
        "device": "cuda",
        "devices": (0, 1, 2, 3, 4, 5),
        "dtype": "float16",
        "start_timeout_s": 90.0,
        "continuous_batching": True,
        "session_len": 8192,
        "max_batch_size": 8,
        "cache_max_entry_count": 0.25,
        "quant_policy": 8,
        "tp": 2,
        "replicas": 3,
        "enable_prefix_caching": True,
    }
    lane = LaneSpec(
        name="it",
        kind=kind,
        model=load_lanes(settings, gpu=True).models[0],
        weights=Weights.AWQ if kind is EngineKind.AWQ else Weights.CHECKPOINT,
        settings=EngineSettings(**{name: every[name] for name in SETTINGS_OF[kind] - FILE_ONLY_SETTINGS}),
    )
    save_lane(settings, lane)
    assert load_lanes(settings, gpu=True).lane("it") == lane


def test_the_lanes_file_is_laid_under_and_left_alone(settings):
    written = '[models.m]\ncheckpoint = "demo"\n[lanes.a] # mine\nengine = "transformers"\nmodel = "m"\n'
    settings.lanes_file.write_text(written)
    save_lane(settings, LAB)
    assert names(settings) == ["a", "lab"]
    assert settings.lanes_file.read_text() == written


TRUSTED = """[models.m]
checkpoint = "demo"
[lanes.hf]
engine = "transformers"
model = "m"
python = "/opt/engine/bin/python"
trust_remote_code = true
"""


@pytest.mark.parametrize("written", [None, TRUSTED])
@pytest.mark.parametrize("changes", [{"python": "/tmp/evil"}, {"trust_remote_code": None}])
def test_what_decides_over_the_code_that_runs_is_not_taken_from_the_dashboard(settings, written, changes):
    if written:
        settings.lanes_file.write_text(written)
    hf = load_lanes(settings, gpu=False).lane("hf")
    if "trust_remote_code" in changes:
        changes = {"trust_remote_code": not hf.settings.trust_remote_code}
    with pytest.raises(ConfigError, match=r"can be set only in the lanes file") as raised:
        save_lane(settings, replace(hf, settings=replace(hf.settings, **changes)))
    assert raised.value.code == "lanes-file-only"
    assert not changes_file(settings).exists()


def test_a_new_lane_from_the_dashboard_has_no_program_of_its_own(settings):
    hf = load_lanes(settings, gpu=False).lane("hf")
    with pytest.raises(ConfigError, match="can be set only in the lanes file"):
        save_lane(settings, replace(hf, name="mine", settings=EngineSettings(python="/tmp/evil")))


def test_a_changed_lane_goes_on_taking_its_program_from_the_lanes_file(settings):
    settings.lanes_file.write_text(TRUSTED)
    hf = load_lanes(settings, gpu=False).lane("hf")
    save_lane(settings, replace(hf, settings=replace(hf.settings, dtype="float32")))
    kept = changes_file(settings).read_text()
    assert "python" not in kept
    assert "trust_remote_code" not in kept
    settings.lanes_file.write_text(TRUSTED.replace("/opt/engine", "/opt/other"))
    changed = load_lanes(settings, gpu=False).lane("hf").settings
    assert (changed.python, changed.trust_remote_code) == ("/opt/other/bin/python", True)
    assert changed.dtype == "float32"


@pytest.mark.parametrize("line", ['python = "/tmp/evil"', "trust_remote_code = true"])
def test_what_an_earlier_version_kept_of_it_is_refused_by_line(settings, line):
    settings.home.mkdir(exist_ok=True)
    changes_file(settings).write_text(
        f'[lanes.hf]\nengine = "transformers"\nmodel = "smollm2-135m-instruct"\n{line}\n'
    )
    with pytest.raises(ConfigError, match=r"lanes\.local\.toml, line 4: .* can't be set here") as raised:
        load_lanes(settings, gpu=False)
    assert "lanes.toml" in raised.value.hint


def test_forgetting_undoes(settings):
    save_lane(settings, LAB)
    assert forget_lane(settings, "lab")
    assert names(settings) == DEFAULT
    assert not changes_file(settings).exists()
    assert not forget_lane(settings, "lab")


@pytest.mark.parametrize(
    "changes", [{"url": "http://me:password@lab/v1"}, {"api_key_name": "sk-the-key-itself"}]
)
def test_what_could_not_be_read_again_is_not_kept_nor_repeated(settings, changes):
    save_lane(settings, LAB)
    faulty = replace(LAB, name="faulty", endpoint=replace(LAB.endpoint, **changes))
    with pytest.raises(ConfigError) as raised:
        save_lane(settings, faulty)
    assert names(settings) == [*DEFAULT, "lab"]
    assert not any(value in f"{raised.value}{raised.value.hint}" for value in changes.values())


def test_a_mistake_made_by_hand_names_its_file(settings):
    settings.home.mkdir(exist_ok=True)
    changes_file(settings).write_text('[lanes.lab]\nengine = "endpoint"\n')
    with pytest.raises(ConfigError, match=r"lanes\.local\.toml"):
        load_lanes(settings, gpu=False)


@pytest.mark.parametrize("gpu", [True, False])
def test_a_lane_appears_for_weights_that_were_quantised_since(settings, gpu):
    awq = settings.models_dir / "My_Model.7B-awq"
    settings.lanes_file.write_text(
        f'[models."My_Model.7B"]\ncheckpoint = "/m"\nawq = "{awq}"\n'
        '[lanes.tm]\nengine = "turbomind"\nmodel = "My_Model.7B"\n'
    )
    assert [lane.name for lane in load_lanes(settings, gpu=gpu).lanes] == ["tm"]
    awq.mkdir(parents=True)
    (awq / "config.json").write_text("{}")
    expected = ["tm", "my_model.7b-awq"] if gpu else ["tm"]
    assert [lane.name for lane in load_lanes(settings, gpu=gpu).lanes] == expected


def test_weights_that_a_lane_loads_already_get_no_second_one(settings):
    registry = load_lanes(settings, gpu=True)
    awq = Path(registry.models[0].awq)
    awq.mkdir(parents=True)
    (awq / "config.json").write_text("{}")
    assert load_lanes(settings, gpu=True) == registry
