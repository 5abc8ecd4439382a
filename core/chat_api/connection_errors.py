"""Problems of a connection as LMDyno's errors, each by name."""

import re
import ssl

import aiohttp

from core.chat_api.lenient import UNREADABLE, json_document, one_line
from core.chat_api.refusals import address, expects_tls, failure, says_plain_http_on_tls, see_log
from core.chat_api.server_errors import ServerError, error_of, is_html, page_text
from core.domain.specs import Endpoint
from core.errors import EngineCrashed, EngineError, EngineTimeout, LMDynoError
from core.i18n import N_

_TLS_ALERT = re.compile(r"\\x15\\x03|\x15\x03")


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
            "first_token_timeout_s, "
            "or restart the engine."
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
