"""One start of one engine, from the wish to "healthy" or a reason why not.

An engine that has just loaded gets a first request, which nobody measures.
"""

import http.client
import json
import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import urlsplit

from core.domain.specs import Endpoint, EngineKind
from core.domain.turns import ErrorInfo
from core.engines import diagnosis, supervisor
from core.engines.diagnosis import PORT_TAKEN
from core.engines.guardian import see_to_guardian
from core.engines.launch.table import Command, LaunchRow, is_local_path, need_of, version_of
from core.engines.placement import Devices, Place, StartOrder
from core.engines.registry import EngineEntry, EngineState, Registry
from core.engines.supervisor import STARTING, Target, log_path, read_tail
from core.errors import EngineError, EngineLoadFailed, EngineTimeout, LMDynoError
from core.i18n import N_, Text
from core.models.job import job_that_makes
from core.models.vision import is_vision
from core.settings import Settings
from core.telemetry.processes import ProcessId
from core.units import duration

log = logging.getLogger(__name__)

_POLL_S = 0.2
_WEIGHTS_POLL_S = 0.25
_HEALTH_TIMEOUT_S = 2.0
_PORT_ATTEMPTS = 3
_WARM_UP_TIMEOUT_S = 120.0
_TOKENS = 16
_GREY_IMAGE = (
    "data:image/png;base64,"
    "iVBORw0KGgoAAAANSUhEUgAAADgAAAA4CAIAAAAn5KxJAAAAP0lEQVR42u3OMQ0AAAwDoEqv9B5TsQQUkD4RUVFRUVFRUVFRUVFR"
    "UVFRUVFRUVFRUVFRUVFRUVFRUVFRUVHRM4zeYQ8NTLd/AAAAAElFTkSuQmCC"
)
"""56 × 56 pixels: two patches of any known model each way, and little to encode."""


