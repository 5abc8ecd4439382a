"""Measure a GPU's memory bandwidth from a page, to replace the value of the data sheet."""

from collections.abc import Sequence

import streamlit as st

from core.bench.roofline.bandwidth import measure_bandwidth
from core.bench.roofline.utilisation import BandwidthUtilisation
from core.errors import LMDynoError
from core.i18n import _
from core.telemetry.gpus import GpuReading
from core.ui.shared import resources
from core.ui.shared.components import show_error


def offer_bandwidth(shares: Sequence[BandwidthUtilisation], *, key: str) -> None:
    """A button, if a GPU of this machine is one of those that only the data sheet is known of."""
    by_sheet = {
        name for utilisation in shares if utilisation.measured is None for name in utilisation.gpu_names
    }
    gpu = next((gpu for gpu in _gpus() if gpu.name in by_sheet), None)
    if gpu is None or not st.button(
        _("Measure this GPU's bandwidth"),
        key=key,
        icon=":material/speed:",
        help=_(
            "Copies data within the memory of GPU {index} for about ten seconds. The limit then "
            "uses this card's "
            "measured bandwidth.",
            index=gpu.index,
        ),
    ):
        return
    try:
        with st.spinner(_("Copying within the GPU's memory")):
            measure_bandwidth(resources.resources().settings, gpu_index=gpu.index)
    except LMDynoError as error:
        show_error(error)
    else:
        st.rerun()


def _gpus() -> tuple[GpuReading, ...]:
    """The GPUs of the latest sample."""
    samples = resources.sampler().samples()
    return samples[-1].gpus if samples else ()
