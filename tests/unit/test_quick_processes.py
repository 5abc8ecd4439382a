import os
import sys
from types import ModuleType

from tests.quick_processes import quick


def test_a_process_doesn_t_run_the_script_that_is_main_here(monkeypatch, tmp_path):
    script = tmp_path / "page.py"
    script.write_text("raise SystemExit(3)")
    main = ModuleType("__main__")
    main.__file__ = str(script)
    monkeypatch.setitem(sys.modules, "__main__", main)
    process = quick.Process(target=os.getpid)
    process.start()
    process.join(60)
    assert process.exitcode == 0
    assert sys.modules["__main__"] is main
