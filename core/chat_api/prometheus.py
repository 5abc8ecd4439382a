"""What servers publish at `/metrics`, in Prometheus' text format."""

from prometheus_client.parser import text_string_to_metric_families


def published(text: str) -> dict[str, list[float]]:
    """The values of each sample by its name, one for each label set (a model, an engine).

    Empty for a text that is not in the format.
    """
    found: dict[str, list[float]] = {}
    try:
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                found.setdefault(sample.name, []).append(sample.value)
    except ValueError:
        return {}
    return found


def url_of(base_url: str) -> str:
    """Where a server publishes them: beside the version path of its base URL."""
    return f"{base_url.rstrip('/').removesuffix('/v1')}/metrics"
