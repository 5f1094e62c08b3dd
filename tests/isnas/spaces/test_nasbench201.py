"""The cells of NAS-Bench-201 are written, read and told apart as the benchmark does, and its table is read safely."""

import gzip
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from isnas import GENOTYPES
from isnas.runtime.errors import UserError
from isnas.spaces.genotype import CellGenotype, Edge, Genotype
from isnas.spaces.nasbench201 import (
    NASBENCH201_SPACE,
    PRIMITIVES,
    all_cells,
    canonical,
    expression,
    parse_string,
    random_cell,
    to_string,
)
from isnas.tabular import nasbench201 as tabular
from isnas.tabular.nasbench201 import COLUMNS, DATASETS, MEASURES, Table, read_natsbench

EXAMPLE = "|nor_conv_3x3~0|+|none~0|skip_connect~1|+|avg_pool_3x3~0|nor_conv_1x1~1|none~2|"
SKIPS = "|skip_connect~0|+|skip_connect~0|skip_connect~1|+|skip_connect~0|skip_connect~1|skip_connect~2|"
EMPTY = "|none~0|+|none~0|none~1|+|none~0|none~1|none~2|"
PRIME = 2**61 - 1
INPUT, *DRAWN = np.random.default_rng(1).integers(1, PRIME, 10).tolist()
CUBICS = {name: DRAWN[3 * i : 3 * i + 3] for i, name in enumerate(PRIMITIVES[1:])}


def cell(*nodes, concat=(3,)):
    edges = tuple(tuple(Edge(*edge) for edge in node) for node in nodes)
    return Genotype(NASBENCH201_SPACE, (("cell", CellGenotype(edges, concat, 1)),))


@pytest.fixture(scope="module")
def table():
    """A table with a value of its own in each place, but for two cells that tie."""
    values = np.arange(15625 * 9, dtype=np.float64).reshape(15625, 9) / 2000
    values[15623, COLUMNS.index("cifar10_test_200")] = values[15624].max() + 1
    values[7, COLUMNS.index("cifar10_test_200")] = values[15624].max() + 1
    return Table(values)


@pytest.fixture(scope="module")
def lines(table, tmp_path_factory):
    path = tmp_path_factory.mktemp("table") / "table.csv"
    table.write(path)
    return path.read_text().splitlines()


def refusal(call, *arguments):
    """Return the message of the UserError; it has one line."""
    with pytest.raises(UserError) as caught:
        call(*arguments)
    message = str(caught.value)
    assert "\n" not in message
    return message


# --- cells and their text forms


def test_a_cell_is_written_and_read_as_the_benchmark_does():
    genotype = cell(
        [("nor_conv_3x3", 0)],
        [("skip_connect", 1)],
        [("avg_pool_3x3", 0), ("nor_conv_1x1", 1)],
    )
    assert to_string(genotype) == EXAMPLE
    assert parse_string(EXAMPLE) == genotype
    NASBENCH201_SPACE.check(genotype)


def test_the_order_of_a_nodes_edges_carries_no_meaning():
    turned = cell(
        [("nor_conv_3x3", 0)],
        [("skip_connect", 1)],
        [("nor_conv_1x1", 1), ("avg_pool_3x3", 0)],
    )
    assert to_string(turned) == EXAMPLE


def test_the_space_is_that_of_the_benchmark():
    # each of an edge's operations, or none of them
    assert [choice.members for choice in NASBENCH201_SPACE.choices] == [
        tuple(tuple(range(4 * edge, 4 * edge + 4)) for edge in range(node + 1)) for node in range(3)
    ]
    assert all(choice.optional for choice in NASBENCH201_SPACE.choices)
    # one place for each of the four operations on each of six edges
    assert len(NASBENCH201_SPACE.places()) == 24


