"""Token ids and their likelihood by a server: LMDeploy's and vLLM's endpoints for that. All in nats.

| | LMDeploy | vLLM and servers like it |
|---|---|---|
| text → ids | `POST /v1/encode` | `POST /tokenize` |
| likelihood of ids | `POST /get_ppl`: mean cross-entropy | `prompt_logprobs` of `POST /v1/completions` |

Every function raises EngineError: `no-such-endpoint` where the server lacks the endpoint, else what it said.
"""

from collections.abc import Sequence
from typing import Any

from core.chat_api.client import MISSING, Session, post_json
from core.domain.specs import Dialect, Endpoint
from core.errors import EngineError
from core.i18n import N_

_TIMEOUT_S = 300.0


async def encode(
    session: Session,
    endpoint: Endpoint,
    texts: Sequence[str],
    *,
    in_template: bool = False,
) -> tuple[tuple[int, ...], ...]:
    """The token ids of each text, without special tokens; `in_template` as a prompt in the chat template."""
    if endpoint.dialect is Dialect.LMDEPLOY:
        body = {"input": list(texts), "do_preprocess": in_template, "add_bos": False}
        answer = await _post(session, endpoint, f"{_root(endpoint)}/v1/encode", body)
        return _ids(answer, "input_ids")
    answers = []
    for text in texts:
        asked: dict[str, Any] = (
            {"messages": [{"role": "user", "content": text}], "add_generation_prompt": True}
            if in_template
            else {"prompt": text, "add_special_tokens": False}
        )
        answer = await _post(
            session, endpoint, f"{_root(endpoint)}/tokenize", {"model": endpoint.model, **asked}
        )
        answers.append(answer)
    return tuple(_ids({"ids": [encoded.get("tokens") for encoded in answers]}, "ids"))


async def nll_nats(session: Session, endpoint: Endpoint, ids: Sequence[int], given: int) -> float:
    """The negative log-likelihood of `ids` after the first `given` of them, by LMDeploy's `/get_ppl`."""
    whole = await _mean_nats(session, endpoint, ids) * (len(ids) - 1)
    if given < 2:
        return whole
    return whole - await _mean_nats(session, endpoint, ids[:given]) * (given - 1)


async def prompt_logprobs(
    session: Session, endpoint: Endpoint, ids: Sequence[int], given: int
) -> tuple[float, ...]:
    """The log-probability of each of `ids` after the first `given` of them, as vLLM reports it."""
    body = {
        "model": endpoint.model,
        "prompt": list(ids),
        "max_tokens": 1,
        "temperature": 0,
        "prompt_logprobs": 1,
    }
    answer = await _post(session, endpoint, f"{endpoint.url}/completions", body)
    try:
        rows = answer["choices"][0].get("prompt_logprobs") or answer["prompt_logprobs"]
        logprobs = tuple(
            float(row[str(token)]["logprob"]) for row, token in zip(rows[1:], ids[1:], strict=True)
        )
    except (LookupError, TypeError, ValueError) as exc:
        raise _missing("prompt_logprobs") from exc
    return logprobs[given - 1 :]


async def _mean_nats(session: Session, endpoint: Endpoint, ids: Sequence[int]) -> float:
    answer = await _post(session, endpoint, f"{_root(endpoint)}/get_ppl", {"input": list(ids)})
    try:
        return float(answer["ppl"])
    except (LookupError, TypeError, ValueError) as exc:
        raise _missing("/get_ppl") from exc


async def _post(session: Session, endpoint: Endpoint, url: str, body: dict[str, Any]) -> dict[str, Any]:
    status, answer = await post_json(session, endpoint, url, body, timeout_s=_TIMEOUT_S)
    if status in MISSING or not isinstance(answer, dict):
        raise _missing(url.removeprefix(_root(endpoint)))
    return answer


def _ids(answer: dict[str, Any], key: str) -> tuple[tuple[int, ...], ...]:
    try:
        return tuple(tuple(map(int, ids)) for ids in answer[key])
    except (LookupError, TypeError, ValueError) as exc:
        raise _missing("token ids") from exc


def _root(endpoint: Endpoint) -> str:
    return endpoint.url.rstrip("/").removesuffix("/v1")


def _missing(what: str) -> EngineError:
    return EngineError(
        N_("The server doesn't offer {what}.", what=what),
        hint=N_("The likelihood of texts can be compared with LMDeploy, vLLM, and local engines."),
        code="no-such-endpoint",
    )
