"""Capacity of a compressed code: when its sparse architecture is recovered exactly, and what the residual is.

Above, the probability that the support of a random s-sparse z is recovered from b = A z, for every length m of the
code, number n of candidates and s, by kind of measurement matrix and recovery rule. Beneath, for a random b (as in a
search, where no s-sparse z has A z = b), the residual against lam.

python -m figures.recovery -o recovery.svg
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from torch import Tensor
from tqdm import tqdm

import solvers
from isnas.drawing import PAGE_WIDTH
from isnas.runtime.errors import UserError

from ._command import Parser, run_command
from ._style import COLOURS, FONT_SIZE, INK, PALE, legend_below, new_figure, plain_log_labels, tidy

KINDS = ("gaussian", "uniform", "orthogonal")
LAM = 1e-5
"""The LASSO's penalty in the method."""
NODE_SIZES = (14, 21, 28, 35)
"""Candidates of the four nodes of a cell."""
SEARCH_RANGE = (4e-5, 4e-3)
"""lam / lam_max in searches, for ||b|| from 1e-1 down to 1e-3."""

RULES: dict[str, Callable[[Tensor, Tensor, int], Tensor]] = {
    "LASSO, cut to s": lambda A, b, s: solvers.lasso(A, b, LAM).z,
    "path, s non-zeros": lambda A, b, s: solvers.sparsest(A, b, s).z,
    "best subset": lambda A, b, s: solvers.best_subset(A, b, s).z,
}
"""The recovery rules: z (trials, n) from A (trials, m, n), b (trials, m) and s."""


def _matrices(kind: str, trials: int, m: int, n: int, random: torch.Generator) -> Tensor:
    return torch.stack(
        [solvers.measurement_matrix(m, n, kind, generator=random) for _ in range(trials)]
    )


def _largest(z: Tensor, s: int) -> Tensor:
    return z.abs().topk(s).indices.sort().values


def recovery_probability(
    rule: str, kind: str, m: int, n: int, s: int, *, trials: int, random: torch.Generator
) -> float:
    """Return the share of random s-sparse z, normal on a random support, whose support is recovered from A z.

    Parameters
    ----------
    rule, kind : str
        A key of `RULES`, and a kind of `solvers.measurement_matrix`.
    m, n, s : int
    trials : int
    random : torch.Generator
    """
    A = _matrices(kind, trials, m, n, random)
    places = torch.rand(trials, n, generator=random).topk(s).indices
    values = torch.randn(trials, s, generator=random, dtype=torch.float64)
    z = torch.zeros(trials, n, dtype=torch.float64).scatter_(1, places, values)
    b = (A @ z[..., None]).squeeze(-1)
    right = (_largest(RULES[rule](A, b, s), s) == _largest(z, s)).all(1)
    return float(right.double().mean())


def draw_phases(
    probability: np.ndarray,
    ax: Axes,
    *,
    lengths: Sequence[int],
    sizes: Sequence[int],
    sparsities: Sequence[int],
) -> AxesImage:
    """Draw a phase diagram.

    Parameters
    ----------
    probability : ndarray, shape (sparsities, sizes, lengths)
    ax : matplotlib.axes.Axes
    lengths, sizes, sparsities : sequences of int
        The m, n and s.

    Returns
    -------
    matplotlib.image.AxesImage
        For a colour bar.
    """
    table = probability.reshape(-1, len(lengths))
    image = ax.imshow(table, cmap="viridis", vmin=0, vmax=1, aspect="auto", interpolation="nearest")
    tidy(ax)
    ax.set_xticks(range(0, len(lengths), 2), lengths[::2])
    ax.set_yticks(range(len(table)), [*sizes] * len(sparsities))
    ax.annotate(
        "n",
        (0, 1),
        xycoords="axes fraction",
        xytext=(-8, 5),
        textcoords="offset points",
        ha="center",
        va="center",
        fontsize=FONT_SIZE,
        color=INK,
    )
    for i, s in enumerate(sparsities):
        if i:
            ax.axhline(i * len(sizes) - 0.5, color="white", linewidth=1.5)
        middle = (i + 0.5) * len(sizes) - 0.5
        ax.annotate(
            f"s = {s}",
            (0, middle),
            xycoords=("axes fraction", "data"),
            xytext=(-20, 0),
            textcoords="offset points",
            rotation=90,
            ha="center",
            va="center",
            fontsize=FONT_SIZE,
            color=INK,
        )
    return image


def residuals(
    kind: str,
    fractions: Sequence[float],
    *,
    m: int,
    n: int,
    s: int,
    trials: int,
    random: torch.Generator,
) -> dict[str, np.ndarray]:
    """Return relative residuals ||A z - b|| / ||b|| for random b, by what z is, shape (fractions, trials).

    For the LASSO's z before and after the cut at lam = fraction * lam_max; the other rules have no lam: (1, trials).
    """
    A = _matrices(kind, trials, m, n, random)
    b = torch.randn(trials, m, generator=random, dtype=torch.float64)
    lam_max = (A.mT @ b[..., None]).abs().amax((1, 2))

    def relative(z: Tensor) -> np.ndarray:
        return (((A @ z[..., None]).squeeze(-1) - b).norm(dim=1) / b.norm(dim=1)).numpy()

    found: dict[str, list[np.ndarray]] = {"LASSO": [], "LASSO, cut to s": []}
    for fraction in fractions:
        z = solvers.lasso(A, b, fraction * lam_max).z
        kept = z.abs().topk(s).indices
        cut = torch.zeros_like(z).scatter_(1, kept, z.gather(1, kept))
        found["LASSO"].append(relative(z))
        found["LASSO, cut to s"].append(relative(cut))
    for rule in ("path, s non-zeros", "best subset"):
        found[rule] = [relative(RULES[rule](A, b, s))]
    return {name: np.stack(values) for name, values in found.items()}


