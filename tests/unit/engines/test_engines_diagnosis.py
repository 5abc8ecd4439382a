"""Log texts of real engines, and what they are recognised as."""

import signal

import pytest

from core.engines.diagnosis import (
    CAUSES,
    ERROR_OF_CODE,
    explain_death,
    explain_failed_start,
    recognise,
    telling_lines,
    unpacked_gguf,
    wrong_backend,
)
from core.engines.supervisor import last_stage, stage_of
from core.errors import (
    EngineCrashed,
    EngineError,
    EngineLoadFailed,
    EngineNotInstalled,
    EngineOutOfMemory,
    WrongBackend,
)

# (text as an engine printed it, error, code, a word of the message)
TEXTS = [
    (
        "2026-11-22 15:24:18,719 - lmdeploy - WARNING - archs.py:40 - Fallback to pytorch engine because "
        "turbomind is not built.",
        WrongBackend,
        "wrong-backend",
        "turbomind is not built",
    ),
    (
        "Fallback to pytorch engine because '/models/mistral' not supported by turbomind engine.",
        WrongBackend,
        "wrong-backend",
        "/models/mistral",
    ),
    (
        "ERROR:    [Errno 98] error while attempting to bind on address ('127.0.0.1', 8993): address "
        "already in use",
        EngineLoadFailed,
        "port-taken",
        "port",
    ),
    (
        "RuntimeError: No enough gpu memory for kv cache.",
        EngineOutOfMemory,
        "kv-cache-too-small",
        "kv cache",
    ),
    ("RuntimeError: No enough gpu memory for runtime.", EngineOutOfMemory, "kv-cache-too-small", "runtime"),
    (
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total "
        "capacity of "
        "79.10 GiB of which 1.44 GiB is free.",
        EngineOutOfMemory,
        "gpu-out-of-memory",
        "GPU",
    ),
    (
        "terminate called: CUDA error: out of memory",
        EngineOutOfMemory,
        "gpu-out-of-memory",
        "GPU",
    ),
    (
        "[TM][FATAL] kernels/attention.cu(110): CUDA runtime error: misaligned address",
        EngineCrashed,
        "cuda-error",
        "misaligned address",
    ),
    (
        "torch.AcceleratorError: CUDA error: an illegal memory access was encountered",
        EngineCrashed,
        "cuda-error",
        "an illegal memory access",
    ),
    (
        "jinja2.exceptions.TemplateError: System role not supported",
        EngineError,
        "chat-template",
        "chat template",
    ),
    (
        "RuntimeError: [enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't "
        "allocate memory: "
        "you tried to allocate 15032385536 bytes. Error code 12 (Cannot allocate memory)",
        EngineOutOfMemory,
        "host-out-of-memory",
        "machine",
    ),
    (
        "KeyError: 'vision_tower.embeddings.class_embedding'",
        EngineLoadFailed,
        "vision-weight-names",
        "vision_tower.embeddings",
    ),
    (
        "AttributeError: 'LlamaConfig' object has no attribute 'language_config'",
        EngineLoadFailed,
        "vision-text-config",
        "language model",
    ),
    (
        "NotImplementedError: <siglip_vision_model> is not implemented.",
        EngineLoadFailed,
        "vision-tower",
        "siglip_vision_model",
    ),
    (
        "ValueError: unsupported vl model with config LlavaConfig {",
        EngineLoadFailed,
        "unsupported-architecture",
        "LlavaConfig",
    ),
    (
        "ImportError: \nCLIPImageProcessor requires the Torchvision library but it was not found in your "
        "environment.",
        EngineNotInstalled,
        "engine-not-installed",
        "Torchvision",
    ),
    ("MemoryError", EngineOutOfMemory, "host-out-of-memory", "machine"),
    (
        "RuntimeError: The NVIDIA driver on your system is too old (found version 12020). Please "
        "update your GPU "
        "driver by downloading and installing a new version",
        EngineLoadFailed,
        "driver-too-old",
        "12020",
    ),
    (
        "RuntimeError: CUDA error: CUDA driver version is insufficient for CUDA runtime version",
        EngineLoadFailed,
        "driver-too-old",
        "driver",
    ),
    (
        "RuntimeError: Found no NVIDIA driver on your system. Please check that you have an NVIDIA "
        "GPU and "
        "installed a driver from http://www.nvidia.com/Download/index.aspx",
        EngineLoadFailed,
        "no-nvidia-driver",
        "driver",
    ),
    ("RuntimeError: No CUDA GPUs are available", EngineLoadFailed, "no-nvidia-driver", "GPU"),
    (
        "torch.AcceleratorError: CUDA error: no kernel image is available for execution on the device",
        EngineLoadFailed,
        "gpu-architecture",
        "architecture",
    ),
    (
        'ValueError: Unsupported group_size=64 for model_format="awq". Supported group_size values: 128.',
        EngineLoadFailed,
        "group-size",
        "groups of 64",
    ),
    (
        "ValueError: The checkpoint you are trying to load has model type `foo` but Transformers "
        "does not recognize "
        "this architecture. This could be because of an issue with the checkpoint",
        EngineLoadFailed,
        "unsupported-architecture",
        "(foo)",
    ),
    (
        "AttributeError: module transformers has no attribute InternLM2ForCausalLM. Did you mean",
        EngineLoadFailed,
        "unsupported-architecture",
        "InternLM2ForCausalLM",
    ),
    (
        "RuntimeError: Can not found rewrite for architectures: ['FooForCausalLM']",
        EngineLoadFailed,
        "unsupported-architecture",
        "FooForCausalLM",
    ),
    (
        "ValueError: The repository /m contains custom code which must be executed to correctly load "
        "the model.",
        EngineLoadFailed,
        "remote-code",
        "code",
    ),
    (
        "OSError: We couldn't connect to 'https://huggingface.co' to load the files, and couldn't "
        "find them in the "
        "cached files.",
        EngineLoadFailed,
        "hub-offline",
        "hub",
    ),
    (
        "huggingface_hub.errors.LocalEntryNotFoundError: Cannot find an appropriate cached snapshot "
        "folder for the "
        "specified revision on the local disk and outgoing traffic has been disabled.",
        EngineLoadFailed,
        "hub-offline",
        "hub",
    ),
    (
        "huggingface_hub.errors.HFValidationError: Repo id must be in the form 'repo_name' or "
        "'namespace/repo_name': "
        "'/no/such/dir'. Use `repo_type` argument if needed.",
        EngineLoadFailed,
        "model-not-here",
        "no model",
    ),
    (
        "ValueError: Unrecognized processing class in /m. Can't instantiate a processor, a "
        "tokenizer, an image "
        "processor, a video processor or a feature extractor for this model.",
        EngineLoadFailed,
        "model-incomplete",
        "incomplete",
    ),
    (
        "ValueError: Couldn't instantiate the backend tokenizer from one of: ",
        EngineLoadFailed,
        "model-incomplete",
        "incomplete",
    ),
    (
        "OSError: Error no file named model.safetensors, or pytorch_model.bin, found in directory /m.",
        EngineLoadFailed,
        "model-incomplete",
        "incomplete",
    ),
    (
        "ImportError: Missing dependencies for serving. Install with `pip install transformers[serving]`",
        EngineNotInstalled,
        "engine-not-installed",
        "transformers serve",
    ),
    (
        "/usr/bin/python3: Error while finding module specification for 'transformers.cli.transformers' "
        "(ModuleNotFoundError: No module named 'transformers')",
        EngineNotInstalled,
        "engine-not-installed",
        "transformers",
    ),
    (
        "ImportError: Loading an AWQ quantized model requires gptqmodel. Please install it with `pip "
        "install gptqmodel`",
        EngineNotInstalled,
        "engine-not-installed",
        "gptqmodel",
    ),
    (
        "ImportError: cannot import name 'PreTrainedConfig' from 'transformers' "
        "(/x/transformers/__init__.py)",
        EngineNotInstalled,
        "wrong-transformers",
        "transformers",
    ),
    (
        "RuntimeError: The size of tensor a (640) must match the size of tensor b (336) at "
        "non-singleton dimension 2",
        EngineNotInstalled,
        "wrong-transformers",
        "transformers",
    ),
    (
        "lmdeploy: error: unrecognized arguments: --nonsense 3",
        EngineLoadFailed,
        "bad-flag",
        "--nonsense 3",
    ),
    ("Error: No such option '--nonsense'.", EngineLoadFailed, "bad-flag", "--nonsense"),
]


