"""What a server's refusal, or a broken connection to it, is as one of LMDyno's errors.

Of a refusal the status decides first, then the words. Problems of a connection have a function each.
"""

import re
import ssl
from collections.abc import Callable

import aiohttp

from core import units
from core.chat_api.lenient import (
    UNREADABLE,
    ServerError,
    error_of,
    is_html,
    json_document,
    one_line,
    page_text,
)
from core.domain.specs import Endpoint
from core.errors import (
    EngineBusy,
    EngineCrashed,
    EngineError,
    EngineOutOfMemory,
    EngineTimeout,
    InputError,
    LMDynoError,
)
from core.i18n import N_, Message

_TLS_ALERT = re.compile(r"\\x15\\x03|\x15\x03")


def _words(*patterns: str) -> Callable[[str], bool]:
    pattern = re.compile("|".join(patterns), re.IGNORECASE | re.DOTALL)
    return lambda text: bool(pattern.search(text))


_names_memory = _words(r"out[ _]?of[ _]?memory", r"\boom\b", r"outofmemory")
_names_quota = _words(
    r"quota", r"billing", r"\bcredits?\b", r"balance", r"payment", r"spend(ing)? limit",
    r"resource_exhausted.*day",
)  # fmt: skip
_names_empty_account = _words(
    r"(no|insufficient|not enough|out of|exceeded|used up)\b.{0,20}\b(credits?|balance|quota|funds)"
)
_names_rate = _words(
    r"rate.?limit", r"too many requests", r"throttl", r"overloaded", r"at capacity",
    r"concurrency limit", r"tokens? per (minute|day|hour)", r"\b[TR]P[MD]\b", r"try again (later|in \d)",
    r"please (wait|slow down)", r"queue is full", r"server is busy",
)  # fmt: skip
_LIMIT = r"max(imum)?_?(completion_|new_|output_|gen_)?(tokens|len(gth)?)"
_names_answer_length = _words(
    rf"{_LIMIT}`?'?.{{0,40}}(too large|exceed|greater than|must be|at most|valid range|maximum value|>)",
    rf"(exceed|greater than|larger than).{{0,60}}{_LIMIT}`?'?$", r"completion tokens, whereas",
    r"in the completion", r"tokens? for the (completion|output)", r"inputs?`? tokens? \+ ",
    r"length and `?max_tokens",
)  # fmt: skip
_names_prompt_length = _words(
    r"context[ _]?(length|size|window|limit)", r"maximum (model|input|sequence|prompt) (length|size)",
    r"maximum number of (input )?tokens", r"maximum context", r"too many (input |prompt )?tokens",
    r"(prompt|inputs?`?)( length| tokens?)?( \([^)]{1,60}\))? "
    r"(is too (long|large)|exceeds?|must (be smaller|have less)|is longer)",
    r"prompt is too long", r"input token count", r"max_model_len",
)  # fmt: skip
_asks_text_only = _words(
    r"(multimodal|image|vision)( input)?s? (is|are) not supported", r"not a multimodal model",
    r"image_url is only supported",
    r"(does not|doesn't|cannot|can't) (support|accept|take) (images?|vision|multimodal)",
    r"no endpoints found that support image", r"data required for image input",
    r"invalid content type.{0,20}image_url",
)  # fmt: skip
_names_model = _words(
    r"model\b.*(not found|does not exist|doesn't exist|not exist|not available|not supported by)",
    r"(unknown|no such|invalid|unsupported) model", r"server is pinned to", r"model_not_found",
    r"you do(es)? not have access to (the )?model",
)  # fmt: skip
_names_template = _words(
    r"chat.?template", r"conversation roles must alternate", r"system role (is )?not supported",
    r"jinja", r"roles must alternate",
)  # fmt: skip
says_plain_http_on_tls = _words(r"plain http request was sent to https")
_CREDENTIALS = re.compile(r"//[^/@]*@")
_PROMPT_OF = re.compile(
    r"maximum context length (?:is|of) (\d+).*?"
    r"(\d+)(?: tokens)? (?:in|from) the (?:input )?(?:messages|prompt)",
    re.IGNORECASE | re.DOTALL,
)
"""OpenAI's, vLLM's and SGLang's words: the context, and the prompt's share of what was asked for."""


