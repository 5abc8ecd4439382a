import json
import lzma
from dataclasses import replace

import pytest

from core.errors import InputError
from core.replay import recording
from core.replay.recording import Recording, read, recordings_in, write
from core.replay.turns import TurnTimeline
from core.settings import load_settings
from tests.unit.replay.recorded import AT, H200, bench, bench_pass, bench_request, request, timing, turn, walk

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