@pytest.mark.parametrize(
    ("text", "kind", "code", "word"), TEXTS, ids=[f"{row[2]}-{number}" for number, row in enumerate(TEXTS)]
)
def test_text_is_recognised(text, kind, code, word):
    log = f"INFO: something before\nTraceback (most recent call last):\n{text}\n"
    error = explain_failed_start(log, 1)
    assert (type(error), error.code) == (kind, code)
    assert word in error.message
    assert error.hint
    assert "{" not in error.message


def test_every_cause_has_a_text_of_its_own():
    assert {cause.code for cause in CAUSES} - {"cuda-libraries"} <= {code for _, _, code, _ in TEXTS}


def test_every_code_leads_back_to_its_class():
    assert all(ERROR_OF_CODE[code] is kind for _, kind, code, _ in TEXTS)


def test_fallback_says_how_its_cause_is_mended():
    error = wrong_backend(
        "Fallback to pytorch engine because turbomind can't be imported: libcuda.so.1: cannot open "
        "shared object "
        "file: No such file or directory"
    )
    assert isinstance(error, WrongBackend)
    assert "libcuda.so.1" in error.message
    assert "driver" in error.hint


def test_harmless_warm_up_error_is_no_cause():
    assert recognise("[TM][ERROR] Warm-up for 8192 tokens failed with status 6") is None


