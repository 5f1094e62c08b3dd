"""All ways to solve one recovery, side by side: time, certificate, wrong supports.

    python -m benchmarks.recovery            # under two minutes on two cores
    python -m benchmarks.recovery --draws 100 --scales 1e-3 1e-2 1e-1 1 --kinds uniform

One recovery is the eight LASSO problems of two kinds of cell: A (7, n) for n = 14, 21, 28, 35
twice, lam = 1e-5. Every method gets the same draws. The referee is the same for all: the duality
gap by `solvers.duality_gap`, and the top-2 support of the answer with the smallest gap.
Drawing the problems is not timed; the conversion of the arrays to a method's own types is.

The methods take turns on each draw, `--repeats` times, and the best time of each counts: other
load on the machine then hits all alike. Ratios are medians over the draws of the ratio on one draw.

The last table is about recoveries in every step of a search: the same A each time, b perturbed, all
nodes in one call. `BestSubset` is made beforehand and not timed.
"""

import argparse
import importlib.util
import platform
import time
import warnings
from collections.abc import Callable
from functools import partial
from importlib.metadata import version

import numpy as np
import torch
from sklearn.linear_model import Lasso, LassoLars, lars_path

import solvers
from isnas.comparison.rows import machine

M, SIZES, LAM = 7, (14, 21, 28, 35) * 2, 1e-5
# The nodes of a search: each one's m, n, s and number of operations on an edge, of which one may be
# active; 0 where several may.
SEARCHES = {
    "NAS-Bench-201, 3 nodes, one operation an edge": [(3, 4, 1, 4), (5, 8, 2, 4), (7, 12, 3, 4)],
    "DARTS, 8 nodes, s = 2": [(M, n, 2, 0) for n in SIZES],
}
OURS, BASE = "homotopy", "scikit-learn lars_path x 8"

Problems = list[tuple[np.ndarray, np.ndarray]]
Answers = list[np.ndarray]
Method = Callable[[Problems], Answers]


def draw(kind: str, scale: float, seed: int) -> Problems:
    """Return the eight problems of one recovery, b with independent N(0, scale^2) entries."""
    generator = torch.Generator().manual_seed(seed)
    problems = []
    for n in SIZES:
        A = solvers.measurement_matrix(M, n, kind, generator=generator)
        b = scale * torch.randn(M, generator=generator, dtype=torch.float64)
        problems.append((A.numpy(), b.numpy()))
    return problems


def ours(problems: Problems, solve: Callable[..., solvers.LassoResult]) -> Answers:
    A, b = ([torch.from_numpy(x) for x in each] for each in zip(*problems, strict=True))
    return [z.numpy() for z in solve(A, b).z]


def sklearn_path(problems: Problems) -> Answers:
    # Its objective is divided by the number of rows.
    return [lars_path(A, b, alpha_min=LAM / M, method="lasso")[2][:, -1] for A, b in problems]


def sklearn_model(problems: Problems, make: Callable[..., Lasso]) -> Answers:
    return [make(alpha=LAM / M, fit_intercept=False).fit(A, b).coef_ for A, b in problems]


def cvxpy_clarabel(problems: Problems) -> Answers:
    import cvxpy

    answers = []
    for A, b in problems:
        # At unit scale: its tolerances are absolute, and the objective can be 1e-8.
        norm = np.linalg.norm(b)
        z = cvxpy.Variable(A.shape[1])
        fit = 0.5 * cvxpy.sum_squares(A @ z - b / norm)
        cvxpy.Problem(cvxpy.Minimize(fit + LAM / norm * cvxpy.norm1(z))).solve(solver="CLARABEL")
        answers.append(norm * z.value)
    return answers


def cvxpy_together(problems: Problems) -> Answers:
    """Return all problems as one: their objectives added."""
    import cvxpy

    total, answers = 0, []
    for A, b in problems:
        norm = np.linalg.norm(b)
        z = cvxpy.Variable(A.shape[1])
        total += 0.5 * cvxpy.sum_squares(A @ z - b / norm) + LAM / norm * cvxpy.norm1(z)
        answers.append((norm, z))
    cvxpy.Problem(cvxpy.Minimize(total)).solve(solver="CLARABEL")
    return [norm * z.value for norm, z in answers]


