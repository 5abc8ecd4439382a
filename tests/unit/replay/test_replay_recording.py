import json
import lzma
from dataclasses import replace

import pytest

from core.domain.turns import Machine
from core.errors import InputError
from core.replay import recording
from core.replay.recording import Recording, device_name, origin, read, recordings_in, write
from core.replay.timelines import TurnTimeline
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
