"""The memory page's KV explorer: what a TurboMind engine would take of a GPU, before it is started."""

from dataclasses import dataclass, replace

import streamlit as st

from core import units
from core.charts.memory import Bar, parts_chart, sequences_map
from core.errors import LMDynoError
from core.memory.gpu_sizes import COMMON_GPUS
from core.memory.kv_cache import KV_BITS, kv_bytes_per_token
from core.memory.model_sizes import COMMON_MODELS, checkpoint_sizes
from core.memory.prediction import MemoryPrediction, MemorySettings, ModelSizes, largest_ratio, predict
from core.models.checkpoint import read_checkpoint
from core.ui.shared import resources
from core.ui.shared.components import escape, show_error

FORMS = ("16 bit", "AWQ")
_RATIOS = tuple(round(0.05 * step, 2) for step in range(1, 20))
_CONTEXTS = tuple(1024 * 2**power for power in range(8))
_SOURCE = (
    "The arithmetic is TurboMind's own, read in "
    "[LMDeploy's sources](https://github.com/InternLM/lmdeploy/tree/main/src/turbomind): "
    "`turbomind.cc` takes the ratio of what is free after the weights, `memory/page.h`, `slab.h` and "
    "`object.cc` divide it. It holds for dense models with MHA, GQA or MQA; not for MLA, sliding windows or "
    "linear attention, and it says nothing of LMDeploy's PyTorch engine or transformers. CUDA context and "
    "buffers are estimates."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What the controls of the explorer say."""

    model: str
    awq: bool
    settings: MemorySettings
    free_bytes: int
    gpu: str


def show_explorer() -> None:
    choice = _show_controls()
    try:
        plain, quantised = (sizes_of(choice.model, awq=awq) for awq in (False, True))
        sizes = quantised if choice.awq else plain
        prediction = predict(sizes, choice.settings, choice.free_bytes)
    except LMDynoError as error:
        show_error(error)
        return
    _show_cards(prediction, sizes, choice)
    _show_awq(plain, quantised, choice)
    _show_charts(prediction, sizes, choice)
    st.caption(_SOURCE)


def model_names() -> list[str]:
    """The models of the lanes, then common ones by their published dimensions."""
    return [model.name for model in resources.lanes().models] + [model.name for model in COMMON_MODELS]


def sizes_of(name: str, *, awq: bool) -> ModelSizes:
    """Raises InputError for a checkpoint that is not here or whose KV cache can't be predicted."""
    for model in resources.lanes().models:
        if model.name == name:
            return checkpoint_sizes(read_checkpoint(model.checkpoint), awq=awq)
    return next(model for model in COMMON_MODELS if model.name == name).sizes(awq=awq)


def gpu_choices() -> dict[str, int]:
    """GPUs to predict for with their free memory: those here as they are now, then common ones, empty."""
    latest = resources.sampler().sample()
    here = {
        f"GPU {gpu.index} here · {gpu.name}": gpu.free_bytes
        for gpu in latest.gpus
        if gpu.free_bytes is not None
    }
    return here | {gpu.name: gpu.free_bytes for gpu in COMMON_GPUS}


def _show_controls() -> Choice:
    gpus = gpu_choices()
    names = model_names()
    with st.grid(4, min_column_width=200):
        model = st.selectbox(
            "Model", names, index=_first_common(names), key="explorer_model", persist_state="session"
        )
        form = st.segmented_control(
            "Weights", FORMS, default=FORMS[0], required=True, key="explorer_form", persist_state="session"
        )
        gpu = st.selectbox(
            "GPU", list(gpus), index=_default_gpu(gpus), key="explorer_gpu", persist_state="session"
        )
        settings = _show_settings()
    return Choice(model=model, awq=form == FORMS[1], settings=settings, free_bytes=gpus[gpu], gpu=gpu)


def _show_settings() -> MemorySettings:
    kv_bits = st.segmented_control(
        "KV cache, bits", KV_BITS, default=16, required=True, key="explorer_bits", persist_state="session"
    )
    ratio = st.slider(
        "KV ratio",
        0.05,
        0.95,
        0.8,
        0.05,
        key="explorer_ratio",
        persist_state="session",
        help="`cache_max_entry_count`: share of the memory that is free **after the weights are "
        "loaded**. LMDeploy's default is 0.8.",
    )
    context = st.select_slider(
        "Tokens in a sequence",
        _CONTEXTS,
        4096,
        format_func="{:,}".format,
        key="explorer_context",
        persist_state="session",
    )
    batch = st.number_input(
        "Requests at once",
        1,
        1024,
        64,
        key="explorer_batch",
        persist_state="session",
        help="max_batch_size",
    )
    tp = st.segmented_control(
        "GPUs (tensor parallel)",
        (1, 2, 4, 8),
        default=1,
        required=True,
        key="explorer_tp",
        persist_state="session",
    )
    return MemorySettings(
        cache_max_entry_count=ratio, kv_bits=kv_bits, max_batch_size=batch, session_len=context, tp=tp
    )


def _first_common(names: list[str]) -> int:
    """A model that certainly can be predicted: one of a lane may not be downloaded yet."""
    return names.index("InternLM2.5-7B")


def _default_gpu(gpus: dict[str, int]) -> int:
    return 0 if len(gpus) > len(COMMON_GPUS) else list(gpus).index(COMMON_GPUS[3].name)


def _show_cards(prediction: MemoryPrediction, sizes: ModelSizes, choice: Choice) -> None:
    parts = {part.name: part.size_bytes for part in prediction.parts}
    settings = choice.settings
    per_token = kv_bytes_per_token(sizes.kv, kv_bits=settings.kv_bits, tp=settings.tp)
    with st.container(horizontal=True, gap="small"):
        st.metric("Weights", units.gib(parts["weights"]), width="content")
        st.metric("KV cache", units.gib(parts["KV cache"]), width="content")
        st.metric(
            "Tokens that fit",
            units.count(prediction.pool.tokens),
            help=f"Over all sequences together; a token takes {units.count(per_token)} bytes a GPU.",
            width="content",
        )
        st.metric(
            f"Sequences of {settings.session_len:,}", units.count(prediction.sequences), width="content"
        )
        st.metric("Total", units.gib(prediction.total_bytes), width="content")
        headroom = prediction.headroom_bytes
        label = "Headroom" if prediction.fits else ":red[Missing]"
        st.metric(label, units.gib(abs(headroom)), width="content")
    if not prediction.fits:
        st.error(
            f"Out of memory: {escape(choice.gpu)} lacks {units.gib(-headroom)}. {_advice(sizes, choice)}",
            icon=":material/error:",
        )
    elif not prediction.holds_a_session:
        st.warning(
            f"Not one sequence can grow to {settings.session_len:,} tokens: "
            f"{units.count(prediction.pool.tokens)} fit.",
            icon=":material/warning:",
        )


def _advice(sizes: ModelSizes, choice: Choice) -> str:
    ratio = largest_ratio(sizes, choice.settings, choice.free_bytes)
    if ratio is None:
        return "No KV ratio helps: choose AWQ, more GPUs, fewer requests at once, or a larger GPU."
    return f"The largest KV ratio that fits is {ratio:.2f}."


def _show_awq(plain: ModelSizes, quantised: ModelSizes, choice: Choice) -> None:
    """What the memory that AWQ frees turns into: the answer to why the total hardly changes."""
    freed = (plain.weight_bytes - quantised.weight_bytes) // choice.settings.tp
    if freed <= 0:
        st.caption("This checkpoint is quantised already, so there are no 16-bit weights to compare with.")
        return
    tokens = [predict(sizes, choice.settings, choice.free_bytes).pool.tokens for sizes in (plain, quantised)]
    st.info(
        f"AWQ frees **{units.gib(freed)}** of weights on each GPU, which become "
        f"**{units.count(tokens[1] - tokens[0])} more tokens** of KV cache at the same ratio. The "
        "total hardly shrinks: the KV cache takes its share of whatever is left.",
        icon=":material/compress:",
    )


def _show_charts(prediction: MemoryPrediction, sizes: ModelSizes, choice: Choice) -> None:
    bar = Bar(name=choice.model, parts=[(part.name, part.size_bytes) for part in prediction.parts])
    st.plotly_chart(
        parts_chart([bar], limit_bytes=choice.free_bytes, limit_name="out of memory"),
        key="explorer_bars",
        config={"displayModeBar": False},
        alt="Predicted memory by part against the GPU's free memory",
    )
    st.markdown("**Sequences at once** by KV ratio and length")
    counts = [[_sequences(sizes, choice, ratio, length) for ratio in _RATIOS] for length in _CONTEXTS]
    st.plotly_chart(
        sequences_map(
            _RATIOS,
            _CONTEXTS,
            counts,
            out_of_memory_ratio=largest_ratio(sizes, choice.settings, choice.free_bytes),
            chosen=(choice.settings.cache_max_entry_count, choice.settings.session_len),
        ),
        key="explorer_map",
        config={"displayModeBar": False},
        alt="Sequences that fit at once for each KV ratio and sequence length, with the out-of-memory line",
    )


def _sequences(sizes: ModelSizes, choice: Choice, ratio: float, length: int) -> int:
    settings = replace(choice.settings, cache_max_entry_count=ratio, session_len=length)
    return predict(sizes, settings, choice.free_bytes).sequences
