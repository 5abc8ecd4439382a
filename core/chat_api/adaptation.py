"""Requests that a server refuses for one of their fields are sent again without it, once for each field."""

import re
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

import orjson

from core.chat_api.refusals import names_a_length
from core.chat_api.server_errors import ServerError
from core.i18n import N_, Text

_UNSUPPORTED = re.compile(
    r"unsupported|not supported|(does not|doesn't|isn't|not) support|unrecogni[sz]ed|unknown|unexpected"
    r"|not permitted|not allowed|forbidden|extra (inputs?|fields?|propert)|additional propert"
    r"|invalid (param|field|arg)"
    r"|cannot find field|no such (param|field|arg)|is not a valid (param|field)",
    re.IGNORECASE,
)
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_NEEDED = frozenset({"model", "messages", "stream"})
_LENGTH_NAMES = ("max_tokens", "max_completion_tokens")


@dataclass(slots=True)
class Adaptation:
    """What one endpoint was found not to take."""

    left_out: list[str] = field(default_factory=list)
    length_name: str | None = None
    """The name of max_tokens that the server asked for."""

    def applied(self, body: bytes) -> bytes:
        """The request as the server takes it."""
        if not self.left_out and self.length_name is None:
            return body
        document: dict[str, Any] = orjson.loads(body)
        for name in self.left_out:
            document.pop(name, None)
        for name in _LENGTH_NAMES:
            if self.length_name and name != self.length_name and name in document:
                document[self.length_name] = document.pop(name)
        return orjson.dumps(document)

    def learn(self, error: ServerError, body: bytes, wanted: Collection[str] = ()) -> bool:
        """Whether the request can be sent differently than in `body` after this refusal.

        The fields in `wanted` were asked for by a person and are never left out.
        """
        document: dict[str, Any] = orjson.loads(body)
        name = _refused_field(error, document.keys() - _NEEDED - set(wanted))
        if name is None:
            return False
        if name not in _LENGTH_NAMES:
            self.left_out.append(name)
            return True
        other = _LENGTH_NAMES[name == _LENGTH_NAMES[0]]
        if self.length_name is not None or other not in error.words:
            return False  # without a limit an answer could go on for ever
        self.length_name = other
        return True

    def notes(self) -> list[Text]:
        """What a reader of the numbers must know."""
        notes: list[Text] = [
            N_("The server refused {field}, so requests are sent without it.", field=name)
            for name in self.left_out
        ]
        if self.length_name:
            notes.append(N_("The server uses {field} instead of max_tokens.", field=self.length_name))
        return notes


def _refused_field(error: ServerError, fields: Collection[str]) -> str | None:
    """The field of the request that the server refuses by its name."""
    words = f"{error.code} {error.words}"
    if error.status not in (400, 422) or not _UNSUPPORTED.search(words) or names_a_length(words):
        return None
    named = [
        error.param.removeprefix("body.").split(".")[0],
        *(found[0] for found in _NAME.finditer(error.words)),
    ]
    return next((name for name in named if name in fields), None)
