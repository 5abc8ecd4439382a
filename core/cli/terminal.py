"""Output to the terminal as plain text: no markup, no control sequences; and files where people want them.

Prompts, titles, paths and servers' words may hold `[/INST]`, `:smile:` or escape sequences. So nothing that
is printed as a plain string is interpreted; a style is given with `rich.text.Text` or `style=`.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import TextColumn
from rich.segment import Segment
from rich.status import Status
from rich.text import Text

from core.domain.turns import ErrorInfo
from core.errors import InputError, LMDynoError
from core.files import usual_umask
from core.i18n import N_, _

_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def printable(text: str) -> str:
    """The text with control characters made visible, tabs and line ends apart: none reaches the terminal."""
    if text.isascii() and text.isprintable():
        return text
    text = text.replace("\r\n", "\n").encode("utf-8", "replace").decode()
    return _CONTROL.sub(_visible, text)


def terminal(*, stderr: bool = False) -> Console:
    """Standard output, or standard error for progress and remarks."""
    return _Terminal(stderr=stderr, markup=False, highlight=False, emoji=False)


def progress_text(template: str = "{task.description}") -> TextColumn:
    """A column of a progress bar."""
    return TextColumn(template, markup=False)


class _Terminal(Console):
    def render_str(self, text: str, **options: Any) -> Text:  # noqa: ANN401 - rich's own
        return super().render_str(printable(text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for text, style, control in super().render(renderable, options):
            yield Segment(text if control else printable(text), style, control)

    def status(self, status: RenderableType, **options: Any) -> Status:  # noqa: ANN401 - rich's own
        return _Status(_as_text(status), console=self, **options)


class _Status(Status):
    def update(self, status: RenderableType | None = None, **options: Any) -> None:  # noqa: ANN401 - rich's own
        super().update(None if status is None else _as_text(status), **options)


def _as_text(content: RenderableType) -> RenderableType:
    return Text(printable(content)) if isinstance(content, str) else content


def _visible(control: re.Match[str]) -> str:
    """Unicode's visible symbol for a control character; U+FFFD for those without one."""
    code = ord(control[0])
    return chr(0x2400 + code) if code < 0x20 else "\u2421" if code == 0x7F else "\ufffd"


def error_text(error: LMDynoError | ErrorInfo, style: str = "red") -> Text:
    """Message and hint for the terminal, with brackets kept as text."""
    return Text.assemble((_(error.message), style), "\n" if error.hint else "", _(error.hint))


def write_file(path: Path, content: bytes) -> None:
    """Write a whole file; raises InputError where that can't be done."""
    path = path.expanduser()
    is_new = not path.exists()
    try:
        path.write_bytes(content)
        if is_new:  # asked for by a person, so as open as their other files
            path.chmod(0o666 & ~usual_umask())
    except OSError as exc:
        raise InputError(
            N_("Can't write {path}: {reason}", path=path, reason=exc.strerror),
            hint=N_("Choose a file in a folder that you can write to."),
        ) from exc
