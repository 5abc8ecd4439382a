"""Reproduce this lane: the commands and programs that do by hand what a lane does, from its real settings.

Texts only; nothing here runs an engine. Keys appear as an environment variable's name, never as a value.
"""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from core.domain.conversation import Sampling
from core.domain.specs import EngineKind, LaneSpec, ModelSpec, Weights
from core.engines.launch.table import chat_template, lmdeploy_flags
from core.errors import InputError
from core.i18n import N_, Text
from core.models.awq.options import NAMED_SETS, Rounding
from core.models.job import read_provenance
from core.models.vision import is_vision

PROMPT = "What is the capital of Japan?"
IMAGE_PROMPT = "What is in the image?"
IMAGE_FILE = "image.png"
PORT = 23333
KEY_VARIABLE = "LMDYNO_API_KEY"

_LMDEPLOY = (EngineKind.TURBOMIND, EngineKind.AWQ, EngineKind.PYTORCH)


@dataclass(frozen=True, slots=True)
class Recipe:
    """One ready-to-copy text; `language` is `bash` or `python`."""

    title: Text
    language: str
    code: str


def recipes(lane: LaneSpec, *, sampling: Sampling, served_model: str | None = None) -> tuple[Recipe, ...]:
    """All ways to reproduce the lane that its kind has.

    `served_model` is the id that the running server lists; without one the id that the recipe's own server
    command gives it stands there.
    """
    if lane.endpoint:
        model = served_model or lane.endpoint.model or "MODEL"
        return _clients(lane, lane.endpoint.url, model, sampling, lane.endpoint.api_key_name)
    assert lane.model is not None
    path = lane.model.path(lane.weights)
    if path is None:
        return ()
    if lane.kind in _LMDEPLOY:
        return _lmdeploy(lane, path, sampling)
    return _transformers(lane, path, sampling)


def _lmdeploy(lane: LaneSpec, path: str, sampling: Sampling) -> tuple[Recipe, ...]:
    assert lane.model is not None
    name = lane.name
    serve = [
        *("lmdeploy", "serve", "api_server", path),
        *("--server-name", "127.0.0.1", "--server-port", str(PORT), "--model-name", name),
        *lmdeploy_flags(lane),
        *("--max-batch-size", str(lane.settings.max_batch_size)),
        *("--generation-config", "lmdeploy"),
    ]
    recipes = [
        Recipe(
            N_("Chat in a terminal"),
            "bash",
            _command(["lmdeploy", "chat", path, *lmdeploy_flags(lane)], lane),
        ),
        Recipe(N_("API server"), "bash", _servers(serve, lane)),
        *_clients(lane, f"http://127.0.0.1:{PORT}/v1", name, sampling, KEY_VARIABLE),
        Recipe(N_("Python pipeline, timed"), "python", _pipeline_program(lane, path, sampling)),
        Recipe(N_("The same weights in transformers"), "python", _transformers_program(lane, sampling)),
    ]
    if lane.weights is Weights.AWQ:
        recipes.append(Recipe(N_("How the W4A16 weights were made"), "bash", _quantise(lane.model, path)))
    return tuple(recipes)


def _transformers(lane: LaneSpec, path: str, sampling: Sampling) -> tuple[Recipe, ...]:
    programs = (Recipe(N_("transformers, timed"), "python", _transformers_program(lane, sampling)),)
    if lane.weights is Weights.GGUF:
        return programs
    settings = lane.settings
    serve = ["transformers", "serve", path, "--host", "127.0.0.1", "--port", str(PORT)]
    serve += ["--dtype", settings.dtype]
    if settings.device:
        serve += ["--device", settings.device]
    if settings.continuous_batching:
        serve.append("--continuous-batching")
    if settings.trust_remote_code:
        serve.append("--trust-remote-code")
    return (
        Recipe(N_("API server"), "bash", _command(serve, lane)),
        *_clients(lane, f"http://127.0.0.1:{PORT}/v1", path, sampling, None),
        *programs,
    )


