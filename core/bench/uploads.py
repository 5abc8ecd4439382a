"""Prompt files that came with an upload: checked, and kept under the home folder for the run's process."""

from core.bench.parsing import prompt_kind
from core.bench.plan import Workload
from core.bench.prompts import listed_prompts
from core.errors import InputError
from core.files import keep_upload, upload_path
from core.settings import Settings


def keep_prompt_file(settings: Settings, name: str, data: bytes) -> Workload:
    """Keep a prompt file and return a workload that names it; the same bytes are kept once.

    Raises InputError (`prompt-file`), and keeps nothing, for a file that holds no prompts.
    """
    folder = settings.home / "prompts"
    is_new = not upload_path(folder, name, data, nameless="prompts.txt").exists()
    path = keep_upload(folder, name, data, nameless="prompts.txt")
    workload = Workload(prompts=prompt_kind(path.name), path=str(path))
    try:
        listed_prompts(workload)
    except InputError as error:
        if is_new:
            path.unlink()
        # The person knows the file by its own name, not by where it was to be kept.
        raise InputError(error.message.replace(str(path), name), hint=error.hint, code=error.code) from error
    return workload