class CvxpyParametrised:
    """One model per n with A, b and lam as parameters, which cvxpy compiles once (untimed)."""

    def __init__(self) -> None:
        import cvxpy

        self.models = {}
        for n in set(SIZES):
            z = cvxpy.Variable(n)
            A, b = cvxpy.Parameter((M, n)), cvxpy.Parameter(M)
            lam = cvxpy.Parameter(nonneg=True)
            goal = cvxpy.Minimize(0.5 * cvxpy.sum_squares(A @ z - b) + lam * cvxpy.norm1(z))
            self.models[n] = cvxpy.Problem(goal), z, A, b, lam

    def __call__(self, problems: Problems) -> Answers:
        answers = []
        for matrix, vector in problems:
            model, z, A, b, lam = self.models[matrix.shape[1]]
            norm = np.linalg.norm(vector)
            A.value, b.value, lam.value = matrix, vector / norm, LAM / norm
            model.solve(solver="CLARABEL")
            answers.append(norm * z.value)
        return answers


def plain_ista(problems: Problems, iterations: int) -> Answers:
    """Return the published rule: soft-thresholded gradient steps from zero, at the final lam."""
    A = np.zeros((len(problems), M, max(SIZES)))  # zero columns keep their zero
    for padded, (matrix, _) in zip(A, problems, strict=True):
        padded[:, : matrix.shape[1]] = matrix
    b = np.stack([vector for _, vector in problems])
    step = 1 / np.linalg.norm(A, 2, axis=(1, 2))[:, None] ** 2
    hessian = step[:, :, None] * (A.transpose(0, 2, 1) @ A)
    target = step * (b[:, None] @ A)[:, 0]
    z = np.zeros_like(target)
    for _ in range(iterations):
        v = z - (hessian @ z[:, :, None])[:, :, 0] + target
        z = v - np.clip(v, -step * LAM, step * LAM)
    return [row[: matrix.shape[1]] for row, (matrix, _) in zip(z, problems, strict=True)]


def methods() -> dict[str, Method]:
    """Name and solver; each solver takes and gives NumPy arrays."""
    table: dict[str, Method] = {
        method: partial(ours, solve=partial(solvers.lasso, lam=LAM, method=method))
        for method in ("homotopy", "fista", "ista", "coordinate_descent")
    }
    table["best_subset (s = 2)"] = partial(ours, solve=partial(solvers.best_subset, s=2))
    table["sparsest (s = 2)"] = partial(ours, solve=partial(solvers.sparsest, s=2))
    table[BASE] = sklearn_path
    table["scikit-learn LassoLars x 8"] = partial(sklearn_model, make=LassoLars)
    table["scikit-learn Lasso x 8, its tolerance"] = partial(sklearn_model, make=Lasso)
    if importlib.util.find_spec("cvxpy"):
        table["cvxpy + CLARABEL x 8"] = cvxpy_clarabel
        table["cvxpy + CLARABEL, the 8 as one problem"] = cvxpy_together
        table["cvxpy + CLARABEL x 8, compiled before"] = CvxpyParametrised()
    table["plain ISTA, 1,000 iterations"] = partial(plain_ista, iterations=1_000)
    table["plain ISTA, 10,000 iterations"] = partial(plain_ista, iterations=10_000)
    return table


def top_two(z: np.ndarray) -> frozenset[int]:
    return frozenset(np.argsort(-np.abs(z), kind="stable")[:2].tolist())


def compare(kind: str, scale: float, draws: int, repeats: int) -> None:
    """Print one table."""
    table = methods()
    seconds: dict[str, list[float]] = {name: [] for name in table}
    gaps: dict[str, list[float]] = {name: [] for name in table}
    wrong: dict[str, int] = dict.fromkeys(table, 0)
    for solve in table.values():  # warm-up: imports, caches
        solve(draw(kind, scale, draws))
    for seed in range(draws):
        problems = draw(kind, scale, seed)
        answers = {}
        best_time = dict.fromkeys(table, float("inf"))
        for _ in range(repeats):
            for name, solve in table.items():
                start = time.perf_counter()
                answers[name] = solve(problems)
                best_time[name] = min(best_time[name], time.perf_counter() - start)
        for name, spent in best_time.items():
            seconds[name].append(spent)
        A, b = ([torch.from_numpy(x) for x in each] for each in zip(*problems, strict=True))
        gap = {
            name: solvers.duality_gap(A, b, [torch.from_numpy(z) for z in answer], LAM).tolist()
            for name, answer in answers.items()
        }
        for i in range(len(problems)):
            best = min(gap, key=lambda name, i=i: gap[name][i])
            right = top_two(answers[best][i])
            for name, answer in answers.items():
                wrong[name] += top_two(answer[i]) != right
        for name, values in gap.items():
            gaps[name] += values
    print(f"\n{kind} A, entries of b ~ {scale:g}, {draws} draws of 8 problems")
    print(
        f"{'x homotopy':>11} {'x lars_path':>12} {'ms':>9} {'worst gap':>10} {'top-2 other':>12}"
        "  method"
    )
    for name in sorted(table, key=lambda name: np.median(seconds[name])):
        time_taken = np.median(seconds[name])
        # best_subset and sparsest answer another question: their gap says nothing.
        certificate = "-" if "s = 2" in name else f"{max(gaps[name]):.0e}"
        share = wrong[name] / (draws * len(SIZES))
        print(
            f"{ratio(seconds[name], seconds[OURS]):>11.2f} "
            f"{ratio(seconds[name], seconds[BASE]):>12.2f} {1e3 * time_taken:>9.2f} "
            f"{certificate:>10} {share:>12.1%}  {name}"
        )