def _clients(
    lane: LaneSpec, url: str, model: str, sampling: Sampling, key_name: str | None
) -> tuple[Recipe, ...]:
    return (
        Recipe("curl", "bash", _curl(lane, url, model, sampling, key_name)),
        Recipe(N_("OpenAI client, timed"), "python", _openai_program(lane, url, model, sampling, key_name)),
        Recipe(
            N_("SSH tunnel to a remote server"), "bash", f"ssh -N -L {PORT}:127.0.0.1:{PORT} USER@GPU-HOST"
        ),
    )


def _command(argv: Sequence[str], lane: LaneSpec) -> str:
    devices = lane.settings.devices
    pinned = f"CUDA_VISIBLE_DEVICES={','.join(map(str, devices))} " if devices else ""
    return pinned + shlex.join(argv)


def _servers(serve: Sequence[str], lane: LaneSpec) -> str:
    """The lane's server, or LMDeploy's proxy at its port and the replicas that register there."""
    settings, key = lane.settings, f' --api-keys "${KEY_VARIABLE}"'
    if settings.replicas == 1:
        return _command(serve, lane) + key
    gpus = settings.devices or tuple(range(settings.gpu_count))
    at = list(serve).index("--server-port") + 1
    proxy = ["lmdeploy", "serve", "proxy", "--server-name", "127.0.0.1", "--server-port", str(PORT)]
    lines = [f"{shlex.join([*proxy, '--disable-cache-status'])}{key} &"]
    for number in range(settings.replicas):
        mine = gpus[settings.tp * number : settings.tp * (number + 1)]
        command = [*serve[:at], str(PORT + 1 + number), *serve[at + 1 :]]
        command += ["--proxy-url", f"http://127.0.0.1:{PORT}"]
        lines.append(f"CUDA_VISIBLE_DEVICES={','.join(map(str, mine))} {shlex.join(command)}{key} &")
    return "\n".join(lines)


def _quantise(model: ModelSpec, path: str) -> str:
    """The command that made the weights, by the note beside them; LMDeploy's own defaults without one."""
    command = ["lmdeploy", "lite", "auto_awq", model.checkpoint, "--work-dir", path, "--w-bits", "4"]
    try:
        made = read_provenance(Path(path))
    except InputError:
        made = None
    if made is None:
        return shlex.join(command)
    if made.samples == 0:
        return shlex.join([*command, "--calib-samples", "0"])
    amount = ["--samples", str(made.samples), "--seqlen", str(made.seqlen)]
    search = ["--search-scale"] if made.search_scale else []
    if made.rounding != Rounding.NEAREST:
        search += ["--rounding", made.rounding]
    elif made.calibration in NAMED_SETS:
        flags = [flag.replace("--", "--calib-") for flag in amount]
        return shlex.join([*command, "--calib-dataset", made.calibration, *flags, *search])
    # LMDeploy has no flag for a text of one's own, or for another rounding.
    ours = ["lmdyno", "quantize", model.name, "--calibration", made.calibration]
    return shlex.join([*ours, *amount, *search, "--out", path])


def _curl(lane: LaneSpec, url: str, model: str, sampling: Sampling, key_name: str | None) -> str:
    fields = [
        f'"model": "{model}"',
        f'"max_tokens": {sampling.max_tokens}',
        f'"temperature": {sampling.temperature:g}',
        f'"top_p": {sampling.top_p:g}',
    ]
    if lane.kind in _LMDEPLOY:
        fields.append(f'"top_k": {1 if sampling.greedy else sampling.top_k or -1}')
    header = f' -H "Authorization: Bearer ${key_name}"' if key_name else ""
    if is_vision(lane):
        return _image_curl(url, ", ".join(fields), header)
    fields.insert(1, f'"messages": [{{"role": "user", "content": "{PROMPT}"}}]')
    body = "{" + ", ".join(fields) + "}"
    return (
        f"curl --silent {url}/chat/completions -H 'Content-Type: application/json'{header} \\\n  -d '{body}'"
    )


