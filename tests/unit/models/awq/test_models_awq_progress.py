import pytest

from core.models.awq.progress import PassProgress

CALIBRATING = [f"model.layers.{n}, samples: 4, max gpu memory: 0.10 GB" for n in range(3)]
SMOOTHING = [f"model.layers.{n} smooth weight done. max gpu memory: 0.10 GB" for n in range(3)]
PACKING = [
    f"model.layers.{n}.{name} weight {how}."
    for n in range(3)
    for name, how in (("self_attn.q_proj", "packed"), ("mlp.gate", "skipped"), ("mlp.experts.7.w1", "packed"))
]


def told(lines: list[str], *, calibrates: bool, search_scale: bool, on_gpu: bool) -> list[tuple[str, float]]:
    progress = PassProgress(3, calibrates=calibrates, search_scale=search_scale, on_gpu=on_gpu)
    return [said for line in lines if (said := progress.take(line))]


@pytest.mark.parametrize("search_scale", [False, True])
@pytest.mark.parametrize("on_gpu", [False, True])
def test_progress_never_goes_back_and_ends_before_the_result_is_saved(
    search_scale: bool, on_gpu: bool
) -> None:
    lines = [*CALIBRATING, *SMOOTHING, *PACKING]
    seen = told(lines, calibrates=True, search_scale=search_scale, on_gpu=on_gpu)

    shares = [share for _, share in seen]
    assert len(seen) == len(lines)
    assert shares == sorted(shares)
    assert shares[0] > 0
    assert shares[-1] < 1
    assert len(set(shares)) == 3 + 3 + 2  # packing begins where smoothing ends


def test_without_data_packing_is_all_there_is() -> None:
    seen = told(PACKING, calibrates=False, search_scale=False, on_gpu=True)

    assert seen[0] == ("Packing: layer 1 of 3", pytest.approx(0.02))
    assert seen[-1] == ("Packing: layer 3 of 3", pytest.approx(0.02 + 0.95 * 2 / 3))


def test_other_lines_say_nothing() -> None:
    lines = ["Move model.layers.0 to CPU.", "Loading calibrate dataset ...", "", "max gpu memory: 1 GB"]
    assert told(lines, calibrates=True, search_scale=False, on_gpu=True) == []


def test_what_came_before_lmdeploy_counts() -> None:
    progress = PassProgress(2, calibrates=True, search_scale=True, on_gpu=True, done_before=0.2)

    seen = [progress.take(line) for line in _THREE_LINES]
    shares = [told[1] for told in seen if told]

    assert shares == sorted(shares)
    assert 0.2 < shares[0] < shares[-1] < 1


_THREE_LINES = (
    "model.layers.0, samples: 2, max gpu memory: 0.1 GB",
    "model.layers.1, samples: 2, max gpu memory: 0.1 GB",
    "model.layers.1 smooth weight done. max gpu memory: 0.1 GB",
)
