"""The stages of a converting child process: one JSON text per line of its standard output.

Runs in engine processes too, so only the standard library and `core.i18n` are imported.
"""

import json
import sys

from core.i18n import Text, as_json, from_json


def say(stage: Text) -> None:
    """Tell the parent process."""
    sys.stdout.write(json.dumps(as_json(stage)) + "\n")
    sys.stdout.flush()


def stage_of(line: str) -> Text:
    """The stage that `say` wrote; any other line is one as it is."""
    try:
        return from_json(json.loads(line))
    except ValueError:
        return line.rstrip()
