import asyncio
from itertools import count

from core.bench.run import load
from core.bench.run.load import Extent, LaneLoad, PassLoad, Sending
from core.bench.workload import ListedPrompts
from core.domain.conversation import Message, Role, Sampling
from core.domain.specs import Dialect, Endpoint

ENDPOINT = Endpoint(url="http://gpu:1/v1", model="m", dialect=Dialect.GENERIC)
GO = ListedPrompts([(Message(Role.USER, "Go."),)], "go.txt")


def a_pass(requests):
    lane = LaneLoad(name="a", endpoint=ENDPOINT, prompts=GO, next_prompt=0)
    sending = Sending(session=None, sampling=Sampling(), on_request=lambda request: None, numbers=count())
    return PassLoad(0, [lane], Extent(requests=requests), sending)


def test_streams_that_are_free_together_write_one_request_a_turn_of_the_loop(monkeypatch):
    # So that whatever arrives meanwhile is timestamped before the next one is written.
    turns, written_in = count(), []
    turn = next(turns)

    def pass_by():
        nonlocal turn
        turn = next(turns)
        asyncio.get_running_loop().call_soon(pass_by)

    async def send(*_arguments, **_options):
        written_in.append(turn)
        await asyncio.sleep(0)

    async def run():
        pass_by()
        await a_pass(30).run_closed(10)

    monkeypatch.setattr(load, "send_explained", send)
    asyncio.run(run())
    assert len(written_in) == len(set(written_in)) == 30
