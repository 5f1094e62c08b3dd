"""The table of a comparison, in Markdown, with what its numbers mean."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .. import spaces
from ..networks.hand_made import HAND_MADE
from ..networks.registry import family
from ..runtime.options import option_fields
from ..searches.registry import METHODS
from ..tasks.base import Measure, Task
from ..tasks.registry import TASKS
from .judging import CHILDREN, SAMPLED
from .referee import Budget
from .rows import markdown_table, mean_and_deviation
from .statistics import rank_correlation

FEWEST_FOR_TAU = 3
"""Kendall's tau of two architectures is 1 or -1 whatever they are: it says nothing."""

OVER = 1.1
"""A search that spent more than this many times its budget is marked."""


def kendall(row: dict[str, Any], rows: Sequence[dict[str, Any]], measure: Measure) -> float | None:
    """Return Kendall's tau between what a search thought of the sampled architectures and what they came to.

    None where both are known of fewer than `FEWEST_FOR_TAU`, or all are the same.
    """
    scores = row.get("scores")
    if row["method"] in METHODS and METHODS[row["method"]].search.trains_children:
        children = [
            r["scores"] for r in rows if (r["method"], r["seed"]) == (CHILDREN, row["seed"])
        ]
        scores = children[0] if children else None
    name = f"test_{measure.name}"
    truth = {r["seed"]: r[name] for r in rows if r["method"] == SAMPLED and "error" not in r}
    pairs = [(score, truth[i]) for i, score in enumerate(scores or ()) if i in truth]
    if len(pairs) < FEWEST_FOR_TAU:
        return None
    return rank_correlation(*zip(*pairs, strict=True))


def _header(task: Task, latency: bool) -> tuple[str, ...]:
    measure = task.measure
    unit = f" {measure.unit}" if measure.unit else ""
    return (
        "method",
        "seeds",
        f"test {measure.name}{unit}",
        f"own network's{unit}",
        "parameters",
        "multiply-adds",
        *(("latency ms",) if latency else ()),
        "skips",
        "search seconds",
        "passes in epochs",
        f"{task.unit} trained on",
        f"{task.unit} evaluated",
        "peak memory MiB",
        "Kendall's tau",
    )


def table_text(rows: Sequence[dict[str, Any]], about: dict[str, Any]) -> str:
    """Return the results in Markdown, with what the numbers mean."""
    settings, last = about["settings"], about["launches"][-1]
    task = TASKS[settings["task"]]
    measure = task.measure

    def column(
        some: Sequence[dict[str, Any]], name: str, unit: float = 1.0, digits: int = 2
    ) -> str:
        values = [row[name] / unit for row in some if row.get(name) is not None]
        return mean_and_deviation(values, digits) if values else ""

    latency = any("latency" in row for row in rows)
    lines, failures, hand_made = [], [], []
    for method in (*METHODS, SAMPLED, *HAND_MADE):
        of_method = [row for row in rows if row["method"] == method]
        if not of_method:
            continue
        failed = [row for row in of_method if "error" in row]
        failures += [f"- {method}, seed {row['seed']}: {row['error']}" for row in failed]
        good = [row for row in of_method if "error" not in row]
        taus = [tau for row in good if (tau := kendall(row, rows, measure)) is not None]
        over = any((row.get("over") or 0) > OVER for row in of_method)
        number = f"{len(of_method)}" + (f" ({len(failed)} failed)" if failed else "")
        hand_made += [method] if method in HAND_MADE else []
        lines.append(
            (
                method,
                number,
                column(good, f"test_{measure.name}", 1 / measure.scale),
                column(good, "own_value", 1 / measure.scale),
                column(good, "parameters", 1, 0),
                column(good, "multiply_adds", 1, 0),
                *((column(good, "latency", 1e-3),) if latency else ()),
                column(good, "skips", 1, 1),
                column(of_method, "seconds", 1, 1),
                column(of_method, "epochs") + ("*" if over else ""),
                column(of_method, "trained", 1, 0),
                column(of_method, "evaluated", 1, 0),
                column(of_method, "peak_memory", 2**20, 0),
                mean_and_deviation(taus) if method != SAMPLED and taus else "",
            )
        )
    machine = last["machine"]
    budget = Budget.parse(settings["budget"])
    text = (
        f"# Methods compared on {settings['data']}, {budget.amount:g} {budget.unit} of search each\n\n"
        f"{markdown_table(_header(task, latency), lines)}\n"
        f"{_meaning(settings, task)}\n\n"
    )
    if hand_made:
        text += (
            f"{' and '.join(f'*{name}*' for name in hand_made)}: hand-made networks, as wide as makes their number of "
            "parameters that of random architectures on the average, or as near as can be; trained by the common "
            "recipe without drop path and auxiliary head. Nobody needs a search that is not better than they are.\n\n"
        )
    if failures:
        text += "Searches that failed:\n\n" + "\n".join(failures) + "\n\n"
    return text + (
        f"`{last['command']}`, {machine['processor']}, {machine['cores']} cores"
        f"{', ' + machine['gpu'] if machine['gpu'] else ''}; torch {last['versions']['torch']}.\n"
    )


