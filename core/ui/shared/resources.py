"""The things a dashboard process has once: settings, lanes, engines, meter, store.

The only `st.cache_resource` of the app. It holds the managers, never an engine: a cache entry is released
when Streamlit pleases, an engine is stopped when its manager says so. Pages ask through the accessors.
"""

import atexit
import logging
import shutil
from contextlib import suppress
from dataclasses import dataclass

import streamlit as st

from core import process_setup
from core.access.guard import acting_as, make_read_only, record_with
from core.access.identity import SYSTEM
from core.bench.results.result import RunRecords
from core.chat_api.servers import Reachability
from core.cluster.control import EngineControl, engines_of
from core.config import LaneRegistry, load_lanes
from core.doctor.fitness import can_run
from core.domain.fairness import LMDEPLOY_KINDS
from core.domain.specs import LaneSpec
from core.domain.turns import ErrorInfo
from core.engines.status import EngineWatch
from core.errors import InputError
from core.files import close_to_others, keep_to_oneself
from core.images.store import ImageStore
from core.jobs.registry import JobsWatch
from core.meter.link import MeterLink
from core.models import job as models_job
from core.models.job import is_being_made
from core.models.vision import is_for_images
from core.process_setup import allow_many_open_files
from core.reports.scorecard import ScorecardReader
from core.settings import Mode, Settings, load_settings
from core.store.audit import AuditLog
from core.store.history import History
from core.store.run_tables import JobResults, Walks
from core.store.runs import BenchRuns, QualityRuns
from core.store.sessions import Sessions, Votes
from core.store.turns import Store
from core.telemetry.nvml import Nvml
from core.telemetry.sampler import Sampler

log = logging.getLogger(__name__)

AUTOSTART_LIMIT = 6
"""As many lanes as the chat page shows side by side."""


@dataclass(slots=True)
class Resources:
    """Set once, but for `registry`, which a change of lanes replaces as a whole."""

    settings: Settings
    gpu: bool
    registry: LaneRegistry
    manager: EngineControl
    meter: MeterLink
    store: Store
    image_store: ImageStore
    bench_runs: BenchRuns
    quality_runs: QualityRuns
    walks: Walks
    job_results: JobResults
    history: History
    audit: AuditLog
    sessions: Sessions
    votes: Votes
    run_records: RunRecords
    watch: EngineWatch
    sampler: Sampler
    jobs_watch: JobsWatch
    reachability: Reachability
    scorecards: ScorecardReader

    def reload_lanes(self) -> None:
        """Read the lanes again, for every session; running engines stay as they are."""
        self.registry = load_lanes(self.settings, gpu=self.gpu)
        self.manager.configure(self.registry.lanes)

    def close(self) -> None:
        """Running turns are recorded as cancelled first, then the engines end."""
        self.meter.close()
        self.reachability.close()
        self.sampler.close()
        self.jobs_watch.close()
        self.manager.close()
        for access in (
            self.store,
            self.bench_runs,
            self.quality_runs,
            self.walks,
            self.job_results,
            self.history,
            self.audit,
            self.sessions,
            self.votes,
        ):
            access.close()


@st.cache_resource(show_spinner=False)
def resources() -> Resources:
    """Made at the first request of a process, closed when the process ends. Raises ConfigError."""
    process_setup.configure_logs()
    allow_many_open_files()
    process_setup.keep_heap_small()
    keep_to_oneself()
    settings = load_settings()
    if settings.mode is Mode.REPLAY:
        return _replaying(settings)
    close_to_others(settings.home)
    nvml = Nvml()
    gpu = bool(nvml.devices())
    registry = load_lanes(settings, gpu=gpu)
    made = _made(settings, registry, nvml)
    record_with(made.audit.record)
    made.sampler.start()
    made.jobs_watch.start()
    made.meter.prepare()
    # Streamlit's server ends its loop on SIGINT and SIGTERM, then the interpreter exits in good order.
    atexit.register(made.close)
    with acting_as(SYSTEM):  # whoever opens the first page
        _prepare_demos(settings, registry.lanes)
        for lane in autostarted(settings, registry.lanes, gpu=gpu):
            made.manager.ensure(lane.name)
    made.manager.adopt_orphans()
    log.info("dashboard ready lanes=%s", ",".join(lane.name for lane in registry.lanes))
    return made


