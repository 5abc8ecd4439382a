"""The worker of a judge: `python -m core.sessions.run.judge_worker FOLDER FD`."""

import sys
from collections.abc import Mapping
from contextlib import closing
from typing import Any

from core import process_setup
from core.codec import decode
from core.domain.sessions import Judgement, SessionRecord
from core.domain.specs import LaneSpec
from core.domain.turns import RequestRecord, TurnPlan
from core.errors import LMDynoError
from core.i18n import N_
from core.jobs.worker import Report, run
from core.sessions.items import usable_texts
from core.sessions.judging import JudgeTask, judge_tasks, judge_turn, read_verdict
from core.sessions.run.answering import LanePart, ask_lanes
from core.settings import load_settings
from core.store.sessions import Sessions


def work(arguments: Mapping[str, Any], report: Report) -> Mapping[str, Any]:
    """Judge what this judge has not judged yet; each judgement is stored as it comes."""
    process_setup.configure_logs()
    settings = load_settings()
    judge = decode(LaneSpec, arguments["judge"])
    with closing(Sessions(settings.database_url)) as store:
        record = store.record(arguments["session"])
        tasks = judge_tasks(record.session, record.judgements, judge.name, int(arguments["most_items"]))

        def keep(place: int, answer: RequestRecord) -> None:
            store.save_judgements(record.session.id, [_judgement(judge.name, tasks[place], answer)])
            done = place + 1
            report(N_("{done} of {total} judgements", done=done, total=len(tasks)), done / len(tasks))

        part = LanePart(lane=judge, turns=_turns(record, tasks, judge), on_record=keep)
        if tasks and not ask_lanes(settings, [part], report):
            raise LMDynoError(
                N_("Judging was stopped."),
                hint=N_("The judgements so far are kept. For the rest, start it again."),
                code="stopped",
            )
    return {"judged": len(tasks)}


def _turns(record: SessionRecord, tasks: list[JudgeTask], judge: LaneSpec) -> tuple[TurnPlan, ...]:
    texts = usable_texts(record.answers)
    turns = []
    for task in tasks:
        item = record.session.items[task.item]
        shown = [texts[item.prompt, candidate] for candidate in item.candidates]
        turns.append(judge_turn(record.session, task, shown, judge))
    return tuple(turns)


def _judgement(judge: str, task: JudgeTask, answer: RequestRecord) -> Judgement:
    verdict, order = (None, ()) if answer.error else read_verdict(answer.text, task)
    return Judgement(
        judge=judge,
        item=task.item,
        turned=task.turned,
        verdict=verdict,
        order=order,
        text=answer.text,
        error=answer.error,
    )


if __name__ == "__main__":
    sys.exit(run(work))
