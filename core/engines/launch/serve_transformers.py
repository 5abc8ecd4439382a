"""Hands over to `transformers serve`, with mends for GGUF files and stopped requests, and with a key.

Run as a script by the engine's own Python, so it imports nothing of LMDyno.

`transformers serve` picks the model class by `config.architectures`, which a config read from a GGUF file
does not have (seen in 5.23: `TypeError: 'NoneType' object is not subscriptable`).

For most architectures it also parses the whole header again for the tokenizer, for the config each time
it is asked for and for the weights, and builds the table of tensor names again for each module of the model
(seen in 5.23: two thirds of the CPU time of loading a small model).

When a client goes away, it notices at the next token. During the prefill of a long prompt that may be
minutes later, with the next request waiting (seen in 5.23).

It knows no API key. An engine that other machines reach gets one, which the process list does not show.
"""

import ctypes
import hmac
import importlib
import os
import sys
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from copy import deepcopy
from functools import lru_cache
from pathlib import Path
from typing import Any

KEY_VARIABLE = "LMDYNO_ENGINE_KEY"
_LONG = 1000
"""Elements of an array from which on it is a vocabulary and no setting."""

# The folder of this script would come before every installed package.
sys.path[:] = [place for place in sys.path if place != str(Path(__file__).parent)]


def fill_in_architectures() -> None:
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    read_config = AutoConfig.from_pretrained

    def from_pretrained(*arguments: Any, **options: Any) -> Any:  # noqa: ANN401 - transformers' own signature
        answer = read_config(*arguments, **options)
        config = answer[0] if options.get("return_unused_kwargs") else answer
        if options.get("gguf_file") and not config.architectures:
            config.architectures = [MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[config.model_type]]
        return answer

    AutoConfig.from_pretrained = from_pretrained


def read_gguf_files_once() -> None:
    import gguf
    from transformers import modeling_gguf_pytorch_utils as reading

    read: Callable[..., Any] = reading.load_gguf_checkpoint
    read_header = lru_cache(maxsize=1)(read)
    open_file = lru_cache(maxsize=1)(gguf.GGUFReader)

    def load_gguf_checkpoint(path: str, return_tensors: bool = False, **options: Any) -> Any:  # noqa: ANN401 - transformers' own signature
        if not return_tensors:
            return deepcopy(read_header(path))  # its callers change what they get
        weights = read(path, return_tensors=True, **options)
        open_file.cache_clear()  # the parsed header takes more memory than a small model
        return weights

    gguf.GGUFReader = open_file
    gguf.get_tensor_name_map = lru_cache(gguf.get_tensor_name_map)
    reading.load_gguf_checkpoint = load_gguf_checkpoint


class Interruption:
    """Ends the generation of one streamer within the operation that runs, by an exception in its thread.

    It costs nothing while nobody stops a request, unlike a hook in the model's layers.
    """

    def __init__(self, exception: type[Exception]) -> None:
        self._exception = exception
        self._lock = threading.Lock()
        self._streamer: object = None
        self._thread_id = 0

    def begins(self, streamer: object) -> None:
        """The calling thread generates for the streamer from now on."""
        with self._lock:
            self._streamer, self._thread_id = streamer, threading.get_ident()

    def interrupt(self, streamer: object) -> None:
        """Raise the exception in the thread that generates for the streamer; nothing if none does."""
        with self._lock:
            if self._streamer is streamer:
                self._streamer = None
                self._raise_in_thread(self._exception)

    def ends(self) -> None:
        """The calling thread generates no more: an exception that it has not seen yet is taken back."""
        while True:
            try:
                with self._lock:
                    self._streamer = None
                    self._thread_id = threading.get_ident()
                    self._raise_in_thread(None)
                return
            except self._exception:
                continue

    def _raise_in_thread(self, exception: type[Exception] | None) -> None:
        raised = ctypes.py_object(exception) if exception else None
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(self._thread_id), raised)


