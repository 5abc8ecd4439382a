"""What another language than English costs: `python -m benchmarks.language`.

Each number is the least of several runs: reading the catalogue in a fresh process, a text, and the processor
time of the command line's help from start to end. English reads no catalogue.
"""

import os
import subprocess
import sys
import timeit

from core import i18n
from core.i18n import LOCALE_DIR, Language, _, use_language
from core.settings import PROJECT_ROOT

RUNS = 7
READ = (
    "from time import perf_counter; from core import i18n; begun = perf_counter(); "
    "i18n.catalogue(i18n.Language.CHINESE); print(perf_counter() - begun)"
)
COMMAND = ("-m", "core", "engines", "--help")
TEXT = "Open voting"


def least_s(arguments: tuple[str, ...], **environ: str) -> float:
    """The least processor time that a Python process with these arguments takes."""

    def run_s() -> float:
        before = os.times()
        subprocess.run(
            [sys.executable, *arguments],
            cwd=PROJECT_ROOT,
            env={**os.environ, **environ},
            check=True,
            stdout=subprocess.DEVNULL,
        )
        after = os.times()
        user_s = after.children_user - before.children_user
        return user_s + after.children_system - before.children_system

    return min(run_s() for _run in range(RUNS))


def catalogue_s() -> float:
    """The least time that a fresh process takes to read the catalogue."""
    return min(
        float(
            subprocess.run(
                [sys.executable, "-c", READ], cwd=PROJECT_ROOT, check=True, capture_output=True, text=True
            ).stdout
        )
        for _run in range(RUNS)
    )


def text_s(language: Language) -> float:
    """The time of one text once the catalogue is read."""
    with use_language(language):
        _(TEXT)
        return min(timeit.repeat(lambda: _(TEXT), number=10_000, repeat=RUNS)) / 10_000


def main() -> None:
    file = LOCALE_DIR / Language.CHINESE / "LC_MESSAGES" / "lmdyno.po"
    texts, size_kib = len(i18n.catalogue(Language.CHINESE).texts), file.stat().st_size / 1024
    print(f"catalogue: {texts} texts, {size_kib:.0f} KiB, read in {catalogue_s() * 1e3:.0f} ms")
    for language, locale in ((Language.ENGLISH, "C.UTF-8"), (Language.CHINESE, "zh_CN.UTF-8")):
        text_us, command_ms = text_s(language) * 1e6, least_s(COMMAND, LC_ALL=locale) * 1e3
        print(f"{language}: a text {text_us:.2f} µs, `lmdyno engines --help` {command_ms:.0f} ms")


if __name__ == "__main__":
    main()
