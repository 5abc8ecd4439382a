"""Benchmark: put load on lanes, watch the run, and see its result."""

from core.access.guard import Action
from core.ui.benchmark.form import show_form
from core.ui.benchmark.latest import show_latest
from core.ui.benchmark.live import is_running, show_live
from core.ui.shared import shell
from core.ui.shared.rights import offers

shell.require()

# What people wait for comes first: the form while nothing runs, else the run.
busy = is_running()
if busy:
    show_live()
if offers(Action.START_JOB):
    show_form(folded=busy)
if not busy:
    show_live()
show_latest()
