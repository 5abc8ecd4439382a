"""Run the walk's client and pipeline programs with an engine's Python, and read what they print."""

import asyncio
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.codec import decode
from core.domain.specs import Endpoint
from core.errors import EngineError
from core.i18n import N_

_HERE = Path(__file__).parent
_CLIENT, _PIPELINE = _HERE / "client_program.py", _HERE / "pipeline_program.py"
_TIMEOUT_S = 240.0
_TAIL_CHARS = 600


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One answer that a program got."""

    text: str
    duration_s: float
    ttft_s: float | None = None
    output_tokens: int | None = None
    kind: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientOutput:
    model: str
    """The id that the server lists first, or that it was asked for."""
    listed: bool
    """Whether `/v1/models` answered."""
    calls: tuple[Call, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineOutput:
    load_s: float
    calls: tuple[Call, ...]


async def run_client(python: str, endpoint: Endpoint, prompts: Sequence[str]) -> ClientOutput:
    """Ask the prompts of a server with the OpenAI package; raises EngineError if the program fails."""
    environment = {"OPENAI_API_KEY": endpoint.api_key or "none"}
    return decode(
        ClientOutput, await _run(python, _CLIENT, [endpoint.url, endpoint.model], list(prompts), environment)
    )


async def run_pipeline(python: str, request: Mapping[str, Any], *, gpu: int) -> PipelineOutput:
    """Run LMDeploy's pipeline on one GPU; raises EngineError if the program fails."""
    environment = {
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "CUDA_VISIBLE_DEVICES": str(gpu),
        "HF_HUB_OFFLINE": "1",
        "TM_LOG_LEVEL": "ERROR",
    }
    return decode(PipelineOutput, await _run(python, _PIPELINE, [], request, environment))


async def _run(
    python: str, program: Path, arguments: Sequence[str], request: object, environment: Mapping[str, str]
) -> str:
    """The last line that the program prints."""
    child = await asyncio.create_subprocess_exec(
        *(python, str(program), *arguments),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, **environment},
    )
    try:
        output, errors = await asyncio.wait_for(
            child.communicate(json.dumps(request).encode()), timeout=_TIMEOUT_S
        )
    except TimeoutError:
        raise EngineError(
            N_(
                "{program} didn't finish within {seconds} s.",
                program=program.name,
                seconds=f"{_TIMEOUT_S:g}",
            ),
            hint=N_("Run the command manually to see where it waits."),
            code="program-timeout",
        ) from None
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
    if child.returncode != 0:
        raise EngineError(
            N_("{program} failed with exit code {code}.", program=program.name, code=child.returncode or 0),
            hint=N_("It printed: {text}", text=errors.decode(errors="replace").strip()[-_TAIL_CHARS:]),
            code="program-failed",
        )
    return output.decode(errors="replace").strip().rsplit("\n", 1)[-1]