def names_a_length(words: str) -> bool:
    """Whether the words are about the length of prompt or answer."""
    return _names_answer_length(words) or _names_prompt_length(words)


def failure(error: ServerError, endpoint: Endpoint) -> LMDynoError:
    """The error for what a server said, whether before or in the middle of an answer."""
    for decide in (_by_status, _by_words):
        if known_error := decide(error, endpoint):
            return known_error
    return EngineError(
        N_(
            "The server refused the request (HTTP {status}): {words}",
            status=error.status,
            words=_reason(error),
        )
        if error.status
        else N_("The server reported an error: {words}", words=_reason(error)),
        hint=N_("Check that the base URL ends in the version path, such as /v1.")
        if error.status in (404, 405)
        else see_log(endpoint),
        code="endpoint-refused",
    )


def address(endpoint: Endpoint) -> str:
    """The endpoint's URL without credentials, for people."""
    return _CREDENTIALS.sub("//", endpoint.url)


def expects_tls(endpoint: Endpoint) -> LMDynoError:
    return EngineError(
        N_("{url} expects TLS, but the URL starts with http://.", url=address(endpoint)),
        hint=N_("Start the URL with https://."),
        code="tls-expected",
    )


def see_log(endpoint: Endpoint) -> Message:
    """Return where to look next."""
    if endpoint.device is not None:
        return N_("See the engine's log for details.")
    return N_("The server's own log may say more.")


def _by_status(error: ServerError, endpoint: Endpoint) -> LMDynoError | None:
    words = f"{error.code} {error.words}"
    match error.status:
        case 403 if _names_empty_account(words):
            return _no_quota(error)
        case 401 | 403:
            return _unauthorised(error, endpoint)
        case 402:
            return _no_quota(error)
        case 429:
            is_quota = _names_quota(words) and not _names_rate(error.words)
            return _no_quota(error) if is_quota or "insufficient_quota" in words else _busy(error)
        case 413:
            if _names_rate(words):
                return _busy(error)
            if not (_names_prompt_length(words) or _names_answer_length(words)):
                return InputError(
                    N_("The request is too large for the server: {words}", words=_reason(error)),
                    hint=N_("Shorten the prompt, or send fewer or smaller images."),
                    code="request-too-large",
                )
        case 503 | 529 if not _names_memory(words):
            return _busy(error)
        case 408 | 504:
            return EngineBusy(
                N_("The server or a proxy before it gave up waiting: {words}", words=_reason(error)),
                hint=N_("The engine may be busy. Try again later."),
                code="gateway-timeout",
            )
    return None


def _by_words(error: ServerError, endpoint: Endpoint) -> LMDynoError | None:
    words, reason = f"{error.code} {error.words}", _reason(error)
    if says_plain_http_on_tls(words):
        return expects_tls(endpoint)
    if _names_memory(words):
        return EngineOutOfMemory(
            N_("The engine ran out of memory: {words}", words=reason),
            hint=N_("Shorten the conversation, lower max_tokens, or give the engine more memory."),
        )
    if error.status is None and _names_rate(words):
        return _busy(error)
    if _names_answer_length(words) and not _prompt_alone_is_too_long(words):
        return InputError(
            N_("max_tokens is too large: {words}", words=reason),
            hint=N_(
                "Lower max_tokens or shorten the conversation: prompt and answer together must fit "
                "the context."
            ),
            code="max-tokens-too-large",
        )
    if _names_prompt_length(words):
        return InputError(
            N_("The prompt is too long for the model: {words}", words=reason),
            hint=N_(
                "Start a new conversation or shorten the prompt. For a local lane, you can raise session_len."
            ),
            code="prompt-too-long",
        )
    if _asks_text_only(words):
        return InputError(
            N_("The model takes no images: {words}", words=reason),
            hint=N_("Choose a lane with a vision model, or ask without images."),
            code="text-only",
        )
    if _names_template(words):
        return EngineError(
            N_("The model's chat template can't render this conversation: {words}", words=reason),
            hint=N_("Remove the system prompt, or use a model with a chat template that supports it."),
            code="chat-template",
        )
    if _names_model(words) and error.status in (None, 400, 404, 422):
        return EngineError(
            N_("The server doesn't serve this model: {words}", words=reason),
            hint=N_("Choose one of the models that the server lists."),
            code="model-not-found",
        )
    return None