def stop_within_prefill() -> None:
    from transformers.cli.serving import utils

    interruption = Interruption(utils._GenerationCancelled)
    put, cancel, submit = utils.DirectStreamer.put, utils.DirectStreamer.cancel, utils.GenerateManager.submit

    def put_interruptibly(self: Any, value: Any) -> None:  # noqa: ANN401 - transformers' own
        if self._first:  # the prompt's tokens come before its prefill
            interruption.begins(self)
        put(self, value)

    def cancel_at_once(self: Any) -> None:  # noqa: ANN401 - transformers' own
        cancel(self)
        interruption.interrupt(self)

    def submit_interruptibly(self: Any, work: Callable[..., Any], *arguments: Any, **options: Any) -> Any:  # noqa: ANN401
        def run() -> Any:  # noqa: ANN401
            try:
                return work(*arguments, **options)
            finally:
                interruption.ends()

        return submit(self, run)

    utils.DirectStreamer.put = put_interruptibly
    utils.DirectStreamer.cancel = cancel_at_once
    utils.GenerateManager.submit = submit_interruptibly


def skip_vocabularies() -> None:
    """Let gguf's reader keep the length of long arrays and one placeholder for all their elements.

    It would make a NumPy array of each string, and a vocabulary with its merges has a hundred thousand.
    """
    import numpy as np
    from gguf import GGUFReader, GGUFValueType

    read_parts: Callable[..., Any] = GGUFReader._get_field_parts

    def get_field_parts(self: Any, offset: int, raw_type: int) -> Any:  # noqa: ANN401 - gguf's own signature
        if raw_type != GGUFValueType.ARRAY or self.byte_order != "I":
            return read_parts(self, offset, raw_type)
        header = [self._get(offset, np.uint32), self._get(offset + 4, np.uint64)]
        kind, length = (int(part[0]) for part in header)
        start = offset + sum(part.nbytes for part in header)
        if length < _LONG or kind == GGUFValueType.ARRAY:
            return read_parts(self, offset, raw_type)
        if kind == GGUFValueType.STRING:
            end = _end_of_strings(memoryview(self.data), start, length)
        else:
            end = start + length * np.dtype(self.gguf_scalar_to_np[GGUFValueType(kind)]).itemsize
        placeholder = np.zeros(1, np.uint8)
        types = [GGUFValueType.ARRAY, GGUFValueType(kind)]
        return end - offset, [*header, placeholder], [len(header)] * length, types

    GGUFReader._get_field_parts = get_field_parts


def _end_of_strings(data: memoryview, start: int, length: int) -> int:
    """Return where `length` strings end, each of which follows its own length of eight bytes."""
    for _ in range(length):
        start += 8 + int.from_bytes(data[start : start + 8], sys.byteorder)
    return start


def load_gguf_weights_faster() -> None:
    """For a process that reads no tokenizer from a GGUF file."""
    with suppress(ImportError):  # it only saves time
        skip_vocabularies()
        read_gguf_files_once()


App = Callable[[Any, Any, Any], Awaitable[None]]
"""An ASGI application."""


def guarded(app: App, key: str) -> App:
    """The application for those alone who send the key; `/health` is for everybody."""
    expected = f"Bearer {key}".encode()

    async def guard(scope: Any, receive: Any, send: Any) -> None:  # noqa: ANN401 - ASGI's own
        if scope["type"] != "lifespan" and scope.get("path") != "/health":
            sent = dict(scope["headers"]).get(b"authorization", b"")
            if not hmac.compare_digest(sent, expected):
                headers = [(b"content-type", b"application/json")]
                await send({"type": "http.response.start", "status": 401, "headers": headers})
                await send({"type": "http.response.body", "body": b'{"detail": "Wrong API key"}'})
                return
        await app(scope, receive, send)

    return guard


def require_key(key: str) -> None:
    config: Any = importlib.import_module("uvicorn").Config
    configure = config.__init__

    def configure_guarded(self: Any, app: App, *arguments: Any, **options: Any) -> None:  # noqa: ANN401 - uvicorn's
        configure(self, guarded(app, key), *arguments, **options)

    config.__init__ = configure_guarded


def main() -> None:
    from transformers.cli.transformers import main as transformers_main

    if key := os.environ.pop(KEY_VARIABLE, None):
        require_key(key)
    fill_in_architectures()
    if any(argument.endswith(".gguf") for argument in sys.argv):
        load_gguf_weights_faster()
    with suppress(ImportError, AttributeError):  # another version: stopping takes effect at the next token
        stop_within_prefill()
    sys.argv = ["transformers", "serve", *sys.argv[1:]]
    transformers_main()


if __name__ == "__main__":
    main()
