"""The start of every command: settings, and the lanes and images that it is to use."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from core.chat_api.servers import probe
from core.config import LaneRegistry, load_lanes
from core.config.endpoints import api_key, bind_for_command, url_problem
from core.domain.conversation import StoredImage
from core.domain.specs import Dialect, EndpointSpec, EngineKind, LaneSpec
from core.errors import ConfigError, InputError, LMDynoError
from core.i18n import N_, _
from core.settings import Settings, load_settings
from core.telemetry.nvml import Nvml

AsJson = Annotated[bool, typer.Option("--json", help=_("Print one JSON document."))]
NodeName = Annotated[
    str | None,
    typer.Option("--node", help=_("Node of the cluster that does it. Default: this machine.")),
]
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
EndpointKeys = Annotated[
    list[str] | None,
    typer.Option(
        "--api-key",
        metavar="NAME",
        help=_(
            "Environment variable (LMDYNO_KEY_…) that holds the endpoints' API key. Give one for all "
            "endpoints, or one for each. A key whose hosts are listed goes to those alone."
        ),
    ),
]
EndpointDialect = Annotated[
    Dialect | None,
    typer.Option("--dialect", help=_("Dialect of the endpoints. Default: what each server says it is.")),
]


def load() -> tuple[Settings, LaneRegistry]:
    """Settings and lanes; raises ConfigError for a faulty lanes file."""
    settings = load_settings()
    return settings, load_lanes(settings, gpu=bool(Nvml().devices()))


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointChoice:
    """Servers that a command line names instead of lanes."""

    urls: Sequence[str] | None
    models: Sequence[str] | None = None
    keys: Sequence[str] | None = None
    """Names of API keys: one for all servers, or one for each."""
    dialect: Dialect | None = None
    """Of all of them; None asks each what it is."""


def chosen_lanes(
    settings: Settings, registry: LaneRegistry, names: Sequence[str] | None, endpoints: EndpointChoice
) -> tuple[LaneSpec, ...]:
    """Lanes of the lanes file, then one for each endpoint.

    Raises InputError for no lane at all, a URL that is none, and models or keys that don't match the
    endpoints; ConfigError for a name that is not in the lanes file, and for a key that there is not.
    """
    urls = [url.strip() for url in endpoints.urls or ()]
    if not names and not urls:
        raise InputError(
            N_("No lane is given."),
            hint=N_(
                "Add --lane NAME (available: {names}) or --endpoint URL.",
                names=", ".join(spec.name for spec in registry.lanes),
            ),
        )
    models, keys = endpoints.models or (), endpoints.keys or ()
    if models and len(models) != len(urls):
        raise InputError(
            N_(
                "The number of models ({models}) differs from the number of endpoints ({endpoints}).",
                models=len(models),
                endpoints=len(urls),
            ),
            hint=N_("Use one --model for each --endpoint."),
        )
    if len(keys) > 1 and len(keys) != len(urls):
        raise InputError(
            N_(
                "The number of API keys ({keys}) differs from the number of endpoints ({endpoints}).",
                keys=len(keys),
                endpoints=len(urls),
            ),
            hint=N_("Give one --api-key for all endpoints, or one for each."),
        )
    for number, url in enumerate(urls, start=1):
        if problem := url_problem(url):
            message, hint = problem
            raise InputError(message.filled(key=f"--endpoint {number}"), hint=hint)
    remote = [
        _endpoint_lane(
            settings,
            number,
            url,
            model=models[number - 1] if models else None,
            key_name=(keys[number - 1] if len(keys) > 1 else keys[0]) if keys else None,
            dialect=endpoints.dialect,
        )
        for number, url in enumerate(urls, start=1)
    ]
    return (*(registry.lane(name) for name in dict.fromkeys(names or ())), *remote)


def stored_images(settings: Settings, files: Sequence[Path]) -> tuple[StoredImage, ...]:
    """The images in these files, now in the image store.

    Raises InputError for a file that is none or can't be read, StoreError where the image store can't be
    written.
    """
    # Pillow takes its time, and few commands have images.
    from core.images.sanitise import Limits, sanitise
    from core.images.store import ImageStore

    image_store = ImageStore(settings.images_dir)
    # All are checked before any is kept.
    checked = [sanitise(_image_bytes(file, Limits().max_bytes), name=file.name) for file in files]
    return tuple(image_store.put(image) for image in checked)


def _endpoint_lane(
    settings: Settings,
    number: int,
    url: str,
    *,
    model: str | None,
    key_name: str | None,
    dialect: Dialect | None,
) -> LaneSpec:
    key = None
    if key_name is not None:
        try:
            bind_for_command(settings, key_name, url)
            key = api_key(settings, key_name, url)
        except ConfigError as error:
            message = N_("--api-key {name}: {problem}", name=key_name, problem=error.message)
            raise ConfigError(message, hint=error.hint, code=error.code) from None
    return LaneSpec(
        name=f"endpoint-{number}",
        kind=EngineKind.ENDPOINT,
        endpoint=EndpointSpec(
            url=url.rstrip("/"),
            model=model,
            dialect=dialect or _recognised(url, key),
            api_key_name=key_name,
        ),
    )


def _recognised(url: str, key: str | None) -> Dialect:
    try:
        return probe(url, key).dialect
    except LMDynoError:
        return Dialect.GENERIC  # what is wrong shows in the requests


def _image_bytes(file: Path, max_bytes: int) -> bytes:
    try:
        with file.expanduser().open("rb") as stream:
            # One byte more than is taken tells a file that is too large from one that just fits.
            return stream.read(max_bytes + 1)
    except OSError as exc:
        raise InputError(
            N_("{file} can't be read: {reason}", file=file, reason=exc.strerror),
            hint=N_("Check the path and its permissions."),
        ) from exc
