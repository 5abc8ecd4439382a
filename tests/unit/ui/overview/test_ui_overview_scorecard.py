from dataclasses import replace

from core.domain.specs import EndpointSpec, EngineKind, LaneSpec, ModelSpec
from core.ui.overview.scorecard import ALL_LANES, lanes_by_model
from tests.unit.quality.quality_samples import AWQ, HF, TURBOMIND

LAB = LaneSpec(
    name="lab", kind=EngineKind.ENDPOINT, endpoint=EndpointSpec(url="http://gpu-host:23333/v1", model="smol")
)
UNNAMED = replace(LAB, name="unnamed", endpoint=EndpointSpec(url="http://other:8000/v1"))
LLAVA = replace(HF, name="llava", model=ModelSpec(name="llava", checkpoint="/models/llava"))


def test_lanes_of_one_model_are_one_group_endpoints_too():
    assert lanes_by_model([HF, TURBOMIND, AWQ, LAB]) == {"smol": (HF, TURBOMIND, AWQ, LAB)}


def test_several_models_are_groups_and_all_lanes_the_last():
    groups = lanes_by_model([HF, LLAVA, TURBOMIND, UNNAMED])
    assert list(groups) == ["smol", "llava", "other:8000", ALL_LANES]
    assert groups["smol"] == (HF, TURBOMIND)
    assert groups[ALL_LANES] == (HF, LLAVA, TURBOMIND, UNNAMED)


def test_lanes_that_share_no_model_are_compared_all_together():
    assert lanes_by_model([HF, LLAVA]) == {ALL_LANES: (HF, LLAVA)}


def test_without_lanes_there_is_nothing_to_compare():
    assert lanes_by_model([]) == {}
