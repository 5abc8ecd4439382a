"""What every command starts from: settings, and the lanes it is to use."""

from collections.abc import Sequence
from typing import Annotated

import typer

from core.config import LaneRegistry, load_lanes
from core.config.lanes import url_problem
from core.domain.specs import Dialect, EndpointSpec, EngineKind, LaneSpec
from core.errors import InputError
from core.i18n import N_, _
from core.settings import Settings, load_settings
from core.telemetry.nvml import Nvml

AsJson = Annotated[bool, typer.Option("--json", help=_("Print one JSON document."))]
LaneNames = Annotated[
    list[str] | None, typer.Option("--lane", help=_("Name of a lane. Repeat for more lanes."))
]
EndpointUrls = Annotated[
    list[str] | None,
    typer.Option("--endpoint", help=_("Base URL of an OpenAI-compatible server. Repeat for more endpoints.")),
]
EndpointModels = Annotated[
    list[str] | None,
    typer.Option("--model", help=_("Model ID at each --endpoint, in the same order.")),
]
EndpointDialect = Annotated[Dialect, typer.Option("--dialect", help=_("Dialect of the endpoints."))]


def load() -> tuple[Settings, LaneRegistry]:
    """Settings and lanes; raises ConfigError for a faulty lanes file."""
    settings = load_settings()
    return settings, load_lanes(settings, gpu=bool(Nvml().devices()))


def chosen_lanes(
    registry: LaneRegistry, names: Sequence[str], urls: Sequence[str], models: Sequence[str], dialect: Dialect
) -> tuple[LaneSpec, ...]:
    """Lanes of the lanes file, then one for each endpoint.

    Raises InputError for no lane at all, a URL that is none, and models that don't match the endpoints;
    ConfigError for a name that is not in the lanes file.
    """
    if not names and not urls:
        raise InputError(
            N_("No lane is given."),
            hint=N_(
                "Add --lane NAME (available: {names}) or --endpoint URL.",
                names=", ".join(spec.name for spec in registry.lanes),
            ),
        )
    if models and len(models) != len(urls):
        raise InputError(
            N_(
                "The number of models ({models}) differs from the number of endpoints ({endpoints}).",
                models=len(models),
                endpoints=len(urls),
            ),
            hint=N_("Give one --model for each --endpoint."),
        )
    for number, url in enumerate(urls, start=1):
        if problem := url_problem(url):
            message, hint = problem
            raise InputError(message.filled(key=f"--endpoint {number}"), hint=hint)
    remote = (
        LaneSpec(
            name=f"endpoint-{number}",
            kind=EngineKind.ENDPOINT,
            endpoint=EndpointSpec(
                url=url.rstrip("/"), model=models[number - 1] if models else None, dialect=dialect
            ),
        )
        for number, url in enumerate(urls, start=1)
    )
    return (*(registry.lane(name) for name in dict.fromkeys(names)), *remote)
