"""A quality run as a background job: `python -m core.quality.worker FOLDER FD`, started by `core.jobs`.

Stopping the job keeps what was found out by then: the run is in the store, whatever becomes of the job.
"""

import sys
from collections.abc import Mapping
from typing import Any

from core import process_setup
from core.codec import decode
from core.domain.runs import RunState
from core.errors import EngineError, LMDynoError
from core.i18n import N_
from core.jobs.worker import Report, run
from core.quality.plan import QualityPlan
from core.quality.run.process import conduct
from core.settings import load_settings


def work(arguments: Mapping[str, Any], report: Report) -> Mapping[str, Any]:
    process_setup.configure_logs()
    done = conduct(load_settings(), decode(QualityPlan, arguments["plan"]), report)
    if done.state is RunState.STOPPED:
        raise LMDynoError(
            N_("The comparison was stopped."), hint=N_("The results so far are kept."), code="stopped"
        )
    if done.error is not None:
        raise EngineError(done.error.message, hint=done.error.hint, code=done.error.code)
    return {"run_id": done.id, "state": done.state}


if __name__ == "__main__":
    sys.exit(run(work))
