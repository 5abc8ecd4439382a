"""What a server or a connection said when it failed, as one of LMDyno's errors.

One table for HTTP statuses and error texts, one for exceptions of the HTTP client. Which shape the error came
in (`{"error": {…}}`, flat, or FastAPI's `detail`) is evened out here too.
"""

import re
from typing import NamedTuple

import aiohttp
import orjson

from core.errors import (
    EngineBusy,
    EngineCrashed,
    EngineError,
    EngineOutOfMemory,
    EngineTimeout,
    InputError,
    LMDynoError,
)

_SHOWN_CHARS = 400
_CREDENTIALS = re.compile(r"//[^/@]*@")

_OUT_OF_MEMORY = re.compile(r"out of memory|out_?of_?memory|outofmemory", re.IGNORECASE)
_PROMPT_TOO_LONG = re.compile(
    r"context[ _]length|context (size|window)|maximum (model|input|sequence) length"
    r"|(prompt|input)( length)?( \(\d+\))? (is too long|exceeds|must be smaller)|too many tokens",
    re.IGNORECASE,
)
_TEXT_ONLY = re.compile(
    r"(multimodal|image|vision)( input)?s? (is|are) not supported|not a multimodal model"
    r"|image_url is only supported|does not support (images?|vision|multimodal)"
    r"|data required for image input",
    re.IGNORECASE,
)
_MODEL_NOT_FOUND = re.compile(
    r"model\b.*(not found|does not exist|not exist)|(unknown|no such) model|server is pinned to",
    re.IGNORECASE | re.DOTALL,
)


class ServerError(NamedTuple):
    """An error as a server worded it."""

    message: str
    status: int | None
    """The HTTP status, or the one that the error's own `code` names."""


def error_of(body: object, status: int | None = None) -> ServerError | None:
    """The error that a JSON body holds; None if it is not one."""
    if not isinstance(body, dict):
        return None
    inner = body.get("error")
    if inner is None:
        if "detail" in body:
            return ServerError(_text(body["detail"]), status)
        if "choices" in body or not isinstance(body.get("message"), str):
            return None
        inner = body
    if isinstance(inner, dict):
        code = inner.get("code")
        return ServerError(
            _text(inner.get("message") or inner), status or (code if isinstance(code, int) else None)
        )
    return ServerError(_text(inner), status)


def refusal(status: int, body: bytes) -> LMDynoError:
    """The error for an answer with an HTTP status other than 200."""
    try:
        found = error_of(orjson.loads(body), status)
    except orjson.JSONDecodeError:
        found = None
    return failure(found or ServerError(body.decode("utf-8", "replace"), status))


def failure(error: ServerError) -> LMDynoError:
    """The error for what a server said, whether before or in the middle of an answer."""
    said, status = error.message.strip()[:_SHOWN_CHARS], error.status
    if status in (401, 403):
        return EngineError(
            "The endpoint does not accept the key" if status == 401 else "The endpoint denies access",
            hint="Set the key that the lane's api_key names, in the environment or the secrets.",
            code="endpoint-unauthorised",
        )
    if _OUT_OF_MEMORY.search(said):
        return EngineOutOfMemory(
            f"The engine ran out of memory: {said}",
            hint="Shorten the conversation, lower max_tokens, or give the engine more memory.",
        )
    if _PROMPT_TOO_LONG.search(said):
        return InputError(
            f"The prompt is too long for the engine: {said}",
            hint="Start a new conversation, shorten the prompt, or raise the lane's session_len.",
            code="prompt-too-long",
        )
    if _TEXT_ONLY.search(said):
        return InputError(
            f"The model takes no images: {said}",
            hint="Choose a lane with a vision model, or ask without images.",
            code="text-only",
        )
    if _MODEL_NOT_FOUND.search(said) and status in (None, 400, 404):
        return EngineError(
            f"The endpoint does not serve this model: {said}",
            hint="Name one of the models that the endpoint's /models lists.",
            code="model-not-found",
        )
    if status in (429, 503):
        return EngineBusy(f"The engine takes no request now: {said}", hint="Try again in a moment.")
    named = f" with HTTP status {status}" if status else ""
    return EngineError(
        f"The endpoint refused the request{named}: {said or 'no reason given'}",
        hint="Does the URL end in the version path, such as /v1? For a local lane, see its log."
        if status in (404, 405)
        else "The server's own words say why. For a local lane, see its log.",
        code="endpoint-refused",
    )


def connection_failure(error: aiohttp.ClientError | OSError, url: str) -> LMDynoError:
    """The error for an exception of the HTTP client."""
    url = _CREDENTIALS.sub("//", url)
    match error:
        case aiohttp.InvalidURL():
            return EngineError(
                f"{url} is not a URL that can be asked",
                hint="Write it like http://gpu-host:23333/v1.",
                code="endpoint-refused",
            )
        case aiohttp.ClientConnectorError():
            return EngineCrashed(
                f"Nothing answers at {url}: {error.strerror or error}",
                hint="Is the engine running? For a local lane, see its log.",
                code="endpoint-unreachable",
            )
        case aiohttp.ClientResponseError():
            return EngineError(
                f"{url} does not answer in HTTP: {error.message}",
                hint="Is this the address of an OpenAI-compatible server?",
                code="endpoint-refused",
            )
        case _:
            return broken_off(url)


def connect_timeout(url: str) -> LMDynoError:
    """The error for a connection that did not come about in time."""
    return EngineTimeout(
        f"No connection to {_CREDENTIALS.sub('//', url)} in time",
        hint="Is the address right, and can this machine reach it?",
        code="connect-timeout",
    )


def broken_off(url: str) -> LMDynoError:
    """The error for an answer that ended before its end."""
    return EngineCrashed(
        f"The engine at {_CREDENTIALS.sub('//', url)} broke off the answer",
        hint="What arrived is kept. For a local lane, see its log.",
    )


def _text(value: object) -> str:
    return value if isinstance(value, str) else orjson.dumps(value, default=str).decode()
