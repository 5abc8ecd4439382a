import shutil
from contextlib import closing
from dataclasses import replace

import pytest

from core.domain.history import RunKind
from core.domain.sessions import SessionRecord, SessionState
from core.errors import ConfigError
from core.replay.home import fill, lanes_of, recordings_of, temporary_home
from core.replay.recording import Recording, write
from core.settings import load_settings
from core.store.history import History
from core.store.runs import QualityRuns
from core.store.sessions import Sessions
from core.store.turns import Store
from tests.unit.bench.bench_samples import a_pass, a_plan, a_record, a_request
from tests.unit.quality import quality_samples
from tests.unit.replay.recorded import AT, H200, lane, request, timing, turn, walk
from tests.unit.sessions.session_samples import answers, open_session, plan

KINDS = {RunKind.CHAT, RunKind.BENCH, RunKind.QUALITY, RunKind.WALK}
ANSWER = timing(sent_s=1, chunks_s=(2,), content=(2,), ended_s=3, tokens=1)
TURN = replace(turn(request("hf", "Hi", ANSWER), request("awq", "Ho", ANSWER)), owner=None)
RUN = a_record(a_plan(lane("hf")), [a_pass(0, ("hf",))], [a_request(number, "hf") for number in range(3)])
VOTED = SessionRecord(session=open_session(plan("hf", "turbomind")), answers=answers(plan("hf", "turbomind")))
RECORDING = Recording(
    title="Demo",
    recorded_at=AT,
    lmdyno="0.2.0",
    machine=H200,
    turns=(TURN,),
    runs=(RUN,),
    quality=(quality_samples.record(),),
    sessions=(VOTED,),
    walk=replace(walk(1.0), lanes=(lane("hf"),)),
)


@pytest.fixture
def home():
    settings = temporary_home(load_settings({}), [RECORDING])
    yield settings
    shutil.rmtree(settings.home)


def test_everything_of_a_recording_is_found_in_its_home(home):
    with closing(Store(home.database_url)) as store:
        assert store.turn(TURN.id) == TURN
    with closing(History(home.database_url)) as history:
        entries = {entry.kind: entry for entry in history.entries()}
    assert set(entries) == KINDS
    assert entries[RunKind.BENCH].summary.answered == 3
    with closing(QualityRuns(home.database_url)) as quality:
        (record,) = RECORDING.quality
        assert quality.record(record.run.id).answers
    with closing(Sessions(home.database_url)) as sessions:
        stored = sessions.record(VOTED.session.id)
    assert stored.session.state is SessionState.CLOSED
    assert stored.session.link != VOTED.session.link
    assert len(stored.answers) == len(VOTED.answers)


def test_what_two_recordings_share_is_stored_once(home):
    fill(home, RECORDING)
    with closing(History(home.database_url)) as history:
        assert history.count() == len(KINDS)


def test_the_lanes_are_those_that_took_part_each_once():
    other = replace(RECORDING, turns=(turn(request("hf", "Hi", ANSWER), turn_id="turn0002"),))
    registry = lanes_of([RECORDING, other])
    assert [one.name for one in registry.lanes][:2] == ["hf", "awq"]
    assert len({one.name for one in registry.lanes}) == len(registry.lanes)
    assert "tiny" in [model.name for model in registry.models]


def test_a_folder_without_a_recording_says_what_to_do(tmp_path):
    settings = load_settings({"LMDYNO_RECORDINGS": str(tmp_path)})
    with pytest.raises(ConfigError) as caught:
        recordings_of(settings)
    assert caught.value.code == "no-recordings"
    folder = tmp_path / "full"
    write(RECORDING, folder / "demo.json.xz", paths={})
    found = recordings_of(replace(settings, recordings_dir=folder))
    assert [recording.title for recording in found] == ["Demo"]
