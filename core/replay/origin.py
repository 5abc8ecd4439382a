"""Say of everything that is replayed where and when it was recorded."""

import re
from collections import Counter
from collections.abc import Iterable
from datetime import datetime

from core.domain.turns import Machine
from core.i18n import N_, Text

_GPU_INDEX = re.compile(r"(?:cuda:|(?<=[\d]),\s*)(\d+)")


def device_name(machine: Machine | None, devices: Iterable[str | None] = ()) -> str | None:
    """What did the work, such as `2 × NVIDIA H200`: the GPUs that engines were on, or the CPU.

    `devices` are the engines' own, such as `cuda:0,1` or `cpu`; without any, all GPUs of the machine count.
    None where nothing is known.
    """
    if machine is None:
        return None
    known = [device for device in devices if device]
    used = {int(index) for device in known for index in _GPU_INDEX.findall(device)}
    if machine.gpus and (used or not known):
        # A GPU is described as "NVIDIA H200, 140.40 GiB".
        names = Counter(
            gpu.partition(",")[0] for index, gpu in enumerate(machine.gpus) if not used or index in used
        )
        return " + ".join(f"{count} × {name}" if count > 1 else name for name, count in names.items())
    return machine.cpu or machine.host


def origin(
    machine: Machine | None,
    at: datetime,
    *,
    here: Machine | None = None,
    devices: Iterable[str | None] = (),
) -> Text:
    """Such as `Recorded on NVIDIA H200, 2026-11-29`; of this machine (`here`) only the date is told."""
    date = f"{at:%Y-%m-%d}"
    device = device_name(machine, devices)
    if device is None or (here is not None and machine is not None and _is_same(machine, here)):
        return N_("Replay of a recording from {date}", date=date)
    return N_("Recorded on {device}, {date}", device=device, date=date)


def _is_same(machine: Machine, other: Machine) -> bool:
    """Whether both describe one machine, whatever was updated on it in between."""
    return (machine.host, machine.cpu, machine.gpus) == (other.host, other.cpu, other.gpus)
