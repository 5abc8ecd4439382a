"""One log format for every LMDyno process. Prompts, answers and keys never go into a log line."""

import logging
import sys


def configure(level: int = logging.INFO) -> None:
    """Send `core.*` records to stderr. Safe to call on every rerun; the root logger stays as it is."""
    logger = logging.getLogger("core")
    logger.setLevel(level)
    if not logger.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
        logger.addHandler(handler)
        logger.propagate = False
