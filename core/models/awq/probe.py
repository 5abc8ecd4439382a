"""Prints LMDeploy's tables as a line of JSON; runs in the engine's Python, as a child of `awq_stack`."""

import importlib.util
import json
import sys


def main() -> int:
    facts: dict[str, object] = {
        "lmdeploy": None,
        "missing": None,
        "quantisable": [],
        "calibratable": [],
        "servable": [],
        "turbomind_problem": None,
        "has_datasets": importlib.util.find_spec("datasets") is not None,
    }
    try:
        import lmdeploy
        from lmdeploy.lite.apis.calibrate import LAYER_TYPE_MAP
        from lmdeploy.lite.quantization.awq import FC_FCS_MAP, NORM_FCS_MAP
        from lmdeploy.turbomind.supported_models import SUPPORTED_ARCHS
    except ModuleNotFoundError as exc:
        facts["missing"] = exc.name
    else:
        facts |= {
            "lmdeploy": lmdeploy.__version__,
            "quantisable": list(LAYER_TYPE_MAP),
            # LMDeploy notices only after the calibration pass that it can't smooth the others.
            "calibratable": [
                name
                for name, layer in LAYER_TYPE_MAP.items()
                if layer in FC_FCS_MAP and layer in NORM_FCS_MAP
            ],
            "servable": list(SUPPORTED_ARCHS),
            "turbomind_problem": _turbomind_problem(),
        }
    sys.stdout.write(f"\n{json.dumps(facts)}\n")
    return 0


def _turbomind_problem() -> str | None:
    """Return why TurboMind's library can't be loaded; lmdeploy itself keeps silent about it."""
    try:
        import lmdeploy.turbomind._turbomind  # noqa: F401
    except (ImportError, OSError) as exc:
        return str(exc)
    return None


if __name__ == "__main__":
    sys.exit(main())
