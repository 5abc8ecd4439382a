"""An engine's own Python for tests: whatever it is to serve, it runs the fake engine instead."""

import sys

PROGRAM = """#!{python}
import os, sys
args = sys.argv[1:]
if args and args[0].endswith("serve_transformers.py"):
    host, port = (args[args.index(name) + 1] for name in ("--host", "--port"))
    args = [{engine!r}, "--host", host, "--port", port, "--model", args[1], *{options!r}]
os.execv({python!r}, [{python!r}, *args])
"""


def fake_python(path, engine, *options):
    """Write the program; returns its path as the setting `python` takes it."""
    path.write_text(PROGRAM.format(python=sys.executable, engine=str(engine), options=options))
    path.chmod(0o755)
    return str(path)
