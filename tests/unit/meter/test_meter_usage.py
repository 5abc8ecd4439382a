import asyncio
from dataclasses import replace

import pytest

from core.chat_api.client import open_session
from core.domain.turns import FinishReason, Phase, UsageWindow
from core.meter.turns import Surroundings, Turn
from core.meter.usage import SampledUsage
from core.settings import Settings
from tests.unit.meter.meter_samples import model, no_lease, remote_lane, resolve_remote, turn_plan

WINDOW = UsageWindow(duration_s=2.0, energy_j=600.0, idle_power_w=100.0)


class FakeUsage:
    """Keeps what it was asked."""

    def __init__(self):
        self.begun = []
        self.ended = []

    async def begin(self, endpoint):
        self.begun.append(endpoint.model)

    async def end(self, lane, endpoint, start_ns, end_ns):
        self.ended.append((lane, start_ns, end_ns))
        return WINDOW


def run(plan, usage, *, device="cpu", cancel_after_s=None):
    updates = []

    async def main():
        async with open_session() as session:
            around = Surroundings(
                session=session,
                resolve=lambda lane: replace(resolve_remote(lane), device=device),
                lease=no_lease,
                usage=usage,
            )
            turn = Turn(plan, around, updates.append)
            if cancel_after_s is not None:
                asyncio.get_running_loop().call_later(cancel_after_s, turn.cancel)
            await turn.run()
            return turn.records()

    return asyncio.run(main()), updates


def lane(server, **scenario):
    return remote_lane("a", server.url, model(**scenario))


def test_each_record_keeps_the_window_from_sending_to_the_stream_s_end(server):
    usage = FakeUsage()
    (record,), updates = run(turn_plan(lane(server, chunks=3)), usage)
    assert record.window == WINDOW
    assert usage.ended == [("a", record.timing.sent_ns, record.timing.ended_ns)]
    assert len(usage.begun) == 1
    done = [update.record for update in updates if update.phase is Phase.DONE]
    assert [each.window for each in done] == [WINDOW]


def test_energy_by_token_with_and_without_what_idling_costs(server):
    (record,), _ = run(turn_plan(lane(server, chunks=3)), FakeUsage())
    assert record.output_tokens
    assert record.energy_j_per_token == pytest.approx(600 / record.output_tokens)
    assert record.energy_above_idle_j_per_token == pytest.approx(400 / record.output_tokens)


def test_a_stopped_or_failed_request_has_no_window(server):
    (record,), _ = run(turn_plan(lane(server, hang=True)), FakeUsage(), cancel_after_s=0.2)
    assert (record.finish_reason, record.window) == (FinishReason.CANCELLED, None)
    assert record.energy_j_per_token is None


@pytest.fixture
def sampled(tmp_path):
    usage = SampledUsage(
        Settings(home=tmp_path, lanes_file=tmp_path / "lanes.toml", database_url="sqlite://")
    )
    usage.start()
    yield usage
    usage.close()


def test_a_server_somewhere_else_is_not_measured(server, sampled):
    (record,), _ = run(turn_plan(lane(server, chunks=3)), sampled, device=None)
    assert record.window is None


def test_on_this_machine_the_window_lasts_as_long_as_the_answer(server, sampled):
    (record,), _ = run(turn_plan(lane(server, chunks=3, interval_s=0.1)), sampled)
    timing = record.timing
    assert record.window.duration_s == pytest.approx((timing.ended_ns - timing.sent_ns) * 1e-9)
    assert record.window.energy_j is None
    assert not record.window.shared
