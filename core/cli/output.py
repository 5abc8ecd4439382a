"""Output that commands have in common: errors on the terminal, and files where they are told to
write them.
"""

from pathlib import Path

from rich.text import Text

from core import units
from core.domain.turns import ErrorInfo
from core.engines.log.file import STARTING
from core.engines.status import EngineStatus
from core.errors import InputError, LMDynoError
from core.files import usual_umask
from core.i18n import N_, _


def error_text(error: LMDynoError | ErrorInfo, style: str = "red") -> Text:
    """Message and hint for the terminal, with brackets kept as text."""
    return Text.assemble((_(error.message), style), "\n" if error.hint else "", _(error.hint))


def stage_text(name: str, status: EngineStatus | None = None) -> str:
    """`hf: Loading weights, 40% · 12 s`, for an engine that is starting."""
    stage = _("{lane}: {stage}", lane=name, stage=(status.stage if status else None) or STARTING)
    return f"{stage} · {units.duration(status.elapsed_s)}" if status else stage


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
