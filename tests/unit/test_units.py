import pytest

from core import units


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "–"), (0.0, "0.0 ms"), (0.01234, "12.3 ms"), (0.4567, "457 ms"), (1.234, "1.23 s")],
)
def test_milliseconds(seconds, text):
    assert units.milliseconds(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(None, "–"), (4.4, "4 s"), (75, "1 min 15 s"), (3720, "1 h 2 min")]
)
def test_duration(seconds, text):
    assert units.duration(seconds) == text


@pytest.mark.parametrize(
    ("size", "text"), [(None, "–"), (0, "0 MiB"), (3 * 2**29, "1.50 GiB"), (5 * 2**20, "5 MiB")]
)
def test_gib(size, text):
    assert units.gib(size) == text


@pytest.mark.parametrize(("speed", "text"), [(None, "–"), (12.34, "12.3 tok/s"), (359.4, "359 tok/s")])
def test_tok_per_s(speed, text):
    assert units.tok_per_s(speed) == text


def test_unknown_counts_and_ratios_are_dashes():
    assert (units.count(None), units.ratio(None)) == ("–", "–")
    assert (units.count(12345), units.ratio(1.5)) == ("12,345", "1.50×")


@pytest.mark.parametrize(
    ("energy", "text"), [(None, "–"), (0.7421, "0.742 J"), (811.14, "811 J"), (1234.5, "1,234 J")]
)
def test_joules(energy, text):
    assert units.joules(energy) == text


def test_watts():
    assert (units.watts(None), units.watts(124.6)) == ("–", "125 W")
