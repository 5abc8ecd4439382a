"""Who loads first, and who is held up by whom."""

import threading

import pytest

from core.engines.devices import StartOrder


class GaveUp(Exception):
    pass


def give_up() -> None:
    raise GaveUp


def test_the_first_in_line_waits_for_nobody():
    order = StartOrder()
    first, _ = order.join(), order.join()

    order.wait(first, give_up)


def test_others_wait_until_the_first_stands_aside():
    order = StartOrder()
    first, second = order.join(), order.join()
    with pytest.raises(GaveUp):
        order.wait(second, give_up)
    passed = threading.Event()
    thread = threading.Thread(target=lambda: (order.wait(second, lambda: None), passed.set()))
    thread.start()

    order.stand_aside(first)

    assert passed.wait(10)
    thread.join()


def test_one_that_comes_back_is_first_again():
    order = StartOrder()
    first, second = order.join(), order.join()
    order.stand_aside(first)
    order.wait(second, give_up)

    order.return_to(first)

    with pytest.raises(GaveUp):
        order.wait(second, give_up)
