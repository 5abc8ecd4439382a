import sys

import pytest

from core.doctor.fitness import Status
from core.doctor.stack import (
    EngineStack,
    ProbeFailed,
    TorchFacts,
    ask,
    breaks_llava,
    driver_needed,
    probe_stack,
    stack_findings,
    torch_problem,
    torch_serves,
    turbomind_problem,
    turbomind_serves,
    unmet_bounds,
)
from core.telemetry.samples import GpuFacts

H100 = GpuFacts(index=0, name="H100", total_bytes=1, free_bytes=1, compute_capability=(9, 0))
V100 = GpuFacts(index=0, name="V100", total_bytes=1, free_bytes=1, compute_capability=(7, 0))
P100 = GpuFacts(index=0, name="P100", total_bytes=1, free_bytes=1, compute_capability=(6, 0))
VERSIONS = {"lmdeploy": "0.18.0", "transformers": "5.23.0", "torch": "2.12.1+cu130"}


def stack(**changes):
    facts = {
        "python": "/venv/bin/python",
        "python_version": "3.12.1",
        "versions": VERSIONS,
        "torch": TorchFacts(cuda="13.0", sees_gpu=True, architectures=("sm_75", "sm_80", "sm_90")),
        "turbomind_loads": True,
    }
    return EngineStack(**facts | changes)


def statuses(stack, *, driver="580.95.05", gpus=(H100,)):
    return {f.subject: f for f in stack_findings(stack, driver=driver, gpus=gpus, own=True)}


def test_a_stack_that_fits_is_fine():
    found = statuses(stack())
    assert found["Engines: torch"].status is Status.OK
    assert found["Engines: TurboMind"].status is Status.OK
    assert "lmdeploy 0.18.0" in found["Engines"].detail


def test_without_a_gpu_turbomind_is_no_failure():
    torch = TorchFacts(cuda="13.0", sees_gpu=False, architectures=())
    found = statuses(stack(torch=torch, turbomind_loads=False), driver=None, gpus=())
    assert found["Engines: TurboMind"].status is Status.INFO
    assert found["Engines: torch"].status is Status.OK


@pytest.mark.parametrize(
    ("changes", "driver", "gpu", "message"),
    [
        ({"torch": TorchFacts("13.0", False, ())}, "570.86", H100, "Driver 570.86 is too old"),
        ({"torch": TorchFacts("13.0", False, ())}, "580.95", H100, "finds no GPU"),
        ({"torch": TorchFacts(None, False, ())}, "580.95", H100, "CPU-only"),
        (
            {"torch": None, "torch_problem": "ImportError: x"},
            "580.95",
            H100,
            "Can't import torch: ImportError: x",
        ),
        ({}, "580.95", V100, "no kernels for V100"),
    ],
)
def test_what_keeps_torch_from_the_gpu_is_named_with_a_remedy(changes, driver, gpu, message):
    problem, remedy = torch_problem(stack(**changes), driver=driver, gpus=[gpu])
    assert message in problem
    assert remedy
    assert statuses(stack(**changes), driver=driver, gpus=[gpu])["Engines: torch"].status is Status.FAIL


def test_a_driver_that_the_table_calls_old_is_fine_if_torch_reaches_the_gpu():
    """NVIDIA's forward-compatibility package makes that possible."""
    assert torch_problem(stack(), driver="570.86", gpus=[H100]) is None


@pytest.mark.parametrize(
    ("changes", "driver", "gpu", "message"),
    [
        ({}, "470.10", H100, "needs 525"),
        (
            {"turbomind_loads": False, "turbomind_problem": "libcublas.so.12"},
            "580.95",
            H100,
            "libcublas.so.12",
        ),
        ({}, "580.95", P100, "no TurboMind kernels for P100"),
    ],
)
def test_what_keeps_turbomind_from_serving_is_named(changes, driver, gpu, message):
    problem, remedy = turbomind_problem(stack(**changes), driver=driver, gpus=[gpu])
    assert message in problem
    assert remedy


def test_one_gpu_that_is_served_is_enough():
    assert turbomind_problem(stack(), driver="580.95", gpus=[P100, H100]) is None


def test_bounds_and_llava_are_warnings():
    found = statuses(
        stack(
            versions=VERSIONS | {"transformers": "5.17.0", "torch": "2.13.0"},
            lmdeploy_needs=("torch<=2.12.1",),
        )
    )
    assert found["Engines: LMDeploy's requirements"].status is Status.WARN
    assert found["Engines: LLaVA"].status is Status.WARN


def test_a_broken_interpreter_is_the_only_finding_about_it():
    findings = list(stack_findings(stack(problem="can't be run"), driver=None, gpus=(), own=False))
    assert [(f.status, f.subject) for f in findings] == [(Status.FAIL, "Engines in /venv/bin/python")]


LMDEPLOY = (
    "transformers!=5.0.*,!=5.5.0,!=5.7.*,>=4.56.0",
    "torch<=2.12.1,>=2.0.0",
    'triton<=3.7.1,>=3.4.0; sys_platform == "linux"',
    'triton<1; extra == "all"',
    "peft<=0.14.0",
)


