"""Write a walk as one HTML file: the tutorial's table, filled in by this machine."""

from core import units
from core.domain.walk import STATE_NAMES, STEP_TEXTS, StepResult, WalkRun
from core.i18n import _
from core.reports.page import render
from core.walk.runner import summary


def walk_html(run: WalkRun) -> str:
    """The whole page, in the current language."""
    machine = run.machine
    circumstances = [
        f"{run.created_at:%Y-%m-%d %H:%M} UTC",
        f"LMDyno {run.lmdyno}",
        *((machine.host, *machine.gpus, machine.cpu or "") if machine else ()),
        summary(run),
    ]
    return render(
        "walk",
        title=_(run.title),
        circumstances=[text for text in circumstances if text],
        texts={
            "step": _("Step"),
            "state": _("State"),
            "time": _("Time"),
            "by_hand": _("Do it manually"),
            "answers": _("Answers"),
        },
        steps=[_step(number, step) for number, step in enumerate(run.steps, start=1)],
    )


def _step(number: int, step: StepResult) -> dict[str, object]:
    text = STEP_TEXTS[step.kind]
    lines = [_(note) for note in step.notes]
    if step.reason:
        lines.append(_(step.reason))
    if step.error:
        lines.append(_("{problem} {hint}", problem=_(step.error.message), hint=_(step.error.hint)))
    return {
        "title": _("{number}. {step}", number=number, step=_(text.title)),
        "meaning": _(text.meaning),
        "state": _(STATE_NAMES[step.state]),
        "time": units.duration(step.duration_s) if step.duration_s else units.UNKNOWN,
        "lines": lines,
        "figures": [(_(figure.label), figure.text) for figure in step.figures],
        "answers": [(_(answer.who), answer.prompt, answer.text) for answer in step.answers],
        "by_hand": step.by_hand,
    }
