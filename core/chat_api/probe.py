"""What a server that somebody else runs says of itself: its models, its dialect, its load.

Stdlib HTTP with short time-outs; thread-safe. Requests for answers go through the meter, never through here.
"""

import json
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urljoin, urlsplit

from core.access.guard import Action, authorise
from core.chat_api import prometheus
from core.domain.specs import Dialect
from core.errors import EngineCrashed, EngineError, EngineTimeout, InputError


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointReport:
    """The answer to a connection test."""

    models: tuple[str, ...]
    dialect: Dialect
    """LMDEPLOY when its models are `owned_by` lmdeploy, else GENERIC."""
    round_trip_s: float
    has_metrics: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerMetrics:
    """The load of a server by its own `/metrics`; None for what it doesn't offer."""

    kv_used_ratio: float | None
    running: int | None
    waiting: int | None


def probe(url: str, api_key: str | None = None, *, timeout_s: float = 5.0) -> EndpointReport:
    """List the models at a base URL such as `http://host:23333/v1`.

    Raises AccessDenied, since it makes this machine send requests anywhere; InputError for another scheme
    than HTTP; and EngineError: not reachable, no answer in time, key refused, or no OpenAI-compatible server.
    """
    authorise(Action.TEST_ENDPOINT, urlsplit(url).netloc.rpartition("@")[2])
    if not url.startswith(("http://", "https://")):
        raise InputError(f"“{url}” is no web address", hint="Begin it with http:// or https://.")
    started = time.perf_counter()
    body = _get(f"{url.rstrip('/')}/models", api_key, timeout_s)
    round_trip_s = time.perf_counter() - started
    try:
        listed: list[dict[str, Any]] = json.loads(body)["data"]
        models = tuple(str(entry["id"]) for entry in listed)
    except (ValueError, KeyError, TypeError):
        raise EngineError(
            f"{url} does not answer like an OpenAI-compatible server",
            hint="The base URL usually ends in /v1; open it in a browser to see what answers there.",
            code="endpoint-not-openai",
        ) from None
    lmdeploy = any(entry.get("owned_by") == "lmdeploy" for entry in listed)
    return EndpointReport(
        models=models,
        dialect=Dialect.LMDEPLOY if lmdeploy else Dialect.GENERIC,
        round_trip_s=round_trip_s,
        has_metrics=server_metrics(url, api_key, timeout_s=timeout_s) is not None,
    )


def server_metrics(url: str, api_key: str | None = None, *, timeout_s: float = 2.0) -> ServerMetrics | None:
    """The load that `/metrics` beside the base URL shows (LMDeploy's and vLLM's names); None without one."""
    try:
        found = prometheus.published(_get(prometheus.url_of(url), api_key, timeout_s).decode())
    except (EngineError, UnicodeDecodeError):
        return None
    kv_used = _gauges(found, "gpu_cache_usage_perc", "kv_cache_usage_perc")
    running = _gauges(found, "num_requests_running")
    waiting = _gauges(found, "num_requests_waiting")
    if not (kv_used or running or waiting):
        return None
    return ServerMetrics(
        kv_used_ratio=max(kv_used, default=None),
        running=int(sum(running)) if running else None,
        waiting=int(sum(waiting)) if waiting else None,
    )


def _gauges(found: Mapping[str, Sequence[float]], *names: str) -> list[float]:
    """The values of LMDeploy's and vLLM's gauges of these names."""
    return [
        value
        for server in ("lmdeploy", "vllm")
        for name in names
        for value in found.get(f"{server}:{name}", ())
    ]


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Where a server points to, neither the key nor a request goes: the meter follows no redirect either."""

    def redirect_request(self, *_: object) -> None:
        return None


_OPENER = urllib.request.build_opener(_NoRedirect)


def _get(url: str, api_key: str | None, timeout_s: float) -> bytes:
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    try:
        with _OPENER.open(  # the scheme is checked above and where endpoints are configured
            urllib.request.Request(url, headers=headers), timeout=timeout_s
        ) as answer:
            return bytes(answer.read(4_000_000))
    except urllib.error.HTTPError as exc:
        if target := exc.headers.get("Location") if 300 <= exc.code < 400 else None:
            raise EngineError(
                f"{url} points to another address: {urljoin(url, target)[:200]}",
                hint="Redirects are not followed. If you trust that address, use it as the base URL.",
                code="endpoint-redirects",
            ) from None
        if exc.code in (401, 403):
            raise EngineError(
                f"{url} refuses the key" if api_key else f"{url} wants a key",
                hint="Choose the key that it takes.",
                code="endpoint-unauthorised",
            ) from None
        raise EngineError(
            f"{url} answers with HTTP {exc.code}",
            hint="The base URL usually ends in /v1.",
            code="endpoint-refused",
        ) from None
    except TimeoutError:
        raise EngineTimeout(
            f"{url} did not answer within {timeout_s:g} s",
            hint="Check that the server is up and that no firewall stands between.",
            code="connect-timeout",
        ) from None
    except (OSError, ValueError) as exc:
        reason = exc.reason if isinstance(exc, urllib.error.URLError) else exc
        raise EngineCrashed(
            f"{url} can't be reached: {reason}",
            hint="Check host, port and that the server is running; a remote one may need an SSH tunnel.",
            code="endpoint-unreachable",
        ) from None
