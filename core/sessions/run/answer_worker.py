"""The worker that makes a session's answers: `python -m core.sessions.run.answer_worker FOLDER FD`."""

import sys
from collections.abc import Mapping
from contextlib import closing
from typing import Any

from core import process_setup
from core.errors import LMDynoError
from core.i18n import N_
from core.jobs.worker import Report, run
from core.sessions.run.answering import make_answers, missing_answers
from core.settings import load_settings
from core.store.sessions import Sessions
from core.telemetry.machine import describe_machine


def work(arguments: Mapping[str, Any], report: Report) -> Mapping[str, Any]:
    """Make what is missing; each answer is stored as it comes."""
    process_setup.configure_logs()
    settings = load_settings()
    with closing(Sessions(settings.database_url)) as store:
        session = store.session(arguments["session"])
        store.set_machine(session.id, describe_machine())
        report(N_("getting ready"), None)
        if not make_answers(settings, store, session, report, report):
            raise LMDynoError(
                N_("Generating the answers was stopped."),
                hint=N_("The answers so far are kept. Resume to generate the rest."),
                code="stopped",
            )
        return {"missing": len(missing_answers(session.plan, store.answers(session.id)))}


if __name__ == "__main__":
    sys.exit(run(work))