def _openai_program(lane: LaneSpec, url: str, model: str, sampling: Sampling, key_name: str | None) -> str:
    key = f'os.environ["{key_name}"]' if key_name else '"none"'
    encode, read, load, question = "", "", "", f'"{PROMPT}"'
    if is_vision(lane):
        encode, read = "import base64\n", "from pathlib import Path\n"
        load, question = _image_openai_question(), "question"
    return f'''{encode}import os
import time
{read}
from openai import OpenAI

{load}client = OpenAI(base_url="{url}", api_key={key})
sent = time.perf_counter()
first = None
stream = client.chat.completions.create(
    model="{model}",
    messages=[{{"role": "user", "content": {question}}}],
    max_tokens={sampling.max_tokens},
    temperature={sampling.temperature:g},
    top_p={sampling.top_p:g},
    stream=True,
)
for chunk in stream:
    text = chunk.choices[0].delta.content if chunk.choices else None
    if text:
        first = first or time.perf_counter()
        print(text, end="", flush=True)
print(f"\\nTTFT {{first - sent:.3f}} s, E2E {{time.perf_counter() - sent:.3f}} s")
'''


def _pipeline_program(lane: LaneSpec, path: str, sampling: Sampling) -> str:
    settings = lane.settings
    pytorch = lane.kind is EngineKind.PYTORCH
    config = "PytorchEngineConfig" if pytorch else "TurbomindEngineConfig"
    arguments = [
        f"dtype={settings.dtype!r}",
        f"session_len={settings.session_len}",
        f"max_batch_size={settings.max_batch_size}",
        f"cache_max_entry_count={settings.cache_max_entry_count:g}",
        f"quant_policy={settings.quant_policy}",
        f"tp={settings.tp}",
        f"enable_prefix_caching={settings.enable_prefix_caching}",
    ]
    if lane.kind is EngineKind.AWQ:
        arguments.append('model_format="awq"')
    trust = ", trust_remote_code=True" if settings.trust_remote_code else ""
    names, question, load = ["GenerationConfig", config, "pipeline"], repr(PROMPT), ""
    if is_vision(lane):
        question = f"({IMAGE_PROMPT!r}, load_image({IMAGE_FILE!r}))"
        load = "from lmdeploy.vl import load_image\n"
    if template := chat_template(lane):
        names.insert(0, "ChatTemplateConfig")
        read = ".from_json" if template.endswith(".json") else ""
        trust += f", chat_template_config=ChatTemplateConfig{read}({template!r})"
    return f"""import time

from lmdeploy import {", ".join(names)}
{load}
if __name__ == "__main__":
    engine = {config}({", ".join(arguments)})
    sampling = GenerationConfig({_generation_config(sampling)})
    with pipeline({path!r}, backend_config=engine{trust}) as pipe:
        pipe("warm-up", gen_config=GenerationConfig(max_new_tokens=8))
        sent = time.perf_counter()
        first = tokens = None
        for part in pipe.stream_infer({question}, gen_config=sampling):
            if part.text and first is None:
                first, first_tokens = time.perf_counter(), part.generate_token_len
            print(part.text, end="", flush=True)
            tokens, last = part.generate_token_len, time.perf_counter()
        speed = (tokens - first_tokens) / (last - first)
        print(f"\\nTTFT {{first - sent:.4f}} s, decode {{speed:.1f}} tok/s")
"""


def _generation_config(sampling: Sampling) -> str:
    fields = [f"max_new_tokens={sampling.max_tokens}"]
    if sampling.greedy:
        fields.append("do_sample=False")
    else:
        fields += [
            "do_sample=True",
            f"temperature={sampling.temperature:g}",
            f"top_p={sampling.top_p:g}",
            f"top_k={sampling.top_k}",
        ]
    if sampling.repetition_penalty != 1:
        fields.append(f"repetition_penalty={sampling.repetition_penalty:g}")
    if sampling.seed is not None:
        fields.append(f"random_seed={sampling.seed}")
    if sampling.fixed_length:
        fields.append("ignore_eos=True")
    return ", ".join(fields)


