"""The text form of cells, that of DARTS, and how it is found in files as people have them.

``Genotype(normal=[('sep_conv_3x3', 0), ...], normal_concat=range(2, 6), reduce=[...], reduce_concat=range(2, 6))``: two
(operation, earlier state) pairs for each node; one for each where a space's nodes keep one. Where nodes have another
number of them, each node's pairs stand in a list of their own: ``normal=[[('skip_connect', 0)], [...], ...]``.
"""

from __future__ import annotations

import ast
import itertools
import re
from collections.abc import Iterable
from typing import Any

from ..runtime.errors import UserError, suggestion
from .base import Space
from .genotype import CellGenotype, Genotype, edge_of, integer, short

TEXT_NAMES = {"reduction": "reduce"}
"""DARTS's keyword for a kind of cell, where it is another word."""


def format_cells(genotype: Genotype) -> str:
    """Return DARTS's text form."""
    parts = []
    for kind, cell in genotype.cells:
        name = TEXT_NAMES.get(kind, kind)
        nodes = [[tuple(edge) for edge in edges] for edges in cell.nodes]
        pairs = all(len(edges) == 2 for edges in nodes)
        written: list[Any] = list(itertools.chain(*nodes)) if pairs else nodes
        concat: Any = list(cell.concat)
        if concat == list(range(concat[0], concat[-1] + 1)):
            concat = range(concat[0], concat[-1] + 1)
        parts.append(f"{name}={written!r}, {name}_concat={concat!r}")
    return f"Genotype({', '.join(parts)})"


def names_kinds(text: str, space: Space) -> bool:
    """Return whether a text is of this form and names the kinds of cell of a space."""
    names = [TEXT_NAMES.get(kind, kind) for kind in space.kinds]
    packed = "".join(text.split())
    return packed.startswith("Genotype(") and all(f"{name}=" in packed for name in names)


def genotype_in(text: str, wanted: str = "") -> str:
    """Return the text form of a genotype that a file's text holds.

    Parameters
    ----------
    text : str
        A genotype alone, assignments ``NAME = Genotype(...)``, or lines that end in one, as logs have them.
    wanted : str
        The name of one of several.

    Raises
    ------
    UserError
        When there are several and none is named, or there is none of that name.
    """
    found: dict[str, str] = {}
    for match in re.finditer(r"(?:\b(\w+)\s*[=:]\s*)?\b(Genotype\s*\()", text):
        start = match.start(2)
        depth = 0
        for end in range(start, len(text)):
            depth += {"(": 1, "[": 1, ")": -1, "]": -1}.get(text[end], 0)
            if depth == 0 and text[end] == ")":
                break
        found[match[1] or str(len(found) + 1)] = text[start : end + 1]
    if wanted:
        if wanted not in found:
            raise UserError(
                f"it holds no genotype called {wanted!r}{suggestion(wanted, found)}; "
                f"there are {', '.join(found) or 'none'}"
            )
        return found[wanted]
    if len(set(found.values())) > 1:
        raise UserError(
            f"it holds several genotypes: choose by FILE:NAME one of {', '.join(found)}"
        )
    return next(iter(found.values()), text)


def parse_cells(text: str, space: Space) -> Genotype:
    """Read DARTS's text form. Nothing in the text is executed; see `Space.parse` for errors."""
    form = "Genotype(normal=[(operation, state), ...], normal_concat=range(2, 6), reduce=..., ...)"
    kinds = {TEXT_NAMES.get(kind, kind): kind for kind in space.kinds}
    fields = fields_of(text, [part for name in kinds for part in (name, f"{name}_concat")], form)
    cells = []
    for name, kind in kinds.items():
        written, concat = fields[name], fields[f"{name}_concat"]
        if not isinstance(written, (list, tuple)) or not isinstance(concat, (list, tuple, range)):
            raise UserError(f"genotype text: {name} and {name}_concat must be lists")
        nested = all(isinstance(edges, list) for edges in written)
        if not nested:
            if len(written) % 2:
                raise UserError(
                    f"genotype text: {name} has {len(written)} pairs; expected two for each node"
                )
            written = [written[i : i + 2] for i in range(0, len(written), 2)]
        nodes = tuple(tuple(edge_of(pair) for pair in edges) for edges in written)
        states = tuple(integer(i) for i in concat)
        cells.append((kind, CellGenotype(nodes, states, space.inputs)))
    return Genotype(space, tuple(cells))


def fields_of(text: str, names: Iterable[str], form: str) -> dict[str, Any]:
    """Return the arguments of a text ``Genotype(name=..., ...)``. Nothing in the text is executed.

    Parameters
    ----------
    text : str
    names : iterable of str
        The arguments that it must have.
    form : str
        The expected form, for messages.

    Raises
    ------
    UserError
        When the text is not of that form.
    """
    try:
        call = ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise UserError(f"genotype text is not of the form {form}: {text[:80]!r}") from None
    if (
        not isinstance(call, ast.Call)
        or not isinstance(call.func, ast.Name)
        or call.func.id != "Genotype"
        or call.args
    ):
        raise UserError(f"genotype text is not of the form {form}: {text[:80]!r}")
    expected = sorted(names)
    given = sorted(str(keyword.arg) for keyword in call.keywords)
    if given != expected:
        raise UserError(f"genotype text has the fields {short(given)}; expected {expected}")
    return {str(keyword.arg): _literal(keyword.value) for keyword in call.keywords}


def _literal(node: ast.expr) -> Any:
    """Evaluate literals and ``range(a, b)``, nothing else."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "range":
        bounds = [_literal(argument) for argument in node.args]
        if len(bounds) == 2 and all(isinstance(b, int) and 0 <= b < 1000 for b in bounds):
            return range(*bounds)
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        raise UserError(
            "genotype text holds something that is neither a list of pairs nor range(a, b)"
        ) from None