def in_every_step(name: str, draws: int, repeats: int) -> None:
    """Print the table of one search's recoveries, for one b of each node and for 16."""
    generator = torch.Generator().manual_seed(0)
    nodes = SEARCHES[name]
    A = [solvers.measurement_matrix(m, n, generator=generator) for m, n, *_ in nodes]
    s = [s for *_, s, _ in nodes]
    grouped = (
        {} if nodes[0][3] == 0 else {"groups": [[j // e for j in range(n)] for _, n, _, e in nodes]}
    )
    table: dict[str, Callable[[list[torch.Tensor]], object]] = {}
    for label, sign in (("", {}), (", z >= 0", {"non_negative": True})):
        options = grouped | sign
        table[f"BestSubset(b){label}"] = solvers.BestSubset(A, s, **options)
        table[f"best_subset(A, b){label}"] = partial(solvers.best_subset, A, s=s, **options)
        table[f"sparsest(A, b){label}"] = partial(solvers.sparsest, A, s=s, **options)
        table[f"lasso(A, b){label}"] = partial(solvers.lasso, A, lam=LAM, **sign)
    times: dict[tuple[str, int], list[float]] = {(key, k): [] for key in table for k in (1, 16)}
    for _ in range(draws):
        best = dict.fromkeys(times, float("inf"))
        many = [torch.randn(16, m, generator=generator, dtype=torch.float64) for m, *_ in nodes]
        one = [rows[0] for rows in many]
        for _ in range(repeats):
            for key, k in times:
                start = time.perf_counter()
                table[key](one if k == 1 else many)
                best[key, k] = min(best[key, k], time.perf_counter() - start)
        for each, spent in best.items():
            times[each].append(spent)
    print(f"\n{name}: ms for all nodes, {draws} draws")
    print(f"{'1 b each':>11} {'16 b each':>11}  method")
    for key in sorted(table, key=lambda key: np.median(times[key, 1])):
        one_b, many_b = (1e3 * np.median(times[key, k]) for k in (1, 16))
        print(f"{one_b:>11.2f} {many_b:>11.2f}  {key}")


def ratio(seconds: list[float], base: list[float]) -> float:
    """Return the typical ratio of two methods' times on the same draw."""
    return float(np.median(np.divide(seconds, base)))


def main() -> None:
    """Parse the options, print the machine and the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=20, help="recoveries per table")
    parser.add_argument("--repeats", type=int, default=3, help="runs per draw; the best counts")
    parser.add_argument("--scales", type=float, nargs="+", default=[1e-3, 1e-1])
    kinds = ("gaussian", "uniform", "orthogonal")
    parser.add_argument("--kinds", nargs="+", choices=kinds, default=["gaussian", "uniform"])
    options = parser.parse_args()
    for name in ("draws", "repeats"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} must be at least 1, got {getattr(options, name)}")
    packages = ["torch", "numpy", "scikit-learn"]
    if importlib.util.find_spec("cvxpy"):
        packages += ["cvxpy", "clarabel"]
    found = machine()
    print(
        f"{found['processor']} ({found['cores']} cores), {found['system']}, Python {platform.python_version()}"
    )
    print(", ".join(f"{package} {version(package)}" for package in packages))
    if "cvxpy" not in packages:
        print("cvxpy is not installed: no CLARABEL in the tables (pip install cvxpy)")
    # What does not converge shows in the tables.
    warnings.filterwarnings("ignore")
    for kind in options.kinds:
        for scale in options.scales:
            compare(kind, scale, options.draws, options.repeats)
    for name in SEARCHES:
        in_every_step(name, options.draws, options.repeats)


if __name__ == "__main__":
    main()