def test_all_cells_are_there_once_and_survive_reading():
    assert len(set(all_cells())) == len(all_cells()) == 5**6
    assert all_cells()[0] == EMPTY
    assert [to_string(parse_string(text)) for text in all_cells()] == list(all_cells())


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (None, "NoneType"),
        ("", "1 nodes; expected 3"),
        (EXAMPLE.rpartition("+")[0], "2 nodes; expected 3"),
        (EXAMPLE + "+|none~0|none~1|none~2|none~3|", "4 nodes; expected 3"),
        (EXAMPLE.replace("nor_conv_1x1", "nor_conv_7x7"), "unknown operation 'nor_conv_7x7'"),
        (EXAMPLE.replace("|skip_connect~1", ""), "node 1 has 1 edges; expected 2"),
        (EXAMPLE.replace("none~2|", "none~2|none~3|"), "node 2 has 4 edges; expected 3"),
        (EXAMPLE.replace("none~0|skip_connect~1", "skip_connect~1|none~0"), "skip_connect~0"),
        (EXAMPLE.replace("none~2", "none~1"), "expected, none~2"),
        (EXAMPLE.replace("none~2", "none"), "expected, none~2"),
        (EXAMPLE.replace("none~2", "none~02"), "expected, none~2"),
        (EXAMPLE[1:], "node 0 does not stand between"),
        (EXAMPLE[:-1], "node 2 does not stand between"),
        (EXAMPLE + "\n", "node 2 does not stand between"),
        ("||+|none~0|none~1|+|none~0|none~1|none~2|", "unknown operation ''"),
        ("x" * 10**6, "1 nodes"),
    ],
)
def test_any_other_text_is_refused_by_what_is_wrong(text, named):
    message = refusal(parse_string, text)
    assert named in message and len(message) < 500
    assert refusal(canonical, text) == message


@pytest.mark.parametrize(
    ("genotype", "named"),
    [
        (lambda: cell([("skip_connect", 0), ("nor_conv_1x1", 0)], [], []), "nor_conv_1x1"),
        (lambda: cell([("sep_conv_3x3", 0)], [], []), "sep_conv_3x3"),
        (lambda: cell([], [], [], concat=(1, 2, 3)), "(1, 2, 3)"),
        (lambda: cell([], [], concat=(2,)), "2 nodes"),
        (lambda: GENOTYPES["DARTS_V2"], "normal"),
    ],
)
def test_another_genotype_is_refused_by_what_is_wrong(genotype, named):
    assert named in refusal(lambda: to_string(genotype()))


def test_random_cells_are_of_the_space_reproducible_and_even():
    random = torch.Generator().manual_seed(0)
    drawn = [to_string(random_cell(random)) for _ in range(2000)]
    random = torch.Generator().manual_seed(0)
    assert to_string(random_cell(random)) == drawn[0]
    edges = [edge for text in drawn for edge in text.replace("+", "").strip("|").split("|") if edge]
    for operation in ("none", *PRIMITIVES):
        share = sum(edge.startswith(operation) for edge in edges) / len(edges)
        assert abs(share - 0.2) < 5 * (0.16 / len(edges)) ** 0.5  # five standard deviations


# --- which cells are the same


def output(text):
    """Return what a cell makes of a number when each primitive is a fixed, random cubic modulo a large prime.

    Different expressions are different polynomials, which hardly ever agree at a random point (Schwartz-Zippel). They
    are not linear, so that f(x) + f(y) differs from f(x + y), and keep zero.
    """
    values = [INPUT]
    for node in text.split("+"):
        total = 0
        for edge in node.strip("|").split("|"):
            operation, source = edge.split("~")
            x = values[int(source)]
            if operation == "skip_connect":
                total += x
            elif operation != "none":
                total += sum(c * x**k for k, c in enumerate(CUBICS[operation], start=1))
        values.append(total % PRIME)
    return values[-1]


@pytest.fixture(scope="module")
def outputs():
    return [output(text) for text in all_cells()]


def test_the_canonical_forms_are_the_papers_6466_and_never_join_different_cells(outputs):
    forms = [canonical(text) for text in all_cells()]
    assert len(set(forms)) == 6466
    assert len(set(zip(forms, outputs, strict=True))) == 6466


def test_expressions_are_equal_exactly_where_outputs_are(outputs):
    forms = [expression(text) for text in all_cells()]
    assert len(set(forms)) == len(set(outputs)) == 4930
    assert len(set(zip(forms, outputs, strict=True))) == 4930
    assert [form == "#" for form in forms] == [value == 0 for value in outputs]


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        # a skip before the operation, or after it
        (
            "|skip_connect~0|+|none~0|nor_conv_3x3~1|+|avg_pool_3x3~0|none~1|skip_connect~2|",
            "|nor_conv_3x3~0|+|none~0|skip_connect~1|+|avg_pool_3x3~0|none~1|skip_connect~2|",
            True,
        ),
        # no edge into state 2, whose edge onwards brings a sum of zeros
        (
            "|nor_conv_3x3~0|+|none~0|none~1|+|none~0|skip_connect~1|none~2|",
            "|nor_conv_3x3~0|+|none~0|none~1|+|none~0|skip_connect~1|avg_pool_3x3~2|",
            False,
        ),
        # states 1 and 2 change their places
        (
            "|nor_conv_3x3~0|+|avg_pool_3x3~0|none~1|+|none~0|nor_conv_1x1~1|skip_connect~2|",
            "|avg_pool_3x3~0|+|nor_conv_3x3~0|none~1|+|none~0|skip_connect~1|nor_conv_1x1~2|",
            False,
        ),
    ],
)
def test_cells_that_compute_the_same_share_their_expression_and_some_their_form(one, other, alike):
    assert output(one) == output(other)
    assert expression(one) == expression(other)
    assert (canonical(one) == canonical(other)) is alike


