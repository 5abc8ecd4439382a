"""What every command starts from: settings, and the lanes it is to use."""

from collections.abc import Sequence

from core.config import LaneBook, load_lanes
from core.domain.specs import Dialect, EndpointSpec, EngineKind, LaneSpec
from core.errors import InputError
from core.settings import Settings, load_settings
from core.telemetry.nvml import Nvml


def load() -> tuple[Settings, LaneBook]:
    """Settings and lanes; raises ConfigError for a faulty lanes file."""
    settings = load_settings()
    return settings, load_lanes(settings, gpu=bool(Nvml().devices()))


def chosen_lanes(
    book: LaneBook, names: Sequence[str], urls: Sequence[str], models: Sequence[str], dialect: Dialect
) -> tuple[LaneSpec, ...]:
    """Lanes of the lanes file, then one for each endpoint."""
    if not names and not urls:
        raise InputError(
            "No lane was named",
            hint=f"Add --lane NAME ({', '.join(spec.name for spec in book.lanes)}), or --endpoint URL.",
        )
    if models and len(models) != len(urls):
        raise InputError(
            f"{len(urls)} endpoints but {len(models)} models", hint="Give one --model for each --endpoint."
        )
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
    return (*(book.lane(name) for name in dict.fromkeys(names)), *remote)
