"""Command lines and environments of the real launch table, and what is checked before they are used."""

import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from core.domain.specs import EngineKind, ModelSpec, Weights
from core.engines.launch import table
from core.engines.launch.table import LAUNCH_TABLE, installed_versions, launch_table
from core.engines.placement import CPU, Place
from core.errors import EngineLoadFailed, EngineNotInstalled
from core.models.checkpoint import LmdeploySupport
from core.models.vision import CHAT_TEMPLATE_FILE
from core.telemetry.samples import GpuFacts
from tests.unit.engines.engine_stand_ins import lane_in, row
from tests.vision_checkpoints import LLAVA, QWEN, TEXT_ONLY, write_checkpoint

GPU = Place((GpuFacts(index=1, name="GPU", total_bytes=None, free_bytes=None),))


def command(lane, place=CPU, port=4711):
    return LAUNCH_TABLE[lane.kind].command(lane, place, port)


def option(argv, name):
    return argv[argv.index(name) + 1]


class TestTransformers:
    def test_checkpoint(self, tmp_path):
        lane = lane_in(tmp_path, dtype="bfloat16")
        made = command(lane)
        assert made.argv[0] == sys.executable
        assert Path(made.argv[1]).name == "serve_transformers.py"
        assert made.argv[2] == made.served_model == lane.model.checkpoint
        assert option(made.argv, "--host") == "127.0.0.1"
        assert option(made.argv, "--port") == "4711"
        assert option(made.argv, "--device") == "cpu"
        assert option(made.argv, "--dtype") == "bfloat16"
        assert "--continuous-batching" not in made.argv
        assert "--trust-remote-code" not in made.argv
        assert made.api_key is None
        assert made.environment["HF_HUB_OFFLINE"] == "1"
        assert made.environment["CUDA_VISIBLE_DEVICES"] == ""

    def test_other_machines_need_a_key(self, tmp_path):
        made = command(lane_in(tmp_path), Place(host="10.0.0.7"))
        assert option(made.argv, "--host") == "10.0.0.7"
        assert made.api_key
        assert made.environment["LMDYNO_ENGINE_KEY"] == made.api_key
        assert made.api_key not in " ".join(made.argv)

    def test_idle_threads_spin_shortly_on_a_cpu_only(self, tmp_path):
        assert "GOMP_SPINCOUNT" in command(lane_in(tmp_path)).environment
        assert "GOMP_SPINCOUNT" not in command(lane_in(tmp_path), GPU).environment

    def test_gguf_is_named_with_its_folder(self, tmp_path):
        lane = lane_in(tmp_path)
        lane = replace(lane, weights=Weights.GGUF, model=replace(lane.model, gguf="/m/dir/file.gguf"))
        assert command(lane).served_model == "/m/dir:file.gguf"

    def test_hub_id_may_use_the_network(self, tmp_path):
        lane = lane_in(tmp_path)
        lane = replace(lane, model=replace(lane.model, checkpoint="Qwen/Qwen2.5-0.5B-Instruct"))
        assert "HF_HUB_OFFLINE" not in command(lane).environment

    def test_switches(self, tmp_path):
        lane = lane_in(
            tmp_path, continuous_batching=True, trust_remote_code=True, python="/opt/engine/bin/python"
        )
        made = command(lane, GPU)
        assert {"--continuous-batching", "--trust-remote-code"} <= set(made.argv)
        assert made.argv[0] == "/opt/engine/bin/python"
        assert option(made.argv, "--device") == "cuda:0"
        assert made.environment["CUDA_VISIBLE_DEVICES"] == "1"


class TestLmdeploy:
    def test_engines_can_share_a_key(self, tmp_path):
        rows = launch_table(lambda: "shared")
        lanes = [lane_in(tmp_path, kind=kind) for kind in (EngineKind.TURBOMIND, EngineKind.PYTORCH)]
        made = [rows[lane.kind].command(lane, GPU, 4711) for lane in lanes]
        assert [command.api_key for command in made] == ["shared", "shared"]
        assert all(command.environment["LMDYNO_ENGINE_KEY"] == "shared" for command in made)

    def test_key_is_random_and_not_on_the_command_line(self, tmp_path):
        lane = lane_in(tmp_path, kind=EngineKind.TURBOMIND)
        one, other = command(lane, GPU), command(lane, GPU)
        assert one.api_key != other.api_key
        # LMDeploy would take a key with a dash at its beginning for an option.
        assert re.fullmatch(r"[0-9a-f]{48}", one.api_key)
        assert one.environment["LMDYNO_ENGINE_KEY"] == one.api_key
        assert not any(one.api_key in word for word in one.argv)
        assert one.api_key not in repr(one).replace(repr(one.environment), "")

    def test_replicas_get_equal_shares_of_the_gpus_and_no_port(self, tmp_path):
        lane = lane_in(tmp_path, kind=EngineKind.TURBOMIND, tp=2, replicas=2)
        gpus = tuple(GpuFacts(index=n, name="GPU", total_bytes=None, free_bytes=None) for n in range(4))
        made = command(lane, Place(gpus, host="10.0.0.7"))
        assert Path(made.argv[1]).name == "serve_replicas.py"
        assert (option(made.argv, "--host"), option(made.argv, "--port")) == ("10.0.0.7", "4711")
        assert [word for word in made.argv if word.startswith("--devices")] == [
            "--devices=0,1",
            "--devices=2,3",
        ]
        server = made.argv[made.argv.index("--") + 1 :]
        assert server[0] == lane.model.checkpoint
        assert option(server, "--tp") == "2"
        assert option(server, "--server-name") == "127.0.0.1"
        assert "--server-port" not in server
        assert made.environment["LMDYNO_ENGINE_KEY"] == made.api_key
        assert not any(made.api_key in word for word in made.argv)
        assert made.environment["CUDA_VISIBLE_DEVICES"] == "0,1,2,3"


