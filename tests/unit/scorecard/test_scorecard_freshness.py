from dataclasses import replace

import pytest

from core.domain.specs import Patience
from core.scorecard.freshness import Staleness, staleness
from tests.unit.bench.bench_samples import MACHINE
from tests.unit.scorecard.scorecard_samples import TURBOMIND, measured, now, run_of

(MEASURED,) = measured(run_of({TURBOMIND: [0.01]}))


def settings(**changes):
    return replace(TURBOMIND, settings=replace(TURBOMIND.settings, **changes))


def test_a_lane_as_it_was_measured_is_fresh():
    assert staleness(now(TURBOMIND), MEASURED) is None


@pytest.mark.parametrize(
    ("lane", "reason"),
    [
        (now(settings(cache_max_entry_count=0.8)), Staleness.OTHER_SETTINGS),
        (now(settings(quant_policy=8)), Staleness.OTHER_SETTINGS),
        (now(replace(TURBOMIND, model=replace(TURBOMIND.model, checkpoint="/b"))), Staleness.OTHER_SETTINGS),
        (now(TURBOMIND, engine_version="engine 2"), Staleness.OTHER_ENGINE_VERSION),
        (now(TURBOMIND, machine=replace(MACHINE, gpus=("H200",))), Staleness.OTHER_MACHINE),
        (now(TURBOMIND, machine=replace(MACHINE, host="other")), Staleness.OTHER_MACHINE),
        (now(TURBOMIND, machine=replace(MACHINE, driver="600.1")), Staleness.OTHER_MACHINE),
    ],
)
def test_what_figures_depend_on_makes_them_stale(lane, reason):
    assert staleness(lane, MEASURED) is reason


@pytest.mark.parametrize(
    "lane",
    [
        now(settings(start_timeout_s=5.0)),
        now(replace(TURBOMIND, patience=Patience(stall_s=3.0))),
        now(TURBOMIND, engine_version=None),
        now(TURBOMIND, machine=replace(MACHINE, python="3.13.0", platform="Linux-7")),
    ],
)
def test_what_changes_no_figure_keeps_them(lane):
    assert staleness(lane, MEASURED) is None


def test_a_run_of_an_unknown_machine_is_not_taken_for_one_of_this():
    assert staleness(now(TURBOMIND), replace(MEASURED, machine=None)) is Staleness.OTHER_MACHINE