def _unauthorised(error: ServerError, endpoint: Endpoint) -> LMDynoError:
    reason, status = _reason(error), error.status
    if endpoint.api_key is None:
        message = N_(
            "The server denies access without an API key (HTTP {status}): {words}",
            status=status,
            words=reason,
        )
        hint = N_("Set the environment variable LMDYNO_KEY_… and name it in the lane's api_key.")
    elif status == 401:
        message = N_(
            "The server didn't accept the API key (HTTP {status}): {words}", status=status, words=reason
        )
        hint = N_("Check the value of the key that the lane's api_key names.")
    else:
        message = N_("The server denies access (HTTP {status}): {words}", status=status, words=reason)
        hint = N_("The key may lack the rights for this model, or the server may block this address.")
    return EngineError(message, hint=hint, code="endpoint-unauthorised")


def _no_quota(error: ServerError) -> LMDynoError:
    return EngineError(
        N_("The account's quota is used up: {words}", words=_reason(error)),
        hint=N_("Check the plan and the balance at the provider. Waiting doesn't help."),
        code="quota-exhausted",
    )


def _busy(error: ServerError) -> LMDynoError:
    if error.retry_after_s is not None:
        hint = N_("The server asks to wait for {time}.", time=units.duration(error.retry_after_s))
    else:
        hint = N_("Try again in a moment, or send fewer requests at once.")
    return EngineBusy(N_("The server doesn't accept requests now: {words}", words=_reason(error)), hint=hint)


def _prompt_alone_is_too_long(words: str) -> bool:
    match = _PROMPT_OF.search(words)
    return match is not None and int(match[2]) >= int(match[1])


def _reason(error: ServerError) -> Message | str:
    return error.words or N_("no reason given")


def connection_failure(error: aiohttp.ClientError | OSError, endpoint: Endpoint) -> LMDynoError:
    """The error for an exception of the HTTP client."""
    url = address(endpoint)
    match error:
        case aiohttp.InvalidURL():
            return EngineError(
                N_("{url} isn't a valid URL.", url=url),
                hint=N_("Use a URL such as http://gpu-host:23333/v1."),
                code="endpoint-refused",
            )
        case aiohttp.ClientConnectorCertificateError() | ssl.SSLCertVerificationError():
            return EngineError(
                N_(
                    "The certificate of {url} isn't trusted: {words}",
                    url=url,
                    words=_certificate_words(error),
                ),
                hint=N_(
                    "Check the host name. For a private certificate authority, set SSL_CERT_FILE to "
                    "its certificate."
                ),
                code="tls-certificate",
            )
        case aiohttp.ClientConnectorSSLError() | ssl.SSLError() | aiohttp.ClientSSLError():
            return EngineError(
                N_("No TLS connection to {url}: {words}", url=url, words=one_line(str(error), 200)),
                hint=N_("If the server uses plain HTTP, start the URL with http://."),
                code="tls-handshake",
            )
        case aiohttp.ClientProxyConnectionError() | aiohttp.ClientHttpProxyError():
            return EngineError(
                N_(
                    "The proxy for {url} doesn't pass the request on: {words}",
                    url=url,
                    words=one_line(str(error), 200),
                ),
                hint=N_("Check HTTP_PROXY and HTTPS_PROXY, or add the host to NO_PROXY."),
                code="proxy-failed",
            )
        case aiohttp.ClientConnectorError():
            words = one_line(error.strerror or str(error), 200)
            return _of_kind(
                endpoint,
                N_("Nothing answers at {url}: {words}", url=url, words=words),
                hint=N_("Check that the engine is running. See its log for details.")
                if endpoint.device is not None
                else N_("Check the host and port, and that the server is running."),
                code="endpoint-unreachable",
            )
        case aiohttp.ClientResponseError() if _TLS_ALERT.search(error.message):
            return expects_tls(endpoint)
        case aiohttp.ClientResponseError():
            return EngineError(
                N_("{url} doesn't answer in HTTP: {words}", url=url, words=one_line(error.message, 200)),
                hint=N_("Check that this is the address of an OpenAI-compatible server."),
                code="endpoint-refused",
            )
        case _:
            return broken_off(endpoint)


def connect_timeout(endpoint: Endpoint) -> LMDynoError:
    """The error for a connection that did not come about in time."""
    return EngineTimeout(
        N_("Connecting to {url} timed out.", url=address(endpoint)),
        hint=N_("Check the address, and whether this machine can reach it."),
        code="connect-timeout",
    )


