"""Seconds and bytes become text for people here, and nowhere else. Unknown is "–"."""

UNKNOWN = "–"


def milliseconds(seconds: float | None) -> str:
    """`0.0123` → "12.3 ms"; from one second on in seconds, from 100 ms on without a fraction."""
    if seconds is None:
        return UNKNOWN
    if seconds >= 1:
        return f"{seconds:.2f} s"
    ms = seconds * 1e3
    return f"{ms:.0f} ms" if ms >= 100 else f"{ms:.1f} ms"


def duration(seconds: float | None) -> str:
    """`75` → "1 min 15 s"; for waiting times, where a fraction says nothing."""
    if seconds is None:
        return UNKNOWN
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def in_gib(size_bytes: int | float | None) -> float | None:
    """`1_610_612_736` → 1.5, for the axis of a chart."""
    return None if size_bytes is None else size_bytes / 2**30


def gib(size_bytes: int | float | None) -> str:
    """`1_610_612_736` → "1.50 GiB"; below 1 GiB in MiB."""
    if size_bytes is None:
        return UNKNOWN
    if size_bytes < 2**30:
        return f"{size_bytes / 2**20:.0f} MiB"
    return f"{size_bytes / 2**30:.2f} GiB"


def tok_per_s(speed: float | None) -> str:
    """`123.4` → "123 tok/s"; below 100 with one decimal."""
    if speed is None:
        return UNKNOWN
    return f"{speed:.0f} tok/s" if speed >= 100 else f"{speed:.1f} tok/s"


def count(number: int | None) -> str:
    return UNKNOWN if number is None else f"{number:,}"


def ratio(value: float | None) -> str:
    """`1.234` → "1.23×"."""
    return UNKNOWN if value is None else f"{value:.2f}×"


def percent(deviation: float | None) -> str:
    """`-0.0123` → "-1.2%"; for how far one figure is from another."""
    return UNKNOWN if deviation is None else f"{deviation:+.1%}"


def joules(energy_j: float | None) -> str:
    """`0.7421` → "0.742 J"; three figures."""
    return UNKNOWN if energy_j is None else f"{energy_j:.3g} J" if energy_j < 1000 else f"{energy_j:,.0f} J"


def watts(power_w: float | None) -> str:
    return UNKNOWN if power_w is None else f"{power_w:.0f} W"


def share(value: float | None) -> str:
    """`0.9213` → "92%"; a part of a whole."""
    return UNKNOWN if value is None else f"{value:.0%}"


def nats(value: float | None) -> str:
    """`1.23456` → "1.235"; a mean cross-entropy in nats per token."""
    return UNKNOWN if value is None else f"{value:.3f}"


def nats_apart(value: float | None) -> str:
    """`0.0123` → "+0.012"; a difference of two of them."""
    return UNKNOWN if value is None else f"{value:+.3f}"