def _transformers_program(lane: LaneSpec, sampling: Sampling) -> str:
    assert lane.model is not None
    source, extra = lane.model.checkpoint, ""
    if lane.weights is Weights.GGUF and lane.model.gguf:
        gguf = PurePath(lane.model.gguf)
        source, extra = str(gguf.parent), f", gguf_file={gguf.name!r}"
    if lane.settings.trust_remote_code:
        extra += ", trust_remote_code=True"
    dtype = "float16" if lane.kind in _LMDEPLOY and lane.settings.dtype == "auto" else lane.settings.dtype
    device = lane.settings.device or "cuda"
    generate = [f"max_new_tokens={sampling.max_tokens}", f"do_sample={not sampling.greedy}"]
    if not sampling.greedy:
        generate += [f"temperature={sampling.temperature:g}", f"top_p={sampling.top_p:g}"]
        generate += [f"top_k={sampling.top_k}"]
    if sampling.repetition_penalty != 1:
        generate.append(f"repetition_penalty={sampling.repetition_penalty:g}")
    if sampling.fixed_length:
        generate.append(f"min_new_tokens={sampling.max_tokens}")
    if is_vision(lane):
        return _image_transformers_program(source, extra, dtype, device, ", ".join(generate))
    seed = f"torch.manual_seed({sampling.seed})\n" if sampling.seed is not None else ""
    return f"""import time

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained({source!r}{extra})
model = AutoModelForCausalLM.from_pretrained({source!r}, dtype={dtype!r}{extra}).to({device!r})
messages = [{{"role": "user", "content": {PROMPT!r}}}]
inputs = tokenizer.apply_chat_template(
    messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
).to(model.device)
model.generate(**inputs, max_new_tokens=8)
{seed}sent = time.perf_counter()
output = model.generate(**inputs, {", ".join(generate)})
elapsed = time.perf_counter() - sent
answer = output[0, inputs["input_ids"].shape[1] :]
print(tokenizer.decode(answer, skip_special_tokens=True))
print(f"{{len(answer)}} tokens in {{elapsed:.3f}} s, {{len(answer) / elapsed:.1f}} tok/s end to end")
"""


def _image_curl(url: str, fields: str, header: str) -> str:
    """A request with the image as a data URL; `fields` is the rest of the JSON object."""
    content = (
        '[{"type": "image_url", "image_url": {"url": "data:image/png;base64,%s"}}, '
        f'{{"type": "text", "text": "{IMAGE_PROMPT}"}}]'
    )
    body = f'{{"messages": [{{"role": "user", "content": {content}}}], {fields}}}'
    return (
        f"printf '{body}' \\\n  \"$(base64 < {IMAGE_FILE} | tr -d '\\n')\" |\n"
        f"  curl --silent {url}/chat/completions -H 'Content-Type: application/json'{header} -d @-"
    )


def _image_openai_question() -> str:
    """The lines of a Python program that make `question`, the content of its message."""
    return f'''image = base64.b64encode(Path("{IMAGE_FILE}").read_bytes()).decode()
question = [
    {{"type": "image_url", "image_url": {{"url": f"data:image/png;base64,{{image}}"}}}},
    {{"type": "text", "text": "{IMAGE_PROMPT}"}},
]
'''


def _image_transformers_program(checkpoint: str, extra: str, dtype: str, device: str, generate: str) -> str:
    """`extra` and `generate` are further arguments, of loading and of generating."""
    return f"""import time

from transformers import AutoModelForImageTextToText, AutoProcessor

processor = AutoProcessor.from_pretrained({checkpoint!r}{extra})
model = AutoModelForImageTextToText.from_pretrained({checkpoint!r}, dtype={dtype!r}{extra}).to({device!r})
question = [{{"type": "image", "path": "{IMAGE_FILE}"}}, {{"type": "text", "text": "{IMAGE_PROMPT}"}}]
inputs = processor.apply_chat_template(
    [{{"role": "user", "content": question}}],
    add_generation_prompt=True,
    tokenize=True,
    return_tensors="pt",
    return_dict=True,
).to(model.device, dtype=model.dtype)
model.generate(**inputs, max_new_tokens=8)
sent = time.perf_counter()
output = model.generate(**inputs, {generate})
elapsed = time.perf_counter() - sent
answer = output[0, inputs["input_ids"].shape[1] :]
print(processor.decode(answer, skip_special_tokens=True))
print(f"{{len(answer)}} tokens in {{elapsed:.3f}} s, {{len(answer) / elapsed:.1f}} tok/s end to end")
"""
