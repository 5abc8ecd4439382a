"""What the dashboard keeps of lanes, laid over the lanes file or the machine's own lanes."""

from dataclasses import replace
from pathlib import Path

import pytest

from core.config import load_lanes
from core.config.changes import changes_file, forget_lane, save_lane
from core.domain.specs import (
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
        "devices": (0, 1),
        "dtype": "float16",
        "python": "/opt/engine/bin/python",
        "trust_remote_code": True,
        "start_timeout_s": 90.0,
        "continuous_batching": True,
        "session_len": 8192,
        "max_batch_size": 8,
        "cache_max_entry_count": 0.25,
        "quant_policy": 8,
        "tp": 2,
        "enable_prefix_caching": True,
    }
    lane = LaneSpec(
        name="it",
        kind=kind,
        model=load_lanes(settings, gpu=True).models[0],
        weights=Weights.AWQ if kind is EngineKind.AWQ else Weights.CHECKPOINT,
        settings=EngineSettings(**{name: every[name] for name in SETTINGS_OF[kind]}),
    )
    save_lane(settings, lane)
    assert load_lanes(settings, gpu=True).lane("it") == lane


def test_the_lanes_file_is_laid_under_and_left_alone(settings):
    written = '[models.m]\ncheckpoint = "demo"\n[lanes.a] # mine\nengine = "transformers"\nmodel = "m"\n'
    settings.lanes_file.write_text(written)
    save_lane(settings, LAB)
    assert names(settings) == ["a", "lab"]
    assert settings.lanes_file.read_text() == written


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
    book = load_lanes(settings, gpu=True)
    awq = Path(book.models[0].awq)
    awq.mkdir(parents=True)
    (awq / "config.json").write_text("{}")
    assert load_lanes(settings, gpu=True) == book
