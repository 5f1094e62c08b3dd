"""The table of NAS-Bench-Macro says what it was given, and is read safely."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from isnas import UserError
from isnas.comparison.statistics import rank_correlation
from isnas.spaces.chain import all_networks, canonical_string, parse_string
from isnas.tabular.nasbench_macro import COLUMNS, MacroTable

REAL = Path(__file__).parents[3] / "../shared/data/nas-bench-macro.csv.gz"


@pytest.fixture(scope="module")
def table() -> MacroTable:
    """Return a table whose accuracies fall along the networks, but for two that tie."""
    n = len(all_networks())
    accuracies = np.linspace(90, 10, n)[:, None] + np.array([0.5, 0.0, -0.5])
    accuracies[3] = accuracies[2]
    sizes = np.arange(2 * n).reshape(n, 2)
    return MacroTable(np.hstack([accuracies, sizes]))


def test_it_says_what_it_was_given(table: MacroTable) -> None:
    row = table["00000001"]
    assert row.arch == "00000001"
    assert [getattr(row, name) for name in COLUMNS] == table.values[1].tolist()
    assert isinstance(row.parameters, int)
    assert row.accuracy == pytest.approx(table.accuracy(parse_string("00000001")))
    assert table.accuracies == pytest.approx(table.trainings.mean(axis=0))
    assert table.best().arch == "00000000"
    assert [table.rank(all_networks()[i]) for i in (0, 1, 2, 3, 4)] == [1, 2, 3, 3, 5]
    with pytest.raises(UserError, match="layer 3 has the unknown operation"):
        table["01231100"]
    with pytest.raises(ValueError, match="read-only"):
        table.column("parameters")[0] = 1
    with pytest.raises(ValueError, match=r"\(6561, 5\)"):
        MacroTable(np.zeros((6560, 5)))


@pytest.mark.parametrize("name", ["table.csv", "table.csv.gz"])
def test_what_was_written_is_read(name: str, table: MacroTable, tmp_path: Path) -> None:
    table.write(tmp_path / name)
    assert np.array_equal(MacroTable.read(tmp_path / name).values, table.values)


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("00000000,", "0000000,", "line 2: network '0000000' has 7 layers"),
        ("00000001,", "00000000,", "the network 00000000 stands in line 2 already"),
        ("parameters", "size", "no column parameters"),
        ("90.5,", "190.5,", "expected an accuracy in per cent, 0 to 100"),
        (",0.0,", ",0.5,", "line 2: parameters is '0.5'; expected a whole number"),
        (",0.0,", ",-1,", "expected a whole number"),
        (",0.0,", ",inf,", "expected a whole number"),
    ],
)
def test_a_damaged_table_is_refused(
    old: str, new: str, named: str, table: MacroTable, tmp_path: Path
) -> None:
    path = tmp_path / "table.csv"
    table.write(path)
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(UserError) as refused:
        MacroTable.read(path)
    assert named in str(refused.value) and str(path) in str(refused.value)


def test_the_real_table() -> None:
    """Best and largest network as Su et al. give them; copies of a network have its numbers."""
    if not REAL.exists():
        pytest.skip("the table of the benchmark is not here")
    table = MacroTable.read(REAL)
    assert round(table.best().accuracy, 2) == 93.13
    assert round(table.accuracy("22222222"), 2) == 92.95
    for network in all_networks()[::17]:
        assert np.array_equal(
            table.values[table.position(network)],
            table.values[table.position(canonical_string(network))],
        )
    tau = rank_correlation(table.trainings[0], table.trainings[1])
    assert tau == pytest.approx(0.88, abs=0.005)
