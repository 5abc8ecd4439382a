"""The cluster's process, `python -m core.cluster.process`: the only one that talks to Ray.

`core.cluster.link` starts it. There is one for each home. It holds the home's `cluster` lock, listens on a
Unix socket in a folder of its own that `cluster.json` names, and follows the cluster for as long as an
LMDyno process needs it or an engine on a node belongs to one. A Ray driver ends with the Ray of its
machine: this process then ends too, and who needs it starts it again.
"""

import asyncio
import contextlib
import logging
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from core import process_setup
from core.cluster.hub import Hub
from core.cluster.link import Whereabouts, is_needed, last_process, process_lock, whereabouts_file
from core.cluster.protocol import Command, Fabric, Hello, Reply
from core.codec import decode, encode
from core.domain.turns import ErrorInfo
from core.engines.resolve import nodes_file
from core.errors import InputError
from core.files import keep_to_oneself, try_lock, unlock, write_atomically
from core.i18n import N_
from core.settings import Settings
from core.telemetry.processes import this_process

log = logging.getLogger(__name__)

_LOOK_S = 0.5
_ALONE_S = 5.0
"""How long the process stays with nobody needing it: one command line often follows another."""
_LAST_WORDS_S = 0.5
"""How long those who asked are given to hear that the cluster is lost."""
_LINE_BYTES = 2**24
_FOLDER_PREFIX = "lmdyno-"


def main(make_fabric: Callable[[Hello], Fabric]) -> int:
    """Serve until nobody needs it; 1 if the cluster was lost. The standard input holds a `Hello`."""
    keep_to_oneself()
    process_setup.configure_logs()
    hello = decode(Hello, sys.stdin.buffer.readline())
    settings = hello.settings
    lock = try_lock(process_lock(settings), patience_s=0.2)
    if lock is None:
        return 0  # another was quicker
    _clear_up(settings)
    folder = Path(tempfile.mkdtemp(prefix=_FOLDER_PREFIX))
    try:
        return asyncio.run(_serve(hello, settings, folder, make_fabric(hello)))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        unlock(lock)


def _clear_up(settings: Settings) -> None:
    """Remove the folder of the last process if that was killed."""
    if last := last_process(settings):
        folder = Path(last.address).parent
        if folder.name.startswith(_FOLDER_PREFIX):
            shutil.rmtree(folder, ignore_errors=True)


async def _serve(hello: Hello, settings: Settings, folder: Path, fabric: Fabric) -> int:
    hub = Hub(settings, hello.cluster.address, fabric)
    hub.write()
    address = folder / "cluster"
    listener = await asyncio.start_unix_server(lambda r, w: _answer(hub, r, w), address, limit=_LINE_BYTES)
    whereabouts = Whereabouts(process=this_process(), address=str(address), cluster=hello.cluster)
    write_atomically(whereabouts_file(settings), encode(whereabouts))
    following = asyncio.create_task(hub.run())
    unneeded = asyncio.create_task(_until_unneeded(settings, hub))
    await asyncio.wait((following, unneeded), return_when=asyncio.FIRST_COMPLETED)
    unneeded.cancel()
    if following.done():
        reason = following.exception()
        log.error("cluster lost reason=%s", reason)
        hub.lose(lost(hello.cluster.address, str(reason)))
        await asyncio.sleep(_LAST_WORDS_S)
        return 1
    listener.close()
    following.cancel()
    await hub.retire_idle_agents()
    await fabric.close()
    whereabouts_file(settings).unlink(missing_ok=True)
    if not hub.snapshot().placements:
        nodes_file(settings).unlink(missing_ok=True)
    log.info("cluster left")
    return 0


def lost(address: str, reason: str) -> ErrorInfo:
    """What is told while the cluster can't be reached."""
    return ErrorInfo(
        code="cluster-lost",
        message=N_("The Ray cluster {address} can't be reached: {reason}", address=address, reason=reason),
        hint=N_(
            "Check with `ray status` whether the cluster runs. This machine must belong to it: "
            "`ray start --address=HOST:6379`. With token authentication, every machine needs the same token."
        ),
    )


async def _answer(hub: Hub, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One connection: a command and its reply."""
    try:
        line = await reader.readline()
        if line:
            try:
                reply = await hub.obey(decode(Command, line))
            except InputError as error:
                reply = Reply(error=ErrorInfo.of(error))
            writer.write(encode(reply) + b"\n")
            await writer.drain()
    except (ConnectionError, ValueError):
        log.info("client left")
    finally:
        with contextlib.suppress(ConnectionError):
            writer.close()


async def _until_unneeded(settings: Settings, hub: Hub) -> None:
    alone_s = 0.0
    while alone_s < _ALONE_S:
        await asyncio.sleep(_LOOK_S)
        alone_s = 0.0 if is_needed(settings) or hub.guards_engines else alone_s + _LOOK_S


if __name__ == "__main__":
    from core.cluster.ray_fabric import RayFabric  # Ray, which only this process needs

    sys.exit(main(lambda hello: RayFabric(hello.cluster, hello.home)))