@pytest.mark.parametrize("code", [-9, 137])
def test_killed_engine_points_to_the_out_of_memory_killer(code):
    error = explain_failed_start("Loading weights:  10%|# ", code)
    assert (type(error), error.code) == (EngineCrashed, "engine-killed")
    assert "out-of-memory" in error.hint


def test_unknown_end_tells_code_and_last_words():
    error = explain_failed_start("INFO: hello\nRuntimeError: something new\n", 3)
    assert (type(error), error.code) == (EngineLoadFailed, "engine-load-failed")
    assert "exit code 3" in error.message
    assert "RuntimeError: something new" in error.message


def test_signal_is_named():
    assert "SIGABRT" in explain_death("", -signal.SIGABRT).message


def test_death_is_explained_by_recent_lines_only():
    old = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate\n" + "INFO: fine\n" * 50
    assert isinstance(explain_death(old, 1), EngineCrashed)
    assert isinstance(explain_death("INFO: fine\nCUDA error: out of memory\n", -6), EngineOutOfMemory)


def test_old_start_up_text_does_not_explain_a_later_death():
    assert explain_death("ModuleNotFoundError: No module named 'flash_attn'\n", 1).code == "engine-died"


def test_telling_lines_are_errors_without_the_traceback():
    log = (
        "INFO: one\nTraceback (most recent call last):\n"
        '  File "a.py", line 1\n    raise ValueError\nValueError: bad\nINFO: last\n'
    )
    assert telling_lines(log) == ["ValueError: bad"]
    assert telling_lines("INFO: one\nINFO: two\n", 1) == ["INFO: two"]
    assert telling_lines("") == []


STAGES = [
    ("[transformers] Loading /m@main", "Reading the model"),
    ("Loading weights:  42%|####      | 3/7 [00:00<?, ?it/s]", "Loading weights, 42%"),
    ("Loading checkpoint shards:   0%|          | 0/3 [00:00<?, ?it/s]", "Loading weights, 0%"),
    ("Loading:  50%|#####     | 1/2", "Loading weights, 50%"),
    ("Loading weights from safetensors: 100%|######| 1/1", "Loading weights, 100%"),
    ("Converting and de-quantizing GGUF tensors...:   8%|▊         | 23/272", "Unpacking weights, 8%"),
    (
        "[TM][INFO] Object cache budget: 30924.10 MB from free 77310.26 MB and ratio 0.400",
        "Reserving the KV cache, 30924.10 MB",
    ),
    ("[TM][INFO] Warm-up lengths: 8 16 32", "Warming up"),
    ("[TM][INFO] Warm-up finished in 3.21 seconds.", "Warmed up"),
    ("HINT:    Please open http://127.0.0.1:23333 in a browser", "Opening the port"),
    ("INFO:     Uvicorn running on http://127.0.0.1:8993 (Press CTRL+C to quit)", "Almost ready"),
    ("something else", None),
]


@pytest.mark.parametrize(("line", "stage"), STAGES)
def test_stage_of_a_line(line, stage):
    assert stage_of(line) == stage


def test_last_stage_reads_repainted_progress_bars():
    log = "[transformers] Loading /m\nLoading weights:   0%|  | 0/9\rLoading weights:  33%|# | 3/9\nnoise\n"
    assert last_stage(log) == "Loading weights, 33%"
    assert last_stage("") is None


def test_unpacked_gguf_is_noticed():
    assert unpacked_gguf("Converting and de-quantizing GGUF tensors...: 100%|###| 272/272\n")
    assert not unpacked_gguf("Loading weights: 100%|###| 272/272\n")


def test_turbominds_harmless_warm_up_error_is_not_the_reason_of_a_death():
    log = (
        "[TM][ERROR][1122.16:26:44.162847][turbomind.cc:486] Warm-up for 8256 tokens failed with status 6\n"
        "INFO:     Uvicorn running on http://127.0.0.1:41017\n"
    )
    assert telling_lines(log) == ["INFO:     Uvicorn running on http://127.0.0.1:41017"]
