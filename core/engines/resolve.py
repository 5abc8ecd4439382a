"""Where a lane's requests go right now.

Any LMDyno process can tell, from engines.json, nodes.json and the system.
"""

from dataclasses import replace
from pathlib import Path

from core.config.endpoints import api_key
from core.domain.specs import Endpoint, EngineSettings, LaneSpec
from core.domain.turns import ErrorInfo
from core.engines.log.causes import ERROR_OF_CODE
from core.engines.log.diagnose import explain_death
from core.engines.log.file import read_tail
from core.engines.nodes import node_trouble, read_snapshot
from core.engines.registry import EngineEntry, EngineState, Registry
from core.errors import ConfigError, EngineError
from core.i18n import N_
from core.settings import Settings

_UP = (EngineState.STARTING, EngineState.HEALTHY, EngineState.STOPPING)
_START_HINT = N_("Start it on the Engines page or with `lmdyno engines start {lane}`.")


def find_endpoint(settings: Settings, lane: LaneSpec) -> Endpoint | None:
    """The lane's endpoint; None while its engine is starting. Cheap, thread-safe, works in any process.

    Endpoint lanes resolve at once, with `model` "" where the lane names none.

    Raises:
        ConfigError: there is no such key, or it is not for the endpoint's host (`core.config.endpoints`).
        EngineError: the engine failed, died, runs with other settings, or does not run.
    """
    if lane.endpoint is not None:
        return _remote(settings, lane)
    entry = Registry(settings).get(lane.name)
    if (node := engine_node(settings, lane, entry)) is not None:
        return _on_node(settings, lane, node)
    if entry is None:
        raise _not_running(lane.name)
    _require_same(entry.lane, lane)
    now = observed(entry)
    if now.state is EngineState.STARTING:
        return None
    if now.state is EngineState.HEALTHY:
        if now.endpoint is None:
            return None
        return replace(now.endpoint, patience=lane.patience, log_file=entry.log_file)
    if now.error is not None:
        raise error_of(now.error)
    raise _not_running(lane.name)


def engine_node(settings: Settings, lane: LaneSpec, entry: EngineEntry | None) -> str | None:
    """The node that the lane's engine is or belongs on; None for this machine.

    `entry` is the lane's in engines.json: of a lane that may run anywhere, an engine here comes first.
    """
    if lane.node is not None:
        return lane.node
    if entry is not None and observed(entry).state in _UP:
        return None
    snapshot = read_snapshot(settings)
    return snapshot.node_of(lane) if snapshot else None


def _on_node(settings: Settings, lane: LaneSpec, name: str) -> Endpoint | None:
    snapshot = read_snapshot(settings)
    if problem := node_trouble(snapshot, name):
        raise error_of(problem)
    node = snapshot.node(name) if snapshot else None
    engine = node.engine(lane.name) if node else None
    if engine is None:
        raise _not_running(lane.name)
    _require_same(engine.lane, lane)
    if engine.state is EngineState.STARTING:
        return None
    if engine.state is EngineState.HEALTHY and engine.endpoint is not None:
        return replace(engine.endpoint, patience=lane.patience)
    if engine.error is not None:
        raise error_of(engine.error)
    raise _not_running(lane.name)


def _require_same(started: LaneSpec, lane: LaneSpec) -> None:
    if not same_engine(started, lane):
        raise EngineError(
            N_("The engine of {lane} runs with settings that the lane no longer has.", lane=lane.name),
            hint=N_("Restart it."),
            code="engine-settings-differ",
        )


def observed(entry: EngineEntry) -> EngineEntry:
    """The entry as the system shows it: an engine whose process is gone has failed, noticed or not."""
    if entry.state is EngineState.HEALTHY and not entry.alive:
        error = explain_death(read_tail(Path(entry.log_file)), None)
        return replace(entry, state=EngineState.FAILED, error=ErrorInfo.of(error))
    if entry.state in (EngineState.STARTING, EngineState.STOPPING) and not entry.worker.alive:
        error = EngineError(
            N_("LMDyno exited while it was starting {lane}.", lane=entry.name)
            if entry.state is EngineState.STARTING
            else N_("LMDyno exited while it was stopping {lane}.", lane=entry.name),
            hint=_START_HINT.filled(lane=entry.name),
            code="engine-start-abandoned",
        )
        return replace(entry, state=EngineState.FAILED, error=ErrorInfo.of(error))
    return entry


def same_engine(one: LaneSpec, other: LaneSpec) -> bool:
    """Whether both lanes are served by the same engine; how long a start may take makes no difference."""
    return _launched(one) == _launched(other)


def error_of(info: ErrorInfo) -> EngineError:
    """The error that a record kept, in its class again."""
    return ERROR_OF_CODE.get(info.code, EngineError)(info.message, hint=info.hint, code=info.code)


def _launched(lane: LaneSpec) -> tuple[object, ...]:
    settings = replace(lane.settings, start_timeout_s=EngineSettings().start_timeout_s)
    return (lane.kind, lane.model, lane.weights, settings)


def _remote(settings: Settings, lane: LaneSpec) -> Endpoint:
    spec = lane.endpoint
    assert spec is not None

    def key_of(name: str) -> str:
        try:
            return api_key(settings, name, spec.url)
        except ConfigError as error:
            message = N_("{lane} ({key}): {problem}", lane=lane.name, key=name, problem=error.message)
            raise ConfigError(message, hint=error.hint, code=error.code) from None

    headers = tuple(
        (name, key_of(value[1:]) if value.startswith("$") else value) for name, value in spec.request.headers
    )
    return Endpoint(
        url=spec.url.rstrip("/"),
        model=spec.model or "",
        dialect=spec.dialect,
        api_key=key_of(spec.api_key_name) if spec.api_key_name else None,
        request=replace(spec.request, headers=headers),
        patience=lane.patience,
        tokenizer=spec.tokenizer,
    )


def _not_running(name: str) -> EngineError:
    return EngineError(
        N_("The engine of {lane} isn't running.", lane=name),
        hint=_START_HINT.filled(lane=name),
        code="engine-not-running",
    )