class _NotWanted(Exception):
    """The engine was stopped or replaced while it was starting."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """The parts that all starts of one manager share."""

    settings: Settings
    registry: Registry
    rows: Mapping[EngineKind, LaunchRow]
    devices: Devices
    grace_s: float
    """Seconds between SIGTERM and SIGKILL."""
    order: StartOrder = field(default_factory=StartOrder)
    port: int | None = None
    """Where the engine listens; None takes a free port."""


class Startup:
    """Runs one start, in a thread of its own; its entry must be in the registry as STARTING."""

    def __init__(self, around: Surroundings, entry: EngineEntry, previous: EngineEntry | None) -> None:
        self._around = around
        self._registry = around.registry
        self._entry = entry
        self._lane = entry.lane
        self._row = around.rows[entry.lane.kind]
        self._previous = previous
        self._place_in_order = around.order.join()

    def run(self) -> None:
        """Ends with the entry HEALTHY or FAILED, or as somebody else has changed it meanwhile."""
        began = time.monotonic()
        try:
            self._start()
            log.info("engine healthy lane=%s seconds=%.1f", self._lane.name, time.monotonic() - began)
        except _NotWanted:
            log.info("engine start given up lane=%s", self._lane.name)
        except LMDynoError as error:
            log.warning("engine failed lane=%s code=%s", self._lane.name, error.code)
            self._fail(error)
        finally:
            self._around.order.stand_aside(self._place_in_order)
            # Only an error that is LMDyno's own mistake leaves the entry as it was.
            if (current := self._mine()) is not None:
                self._end(current.process, current.start_id)
                self._fail(
                    EngineLoadFailed(
                        N_("LMDyno failed unexpectedly while starting the engine."),
                        hint=N_("See LMDyno's log for details."),
                    )
                )

    def _start(self) -> None:
        see_to_guardian(self._around.settings)
        if self._previous is not None:
            self._stage(N_("Stopping the previous engine"))
            self._end(self._previous.process, self._previous.start_id)
        self._stage(N_("Checking model and packages"))
        version = version_of(self._lane, self._row)
        self._await_weights()
        need = need_of(self._lane, self._row)
        self._around.order.wait(self._place_in_order, self._require_wanted)
        with self._around.devices.reserved(
            self._lane, need, needs_gpu=self._row.needs_gpu, while_waiting=self._wait
        ) as place:
            self._around.order.stand_aside(self._place_in_order)
            before = self._around.devices.free_bytes(place)
            command, port = self._spawn_until_it_answers(place)
            endpoint = Endpoint(
                url=f"http://{place.host}:{port}/v1",
                model=command.served_model,
                dialect=self._row.dialect,
                api_key=command.api_key,
                version=self._with_note(version),
                device=place.label,
            )
            if self._row.warms_up:
                self._stage(N_("Sending a warm-up request"))
                warm_up(endpoint, timeout_s=_WARM_UP_TIMEOUT_S, images=is_vision(self._lane))
            after = self._around.devices.free_bytes(place)
            self._now_healthy(
                endpoint=endpoint,
                gpu_bytes=None if before is None or after is None else max(0, before - after),
            )

    def _await_weights(self) -> None:
        """While a job makes the lane's weights, wait for it; raises EngineLoadFailed if it fails."""
        form = self._lane.model.path(self._lane.weights) if self._lane.model else None
        path = Path(form).expanduser() if form and is_local_path(form) else None
        if path is None or path.exists():
            return
        order, place = self._around.order, self._place_in_order
        order.stand_aside(place)
        while not path.exists() and (job := job_that_makes(self._around.settings, path)) is not None:
            if job.state.ended:
                if job.record.error is not None:
                    error = job.record.error
                    raise EngineLoadFailed(error.message, hint=error.hint, code=error.code)
                break
            self._wait(N_("Waiting for the weights: {stage}", stage=job.record.stage or STARTING))
            time.sleep(_WEIGHTS_POLL_S)
        order.return_to(place)
        # Engines that waited for the same job get back into order.
        time.sleep(2 * _WEIGHTS_POLL_S)

    def _with_note(self, version: str) -> str:
        unpacked = diagnosis.unpacked_gguf(read_tail(self._log_file))
        return f"{version}, GGUF unpacked while loading" if unpacked else version

    def _spawn_until_it_answers(self, place: Place) -> tuple[Command, int]:
        for attempt in range(1, _PORT_ATTEMPTS + 1):
            port = self._around.port or supervisor.free_port(place.host)
            command = self._row.command(self._lane, place, port)
            process = self._spawn(command, place, port)
            try:
                self._await_health(process, place.host, port)
                return command, port
            except EngineError as error:
                self._end(process, self._entry.start_id)
                if error.code != PORT_TAKEN or attempt == _PORT_ATTEMPTS:
                    raise
                log.info("engine port was taken lane=%s port=%d", self._lane.name, port)
            except _NotWanted:
                self._end(process, self._entry.start_id)
                raise
        raise AssertionError("the last attempt returns or raises")

    def _spawn(self, command: Command, place: Place, port: int) -> ProcessId:
        # Within one change of the registry: whoever stops the engine either prevents it or sees its process.
        with self._changing_mine() as (engines, current):
            process = supervisor.spawn(
                command.argv,
                command.environment,
                start_id=self._entry.start_id,
                log_file=self._log_file,
            )
            engines[self._lane.name] = replace(
                current,
                process=process,
                port=port,
                stage=None,
                gpus=tuple(gpu.index for gpu in place.gpus),
            )
        log.info("engine spawned lane=%s pid=%d device=%s", self._lane.name, process.pid, place.label)
        return process

    def _end(self, process: ProcessId | None, start_id: str) -> None:
        supervisor.end([Target(process, start_id)], grace_s=self._around.grace_s)

    def _await_health(self, process: ProcessId, host: str, port: int) -> None:
        deadline = time.monotonic() + self._lane.settings.start_timeout_s
        while True:
            self._require_wanted()
            ended = not supervisor.alive(process)
            text = read_tail(self._log_file)
            if ended:
                raise diagnosis.explain_failed_start(text, supervisor.exit_code(process))
            if fallback := diagnosis.wrong_backend(text):
                raise fallback
            if supervisor.answers(
                host, port, self._row.health_path, _HEALTH_TIMEOUT_S
            ) and supervisor.is_served_by(process, port):
                return
            if time.monotonic() >= deadline:
                raise self._timed_out(text)
            time.sleep(_POLL_S)

    def _timed_out(self, text: str) -> EngineTimeout:
        last_line = "; ".join(diagnosis.telling_lines(text, 1))
        limit = duration(self._lane.settings.start_timeout_s)
        if last_line:
            message = N_(
                "{lane} wasn't ready within {time}. Its log ends with: {line}",
                lane=self._lane.name,
                time=limit,
                line=last_line,
            )
        else:
            message = N_("{lane} wasn't ready within {time}.", lane=self._lane.name, time=limit)
        return EngineTimeout(
            message,
            hint=N_("Check its log. If it only needs more time, raise start_timeout_s in lanes.toml."),
            code="engine-start-timeout",
        )

    @property
    def _log_file(self) -> Path:
        return log_path(self._around.settings.logs_dir, self._lane.name)

    def _mine(self) -> EngineEntry | None:
        """This start's entry as it is now; None once it is no longer starting, or another start's."""
        return self._as_mine(self._registry.get(self._lane.name))

    def _as_mine(self, current: EngineEntry | None) -> EngineEntry | None:
        if current is None or current.start_id != self._entry.start_id:
            return None
        return current if current.state is EngineState.STARTING else None

    @contextmanager
    def _changing_mine(self) -> Iterator[tuple[dict[str, EngineEntry], EngineEntry]]:
        """All entries to change, and this start's; raises _NotWanted if it is no longer starting."""
        with self._registry.changing() as engines:
            current = self._as_mine(engines.get(self._lane.name))
            if current is None:
                raise _NotWanted
            yield engines, current

    def _require_wanted(self) -> None:
        if self._mine() is None:
            raise _NotWanted

    def _wait(self, words: Text) -> None:
        self._require_wanted()
        self._around.order.stand_aside(self._place_in_order)
        self._stage(words)

    def _stage(self, words: Text) -> None:
        current = self._mine()
        if current is not None and current.stage != words:
            self._registry.update(self._entry, stage=words)

    def _now_healthy(self, *, endpoint: Endpoint, gpu_bytes: int | None) -> None:
        with self._changing_mine() as (engines, current):
            engines[self._lane.name] = current.to(
                EngineState.HEALTHY, endpoint=endpoint, gpu_bytes=gpu_bytes, stage=None
            )

    def _fail(self, error: LMDynoError) -> None:
        with suppress(_NotWanted), self._changing_mine() as (engines, current):
            failed = current.to(EngineState.FAILED, error=ErrorInfo.of(error))
            engines[self._lane.name] = failed.without_process()


