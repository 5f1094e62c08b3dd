"""Ablation: which parts of the sparse code matter, and which rule deserves to be the default?

One factor at a time around two settings of the two-stage search, our default (Gaussian matrix) and the published one
(uniform), both with the rule ``truncate``:

- ``rule``: ``truncate``, ``path``, ``best_subset``, each with and without re-encoding;
- ``matrix``: Gaussian, uniform, orthogonal;
- ``m``, ``s``, ``lam``: length of a node's code, its active places (which change the size of the network, too),
  weight of the l1 norm;
- ``freezing``: in one-stage training, the threshold at which a node is frozen.

For each search: the accuracy of what it found, trained alone, and what the code did: how many nodes change their
support at a recovery; how many coefficients have another sign at the end of an epoch than at its beginning; how many
nodes begin an epoch with a coefficient of another sign than the recovered z; and what the cut leaves of b, that is
||A z_S - b|| / ||b||. Random architectures, trained alone likewise, say what a search adds at all.

All settings have the same seeds, and differences are taken in pairs of the same seed. Rules, re-encoding and the two
matrices are crossed completely, so that each is also compared over all settings of the others.

    python -m experiments.ablation --scale smoke
    python -m experiments.ablation --scale small --data FOLDER --jobs 2
    python -m experiments.ablation --scale small --data FOLDER --jobs 2 --factors rule --seeds 8
    python -m experiments.ablation --scale paper --data cifar10

``smoke`` takes a minute on digits. ``small`` takes 2,048 images of CIFAR-10, whose folder is FOLDER (or ``cifar10`` in
``--data-root``), and networks of 8 channels and 4 cells: 3 minutes of a core for a setting with a seed, one and a half
hours for all settings with one seed. ``paper`` has the published settings of search and training.
Started again, it goes on, also within a run and with more seeds or other factors.

Written to DIR (``--out``): rows.jsonl (a row for every setting and seed), table.md, about.json (settings, commands,
versions, machine), runs/SETTING-SEED (run directories) and, at the smaller scales, images/.
``python -m figures.experiments ablation DIR`` draws the rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np

from isnas import DARTS_SPACE
from isnas.codes.choices import Choices
from isnas.commands.evaluate import evaluation_job
from isnas.commands.search import ONE_STAGE, TWO_STAGE, search_job
from isnas.comparison.rows import markdown_table, mean_and_deviation
from isnas.comparison.trials import run_or_resume
from isnas.runs.records import RunRecord, Trajectory
from isnas.runtime.options import Composition
from isnas.runtime.randomness import generator
from isnas.searches.registry import search_options

from ._command import Launch, Parser, among, origin, run_command, run_module
from ._images import Subset
from ._runs import seconds
from ._statistics import interval_text, mean_interval

RULES = ("truncate", "path", "best_subset")
CENTRES = ("gaussian", "uniform")
"""The matrices of the settings that others are compared with."""

RANDOM = "random architecture"


class Setting(NamedTuple):
    """A setting of the search."""

    factor: str
    centre: str | None
    """The name of the setting that it is compared with, from which it differs by one factor; None: with none."""
    changes: dict[str, Any]
    """Its options."""


def _settings() -> dict[str, Setting]:
    found = {RANDOM: Setting("random", "gaussian", {})}
    for matrix in CENTRES:
        own = {"matrix": matrix}
        found[matrix] = Setting("centre", None if matrix == "gaussian" else "gaussian", own)
        for rule in RULES:
            for reencode in (False, True):
                if (rule, reencode) != ("truncate", False):
                    name = f"{matrix} {rule}{' reencoded' if reencode else ''}"
                    changes = {**own, "rule": rule, "reencode": reencode}
                    found[name] = Setting("rule", matrix, changes)
        for factor, values in (("m", (4, 10)), ("s", (1, 3)), ("lam", (1e-4, 1e-3))):
            for value in values:
                found[f"{matrix} {factor} {value:g}"] = Setting(
                    factor, matrix, {**own, factor: value}
                )
    found["orthogonal"] = Setting("matrix", "gaussian", {"matrix": "orthogonal"})
    for threshold in (1e-3, 0.0, 1e-2, 1e-1):
        centre = None if threshold == 1e-3 else "one-stage freezing 0.001"
        changes = {"freeze_threshold": threshold}
        found[f"one-stage freezing {threshold:g}"] = Setting("freezing", centre, changes)
    return found


SETTINGS = _settings()
"""All settings by name."""

FACTORS = ("rule", "matrix", "m", "s", "lam", "freezing")


@dataclass(frozen=True)
class Scale:
    """The size of the experiment.

    Parameters
    ----------
    images : Subset
    seeds : int
        The default of ``--seeds``.
    search : Composition
        Options of the searches in two stages; ``evaluation_epochs`` and so on say how found networks are trained.
    train : Composition
        Options of one-stage training.
    """

    images: Subset
    seeds: int
    search: Composition
    train: Composition


SCALES = {
    "smoke": Scale(
        Subset("digits", 64, 32),
        1,
        search_options(
            TWO_STAGE,
            DARTS_SPACE,
            channels=2,
            cells=3,
            batch_size=32,
            epochs=1,
            evaluation_epochs=1,
            random_architectures=0,
            threads=1,
        ),
        search_options(
            ONE_STAGE,
            DARTS_SPACE,
            channels=2,
            cells=3,
            batch_size=32,
            search_epochs=1,
            epochs=1,
            threads=1,
        ),
    ),
    "small": Scale(
        Subset("cifar10", 2_048, 5_000),
        3,
        search_options(
            TWO_STAGE,
            DARTS_SPACE,
            epochs=10,
            evaluation_epochs=10,
            random_architectures=0,
            threads=1,
        ),
        search_options(ONE_STAGE, DARTS_SPACE, search_epochs=10, epochs=10, threads=1),
    ),
    "paper": Scale(
        Subset("cifar10"),
        4,
        search_options(TWO_STAGE, DARTS_SPACE, "paper"),
        search_options(ONE_STAGE, DARTS_SPACE, "paper"),
    ),
}


# What the code did


def behaviour(trajectories: Sequence[Trajectory]) -> dict[str, float | None]:
    """Return what the codes of a search did, as means over nodes and recoveries; a frozen node does not count.

    Returns
    -------
    dict
        ``changed``: share of nodes that changed their support at a recovery; ``changed_late``: in the last third of the
        recoveries. ``flipped``: share of coefficients whose sign at the end of an epoch was another than at its
        beginning. ``started_flipped``: share of nodes with a coefficient whose sign at the beginning of an epoch was
        another than that of the recovered z. ``left``: ||A z_S - b|| / ||b||. None where there is nothing to count.
    """
    counted: dict[str, list[float]] = {
        name: [] for name in ("changed", "changed_late", "flipped", "started_flipped", "left")
    }
    for node in trajectories:
        late = len(node) - max(1, (len(node) - 1) // 3)
        for r in range(len(node)):
            if r and node.frozen[r - 1]:
                break
            chosen = node.support[r]
            z = np.where(np.isin(np.arange(node.z.shape[1]), chosen), node.z[r], 0.0)
            if r:
                counted["changed"].append(float(node.changed[r]))
                if r >= late:
                    counted["changed_late"].append(float(node.changed[r]))
            size = np.linalg.norm(node.b[r])
            if size > 0:
                counted["left"].append(float(node.residual_cut[r] / size))
            started = node.coefficients[r]
            signs = z[chosen]
            counted["started_flipped"].append(float((started * signs < 0).any()))
            if r + 1 < len(node) and not node.frozen[r] and not node.refused[r : r + 2].any():
                # c(b) = A_S' b - [E z]_S is linear in b, which was A z_S at the beginning if re-encoded
                A = node.A[:, chosen]
                ended = A.T @ node.b[r + 1] - (A.T @ (node.A @ z) - signs)
                counted["flipped"] += [float(flip) for flip in started * ended < 0]
    return {name: float(np.mean(values)) if values else None for name, values in counted.items()}


# Trials


def run_trial(name: str, seed: int, options: Composition, directory: Path) -> dict[str, Any]:
    """Run one setting with one seed, in whatever process.

    Parameters
    ----------
    name : str
        Name of the setting.
    seed : int
    options : Composition
        Options of the command to run: training of a random architecture, one stage, or two.
    directory : Path
        Directory of the run.
    """
    factor = SETTINGS[name].factor
    if factor == "random":
        genotype = Choices(DARTS_SPACE).random(generator(seed, "random", 0))
        run, part = run_or_resume(evaluation_job(genotype, options), directory), "evaluate"
    else:
        method = ONE_STAGE if factor == "freezing" else TWO_STAGE
        run = run_or_resume(search_job(method, DARTS_SPACE, options), directory)
        part = "found" if method == TWO_STAGE else "search"
    record, result = RunRecord(directory), run.results[part]
    searched = {
        "evaluate": 0.0,
        "search": seconds(record, "search", "search") if part == "search" else 0.0,
        "found": seconds(record, "search") if part == "found" else 0.0,
    }
    return {
        "setting": name,
        "seed": seed,
        "genotype": str(run.genotype),
        "accuracy": 100 * result["test_accuracy"],
        "parameters": result["parameters"],
        "search_epochs": result.get("search_epochs"),
        "search_seconds": searched[part],
        **behaviour(list(record.trajectories.values())),
    }


# The table


def differences(
    rows: Sequence[dict[str, Any]], name: str, other: str, quantity: str = "accuracy"
) -> list[float]:
    """Return a quantity of one setting minus that of another, for each seed that both have."""
    of = {
        setting: {row["seed"]: row[quantity] for row in rows if row["setting"] == setting}
        for setting in (name, other)
    }
    return [of[name][seed] - of[other][seed] for seed in sorted(of[name].keys() & of[other].keys())]


def crossed(rows: Sequence[dict[str, Any]]) -> list[tuple[str, list[float]]]:
    """Return comparisons within rules x re-encoding x matrices: words, and a difference of accuracy for each seed.

    In points, the mean over pairs that agree in everything else; seeds that lack a setting do not count.
    """
    cells = {
        (changes["matrix"], changes.get("rule", "truncate"), changes.get("reencode", False)): name
        for name, (factor, _, changes) in SETTINGS.items()
        if factor in ("centre", "rule")
    }

    of = {(row["setting"], row["seed"]): row["accuracy"] for row in rows}
    seeds = sorted({seed for _, seed in of})
    whole = [seed for seed in seeds if all((name, seed) in of for name in cells.values())]

    def pairs(change: Callable[..., tuple[Any, ...] | None]) -> list[float]:
        paired = [(cells[cell], cells[other]) for cell in cells if (other := change(*cell))]
        return [fmean(of[a, seed] - of[b, seed] for a, b in paired) for seed in whole]

    return [
        (
            "re-encoded minus not, over all rules and matrices",
            pairs(lambda matrix, rule, again: (matrix, rule, False) if again else None),
        ),
        (
            "re-encoded minus not, truncate only",
            pairs(
                lambda matrix, rule, again: (
                    (matrix, rule, False) if again and rule == "truncate" else None
                )
            ),
        ),
        (
            "path minus truncate",
            pairs(
                lambda matrix, rule, again: (matrix, "truncate", again) if rule == "path" else None
            ),
        ),
        (
            "best_subset minus truncate",
            pairs(
                lambda matrix, rule, again: (
                    (matrix, "truncate", again) if rule == "best_subset" else None
                )
            ),
        ),
        (
            "best_subset minus path",
            pairs(
                lambda matrix, rule, again: (
                    (matrix, "path", again) if rule == "best_subset" else None
                )
            ),
        ),
        (
            "gaussian minus uniform",
            pairs(
                lambda matrix, rule, again: (
                    ("uniform", rule, again) if matrix == "gaussian" else None
                )
            ),
        ),
    ]


QUANTITIES = {
    "changed": "nodes changed at a recovery (%)",
    "changed_late": "in the last third (%)",
    "flipped": "coefficients flipped in an epoch (%)",
    "started_flipped": "nodes started flipped (%)",
    "left": "left by the cut (%)",
}
"""The quantities that `behaviour` counts, in words."""


def table_text(rows: Sequence[dict[str, Any]], about: dict[str, Any]) -> str:
    """Return the results in Markdown."""
    header = (
        "setting",
        "seeds",
        "accuracy (%)",
        "minus its centre's",
        "minus random's",
        "parameters (k)",
        *QUANTITIES.values(),
    )
    lines = []
    for name, setting in SETTINGS.items():
        of_setting = [row for row in rows if row["setting"] == name]
        if not of_setting:
            continue
        compared = [
            ""
            if other is None or not (found := differences(rows, name, other))
            else interval_text(mean_interval(found), sign=True)
            for other in (setting.centre, None if name == RANDOM else RANDOM)
        ]
        shares = []
        for quantity in QUANTITIES:
            values = [100 * row[quantity] for row in of_setting if row[quantity] is not None]
            shares.append(mean_and_deviation(values, 0) if values else "")
        lines.append(
            (
                name,
                str(len(of_setting)),
                mean_and_deviation([row["accuracy"] for row in of_setting]),
                *compared,
                mean_and_deviation([row["parameters"] / 1e3 for row in of_setting], 0),
                *shares,
            )
        )
    text = (
        f"# Parts of the sparse code, scale {about['settings']['scale']}\n\n"
        f"{markdown_table(header, lines)}\n"
        "Test accuracy of what was found, trained alone (with `one-stage`: of the folded network): mean and standard "
        "deviation over seeds. Differences are in pairs of the same seed, with 95 % intervals by Student's t. A "
        "centre's name is its matrix, with truncate, not re-encoded, m = 7, s = 2, lam = 1e-5; others differ from it "
        "in what their names say; uniform, orthogonal and random architectures are compared with gaussian, settings of "
        "`one-stage freezing` with that of 0.001. One in twenty such intervals "
        "leaves out 0 by chance alone.\n\n"
    )
    lines = [
        (words, str(len(found)), interval_text(mean_interval(found), sign=True))
        for words, found in crossed(rows)
        if found
    ]
    if lines:
        text += (
            f"{markdown_table(('crossed comparison', 'seeds', 'difference (points)'), lines)}\n"
            "Mean over all pairs of one seed in the crossed design of rules, re-encoding and matrices; intervals over "
            "seeds.\n\n"
        )
    return text + origin(about)


def run(launch: Launch, *, factors: Sequence[str] = FACTORS) -> None:
    """Run the trials that are not in `launch.out` yet, and write what this module's docstring says.

    Raises
    ------
    UserError
        When a factor is unknown, and whatever the runs raise.
    """
    wanted = {"random", "centre", *among(factors, FACTORS, "factors")}
    size = SCALES[launch.scale]
    with launch.opened(__name__, ("setting", "seed"), size) as experiment:
        alone = size.search.evaluation
        trials = []
        # one seed of all settings after the other: whenever it stops, all have had the same
        for seed in experiment.seeds:
            for name, setting in SETTINGS.items():
                if setting.factor not in wanted:
                    continue
                base = {"random": alone, "freezing": size.train}.get(setting.factor, size.search)
                options = experiment.options(base, seed, **setting.changes)
                directory = experiment.runs / f"{name.replace(' ', '-')}-{seed}"
                trials.append((name, seed, options, directory))
        experiment.run(
            run_trial,
            trials,
            table=table_text,
            describe=lambda row: f"{row['setting']}, seed {row['seed']}: {row['accuracy']:.2f} %",
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return 0, 2 after a user's mistake, 130 when interrupted."""
    parser = Parser(__name__, "Which parts of the sparse code matter?", SCALES)
    parser.add_argument(
        "--factors", metavar="NAME", nargs="+", default=FACTORS, help=f"of {', '.join(FACTORS)}"
    )
    return run_command(parser, run, arguments)


if __name__ == "__main__":
    run_module(__spec__.name)
