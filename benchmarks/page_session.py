"""A browser's session with the dashboard, without a browser: Streamlit's websocket protocol.

It does what Streamlit's page does while somebody reads: it keeps what widgets hold, answers each timer of a
fragment with the rerun that the page would ask for, and counts what comes. Nothing is drawn.
"""

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from streamlit.proto.WidgetStates_pb2 import WidgetState

_RUN_S = 120.0
"""The longest that a run of the page may take."""
_KEPT = ("button", "button_group", "chat_input", "number_input")
"""Elements that are kept as widgets, which can be used."""


@dataclass(eq=False)
class PageSession:
    """One tab. Belongs to one event loop."""

    http: aiohttp.ClientSession
    base_url: str
    page: str
    query: str = ""
    received: Counter[str] = field(default_factory=Counter)
    received_bytes: int = 0
    exceptions: list[str] = field(default_factory=list)
    finished_runs: int = 0
    _widgets: dict[str, Any] = field(default_factory=dict)
    _values: dict[str, WidgetState] = field(default_factory=dict)
    _timers: dict[str, "asyncio.Task[None]"] = field(default_factory=dict)
    _hash: str = ""
    _news: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def open(self) -> float:
        """Connect and run the page once; returns how long that took in seconds."""
        began = time.perf_counter()
        self._socket = await self.http.ws_connect(
            f"{self.base_url.replace('http', 'ws', 1)}/_stcore/stream",
            protocols=("streamlit",),
            origin=self.base_url,
            max_msg_size=2**27,
        )
        self._reader = asyncio.create_task(self._read())
        await self._rerun()
        await self.wait_for(lambda: self.finished_runs > 0, _RUN_S)
        return time.perf_counter() - began

    async def close(self) -> None:
        self._stop_timers()
        await self._socket.close()
        self._reader.cancel()

    async def wait_for(self, holds: Any, timeout_s: float) -> None:
        """Wait until `holds()` is true; raises TimeoutError."""
        async with asyncio.timeout(timeout_s), self._news:
            await self._news.wait_for(lambda: self._reader.done() or holds())
        if not holds():
            raise ConnectionError("the dashboard closed the connection") from self._reader.exception()

    def widget(self, kind: str, label: str = "") -> Any:
        """The newest widget of that kind whose label or options hold the text."""
        for proto in reversed(self._widgets.values()):
            if proto.DESCRIPTOR.name == kind and label in str(proto):
                return proto
        raise LookupError(f"the page has no {kind} {label}")

    async def choose(self, label: str, value: str) -> None:
        """Pick an option of a segmented control or pills."""
        control = self.widget("ButtonGroup", label)
        state = WidgetState(id=control.id)
        state.string_array_value.data.append(value)
        self._values[control.id] = state
        await self._run_to_end()

    async def enter(self, label: str, number: int) -> None:
        """Fill in a number."""
        box = self.widget("NumberInput", label)
        self._values[box.id] = WidgetState(id=box.id, int_value=number)
        await self._run_to_end()

    async def press(self, label: str) -> None:
        """Press a button, and return when the page is drawn anew."""
        button = self.widget("Button", label)
        await self._run_to_end(WidgetState(id=button.id, trigger_value=True))

    async def ask(self, prompt: str) -> None:
        """Send a prompt; returns at once, while the answer comes."""
        state = WidgetState(id=self.widget("ChatInput").id)
        state.chat_input_value.data = prompt
        await self._rerun(trigger=state)

    async def ask_and_wait(self, prompt: str, timeout_s: float) -> None:
        """Send a prompt, and return when its answers are there."""
        before = self.finished_runs
        await self.ask(prompt)
        await self.finished(before + 1, timeout_s)

    async def finished(self, runs: int, timeout_s: float) -> None:
        """Wait until so many runs of the page have ended well."""
        await self.wait_for(lambda: self.finished_runs >= runs, timeout_s)

    async def _run_to_end(self, trigger: WidgetState | None = None) -> None:
        before = self.finished_runs
        await self._rerun(trigger=trigger)
        await self.finished(before + 1, _RUN_S)

    async def _rerun(self, *, fragment_id: str = "", trigger: WidgetState | None = None) -> None:
        message = BackMsg()
        state = message.rerun_script
        state.query_string = self.query
        state.page_name = "" if self._hash else self.page
        state.page_script_hash = self._hash
        if fragment_id:
            state.fragment_id = fragment_id
            state.is_auto_rerun = True
        state.widget_states.widgets.extend([*self._values.values(), *([trigger] if trigger else [])])
        if not self._socket.closed:
            await self._socket.send_bytes(message.SerializeToString())

    async def _read(self) -> None:
        async for frame in self._socket:
            if frame.type is not aiohttp.WSMsgType.BINARY:
                break
            self.received_bytes += len(frame.data)
            self._take(ForwardMsg.FromString(frame.data))
            async with self._news:
                self._news.notify_all()

    def _take(self, message: ForwardMsg) -> None:
        kind = message.WhichOneof("type") or "none"
        self.received[kind] += 1
        if kind == "delta" and message.delta.WhichOneof("type") == "new_element":
            element = message.delta.new_element
            name = element.WhichOneof("type")
            if name == "exception":
                self.exceptions.append(f"{element.exception.type}: {element.exception.message}")
            elif name in _KEPT:
                proto = getattr(element, name)
                self._widgets.pop(proto.id, None)
                self._widgets[proto.id] = proto
        elif kind == "new_session":
            self._hash = message.new_session.page_script_hash or self._hash
            if not message.metadata.run.fragment_ids:
                self._stop_timers()
        elif kind == "auto_rerun":
            self._start_timer(message.auto_rerun.fragment_id, message.auto_rerun.interval)
        elif kind == "stop_auto_rerun":
            for fragment_id in message.stop_auto_rerun.fragment_ids:
                if task := self._timers.pop(fragment_id, None):
                    task.cancel()
        elif kind == "script_finished":
            self.finished_runs += message.script_finished == ForwardMsg.FINISHED_SUCCESSFULLY

    def _start_timer(self, fragment_id: str, interval_s: float) -> None:
        if task := self._timers.pop(fragment_id, None):
            task.cancel()
        self._timers[fragment_id] = asyncio.create_task(self._tick(fragment_id, interval_s))

    async def _tick(self, fragment_id: str, interval_s: float) -> None:
        while True:
            await asyncio.sleep(interval_s)
            await self._rerun(fragment_id=fragment_id)

    def _stop_timers(self) -> None:
        for task in self._timers.values():
            task.cancel()
        self._timers.clear()