class TestVision:
    def lane(self, folder, kind=EngineKind.PYTORCH, config=LLAVA):
        checkpoint = write_checkpoint(folder, config)
        return replace(lane_in(folder.parent, kind=kind), model=ModelSpec(name="v", checkpoint=checkpoint))

    def test_lmdeploy_is_told_llavas_chat_template(self, tmp_path):
        made = command(self.lane(tmp_path / "renamed"), GPU)
        assert option(made.argv, "--chat-template") == "llava-v1"
        assert option(made.argv, "--backend") == "pytorch"

    def test_a_template_that_the_checkpoint_brings_along_goes_first(self, tmp_path):
        lane = self.lane(tmp_path / "own")
        own = Path(lane.model.checkpoint, CHAT_TEMPLATE_FILE)
        own.write_text('{"model_name": "own"}')
        assert option(command(lane, GPU).argv, "--chat-template") == str(own)

    def test_other_models_and_engines_find_theirs(self, tmp_path):
        for name, kind, config in [
            ("qwen", EngineKind.TURBOMIND, QWEN),
            ("text", EngineKind.TURBOMIND, TEXT_ONLY),
            ("hf", EngineKind.TRANSFORMERS, LLAVA),
        ]:
            assert "--chat-template" not in command(self.lane(tmp_path / name, kind, config), GPU).argv

    def test_llava_on_turbomind_is_refused_before_anything_is_started(self, tmp_path):
        lane = self.lane(tmp_path / "llava", EngineKind.TURBOMIND)
        with pytest.raises(EngineLoadFailed, match="TurboMind doesn't support Llava") as caught:
            table.need_of(lane, row())
        assert caught.value.code == "engine-without-vision"
        assert '"pytorch"' in caught.value.hint


