"""What LMDeploy is told of a lane: flags that its server and its chat program share."""

from core.domain.specs import EngineKind, LaneSpec
from core.models.vision.model import vision_of


def lmdeploy_flags(lane: LaneSpec) -> tuple[str, ...]:
    """Engine flags that `lmdeploy serve api_server` and `lmdeploy chat` share."""
    settings = lane.settings
    flags = [
        *("--backend", "pytorch" if lane.kind is EngineKind.PYTORCH else "turbomind"),
        *("--dtype", settings.dtype),
        *("--session-len", str(settings.session_len)),
        *("--cache-max-entry-count", f"{settings.cache_max_entry_count:g}"),
        *("--quant-policy", str(settings.quant_policy)),
        *("--tp", str(settings.tp)),
    ]
    if lane.kind is EngineKind.AWQ:
        flags += ["--model-format", "awq"]
    if settings.enable_prefix_caching:
        flags.append("--enable-prefix-caching")
    if settings.trust_remote_code:
        flags.append("--trust-remote-code")
    if template := chat_template(lane):
        flags += ["--chat-template", template]
    return tuple(flags)


def chat_template(lane: LaneSpec) -> str | None:
    """A template's name or file, where LMDeploy would not find the right one by itself."""
    path = lane.model.path(lane.weights) if lane.model else None
    vision = vision_of(path) if path else None
    return vision.lmdeploy_chat_template if vision else None
