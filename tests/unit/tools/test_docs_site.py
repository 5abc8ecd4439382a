"""The reference pages hold everything that the code has."""

import json
import tomllib
from pathlib import Path

import pytest
from docs_site import reference
from jsonschema import Draft202012Validator

from core.__main__ import COMMANDS
from core.bench.results.definitions import DEFINITIONS
from core.config.endpoints import ENDPOINT_KEYS, PATIENCE_KEYS
from core.config.lanes import LOCAL_KEYS, MODEL_KEYS
from core.domain.specs import SETTINGS_OF

ROOT = Path(__file__).resolve().parents[3]
LANE_KEYS = LOCAL_KEYS | ENDPOINT_KEYS | PATIENCE_KEYS | frozenset().union(*SETTINGS_OF.values())


@pytest.mark.parametrize("key", sorted({*MODEL_KEYS, *LANE_KEYS}))
def test_every_key_of_the_lanes_file_has_a_row_with_a_meaning(key):
    rows = [line for line in reference.lanes_page().splitlines() if line.startswith(f"| `{key}`")]
    assert any(len(cell.strip()) > 10 for row in rows for cell in row.split("|")[2:])


def test_the_example_has_no_key_that_the_reference_lacks():
    example = tomllib.loads((ROOT / "lanes.example.toml").read_text("utf-8"))
    used = {key for tables in example.values() for table in tables.values() for key in table}
    assert used <= reference.FIELD_OF.keys()


def test_every_command_and_option_is_there():
    page = reference.cli_page()
    commands = reference.commands()
    assert {name.split()[0] for name in commands} == COMMANDS.keys()
    for name, command in commands.items():
        section = page.partition(f"\n## lmdyno {name}\n")[2].partition("\n## ")[0]
        options = [option for parameter in command.params for option in parameter.opts if option[:2] == "--"]
        assert section
        assert all(f"`{option}" in section or f", {option}" in section for option in options), name


def test_no_option_goes_without_a_meaning():
    rows = [line for line in reference.cli_page().splitlines() if line.startswith("| `")]
    assert len(rows) > 100
    assert [row for row in rows if not row.split(" | ")[1].strip()] == []


def test_every_metric_definition_is_there():
    page = reference.metrics_page()
    assert all(f"### {definition.title}\n" in page for definition in DEFINITIONS.values())
    for name in ("ttft_s", "tpot_s", "itl_s", "e2e_s", "decode_tok_per_s"):
        assert f"| `{name}` |" in page
    assert "| `_" not in page


@pytest.mark.parametrize("name", reference.SCHEMAS)
def test_each_schema_is_valid_and_linked(name):
    file = f"{name}.schema.json"
    Draft202012Validator.check_schema(json.loads(reference.schema_files()[file]))
    assert f"(schemas/{file})" in reference.schemas_page()