class TestChecks:
    def test_need_is_the_weights_share_of_each_gpu(self, tmp_path):
        lane = lane_in(tmp_path, kind=EngineKind.TURBOMIND, tp=2, cache_max_entry_count=0.3)
        need = table.need_of(lane, row())
        assert (need.weight_bytes, need.kv_ratio) == (2, 0.3)

    def test_form_that_the_model_has_not(self, tmp_path):
        lane = replace(lane_in(tmp_path), weights=Weights.GGUF)
        with pytest.raises(EngineLoadFailed) as caught:
            table.need_of(lane, row())
        assert caught.value.code == "model-form-missing"
        assert "gguf" in caught.value.hint

    def test_folder_without_weights(self, tmp_path):
        lane = lane_in(tmp_path)
        (Path(lane.model.checkpoint) / "model.safetensors").unlink()
        with pytest.raises(EngineLoadFailed) as caught:
            table.need_of(lane, row())
        assert caught.value.code == "model-incomplete"

    def test_group_size_that_turbomind_does_not_take(self, tmp_path):
        lane = quantised(lane_in(tmp_path, kind=EngineKind.AWQ), group_size=64)
        with pytest.raises(EngineLoadFailed, match="groups of 64") as caught:
            table.need_of(lane, row())
        assert caught.value.code == "group-size"
        table.need_of(quantised(lane, group_size=128), row())

    @pytest.mark.parametrize("kind", [EngineKind.TURBOMIND, EngineKind.PYTORCH])
    def test_kv_cache_of_4_bits_that_turbomind_cannot_keep(self, tmp_path, kind):
        lane = lane_in(tmp_path, kind=kind, quant_policy=4)
        if kind is EngineKind.PYTORCH:
            assert table.need_of(lane, row()).weight_bytes == 4
            return
        with pytest.raises(EngineLoadFailed, match="head_dim of 64") as caught:
            table.need_of(lane, row())
        assert caught.value.code == "kv-bits-unsupported"
        table.need_of(with_config(lane, head_dim=128), row())
        table.need_of(replace(lane, settings=replace(lane.settings, quant_policy=8)), row())

    def test_awq_lane_over_plain_weights(self, tmp_path):
        lane = lane_in(tmp_path, kind=EngineKind.AWQ)
        lane = replace(lane, weights=Weights.AWQ, model=replace(lane.model, awq=lane.model.checkpoint))
        with pytest.raises(EngineLoadFailed) as caught:
            table.need_of(lane, row())
        assert caught.value.code == "not-awq"

    @pytest.mark.parametrize(
        ("quantization", "said"),
        [
            ({"quant_method": "awq", "version": "gemv"}, "layout GEMM"),
            ({"quant_method": "gptq", "bits": 4, "desc_act": True}, "desc_act"),
            ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandbytes"),
        ],
    )
    def test_quantisation_that_turbomind_refuses(self, tmp_path, quantization, said):
        lane = with_config(lane_in(tmp_path, kind=EngineKind.TURBOMIND), quantization_config=quantization)
        with pytest.raises(EngineLoadFailed, match=said) as caught:
            table.need_of(lane, row())
        assert caught.value.code == "quantization-not-served"
        assert "lmdyno quantize" in caught.value.hint
        assert table.need_of(replace(lane, kind=EngineKind.TRANSFORMERS), row()).weight_bytes == 4

    @pytest.mark.parametrize(
        ("architecture", "engine"), [("Gemma2ForCausalLM", "pytorch"), ("FalconForCausalLM", "transformers")]
    )
    def test_model_that_the_installed_turbomind_does_not_support(
        self, tmp_path, monkeypatch, architecture, engine
    ):
        support = LmdeploySupport(
            version="0.18.0",
            turbomind=frozenset({"LlamaForCausalLM"}),
            pytorch=frozenset({"Gemma2ForCausalLM"}),
        )
        monkeypatch.setattr(table, "lmdeploy_support", lambda python: support)
        lane = with_config(lane_in(tmp_path, kind=EngineKind.TURBOMIND), architectures=[architecture])
        with pytest.raises(EngineLoadFailed, match=f"doesn't support {architecture}") as caught:
            table.need_of(lane, row())
        assert f'engine = "{engine}"' in caught.value.hint
        monkeypatch.setattr(table, "lmdeploy_support", lambda python: None)
        assert table.need_of(lane, row()).weight_bytes == 4

    def test_weights_are_known_where_config_json_tells_no_sizes(self, tmp_path):
        lane = lane_in(tmp_path)
        (Path(lane.model.checkpoint) / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
        assert table.need_of(lane, row()).weight_bytes == 4

    def test_weights_of_a_hub_id_are_unknown_and_not_nothing(self, tmp_path):
        lane = replace(lane_in(tmp_path), model=ModelSpec(name="far", checkpoint="org/never-downloaded"))
        assert table.need_of(lane, row()).weight_bytes is None

    def test_path_that_transformers_would_misread(self, tmp_path):
        with pytest.raises(EngineLoadFailed) as caught:
            table.need_of(lane_in(tmp_path / "a@b"), row())
        assert caught.value.code == "model-path"

    def test_internlm2_is_to_be_converted_first(self, tmp_path):
        lane = lane_in(tmp_path)
        config = Path(lane.model.checkpoint) / "config.json"
        config.write_text('{"model_type": "internlm2", "architectures": ["InternLM2ForCausalLM"]}')
        with pytest.raises(EngineLoadFailed) as caught:
            table.need_of(lane, row())
        assert caught.value.code == "needs-conversion"
        assert f"models internlm2 {lane.model.checkpoint}" in caught.value.hint

    def test_version_names_packages_and_backend(self, tmp_path):
        stand_in = replace(row(), label="turbomind")
        assert table.version_of(lane_in(tmp_path), stand_in) == f"psutil {psutil.__version__} (turbomind)"

    def test_missing_package(self, tmp_path):
        with pytest.raises(EngineNotInstalled, match="no-such-engine"):
            table.version_of(lane_in(tmp_path), replace(row(), packages=("psutil", "no-such-engine")))


def with_config(lane, **values):
    """The lane, its model's config.json changed."""
    path = Path(lane.model.checkpoint) / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))
    return lane


def quantised(lane, group_size):
    """The lane over its model's checkpoint as if that were quantised."""
    path = Path(lane.model.checkpoint) / "config.json"
    config = {
        **json.loads(path.read_text()),
        "quantization_config": {"quant_method": "awq", "group_size": group_size},
    }
    path.write_text(json.dumps(config))
    return replace(lane, weights=Weights.AWQ, model=replace(lane.model, awq=lane.model.checkpoint))


class TestVersions:
    def test_another_interpreter_is_asked_itself(self, tmp_path):
        link = tmp_path / "python"
        link.symlink_to(sys.executable)
        assert installed_versions(str(link), ["no-such-package"]) == {"no-such-package": None}

    def test_interpreter_that_is_not_there(self):
        with pytest.raises(EngineNotInstalled) as caught:
            installed_versions("/no/such/python", ["psutil"])
        assert caught.value.code == "engine-python"
