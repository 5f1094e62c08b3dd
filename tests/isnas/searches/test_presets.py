"""The table of the presets `paper` in the documentation says what the presets hold, and has all that they set."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from isnas import DARTS_SPACE, NASBENCH201_SPACE, Space
from isnas.runs.evaluation import evaluation_schema
from isnas.runtime.options import Schema
from isnas.searches.registry import METHODS, search_options

DOCUMENT = Path(__file__).parents[3] / "docs" / "methods.md"
SPACES = {space.name: space for space in (DARTS_SPACE, NASBENCH201_SPACE)}

Table = dict[tuple[str, str], dict[str, tuple[str, str]]]


def schema_of(method: str, space: Space) -> Schema:
    return evaluation_schema(space) if method == "evaluate" else METHODS[method].schema(space)


@pytest.fixture(scope="module")
def table() -> Table:
    """Return (published, ours) by constant, of each method and space."""
    text = DOCUMENT.read_text().partition("## The presets `paper`")[2].split("\n## ")[0]
    lines = [line.strip("|").split(" | ") for line in text.splitlines() if line.startswith("| `")]
    found: Table = {}
    for line in lines:
        method, space, name, published, ours, _ = (cell.strip().strip("`") for cell in line)
        of_preset = found.setdefault((method, space), {})
        assert name not in of_preset, f"{method}, {space}: {name} stands there twice"
        of_preset[name] = published, ours
    return found


def test_has_every_preset(table: Table) -> None:
    expected = {
        (method, name)
        for method in ("evaluate", *METHODS)
        for name, space in SPACES.items()
        if method == "evaluate" or METHODS[method].why_not(space) is None
        if "paper" in schema_of(method, space).presets
    }
    assert set(table) == expected


def test_ours_is_what_the_presets_hold(table: Table) -> None:
    for (method, name), constants in table.items():
        schema = schema_of(method, SPACES[name])
        flat = json.loads(json.dumps(schema.compose("paper").to_json()))
        for constant, (published, ours) in constants.items():
            assert json.loads(ours) == flat[constant], f"{method}, {name}: {constant}"
            assert published, f"{method}, {name}: {constant} says not what was published"
        left_out = set(schema.presets["paper"]) - set(constants)
        assert not left_out, f"{method}, {name}: the preset sets {left_out}, too"


@pytest.mark.parametrize("method", ["ista-two-stage", "ista-one-stage"])
def test_codes_have_the_published_lengths(method: str) -> None:
    code = search_options(method, DARTS_SPACE, "paper").code
    assert set(code.lengths(DARTS_SPACE)) == {7} and set(code.places(DARTS_SPACE)) == {2}
