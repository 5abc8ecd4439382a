"""Child processes in an engine's own Python: their environment, and their end."""

import asyncio
import os
from contextlib import suppress

_GRACE_S = 5.0


def child_environment(device: str, *, offline: bool) -> dict[str, str]:
    """The environment for a child that works on `device` (`cpu`, `cuda:0`, `cuda:0,1`); "" sees no GPU."""
    environment = {
        **os.environ,
        "PYTHONUNBUFFERED": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_DISABLE_UPDATE_CHECK": "1",
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "CUDA_VISIBLE_DEVICES": device.partition(":")[2],
    }
    if offline:
        environment["HF_HUB_OFFLINE"] = "1"
    return environment


async def end(process: asyncio.subprocess.Process) -> None:
    """End a child and wait for it; one that does not end by itself is killed."""
    if process.returncode is not None:
        return
    if process.stdin is not None:
        process.stdin.close()
    with suppress(ProcessLookupError):
        process.terminate()
    try:
        async with asyncio.timeout(_GRACE_S):
            await process.wait()
    except TimeoutError:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