def stalled(endpoint: Endpoint) -> LMDynoError:
    return EngineTimeout(
        N_("The answer stalled: no more data arrived."),
        hint=N_("The text so far is kept. You can raise the lane's stall_timeout_s.")
        if endpoint.device is None
        else N_("The text so far is kept. See the engine's log, or restart the engine."),
        code="stall-timeout",
    )


def no_first_token(endpoint: Endpoint) -> LMDynoError:
    return EngineTimeout(
        N_("The first token didn't arrive in time."),
        hint=N_("The server may be busy with other requests. You can raise the lane's first_token_timeout_s.")
        if endpoint.device is None
        else N_(
            "The engine may be busy with other requests. See its log, raise the lane's "
            "first_token_timeout_s, or restart the engine."
        ),
        code="first-token-timeout",
    )


def broken_off(endpoint: Endpoint) -> LMDynoError:
    """The error for a connection that ended before the answer did. Only an engine of ours can be said to
    crash."""
    if endpoint.device is not None:
        return EngineCrashed(
            N_("The engine aborted the answer."),
            hint=N_("The text so far is kept. See the engine's log for details."),
        )
    return EngineError(
        N_("The connection to {url} ended before the answer did.", url=address(endpoint)),
        hint=N_("The text so far is kept. The server or a proxy closed the connection."),
        code="connection-lost",
    )


def redirects(endpoint: Endpoint, target: str) -> LMDynoError:
    return EngineError(
        N_("{url} points to another address: {target}", url=address(endpoint), target=one_line(target, 200)),
        hint=N_(
            "Only redirects on the same host are followed. If you trust that address, use it as the base URL."
        ),
        code="endpoint-redirects",
    )


def compressed(endpoint: Endpoint, encoding: str) -> LMDynoError:
    return EngineError(
        N_(
            "{url} compresses its answer ({encoding}), although an uncompressed one was asked for.",
            url=address(endpoint),
            encoding=one_line(encoding, 40),
        ),
        hint=N_("Turn off compression in the proxy before the server."),
        code="compressed-stream",
    )


def too_much(endpoint: Endpoint) -> LMDynoError:
    return EngineError(
        N_("{url} sent more data than an answer can have.", url=address(endpoint)),
        hint=N_("The text so far is kept. Check what answers at this address."),
        code="answer-too-large",
    )


def bad_stream(beginning: str) -> LMDynoError:
    return EngineError(
        N_("The server sent something other than a chat event: {words}", words=one_line(beginning, 200)),
        hint=N_("What could be read is kept. Check that this is an OpenAI-compatible chat endpoint."),
        code="bad-stream",
    )


def not_a_stream(endpoint: Endpoint, body: bytes) -> LMDynoError:
    """The error for a body with status 200 that is no event stream."""
    url = address(endpoint)
    if is_html(body):
        if says_plain_http_on_tls(page_text(body)):
            return expects_tls(endpoint)
        return EngineError(
            N_("{url} returns a web page: {words}", url=url, words=one_line(page_text(body), 200)),
            hint=N_("It may be a sign-in page. Check the URL, and whether the server needs a key."),
            code="endpoint-web-page",
        )
    document = json_document(body)
    if error := error_of(document):
        return failure(error, endpoint)
    if isinstance(document, dict) and document.get("choices"):
        return failure(ServerError(N_("it answers in one piece instead of streaming")), endpoint)
    if document is not UNREADABLE or body.strip():
        return bad_stream(body[:400].decode("utf-8", "replace"))
    return broken_off(endpoint)


def empty_answer(endpoint: Endpoint) -> LMDynoError:
    return EngineError(
        N_("The server ended the answer without any text and without a reason."),
        hint=see_log(endpoint),
        code="empty-answer",
    )


def _certificate_words(error: Exception) -> str:
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        error = error.certificate_error
    words = error.verify_message if isinstance(error, ssl.SSLCertVerificationError) else ""
    return one_line(words or str(error), 200)


def _of_kind(endpoint: Endpoint, message: str, *, hint: str, code: str) -> LMDynoError:
    kind = EngineCrashed if endpoint.device is not None else EngineError
    return kind(message, hint=hint, code=code)
