import pytest

from core.ui.shared import slots
from core.ui.shared.slots import Slots


@pytest.fixture
def drawn(monkeypatch):
    """The elements of a run, in their order."""
    elements = []
    monkeypatch.setattr(slots.st, "empty", lambda: elements.append("empty"))
    monkeypatch.setattr(slots.st, "container", lambda: elements.append("container"))
    return elements


@pytest.mark.parametrize(
    ("filled", "elements"),
    [
        ((), ["empty", "empty", "empty"]),
        (("first",), ["container", "empty", "empty"]),
        (("second",), ["empty", "container", "empty"]),
        (("first", "third"), ["container", "empty", "container"]),
        (("first", "second", "third"), ["container"] * 3),
    ],
)
def test_each_place_is_one_element_whatever_is_filled(drawn, filled, elements):
    with Slots("first", "second", "third") as places:
        for name in filled:
            places.fill(name)
    assert drawn == elements


@pytest.mark.parametrize(("filled", "name"), [("second", "first"), ("first", "first"), ("first", "unknown")])
def test_a_place_out_of_order_is_refused(drawn, filled, name):
    places = Slots("first", "second")
    places.fill(filled)
    with pytest.raises(ValueError, match="the places left are"):
        places.fill(name)


def test_a_broken_off_run_draws_nothing_more(drawn):
    def run():
        with Slots("first", "second") as places:
            places.fill("first")
            raise KeyError

    with pytest.raises(KeyError):
        run()
    assert drawn == ["container"]
