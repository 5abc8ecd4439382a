"""Recordings: collected, written, read, and as the home of a dashboard that only replays."""

import json
import lzma
import shutil
from contextlib import closing
from dataclasses import replace

import pytest

from core.codec import encode_plain
from core.domain.conversation import Sampling
from core.domain.runs import RunKind
from core.domain.sessions import SessionRecord, SessionState
from core.domain.turns import Machine, Mode, Phase, RequestPlan, RequestRecord, TurnPlan
from core.errors import ConfigError, InputError
from core.replay import recording
from core.replay.recording import (
    Recording,
    collect,
    device_name,
    fill,
    lanes_of,
    origin,
    paths_of,
    read,
    recordings_in,
    recordings_of,
    temporary_home,
    write,
)
from core.replay.timelines import TurnTimeline
from core.settings import load_settings
from core.store.history import History
from core.store.runs import BenchRuns, QualityRuns
from core.store.sessions import Sessions
from core.store.turns import Store
from core.walk.job import save
from tests.unit.bench.bench_samples import a_pass, a_plan, a_record, a_request
from tests.unit.quality import quality_samples
from tests.unit.replay.recorded import (
    AT,
    H200,
    bench,
    bench_pass,
    bench_request,
    lane,
    request,
    timing,
    turn,
    walk,
)
from tests.unit.sessions.session_samples import answers, open_session, plan

HF = request("hf", "Hello", timing(sent_s=1, chunks_s=(2, 3), content=(2, 3), ended_s=4, tokens=2))
WHOLE = Recording(
    title="Demo",
    recorded_at=AT,
    lmdyno="0.2.0",
    machine=H200,
    turns=(turn(HF),),
    runs=(
        bench(bench_request(0, "hf", 0, HF.timing), passes=(bench_pass(0, 1, 4, 1),), plan='{"lanes":[]}'),
    ),
    walk=walk(1.0, 2.0),
)

TIMING = timing(sent_s=1, chunks_s=(2,), content=(2,), ended_s=3, tokens=1)

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


def test_what_is_read_is_what_was_written_without_paths_and_owners(tmp_path):
    file = tmp_path / "folder" / "demo.json.xz"
    size = write(WHOLE, file, paths={"/home/ada/.lmdyno": "HOME", "/home/ada": "ELSEWHERE"})
    assert file.stat().st_size == size
    found = read(file)
    assert b"/home/ada" not in lzma.decompress(file.read_bytes())
    assert found.turns[0].owner is None
    assert found.turns[0].requests[0].lane.model.checkpoint == "HOME/models/tiny"
    assert found.walk.steps[0].by_hand == "transformers serve HOME/models/tiny"
    assert replace(found.turns[0].requests[0], lane=HF.lane) == HF
    assert TurnTimeline(found.turns[0]).frame(1.5) == TurnTimeline(WHOLE.turns[0]).frame(1.5)
    assert found.runs[0].requests == WHOLE.runs[0].requests
    assert replace(found, turns=(), runs=(), walk=None) == replace(WHOLE, turns=(), runs=(), walk=None)


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"no xz", "bad-record"),
        (lzma.compress(b"{}"), "bad-record"),
        (lzma.compress(json.dumps({"schema_version": 1, "title": "x"}).encode()), "bad-record"),
        (lzma.compress(json.dumps({"schema_version": 99}).encode()), "newer-schema"),
        (lzma.compress(b"{}" * 1000)[:-20], "bad-record"),
    ],
)
def test_what_is_no_recording_is_refused(tmp_path, content, code):
    file = tmp_path / "demo.json.xz"
    file.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read(file)
    assert caught.value.code == code


def test_a_small_file_of_endless_zeros_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(recording, "MAX_BYTES", 1000)
    file = tmp_path / "demo.json.xz"
    file.write_bytes(lzma.compress(bytes(100_000)))
    with pytest.raises(InputError) as caught:
        read(file)
    assert caught.value.code == "bad-record"
    assert "too large" in caught.value.hint