def _made(settings: Settings, registry: LaneRegistry, nvml: Nvml) -> Resources:
    """Everything, with nothing started."""
    gpu = bool(nvml.devices())
    watch = EngineWatch(settings)
    bench_runs = BenchRuns(settings.database_url)
    quality_runs = QualityRuns(settings.database_url)
    run_records = RunRecords(bench_runs)
    return Resources(
        settings=settings,
        gpu=gpu,
        registry=registry,
        manager=engines_of(settings, registry.lanes, registry.cluster, gpu=nvml if gpu else None),
        meter=MeterLink(settings),
        store=Store(settings.database_url),
        image_store=ImageStore(settings.images_dir),
        bench_runs=bench_runs,
        walks=Walks(settings.database_url),
        job_results=JobResults(settings.database_url),
        quality_runs=quality_runs,
        history=History(settings.database_url),
        audit=AuditLog(settings.database_url),
        sessions=Sessions(settings.database_url),
        votes=Votes(settings.database_url),
        run_records=run_records,
        watch=watch,
        sampler=Sampler(nvml, watch),
        jobs_watch=JobsWatch(settings),
        reachability=Reachability(),
        scorecards=ScorecardReader(bench_runs, quality_runs, run_records),
    )


def _replaying(settings: Settings) -> Resources:
    """The recordings as the store of a home of their own; from then on nothing can be changed."""
    from core.replay.recording import lanes_of, recordings_of, temporary_home  # only this mode needs it

    recordings = recordings_of(settings)
    with acting_as(SYSTEM):
        home = temporary_home(settings, recordings)
    made = _made(home, lanes_of(recordings), Nvml())
    make_read_only()
    atexit.register(shutil.rmtree, home.home, ignore_errors=True)
    atexit.register(made.close)
    log.info("replay ready recordings=%d lanes=%d", len(recordings), len(made.registry.lanes))
    return made


def _prepare_demos(settings: Settings, lanes: tuple[LaneSpec, ...]) -> None:
    """Have the demo models made by a job, where lanes want them; their engines wait for it."""
    if models_job.are_demos_wanted(settings, lanes):
        with suppress(InputError):  # another dashboard of this home has begun
            models_job.start_demos(settings)


def autostarted(settings: Settings, lanes: tuple[LaneSpec, ...], *, gpu: bool) -> tuple[LaneSpec, ...]:
    """The lanes whose engines start with the dashboard: local ones for text that this machine can run.

    Those for images are started by the page that shows images.
    """
    fitting = [
        lane
        for lane in lanes
        if lane.is_local and _unfit(settings, lane, gpu=gpu) is None and not is_for_images(lane)
    ]
    return tuple(fitting[:AUTOSTART_LIMIT])


def settings() -> Settings:
    return resources().settings


def lanes() -> LaneRegistry:
    return resources().registry


def unfit(lane: LaneSpec) -> ErrorInfo | None:
    """Why a lane can't run and what to do; None if nothing speaks against it, or a node may run it."""
    if lane.node is not None or (lanes().cluster is not None and lane.kind in LMDEPLOY_KINDS):
        return None
    return _unfit(resources().settings, lane, gpu=resources().gpu)


def _unfit(settings: Settings, lane: LaneSpec, *, gpu: bool) -> ErrorInfo | None:
    """Weights that a job is making right now are as good as there: the lane's engine waits for them."""
    problem = can_run(lane, gpu=gpu)
    if problem is not None and problem.code == "weights-missing" and is_being_made(settings, lane):
        return None
    return problem


def manager() -> EngineControl:
    return resources().manager


def meter() -> MeterLink:
    return resources().meter


def store() -> Store:
    return resources().store


def image_store() -> ImageStore:
    return resources().image_store


def bench_runs() -> BenchRuns:
    return resources().bench_runs


def quality_runs() -> QualityRuns:
    return resources().quality_runs


def job_results() -> JobResults:
    return resources().job_results


def walks() -> Walks:
    return resources().walks


def audit() -> AuditLog:
    return resources().audit


def history() -> History:
    return resources().history


def sessions() -> Sessions:
    return resources().sessions


def votes() -> Votes:
    return resources().votes


def run_records() -> RunRecords:
    return resources().run_records


def watch() -> EngineWatch:
    return resources().watch


def sampler() -> Sampler:
    return resources().sampler


def reachability() -> Reachability:
    return resources().reachability


def scorecards() -> ScorecardReader:
    return resources().scorecards