@pytest.mark.parametrize(
    ("driver", "cuda_major", "needed"),
    [
        ("580.95.05", 13, None),
        ("570.172.08", 13, "580"),
        ("570.172.08", 12, None),
        ("470.82.01", 12, "525"),
        ("570.172.08", 99, None),
        ("something", 13, None),
    ],
)
def test_each_cuda_has_its_oldest_driver(driver, cuda_major, needed):
    assert driver_needed(driver, cuda_major) == needed


@pytest.mark.parametrize(
    ("capability", "served"),
    [
        ((6, 1), False),  # Pascal
        ((7, 0), True),
        ((7, 5), True),
        ((8, 0), True),
        ((8, 9), True),
        ((9, 0), True),
        ((10, 0), True),
        ((10, 3), False),  # B300: sm_100a runs on 10.0 alone
        ((12, 0), True),
        ((12, 1), False),
    ],
)
def test_turbomind_s_wheel_serves_these_gpus(capability, served):
    assert turbomind_serves(capability) is served


def test_torch_runs_on_what_it_was_compiled_or_can_be_translated_for():
    built = ("sm_75", "sm_80", "sm_90a", "compute_120")
    assert torch_serves((7, 5), built)
    assert torch_serves((8, 9), built)
    assert torch_serves((9, 0), built)
    assert torch_serves((12, 1), built)
    assert not torch_serves((7, 0), built)
    assert not torch_serves((10, 0), built)
    assert not torch_serves((9, 0), ("garbage",))


def test_bounds_of_lmdeploy_are_held_against_what_is_installed():
    good = {"transformers": "5.23.0", "torch": "2.12.1+cu130", "triton": "3.7.1", "peft": "0.20"}
    assert unmet_bounds(LMDEPLOY, good) == ()
    broken = unmet_bounds(LMDEPLOY, good | {"transformers": "5.7.2", "torch": "2.13.0"})
    assert [text.split(" is ")[0] for text in broken] == ["transformers 5.7.2", "torch 2.13.0"]
    assert unmet_bounds(("not ! a requirement",), good) == ()


def test_llava_fails_with_older_transformers():
    assert breaks_llava("5.17.0")
    assert not breaks_llava("5.23.0")


def test_the_last_line_is_the_answer():
    answer = ask(sys.executable, "print('noise'); print('{\"a\": 1}')", timeout_s=30)
    assert answer == {"a": 1}


def test_a_long_answer_is_whole():
    program = "import json; print(json.dumps({'a': list(range(10_000))}))"
    assert ask(sys.executable, program, timeout_s=30) == {"a": list(range(10_000))}


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("raise ImportError('libcuda.so.1: no such file')", "ImportError: libcuda.so.1: no such file"),
        ("import os; os.abort()", "SIGABRT"),
        ("print('hello')", "Unexpected output: hello"),
        ("print('[1]')", "Unexpected output"),
        ("", "Unexpected output: no output"),
        ("import time; time.sleep(60)", "No answer within 0.5 s"),
    ],
)
def test_a_child_without_an_answer_gives_the_reason(program, reason):
    timeout_s = 0.5 if "sleep" in program else 30
    with pytest.raises(ProbeFailed, match=reason):
        ask(sys.executable, program, timeout_s=timeout_s)


def test_an_interpreter_that_is_not_there_is_a_problem_and_no_exception(tmp_path):
    stack = probe_stack(str(tmp_path / "python"))
    assert "Can't run" in stack.problem
    assert stack.versions == {}


def test_an_environment_without_engines_is_described(tmp_path):
    """A stand-in interpreter: it answers the first question and could import nothing else."""
    python = tmp_path / "python"
    python.write_text(
        f"""#!{sys.executable}
import json, os
assert "PYTHONPATH" not in os.environ
print(json.dumps({{"python": "3.12.1", "versions": {{"gguf": "0.19.0"}}, "needs": []}}))
"""
    )
    python.chmod(0o755)
    stack = probe_stack(str(python))
    assert (stack.problem, stack.python_version, stack.versions) == (None, "3.12.1", {"gguf": "0.19.0"})
    assert (stack.torch, stack.torch_problem) == (None, "It isn't installed.")
    assert (stack.turbomind_loads, stack.turbomind_problem) == (False, "It isn't installed.")


def test_a_stack_whose_native_part_fails_names_the_cause(tmp_path):
    python = tmp_path / "python"
    python.write_text(
        f"""#!{sys.executable}
import json, sys
program = sys.argv[2]
if "import json, torch" in program:
    print(json.dumps({{"cuda": "13.0", "sees_gpu": True, "architectures": ["sm_90"]}}))
elif "turbomind" in program:
    sys.exit("ImportError: libcublas.so.12: cannot open shared object file")
else:
    versions = {{"torch": "2.12.1", "lmdeploy": "0.18.0"}}
    print(json.dumps({{"python": "3.12.1", "versions": versions, "needs": ["torch<=2.12.1"]}}))
"""
    )
    python.chmod(0o755)
    stack = probe_stack(str(python))
    assert (stack.torch.cuda, stack.torch.sees_gpu, stack.torch.architectures) == ("13.0", True, ("sm_90",))
    assert stack.turbomind_problem == "ImportError: libcublas.so.12: cannot open shared object file"
    assert stack.lmdeploy_needs == ("torch<=2.12.1",)
