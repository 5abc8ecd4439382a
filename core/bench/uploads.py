"""Prompt files that came with an upload: checked, and kept under the home folder for the run's process."""

import hashlib
import re
from pathlib import Path

from core.bench.parsing import prompt_kind
from core.bench.plan import Workload
from core.bench.prompts import listed_prompts
from core.errors import InputError
from core.settings import Settings

_UNFIT = re.compile(r"[^A-Za-z0-9._-]+")
_NAME_CHARS = 80


def keep_prompt_file(settings: Settings, name: str, data: bytes) -> Workload:
    """Keep a prompt file and return a workload that names it; the same bytes are kept once.

    `name` is what a person called it: its ending says how it is read, and nothing else of it reaches the
    disk but letters, digits, dots and dashes. Raises InputError (`prompt-file`), and keeps nothing, for a
    file that holds no prompts.
    """
    folder = settings.home / "prompts" / hashlib.sha256(data).hexdigest()[:16]
    path = folder / (_UNFIT.sub("-", Path(name).name)[-_NAME_CHARS:].lstrip(".-") or "prompts.txt")
    is_new = not path.exists()
    folder.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    workload = Workload(prompts=prompt_kind(path.name), path=str(path))
    try:
        listed_prompts(workload)
    except InputError as error:
        if is_new:
            path.unlink()
        # The person knows the file by its own name, not by where it was to be kept.
        raise InputError(error.message.replace(str(path), name), hint=error.hint, code=error.code) from error
    return workload
