"""Say what each step of a walk is, and what it does."""

from collections.abc import Mapping
from dataclasses import dataclass

from core.domain.walk import StepKind, StepState
from core.i18n import N_, Text


@dataclass(frozen=True, slots=True)
class StepText:
    title: Text
    meaning: Text


STEP_TEXTS: Mapping[StepKind, StepText] = {
    StepKind.ENVIRONMENT: StepText(
        N_("Check the environment"), N_("Looks for a GPU, its driver, the engines, and the model's weights.")
    ),
    StepKind.TRANSFORMERS: StepText(
        N_("Chat with transformers"),
        N_("Starts Hugging Face transformers and sends two prompts, each cold and warm: the baseline."),
    ),
    StepKind.TURBOMIND: StepText(
        N_("Chat with TurboMind"), N_("The same weights and prompts in LMDeploy's TurboMind engine.")
    ),
    StepKind.KV_CACHE: StepText(
        N_("Set the KV cache ratio"),
        N_(
            "Starts TurboMind with KV cache ratios 0.8, 0.4, and 0.05, and compares predicted with "
            "measured memory."
        ),
    ),
    StepKind.QUANTISE: StepText(
        N_("Quantise to W4A16"),
        N_("Quantises the model to 4-bit AWQ, or shows how the existing weights were made."),
    ),
    StepKind.AWQ: StepText(
        N_("Chat with AWQ weights"), N_("Sends the same prompts to the 4-bit weights, at KV cache ratio 0.4.")
    ),
    StepKind.SERVER: StepText(
        N_("Serve the API"),
        N_(
            "Runs one client program against the API server, first with 16-bit and then with AWQ weights "
            "at the same address."
        ),
    ),
    StepKind.PIPELINE: StepText(
        N_("Use the Python pipeline"),
        N_(
            "Runs `lmdeploy.pipeline` in its own process: with defaults, with an engine configuration, "
            "and with AWQ."
        ),
    ),
    StepKind.IMAGE: StepText(
        N_("Ask about an image"), N_("Asks a vision model about an image, then asks a follow-up question.")
    ),
    StepKind.PUBLISH: StepText(
        N_("Publish the demo"), N_("Shows the ways to share this dashboard with others.")
    ),
}

STATE_NAMES: Mapping[StepState, Text] = {
    StepState.DONE: N_("done"),
    StepState.SKIPPED: N_("skipped"),
    StepState.FAILED: N_("failed"),
}