def draw_residuals(
    found: Mapping[str, np.ndarray], fractions: Sequence[float], ax: Axes, *, title: str = ""
) -> None:
    """Draw medians, and the range from the 10th to the 90th percentile, of what `residuals` returned."""
    ax.axvspan(*SEARCH_RANGE, color=PALE, linewidth=0, label="λ = 1e-5 in a search")
    for i, (name, values) in enumerate(found.items()):
        low, middle, high = np.percentile(values, (10, 50, 90), axis=1)
        x = fractions if len(values) > 1 else [fractions[0], fractions[-1]]
        low, middle, high = (np.broadcast_to(each, len(x)) for each in (low, middle, high))
        style = ("-", "--", "-.", ":")[i % 4]
        ax.plot(x, middle, color=COLOURS[i], linestyle=style, linewidth=1.1, label=name)
        ax.fill_between(x, low, high, color=COLOURS[i], alpha=0.15, linewidth=0)
    ax.set_xscale("log")
    plain_log_labels(ax.xaxis)
    ax.set(xlim=(fractions[0], fractions[-1]), ylim=(0, 1.05))
    tidy(ax, xlabel="λ / (λ from which z = 0)", title=title)


def make_figure(
    trials: int = 100,
    *,
    sparsities: Sequence[int] = (1, 2, 3),
    lengths: Sequence[int] = range(2, 15),
    sizes: Sequence[int] = NODE_SIZES,
    seed: int = 0,
    progress: bool = False,
) -> Figure:
    """Compute and return the figure.

    Parameters
    ----------
    trials : int
        Random problems for each value.
    sparsities, lengths, sizes : sequences of int
        The s, m and n.
    seed : int
    progress : bool
        Whether to show on a terminal how far it is.

    Raises
    ------
    UserError
        When `trials` is not positive.
    """
    if trials < 1:
        raise UserError(f"trials must be at least 1, got {trials}")
    random = torch.Generator().manual_seed(seed)
    rows = len(sparsities) * max(len(sizes), 3)  # room to write s beside them
    figure = new_figure(PAGE_WIDTH, len(RULES) * (0.1 * rows + 0.3) + 2.2)
    heights = [0.1 * rows] * len(RULES) + [1.2]
    axes = figure.subplots(len(RULES) + 1, len(KINDS), height_ratios=heights)
    grid = {"lengths": lengths, "sizes": sizes, "sparsities": sparsities}
    cells = [(s, n, m) for s in sparsities for n in sizes for m in lengths]
    total = len(RULES) * len(KINDS) * len(cells) + len(KINDS)
    done = tqdm(total=total, leave=False, disable=None if progress else True)
    for row, rule in zip(axes, RULES, strict=False):
        for ax, kind in zip(row, KINDS, strict=True):
            table = []
            for s, n, m in cells:
                table.append(
                    recovery_probability(rule, kind, m, n, s, trials=trials, random=random)
                )
                done.update()
            shape = len(sparsities), len(sizes), len(lengths)
            image = draw_phases(np.reshape(table, shape), ax, **grid)
            ax.set_title(f"{kind.capitalize()}: {rule}", fontsize=FONT_SIZE, color=INK, pad=3)
    for ax in axes[-2]:
        ax.set_xlabel("m (length of the code)", fontsize=FONT_SIZE, color=INK, labelpad=2)
    bar = figure.colorbar(image, ax=axes[:-1], aspect=40, pad=0.01)
    tidy(bar.ax, ylabel="probability of exact support recovery")
    fractions = np.logspace(-6, 0, 25)
    m, n, s = 7, 28, 2
    for ax, kind in zip(axes[-1], KINDS, strict=True):
        found = residuals(kind, fractions, m=m, n=n, s=s, trials=trials, random=random)
        draw_residuals(
            found, fractions, ax, title=f"{kind.capitalize()}: m = {m}, n = {n}, s = {s}"
        )
        ax.title.set_fontsize(FONT_SIZE)
        done.update()
    done.close()
    axes[-1][0].set_ylabel("‖Az - b‖ / ‖b‖", fontsize=FONT_SIZE, color=INK)
    legend_below(
        figure, axes[-1], columns=5, title="lines: medians; bands: 10th to 90th percentile"
    )
    return figure


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = Parser("recovery", "Probability of exact recovery, and residuals; computed, no run.")
    parser.add_argument("--trials", type=int, default=100, help="problems for each value (100)")
    parser.add_argument("--seed", type=int, default=0, help="of the random problems")

    def draw(given: argparse.Namespace) -> Figure:
        return make_figure(given.trials, seed=given.seed, progress=True)

    return run_command(parser, draw, arguments)


if __name__ == "__main__":
    raise SystemExit(main())