def test_known_canonical_forms():
    assert canonical(EMPTY) == "#+#+#"
    assert expression(EMPTY) == "#"
    # 1: x, 2: x + x, 3: x + x + (x + x)
    assert canonical(SKIPS) == expression(SKIPS) == "0+0+0+0"
    assert canonical(parse_string(EXAMPLE)) == canonical(EXAMPLE)
    assert canonical(EXAMPLE) == "#+((0)@nor_conv_3x3)@nor_conv_1x1+(0)@avg_pool_3x3"


# --- the table


def test_a_table_says_what_it_was_given(table):
    position = all_cells().index(EXAMPLE)
    row = table[EXAMPLE]
    assert row.arch == EXAMPLE
    assert [getattr(row, name) for name in COLUMNS] == table.values[position].tolist()
    assert table[parse_string(EXAMPLE)] == row
    assert table.accuracy(EXAMPLE, "cifar100", "val_12") == row.cifar100_val_12
    assert table.accuracy(EXAMPLE, "imagenet16") == row.imagenet16_test_200
    assert table.column("cifar10", "test_12")[position] == row.cifar10_test_12
    assert table.mean("cifar100") == pytest.approx(table.column("cifar100").mean())
    assert {f"{dataset}_{what}" for dataset in DATASETS for what in MEASURES} == set(COLUMNS)


def test_cells_that_tie_share_the_better_rank(table):
    assert table.best("cifar10").arch == all_cells()[7]
    ranks = [table.rank(all_cells()[i], "cifar10") for i in (7, 15623, 15624, 0)]
    assert ranks == [1, 1, 3, 15625]
    assert table.rank(all_cells()[-1], "cifar10", "val_12") == 1


def test_a_table_cannot_be_changed(table):
    values = np.zeros((15625, 9))
    other = Table(values)
    values[0] = 1
    assert other.values[0, 0] == 0
    with pytest.raises(ValueError, match="read-only"):
        table.column("cifar10")[0] = 1


def test_a_table_has_a_row_for_each_cell():
    with pytest.raises(ValueError, match=r"\(15624, 9\); expected \(15625, 9\)"):
        Table(np.zeros((15624, 9)))


@pytest.mark.parametrize(("dataset", "what"), [("mnist", "test_200"), ("cifar10", "val_200")])
def test_an_unknown_column_is_refused(table, dataset, what):
    message = refusal(table.accuracy, EMPTY, dataset, what)
    assert dataset in message and what in message and "imagenet16" in message


def test_what_is_no_cell_has_no_row(table):
    assert "'nor_conv_9x9'" in refusal(table.__getitem__, EMPTY.replace("none~2", "nor_conv_9x9~2"))
    assert "a list" in refusal(table.__getitem__, [EMPTY])
    assert "a int" in refusal(table.rank, 3, "cifar10")


@pytest.mark.parametrize("name", ["table.csv", "table.csv.gz"])
def test_what_was_written_is_read(table, tmp_path, name):
    table.write(tmp_path / name)
    first = (tmp_path / name).read_bytes()
    assert (first[:2] == b"\x1f\x8b") == name.endswith(".gz")
    assert np.array_equal(Table.read(tmp_path / name).values, table.values)
    table.write(tmp_path / name)
    assert (tmp_path / name).read_bytes() == first


def test_order_more_columns_quotes_and_line_ends_do_not_matter(table, lines, tmp_path):
    cells = [line.split(",") for line in lines]
    turned = [",".join([*row[:0:-1], "x", f'"{row[0]}"']) for row in [cells[0], *cells[:0:-1]]]
    # what spreadsheets write: a byte order mark, and CR LF
    (tmp_path / "t.csv").write_bytes(("\ufeff" + "\r\n".join(turned) + "\r\n\r\n").encode())
    assert np.array_equal(Table.read(tmp_path / "t.csv").values, table.values)