def _meaning(settings: dict[str, Any], task: Task) -> str:
    recipe, unit = settings["evaluation"], task.unit
    name = task.measure.name
    shape = family(spaces.from_json(settings["space"])).options
    size = ", ".join(f"{f.name} {recipe[f.name]}" for f in option_fields(shape))
    search_size = ", ".join(f"{f.name} {settings[f.name]}" for f in option_fields(shape))
    text = (
        f"Mean ± standard deviation over seeds. *Test {name}*: of what was found, trained from scratch on all "
        f"{settings['amount']:,} training {unit} by the recipe `{settings['evaluation_preset']}`, "
        f"epochs: {recipe['epochs']} ({size}), the same for all; no search sees the test data. *Own network's*: of the "
        f"network that the search itself has trained, where it ends with one, in the searches' size ({search_size}). "
        "*Parameters* and *multiply-adds* (of convolutions and linear layers) are those of the network trained from "
        "scratch; *skips*: its connections without an operation, in one cell of each kind together.\n\n"
        f"*Passes* are {unit} forwarded and backwarded, and a third of those forwarded only, for a forward pass "
        f"is about a third of both; an epoch is as many as there are training {unit}. The costs are those that were "
        "counted, of the search alone: a budget is turned into a whole number of epochs beforehand, from what a few "
        "steps cost, and a search that trains architectures one by one stops before it would exceed it, but trains one "
        "at least; searches without training rank a number of architectures of their own, if it pays for them. "
        "The seconds depend on what else the machine did; a network for search and one for a single "
        "architecture take different times for a pass. *Peak memory* is what the search took besides what its process "
        "had. One-stage ISTA-NAS and HM-NAS search and train their own network within the budget, and use all training "
        "data; the others search with one part and choose by the other. A star marks a search that spent over a "
        "tenth more than the budget, because its shortest schedule, or an epoch of it, costs that much."
    )
    if settings.get("limit"):
        limits = ", ".join(f"`{each}`" for each in settings["limit"])
        text += (
            f"\n\nWhat a search finds is within the limits {limits}; the random architectures and hand-made networks "
            "are not held to them. One-stage training holds to them the network that it trains itself. A latency is a "
            "sum of measured operations, measured anew by each search."
        )
    if not settings["sampled"]:
        return text
    return text + (
        "\n\n"
        f"*Kendall's tau* compares, for the same {settings['sampled']} random architectures, what a search thinks of "
        f"them at its end ({name} on the data to choose by, with shared weights or after "
        f"training on the other part, epochs: {settings['child_epochs']}) with their test {name} after the common "
        "recipe. So few architectures, trained once, make it coarse. *Random architectures* are these; a search that "
        "is not better than they are has found nothing."
    )


def in_a_line(row: dict[str, Any], task: Task) -> str:
    """Return what a row shows, for people."""
    text = f"{row['method']}, {'number' if row['method'] == SAMPLED else 'seed'} {row['seed']}"
    if "error" in row:
        return f"{text}: {row['error']}"
    value = row.get(f"test_{task.measure.name}")
    if value is not None:
        text += f": {task.measure.show(value)}"
    if "seconds" in row:
        text += f", search of {row['seconds']:.0f} s, {row['epochs']:.1f} epochs"
    return text
