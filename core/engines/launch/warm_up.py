"""The first request to an engine that has just loaded, which nobody measures.

First requests pay for what later ones find done: lazily loaded tokenizers, compiled kernels, filled caches.
LMDeploy warms its kernels up while starting, transformers nothing; one short answer before "healthy" puts all
engines on the same footing. An engine for images is shown one too: its first image takes it many times as
long as the next one.
"""

import http.client
import json
import logging
from urllib.parse import urlsplit

from core.domain.specs import Endpoint

log = logging.getLogger(__name__)

_TOKENS = 16
_GREY_IMAGE = (
    "data:image/png;base64,"
    "iVBORw0KGgoAAAANSUhEUgAAADgAAAA4CAIAAAAn5KxJAAAAP0lEQVR42u3OMQ0AAAwDoEqv9B5TsQQUkD4RUVFRUVFRUVFRUVFR"
    "UVFRUVFRUVFRUVFRUVFRUVFRUVFRUVHRM4zeYQ8NTLd/AAAAAElFTkSuQmCC"
)
"""56 × 56 pixels: two patches of any known model each way, and little to encode."""


def warm_up(endpoint: Endpoint, *, timeout_s: float, images: bool = False) -> None:
    """Ask for one short answer, with `images` for a second one about an image, and drop them.

    A refusal is only logged, the first real request will tell.
    """
    _ask(endpoint, "Count from one to ten.", timeout_s)
    if images:
        image = {"type": "image_url", "image_url": {"url": _GREY_IMAGE}}
        _ask(endpoint, [image, {"type": "text", "text": "What is this?"}], timeout_s)


def _ask(endpoint: Endpoint, content: str | list[object], timeout_s: float) -> None:
    address = urlsplit(endpoint.url)
    headers = {"Content-Type": "application/json"}
    if endpoint.api_key:
        headers["Authorization"] = f"Bearer {endpoint.api_key}"
    body = json.dumps(
        {
            "model": endpoint.model,
            "messages": [{"role": "user", "content": content}],
            "max_tokens": _TOKENS,
        }
    )
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=timeout_s)
    try:
        connection.request("POST", f"{address.path}/chat/completions", body, headers)
        answer = connection.getresponse()
        answer.read()
        if answer.status != http.HTTPStatus.OK:
            log.warning("engine refused its first request status=%d", answer.status)
    except (OSError, http.client.HTTPException) as exc:
        log.warning("engine did not answer its first request: %s", exc)
    finally:
        connection.close()