def changed(lines, number, old, new):
    """Return the text with a change in a line, counted from 1."""
    copy = list(lines)
    assert old in copy[number - 1]
    copy[number - 1] = copy[number - 1].replace(old, new)
    return "\n".join(copy) + "\n"


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (
            lambda t: "",
            ("line 1", "no column arch", "expected a CSV with the columns arch, cifar10"),
        ),
        (lambda t: changed(t, 1, "cifar100_val_12", "x"), ("line 1", "no column cifar100_val_12")),
        (
            lambda t: changed(t, 1, "cifar100_val_12", "arch"),
            ("line 1", "more than one column arch"),
        ),
        (lambda t: "PK\x03\x04 something else\n", ("line 1", "no column arch")),
        (
            lambda t: changed(t, 9, t[8].split(",")[3], "high"),
            ("line 9", "cifar100_val_12 is 'high'; expected an accuracy in per cent"),
        ),
        (lambda t: changed(t, 9, t[8].split(",")[3], "nan"), ("line 9", "is 'nan'")),
        (lambda t: changed(t, 9, t[8].split(",")[3], "101"), ("line 9", "is '101'")),
        (lambda t: changed(t, 9, t[8].split(",")[3], ""), ("line 9", "is ''")),
        (lambda t: changed(t, 9, ",", ";"), ("line 9", "1 values; expected 10")),
        (lambda t: changed(t, 9, "none~0", "zero~0"), ("line 9", "unknown operation 'zero'")),
        (
            lambda t: changed(t, 9, t[8].split(",")[0], t[4].split(",")[0]),
            ("line 9", "in line 5 already", "each cell once"),
        ),
        (
            lambda t: "\n".join(t[:2000]),
            ("after line 2000", "1999 of the 15625 cells"),
        ),
        (lambda t: "\n".join(t)[:-40], ("line 15626", "values; expected 10")),
        (lambda t: t[0], ("after line 1", "0 of the 15625 cells", EMPTY)),
        (lambda t: changed(t, 9, "|none", '"|none'), ("line",)),
        (lambda t: changed(t, 9, "|none~0|", "|none~0|\0"), ("line 9",)),
    ],
)
def test_a_damaged_table_is_refused_by_path_line_and_what_was_expected(
    lines, tmp_path, damage, named
):
    path = tmp_path / "damaged.csv"
    path.write_text(damage(lines))
    message = refusal(Table.read, path)
    assert str(path) in message
    assert all(part in message for part in named), message


