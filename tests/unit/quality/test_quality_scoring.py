import asyncio

import pytest

from core.chat_api.client import open_session
from core.domain.specs import Dialect, Endpoint
from core.errors import EngineError, LMDynoError
from core.quality.scoring import encode, nll_nats, prompt_logprobs
from tests.unit.quality.toy_server import ToyModel, serving


def asked(model: ToyModel, ask, dialect: Dialect = Dialect.LMDEPLOY, api_key: str | None = None):
    """What `ask` returns for the model's endpoint."""

    async def run(url: str):
        async with open_session() as session:
            return await ask(session, Endpoint(url=url, model="toy", dialect=dialect, api_key=api_key))

    with serving(model) as url:
        return asyncio.run(run(url))


@pytest.mark.parametrize("dialect", [Dialect.LMDEPLOY, Dialect.GENERIC])
def test_texts_are_encoded_plain_or_in_the_template(dialect):
    model = ToyModel()
    plain = asked(model, lambda s, e: encode(s, e, ["ab", "c"]), dialect)
    assert plain == ((97, 98), (99,))
    (chat,) = asked(model, lambda s, e: encode(s, e, ["ab"], in_template=True), dialect)
    assert chat == tuple(model.ids("<user>ab<bot>"))


def test_given_tokens_are_context_and_not_scored():
    model = ToyModel()
    ids = model.ids("hello world")
    whole = asked(model, lambda s, e: nll_nats(s, e, ids, 1))
    answer = asked(model, lambda s, e: nll_nats(s, e, ids, 6))
    assert whole == pytest.approx(sum(map(model.nats, ids[1:])))
    assert answer == pytest.approx(sum(map(model.nats, ids[6:])))
    found = asked(model, lambda s, e: prompt_logprobs(s, e, ids, 6), Dialect.GENERIC)
    assert found == pytest.approx([-model.nats(token) for token in ids[6:]])


def test_a_server_without_the_endpoint_is_told_apart_from_a_broken_one():
    silent = ToyModel(endpoints=frozenset())
    for ask in (
        lambda s, e: nll_nats(s, e, [1, 2], 1),
        lambda s, e: encode(s, e, ["a"]),
    ):
        with pytest.raises(EngineError) as failed:
            asked(silent, ask)
        assert failed.value.code == "no-such-endpoint"


def test_an_answer_of_another_shape_is_no_likelihood():
    class Odd(ToyModel):
        def _ppl(self, body):
            return {"perplexity": 3}

        def _complete(self, body):
            return {"choices": [{"text": "x"}]}

    with pytest.raises(EngineError, match="get_ppl"):
        asked(Odd(), lambda s, e: nll_nats(s, e, [1, 2], 1))
    with pytest.raises(EngineError, match="prompt_logprobs"):
        asked(Odd(), lambda s, e: prompt_logprobs(s, e, [1, 2], 1), Dialect.GENERIC)


def test_a_server_that_is_gone_is_a_connection_error():
    async def run():
        async with open_session() as session:
            endpoint = Endpoint(url="http://127.0.0.1:9/v1", model="toy", dialect=Dialect.LMDEPLOY)
            await nll_nats(session, endpoint, [1, 2], 1)

    with pytest.raises(LMDynoError):
        asyncio.run(run())
