from contextlib import closing
from dataclasses import replace

import pytest

from core.codec import encode_plain
from core.domain.conversation import Sampling
from core.domain.turns import Mode, Phase, RequestPlan, RequestRecord, TurnPlan
from core.errors import InputError
from core.replay.collecting import collect, paths_of
from core.settings import load_settings
from core.store.runs import BenchRuns
from core.store.turns import Store
from core.walk.job import save
from tests.unit.replay.recorded import H200, bench, bench_pass, bench_request, lane, request, timing, walk

TIMING = timing(sent_s=1, chunks_s=(2,), content=(2,), ended_s=3, tokens=1)


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