def warm_up(endpoint: Endpoint, *, timeout_s: float, images: bool = False) -> None:
    """Ask for one short answer, with `images` for a second one about an image, and drop them.

    First requests pay for what later ones find done: lazily loaded tokenizers, compiled kernels, filled
    caches. LMDeploy warms its kernels up while starting, transformers nothing; one short answer before
    "healthy" puts all engines on the same footing. An engine for images is shown one too: its first image
    takes it many times as long as the next one. A refusal is only logged, the first real request will tell.
    """
    _ask(endpoint, "Count from one to ten.", timeout_s)
    if images:
        image = {"type": "image_url", "image_url": {"url": _GREY_IMAGE}}
        _ask(endpoint, [image, {"type": "text", "text": "What is this?"}], timeout_s)


def _ask(endpoint: Endpoint, content: str | list[object], timeout_s: float) -> None:
    address = urlsplit(endpoint.url)
    headers = {"Content-Type": "application/json"}
    if endpoint.api_key:
        headers["Authorization"] = f"Bearer {endpoint.api_key}"
    body = json.dumps(
        {
            "model": endpoint.model,
            "messages": [{"role": "user", "content": content}],
            "max_tokens": _TOKENS,
        }
    )
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=timeout_s)
    try:
        connection.request("POST", f"{address.path}/chat/completions", body, headers)
        answer = connection.getresponse()
        answer.read()
        if answer.status != http.HTTPStatus.OK:
            log.warning("engine refused its first request status=%d", answer.status)
    except (OSError, http.client.HTTPException) as exc:
        log.warning("engine did not answer its first request: %s", exc)
    finally:
        connection.close()
