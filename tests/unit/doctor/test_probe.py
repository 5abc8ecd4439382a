import sys

import pytest

from core.doctor.probe import ProbeFailed, ask, probe_stack


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
