"""Hands over to `lmdeploy serve api_server`, with a check and a key that the process list does not show.

Run as a script by the engine's own Python, so it imports nothing of LMDyno.

LMDeploy falls back to its PyTorch engine with a mere warning where TurboMind can't be imported or does not
take the model. A lane that asked for TurboMind must not get another engine, so that is found out here, before
any weights are loaded, in the very environment that would load them.
"""

import importlib
import os
import sys
from pathlib import Path
from typing import NoReturn

# The folder of this script would come before every installed package.
sys.path[:] = [place for place in sys.path if place != str(Path(__file__).parent)]

KEY_VARIABLE = "LMDYNO_ENGINE_KEY"


def require_turbomind(model_path: str, *, trust_remote_code: bool) -> None:
    try:
        importlib.import_module("lmdeploy.turbomind._turbomind")
    except (ImportError, OSError) as error:
        refuse(f"turbomind can't be imported: {error}")
    from lmdeploy.turbomind.supported_models import is_supported

    if not is_supported(model_path, trust_remote_code=trust_remote_code):
        refuse(f"{model_path!r} not supported by turbomind engine.")


def refuse(reason: str) -> NoReturn:
    # LMDeploy's own words, so that one recognised text stands for both.
    sys.exit(f"Fallback to pytorch engine because {reason}")


def main() -> None:
    arguments = sys.argv[1:]
    key = os.environ.pop(KEY_VARIABLE, None)
    if arguments[arguments.index("--backend") + 1] == "turbomind":
        require_turbomind(arguments[0], trust_remote_code="--trust-remote-code" in arguments)
    from lmdeploy.cli import run

    # Changing sys.argv does not change what other users see of this process.
    sys.argv = ["lmdeploy", "serve", "api_server", *arguments, *(["--api-keys", key] if key else [])]
    run()


# LMDeploy's PyTorch engine spawns a child that imports this file again.
if __name__ == "__main__":
    main()
