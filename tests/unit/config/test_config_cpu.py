from dataclasses import replace

import pytest

from core.config import cpu, load_lanes
from core.config.cpu import native_dtype
from core.settings import load_settings

CPUINFO = """processor\t: 0
model name\t: {name}
{key}\t\t: fpu sse2 {flags}

processor\t: 1
{key}\t\t: fpu sse2 {flags} only_here
"""


@pytest.mark.parametrize(
    ("key", "flags", "dtype"),
    [
        ("flags", "avx512f avx512_bf16 amx_bf16 avx512_fp16 f16c", "bfloat16"),
        ("flags", "avx512f avx512_bf16 f16c", "bfloat16"),
        ("flags", "avx2 f16c fma", "float16"),
        ("flags", "avx512f avx512_fp16", "float16"),
        ("flags", "ssse3", "float32"),
        ("Features", "asimd asimdhp bf16", "bfloat16"),
        ("Features", "asimd asimdhp", "float16"),
        ("Features", "asimd", "float32"),
    ],
)
def test_the_dtype_is_what_the_cpu_does_natively(key, flags, dtype):
    features = cpu._of_cpuinfo(CPUINFO.format(name="any", key=key, flags=flags))
    assert "only_here" not in features
    assert native_dtype(features) == dtype


def test_macos_tells_by_sysctl():
    text = "hw.optional.arm.FEAT_BF16: {bf16}\nhw.optional.arm.FEAT_FP16: 1\nhw.optional.arm.x: 0\n"
    assert native_dtype(cpu._of_sysctl(text.format(bf16=1))) == "bfloat16"
    assert native_dtype(cpu._of_sysctl(text.format(bf16=0))) == "float16"


def test_a_cpu_that_nothing_is_known_of_computes_in_float32():
    assert native_dtype(frozenset()) == "float32"


def test_the_default_lane_takes_it(monkeypatch, tmp_path):
    monkeypatch.setattr("core.config.cpu_features", lambda: frozenset({"f16c"}))
    settings = replace(load_settings({"LMDYNO_HOME": str(tmp_path)}), lanes_file=tmp_path / "none.toml")
    registry = load_lanes(settings, gpu=False)
    assert [registry.lane(name).settings.dtype for name in ("hf", "llava-hf", "hf-q4")] == [
        "float16",
        "float16",
        "auto",
    ]