def test_the_shipped_recordings_can_be_replayed_and_are_small():
    folder = load_settings({}).recordings_dir
    files = list(folder.glob(f"*{recording.SUFFIX}"))
    assert len(recordings_in(folder)) == len(files)
    assert sum(file.stat().st_size for file in files) < 1_000_000
    for shipped in recordings_in(folder).values():
        assert shipped.machine is not None
        for recorded in shipped.turns:
            assert TurnTimeline(recorded).duration_s > 0


CPU = Machine(host="laptop", platform="Linux", python="3.12", cpu="AMD EPYC", cores=2)


def test_the_device_and_the_date_are_told():
    assert origin(H200, AT) == "Recorded on NVIDIA H200, 2026-11-29"
    assert origin(CPU, AT, here=H200) == "Recorded on AMD EPYC, 2026-11-29"


def test_a_recording_of_this_machine_is_called_a_replay():
    newer = replace(H200, driver="590.1", python="3.13")
    assert origin(H200, AT, here=newer) == "Replay of a recording from 2026-11-29"
    assert origin(None, AT) == "Replay of a recording from 2026-11-29"


def test_the_device_is_the_one_that_the_engines_were_on():
    two = replace(H200, gpus=("NVIDIA H200, 140.40 GiB", "NVIDIA H200, 140.40 GiB"))
    assert device_name(two, ["cuda:0", None]) == "NVIDIA H200"
    assert device_name(two, ["cuda:0", "cuda:1", "cuda:0"]) == "2 × NVIDIA H200"
    assert device_name(two, ["cuda:0,1"]) == "2 × NVIDIA H200"
    assert device_name(two) == "2 × NVIDIA H200"
    assert device_name(H200, ["cpu"]) == "Xeon"
    assert device_name(H200, ["cpu", "cuda:0"]) == "NVIDIA H200"
    assert device_name(replace(CPU, cpu=None)) == "laptop"


@pytest.fixture
def settings(tmp_path):
    return load_settings({"LMDYNO_HOME": str(tmp_path)})


def stored_turn(settings, conversation_id, *, done=True):
    record = request("hf", "Hi", TIMING, turn_id="")
    plan = TurnPlan(
        conversation_id=conversation_id,
        prompt="Hi",
        mode=Mode.TOGETHER,
        sampling=Sampling(),
        requests=(RequestPlan(lane=lane("hf"), messages=record.messages),),
    )
    with closing(Store(settings.database_url)) as store:
        store.save_turn(plan, H200)
        planned = RequestRecord.of(plan.requests[0], plan.id)
        if done:
            store.save_request(replace(planned, phase=Phase.DONE, timing=TIMING, text="Hi"))
    return plan.id


def test_entries_are_collected_in_the_order_given(settings, tmp_path):
    record = bench(bench_request(0, "hf", 0, TIMING), passes=(bench_pass(0, 1, 3, 1),))
    with closing(BenchRuns(settings.database_url)) as runs:
        runs.add(record)
    first, second = stored_turn(settings, "talk0001"), stored_turn(settings, "talk0001")
    other = stored_turn(settings, "talk0002")
    file = tmp_path / "walk.json"
    file.write_bytes(encode_plain(walk(1.0)))
    found = collect(settings, [other, "run00001", "talk0001"], walk=str(file), title="Demo")
    assert [turn.id for turn in found.turns] == [other, first, second]
    assert [one.run.id for one in found.runs] == ["run00001"]
    assert found.walk == walk(1.0)
    assert found.machine == H200


def test_a_walk_is_found_by_its_id(settings):
    save(settings, walk(1.0))
    assert collect(settings, [], walk="walk00001").walk == walk(1.0)
    with pytest.raises(InputError):
        collect(settings, [], walk="unknown")


def test_what_is_unknown_or_unfinished_is_refused(settings):
    with pytest.raises(InputError):
        collect(settings, ["unknown"])
    running = stored_turn(settings, "talk0001", done=False)
    with pytest.raises(InputError):
        collect(settings, [running])


def test_longer_paths_are_replaced_first(settings):
    inside = replace(settings, home=settings.home / "deeper")
    assert next(iter(paths_of(inside))) == str(inside.home)


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
