from dataclasses import replace

from core.domain.turns import Machine
from core.replay.origin import device_name, origin
from tests.unit.replay.recorded import AT, H200

CPU = Machine(host="laptop", platform="Linux", python="3.12", cpu="AMD EPYC", cores=2)


def test_the_device_and_the_date_are_told():
    assert origin(H200, AT) == "Recorded on NVIDIA H200, 2026-11-29"
    assert origin(CPU, AT, here=H200) == "Recorded on AMD EPYC, 2026-11-29"


def test_a_recording_of_this_machine_is_called_a_replay():
    newer = replace(H200, driver="590.1", python="3.13")
    assert origin(H200, AT, here=newer) == "Replay of a recording from 2026-11-29"
    assert origin(None, AT) == "Replay of a recording from 2026-11-29"


def test_the_device_is_the_one_that_the_engines_were_on():
    two = replace(H200, gpus=("NVIDIA H200, 140.40 GiB", "NVIDIA H200, 140.40 GiB"))
    assert device_name(two, ["cuda:0", None]) == "NVIDIA H200"
    assert device_name(two, ["cuda:0", "cuda:1", "cuda:0"]) == "2 × NVIDIA H200"
    assert device_name(two, ["cuda:0,1"]) == "2 × NVIDIA H200"
    assert device_name(two) == "2 × NVIDIA H200"
    assert device_name(H200, ["cpu"]) == "Xeon"
    assert device_name(H200, ["cpu", "cuda:0"]) == "NVIDIA H200"
    assert device_name(replace(CPU, cpu=None)) == "laptop"
