"""The cluster's process, `python -m core.cluster.process`: the only one that talks to Ray.

It follows nodes, places lanes, passes commands on, and writes nodes.json. Each node is asked on its own, so a
dead one delays nobody. Whose a lane's engine is, and where it was placed, stands in nodes.json, so that the
next process goes on with it.

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
import time
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

from core import __version__, process_setup
from core.cluster.link import Whereabouts, is_needed, last_process, process_lock, whereabouts_file
from core.cluster.protocol import AgentGone, Answer, Command, Fabric, Hello, Reply, Request, Verb
from core.cluster.tracking import TrackedNode, choose_node, newest_nodes
from core.codec import decode, encode
from core.domain.specs import LaneSpec
from core.domain.turns import ErrorInfo, utc_now
from core.engines.registry import in_use
from core.engines.resolve import ClusterSnapshot, Placement, error_of, nodes_file, read_snapshot
from core.errors import EngineError, InputError, LMDynoError
from core.files import keep_to_oneself, try_lock, unlock, write_atomically
from core.i18n import N_
from core.settings import Settings
from core.telemetry.processes import ProcessId, this_process

log = logging.getLogger(__name__)

ASK_INTERVAL_S = 1.5
ASK_TIMEOUT_S = 2.0
_NODES_INTERVAL_S = 2.0
_WRITE_INTERVAL_S = 1.0
_POLL_S = 0.1
_WEIGH_TIMEOUT_S = 20.0
"""The first look at a model asks LMDeploy in a child process, which takes up to ten seconds."""
_LOG_TIMEOUT_S = 4.0
_COMMAND_TIMEOUT_S = 60.0
"""Stopping an engine takes up to its grace and then some."""
_NOBODY = ProcessId(0, 0.0)
"""Owns what belonged to a process that nobody knows any more."""
_FORGET_S = 3600.0
"""A node that is gone and that no lane was placed on is forgotten after so long."""
_LOOK_S = 0.5
_ALONE_S = 5.0
"""How long the process stays with nobody needing it: one command line often follows another."""
_LAST_WORDS_S = 0.5
"""How long those who asked are given to hear that the cluster is lost."""
_LINE_BYTES = 2**24
_FOLDER_PREFIX = "lmdyno-"


class Hub:
    """All nodes of one cluster, for one home. Belongs to one event loop."""

    def __init__(self, settings: Settings, address: str, fabric: Fabric) -> None:
        self._settings = settings
        self._address = address
        self._fabric = fabric
        self._me = this_process()
        self._nodes: dict[str, TrackedNode] = {}
        self._followers: dict[str, asyncio.Task[None]] = {}
        before = read_snapshot(settings)
        self._placements = {placement.lane: placement for placement in before.placements} if before else {}
        self._orphaned_s: dict[str, float] = {}
        """Since when a lane's owner has been gone and nobody used its engine, on the monotonic clock."""
        self._connected = False
        self._problem: ErrorInfo | None = None
        """Why the cluster can't be reached."""
        self._tried = asyncio.Event()
        """Whether it can be reached is known."""
        self._changed = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Follow the cluster until cancelled. Raises FabricLost once the cluster can't be reached."""
        writer = asyncio.create_task(self._write_again_and_again())
        try:
            while True:
                await self._look_at_nodes()
                self._look_after_owners()
                await asyncio.sleep(_NODES_INTERVAL_S)
        finally:
            for task in (writer, *self._followers.values(), *self._tasks):
                task.cancel()

    @property
    def guards_engines(self) -> bool:
        """Whether an engine on some node belongs to a process, so that somebody must go on asking."""
        return any(
            placement.owner is not None and self._is_up(placement) for placement in self._placements.values()
        )

    def lose(self, problem: ErrorInfo) -> None:
        """Tell whoever asks that the cluster can't be reached, in nodes.json too."""
        self._problem = problem
        self._tried.set()
        self.write()

    def snapshot(self) -> ClusterSnapshot:
        return ClusterSnapshot(
            process=self._me,
            written_at=utc_now(),
            address=self._address,
            connected=self._connected,
            problem=self._problem,
            nodes=tuple(node.node() for node in self._nodes.values()),
            placements=tuple(self._placements.values()),
        )

    def write(self) -> None:
        """Write nodes.json now."""
        try:
            write_atomically(nodes_file(self._settings), encode(self.snapshot()))
        except OSError as exc:
            log.warning("nodes.json not written reason=%s", exc.strerror)

    async def obey(self, command: Command) -> Reply:
        """Do what a command says, once the cluster is reached; its error stands in the reply."""
        try:
            await self._tried.wait()
            if self._problem is not None:
                return Reply(error=self._problem)
            return await self._do(command)
        except LMDynoError as error:
            return Reply(error=ErrorInfo.of(error))

    async def retire_idle_agents(self) -> None:
        """End the agents that have no engine; the others go on until their engines have ended."""
        idle = [node for node in self._nodes.values() if not any(engine.pid for engine in node.engines)]
        await asyncio.gather(*(self._fabric.retire(node.fabric) for node in idle if node.fabric.alive))

    async def _do(self, command: Command) -> Reply:
        if command.verb is Verb.CLOSE:
            await self._close(command.sender)
            return Reply()
        if command.verb is Verb.LOAD:
            request = replace(self._request(Verb.LOAD), secret=command.secret)
            answer = await self._ask(await self._usable(command.node), request)
            return Reply(node=command.node, port=answer.port)
        if command.verb in (Verb.MARK, Verb.WINDOW):
            return await self._measure(command)
        if command.job is not None:
            request = replace(self._request(command.verb), job=command.job)
            answer = await self._ask(await self._usable(command.node), request)
            return Reply(node=command.node, news=answer.news)
        if command.lane is None:
            raise InputError("A lane is missing")
        lane = command.lane
        match command.verb:
            case Verb.ENSURE | Verb.RESTART:
                return Reply(node=await self._start(command, lane))
            case Verb.STOP | Verb.LOG:
                name = self._node_name(lane)
                if name is None:
                    return Reply()
                request = self._request(command.verb, lane, command)
                limit_s = _COMMAND_TIMEOUT_S if command.verb is Verb.STOP else _LOG_TIMEOUT_S
                answer = await self._ask(await self._usable(name), request, timeout_s=limit_s)
                if command.verb is Verb.STOP:
                    self._placements.pop(lane.name, None)
                    self.write()
                return Reply(text=answer.text, node=name)
            case _:
                raise InputError(f"The cluster's process doesn't do {command.verb}")

    async def _measure(self, command: Command) -> Reply:
        request = replace(self._request(command.verb), since_s=command.since_s, until_s=command.until_s)
        answer = await self._ask(await self._usable(command.node), request, timeout_s=ASK_TIMEOUT_S)
        return Reply(node=command.node, window=answer.window)

    async def _start(self, command: Command, lane: LaneSpec) -> str:
        """Start the lane's engine, or see that it runs; returns the node."""
        before = self._placements.get(lane.name)
        was_up = before is not None and self._is_up(before)
        name = lane.node or (before.node if before is not None and was_up else None)
        if name is None:
            name = await self._choose(lane)
        if before is not None and was_up and before.node != name:
            await self._ask(await self._usable(before.node), self._request(Verb.STOP, lane))
        node = await self._usable(name)
        self._placements[lane.name] = Placement(
            lane=lane.name,
            node=name,
            owner=self._owner_for(before if was_up else None, command),
            named=lane.node is not None,
        )
        self._orphaned_s.pop(lane.name, None)
        await self._ask(node, self._request(command.verb, lane, command))
        self.write()
        return name

    def _owner_for(self, running: Placement | None, command: Command) -> ProcessId | None:
        """Whose engine it is: whoever started one that runs keeps it while they live."""
        if running is not None and (running.owner is None or running.owner.alive):
            return running.owner
        return None if command.persistent else command.sender

    def _node_name(self, lane: LaneSpec) -> str | None:
        placement = self._placements.get(lane.name)
        return lane.node or (placement.node if placement else None)

    async def _choose(self, lane: LaneSpec) -> str:
        """The node with the most room for a lane that names none; raises EngineError if none has any."""
        await asyncio.gather(*(self._joined(node) for node in self._nodes.values()))
        alive = [node for node in self._nodes.values() if node.problem() is None]
        request = self._request(Verb.WEIGH, lane)
        asked = (self._ask(node, request, timeout_s=_WEIGH_TIMEOUT_S) for node in alive)
        answers = await asyncio.gather(*asked, return_exceptions=True)
        return choose_node(lane, {node.fabric.name: a for node, a in zip(alive, answers, strict=True)})

    async def _close(self, sender: ProcessId) -> None:
        """End the engines of a process that ends, but those that others use: they end once nobody does."""
        mine = [
            placement
            for placement in self._placements.values()
            if placement.owner == sender and not in_use(self._settings, placement.lane)
        ]
        await asyncio.gather(*(self._end(placement) for placement in mine))
        self.write()

    async def _end(self, placement: Placement) -> None:
        node = self._nodes.get(placement.node)
        if node is not None and (engine := node.engine(placement.lane)) is not None:
            request = replace(self._request(Verb.STOP, engine.lane), force=True)
            with contextlib.suppress(LMDynoError):  # the agent ends it by itself when nobody asks any more
                await self._ask(node, request)
        self._placements.pop(placement.lane, None)

    async def _joined(self, node: TrackedNode) -> None:
        """Wait while the node's agent is being started."""
        while node.is_joining:
            await asyncio.sleep(_POLL_S)

    async def _usable(self, name: str) -> TrackedNode:
        """The node, once its agent has started; raises EngineError if it can't be used now."""
        node = self._nodes.get(name)
        if node is None:
            raise EngineError(
                N_("The Ray cluster has no node {node}.", node=name),
                hint=N_(
                    "Start Ray there under this name, or correct node in lanes.toml. Nodes now: {names}.",
                    names=", ".join(self._nodes) or "–",
                ),
                code="node-unknown",
            )
        await self._joined(node)
        if problem := node.problem():
            raise error_of(problem)
        return node

    def _request(self, verb: Verb, lane: LaneSpec | None = None, command: Command | None = None) -> Request:
        request = Request(
            verb=verb,
            lmdyno_version=__version__,
            end_engines_after=self._settings.end_engines_after,
            lane=lane,
        )
        if command is None:
            return request
        return replace(
            request,
            persistent=command.persistent,
            force=command.force,
            lines=command.lines,
            replica=command.replica,
        )

    async def _ask(
        self, node: TrackedNode, request: Request, *, timeout_s: float = _COMMAND_TIMEOUT_S
    ) -> Answer:
        """The agent's answer, its report noted; raises EngineError for none, and the answer's own error."""
        try:
            async with asyncio.timeout(timeout_s):
                data = await self._fabric.ask(node.fabric, encode(request))
        except (AgentGone, TimeoutError) as exc:
            node.failed(str(exc) or "no answer")
            raise EngineError(
                N_("Node {node} doesn't answer.", node=node.fabric.name),
                hint=N_("Try again. If it stays like this, check the machine and its network."),
                code="node-silent",
            ) from exc
        answer = decode(Answer, data)
        if answer.report is not None:
            node.reported(answer.report)
        if answer.error is not None:
            raise error_of(answer.error)
        return answer

    async def _follow(self, node: TrackedNode) -> None:
        """Ask the node how it is, for as long as it is there."""
        while True:
            began_s = time.monotonic()
            was_alive = node.problem() is None
            used = tuple(engine.name for engine in node.engines if in_use(self._settings, engine.name))
            request = replace(self._request(Verb.REPORT), revision=node.revision, in_use=used)
            try:
                await self._ask(node, request, timeout_s=ASK_TIMEOUT_S)
            except LMDynoError as error:
                if error.code != "node-silent":
                    node.refused(ErrorInfo.of(error))
            if was_alive != (node.problem() is None):
                log.info("node %s name=%s", "lost" if was_alive else "answers", node.fabric.name)
                self._changed.set()
            await asyncio.sleep(max(0.1, ASK_INTERVAL_S - (time.monotonic() - began_s)))

    async def _look_at_nodes(self) -> None:
        listed = await self._fabric.nodes()
        self._connected = True
        self._tried.set()
        for fabric_node in newest_nodes(listed, self._nodes):
            node = self._nodes.get(fabric_node.name)
            if node is not None:
                node.joined(fabric_node)
            elif fabric_node.alive or self._has_lanes(fabric_node.name):
                node = self._nodes[fabric_node.name] = TrackedNode(fabric_node)
                log.info("node seen name=%s address=%s", fabric_node.name, fabric_node.address)
            if node is not None:
                self._see_to_follower(node)
        self._forget_gone({fabric_node.name for fabric_node in listed})

    def _see_to_follower(self, node: TrackedNode) -> None:
        name = node.fabric.name
        follower = self._followers.get(name)
        if node.fabric.alive and (follower is None or follower.done()):
            self._followers[name] = asyncio.create_task(self._follow(node))
        elif not node.fabric.alive and follower is not None:
            follower.cancel()
            del self._followers[name]
            self._changed.set()

    def _forget_gone(self, listed: set[str]) -> None:
        for name, node in tuple(self._nodes.items()):
            if name not in listed:
                node.joined(replace(node.fabric, alive=False))
                self._see_to_follower(node)
            heard_s = node.seen_s if node.answered_s is None else node.answered_s
            is_long_gone = not node.fabric.alive and time.monotonic() - heard_s > _FORGET_S
            if is_long_gone and not self._has_lanes(name):
                del self._nodes[name]

    def _has_lanes(self, node: str) -> bool:
        return any(placement.node == node for placement in self._placements.values())

    def _is_up(self, placement: Placement) -> bool:
        node = self._nodes.get(placement.node)
        return node is not None and node.has_up(placement.lane)

    def _look_after_owners(self) -> None:
        """End engines whose owner is gone and that nobody has used for long enough."""
        self._place_unknown()
        after_s = self._settings.end_engines_after_s
        now_s = time.monotonic()
        for lane, placement in tuple(self._placements.items()):
            abandoned = placement.owner is not None and not placement.owner.alive and self._is_up(placement)
            if not abandoned or in_use(self._settings, lane):
                self._orphaned_s.pop(lane, None)
                continue
            since_s = self._orphaned_s.setdefault(lane, now_s)
            if after_s is not None and now_s - since_s >= after_s:
                log.warning("engine abandoned lane=%s node=%s, ending it", lane, placement.node)
                self._start_task(self._end(placement))

    def _place_unknown(self) -> None:
        """Note engines that an earlier process has left without a word in nodes.json."""
        for name, node in self._nodes.items():
            for engine in node.engines:
                if engine.name not in self._placements and node.has_up(engine.name):
                    self._placements[engine.name] = Placement(
                        lane=engine.name,
                        node=name,
                        owner=None if engine.persistent else _NOBODY,
                        named=engine.lane.node is not None,
                    )

    def _start_task(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _write_again_and_again(self) -> None:
        while True:
            self.write()
            self._changed.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_WRITE_INTERVAL_S):
                    await self._changed.wait()


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
        hub.lose(_lost(hello.cluster.address, str(reason)))
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


def _lost(address: str, reason: str) -> ErrorInfo:
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