def test_damaged_and_foreign_compressed_files_are_refused(table, tmp_path):
    path = tmp_path / "table.csv.gz"
    table.write(path)
    whole = path.read_bytes()
    for content in (
        whole[: len(whole) // 2],
        whole[:-8] + b"\0" * 8,  # another checksum
        whole[:5000] + bytes(b ^ 255 for b in whole[5000:5050]) + whole[5050:],
        whole + b"more",
        whole[:2],
    ):
        path.write_bytes(content)
        message = refusal(Table.read, path)
        assert str(path) in message and "line" in message and "expected" in message
    path.write_bytes(gzip.compress(b"\xff\xfe" * 100))
    assert "no text; expected a CSV" in refusal(Table.read, path)


@pytest.mark.parametrize("content", [b"a" * 10**7, b"\n" * 10**6])
def test_a_table_that_unpacks_to_anything_else_is_refused_early(
    content: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "t.csv.gz"
    header = f"arch,{','.join(COLUMNS)}\n".encode()
    path.write_bytes(gzip.compress(header + content))
    message = refusal(Table.read, path)
    assert "longer than 100,000 letters" in message or "more than 100,000 lines" in message


def test_what_is_not_there_is_refused(tmp_path):
    assert "none.csv cannot be read: No such file" in refusal(Table.read, tmp_path / "none.csv")
    assert "Is a directory" in refusal(Table.read, tmp_path)


# --- the official archive, by a module that behaves as its package


class Archive:
    """Mimics what `nats_bench.create` returns: cells by index, in an order of its own."""

    names = ("cifar10-valid", "cifar10", "cifar100", "ImageNet16-120")

    def __init__(self, cells):
        self.cells = cells

    def __len__(self):
        return len(self.cells)

    def arch(self, index):
        return self.cells[index]

    def get_more_info(self, index, dataset, iepoch=None, hp="12", is_random=True):
        assert not is_random and iepoch is None
        base = 20 * self.names.index(dataset) + (7 if hp == "200" else 0) + index / 10**5
        info = {"train-accuracy": 99.0, "test-accuracy": base + 1, "valtest-accuracy": base + 2}
        return info if dataset == "cifar10" else {**info, "valid-accuracy": base + 3}


@pytest.fixture
def natsbench(monkeypatch, tmp_path):
    """Return a function that makes the package give these cells, and what the package was asked for."""
    asked = []

    def install(cells, kind=Archive):
        def create(file_path_or_dict, search_space, fast_mode=False, verbose=True):
            asked.append((file_path_or_dict, search_space, fast_mode, verbose))
            return kind(cells)

        monkeypatch.setitem(sys.modules, "nats_bench", SimpleNamespace(create=create))
        return asked

    return install


def test_the_archive_gives_the_same_table(natsbench, tmp_path):
    cells = all_cells()[::-1]
    asked = natsbench(cells)
    row = read_natsbench(tmp_path)[cells[5000]]
    assert asked == [(str(tmp_path), "tss", True, False)]
    assert [getattr(row, name) - 0.05 for name in COLUMNS] == pytest.approx(
        [3, 21, 43, 41, 63, 61, 28, 48, 68]
    )


def test_a_single_file_is_not_read_in_the_mode_for_directories(natsbench, tmp_path):
    (tmp_path / "one.pickle.pbz2").touch()
    asked = natsbench(all_cells())
    read_natsbench(tmp_path / "one.pickle.pbz2")
    assert asked[0][2] is False


def test_an_incomplete_or_foreign_archive_is_refused(natsbench, tmp_path):
    natsbench(all_cells()[:-1])
    assert f"{tmp_path} ends after cell 15623 with 15624" in refusal(read_natsbench, tmp_path)
    natsbench((*all_cells()[:-1], EMPTY))
    assert "cell 15624: the cell" in refusal(read_natsbench, tmp_path)
    natsbench(("64:64:64:64:64",))
    assert f"{tmp_path}, cell 0: cell '64:64" in refusal(read_natsbench, tmp_path)


def test_what_the_package_raises_becomes_one_line(natsbench, tmp_path):
    class Broken(Archive):
        def get_more_info(self, index, dataset, **_):
            raise KeyError(f"{dataset}\nis missing")

    class Empty(Archive):
        def get_more_info(self, index, dataset, **_):
            return {"train-accuracy": 99.0}

    natsbench(all_cells(), Broken)
    message = refusal(read_natsbench, tmp_path)
    assert str(tmp_path) in message and "damaged" in message and "KeyError" in message
    natsbench(all_cells(), Empty)
    message = refusal(read_natsbench, tmp_path)
    assert "cell 0: cifar10_val_12 is None" in message


def test_a_missing_archive_or_package_is_refused(natsbench, tmp_path, monkeypatch):
    natsbench(all_cells())
    assert "no such file" in refusal(read_natsbench, tmp_path / "none")
    monkeypatch.setitem(sys.modules, "nats_bench", None)
    assert "pip install 'isnas[natsbench]'" in refusal(read_natsbench, tmp_path)


# --- the benchmark's own numbers


def test_the_published_accuracies(nasbench201):
    skips = nasbench201[SKIPS]
    assert (skips.cifar10_test_200, skips.cifar100_test_200, skips.imagenet16_test_200) == (
        54.297,
        15.607,
        16.322,
    )
    best = [nasbench201.accuracy(nasbench201.best(name).arch, name) for name in DATASETS]
    assert best == [94.373, 73.513, 47.311]
    assert all(nasbench201.rank(nasbench201.best(name).arch, name) == 1 for name in DATASETS)
    assert nasbench201.rank(SKIPS, "cifar10") == 1 + np.count_nonzero(
        nasbench201.column("cifar10") > 54.297
    )


def test_the_cells_that_compute_zero_are_those_that_stay_at_chance(nasbench201):
    zero = np.array([expression(text) == "#" for text in all_cells()])
    assert zero.sum() == 341
    assert np.array_equal(nasbench201.column("cifar10") == 10.0, zero)
    assert np.array_equal(nasbench201.column("cifar100") == 1.0, zero)


def test_the_library_does_not_know_where_the_table_is():
    assert "shared" not in Path(tabular.__file__).read_text()
