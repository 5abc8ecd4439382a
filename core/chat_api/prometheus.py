"""Metrics that servers publish at `/metrics`, in Prometheus' text format."""

from prometheus_client.parser import text_string_to_metric_families

MAX_CHARS = 2**20
MAX_LINE_CHARS = 2**13
"""The parser takes half a second for a line of megabytes, and nothing else runs in the process meanwhile."""


def published(text: str) -> dict[str, list[float]]:
    """The values of each sample by its name, one for each label set (a model, an engine).

    Empty for a text that is not in the format. What is larger than any server's is left out.
    """
    lines = "\n".join(line for line in text[:MAX_CHARS].split("\n") if len(line) <= MAX_LINE_CHARS)
    values: dict[str, list[float]] = {}
    try:
        for family in text_string_to_metric_families(lines):
            for sample in family.samples:
                values.setdefault(sample.name, []).append(sample.value)
    except ValueError:
        return {}
    return values


def url_of(base_url: str) -> str:
    """Return where a server publishes them: beside the version path of its base URL."""
    return f"{base_url.rstrip('/').removesuffix('/v1')}/metrics"
