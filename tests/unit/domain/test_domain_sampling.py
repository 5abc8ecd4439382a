import pytest

from core.domain.sampling import Sampling
from core.errors import InputError


def test_the_default_is_greedy():
    assert Sampling().greedy
    assert not Sampling(temperature=0.7).greedy


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": -0.1},
        {"temperature": 2.1},
        {"temperature": float("nan")},
        {"top_p": 0},
        {"top_p": 1.01},
        {"top_k": -1},
        {"repetition_penalty": 0.1},
        {"max_tokens": 0},
    ],
)
def test_values_no_engine_accepts_are_refused_by_name(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))) as caught:
        Sampling(**wrong)
    assert caught.value.hint
