"""Does a search find as good networks when its convolutions compute in bfloat16?

    python -m benchmarks.precision | tee benchmarks/results/precision.txt
    python -m benchmarks.precision --data cifar10 --preset paper --seeds 3      # on a GPU: hours

Both searches of a seed begin with the same weights, codes and batches. What is compared: the accuracy of the running
super-net on the second half of the training data at the end of the search; how many of the active operations the two
searches share at the end; and the test accuracy of what was found, trained alone with the precision of its search. What
two seeds of the same precision share says what to expect of chance.
"""

from __future__ import annotations

import argparse
import tempfile
from itertools import combinations
from pathlib import Path
from statistics import fmean

import isnas
from experiments._command import positive
from isnas.comparison.rows import markdown_table, mean_and_deviation

from ._measure import origin, run

PRECISIONS = ("float32", "bfloat16")
SIZES = ("epochs", "evaluation_epochs", "channels", "cells", "batch_size")


def shared(first: isnas.Genotype, second: isnas.Genotype) -> float:
    """Return the share of the first one's operations that the second has at the same places."""
    places = [
        {(kind, place) for kind, kept in each.places(isnas.DARTS_SPACE).items() for place in kept}
        for each in (first, second)
    ]
    return len(places[0] & places[1]) / len(places[0])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=positive, default=4)
    parser.add_argument("--data", default="digits")
    parser.add_argument("--preset", choices=("quick", "paper"), default="quick")
    for name in SIZES:
        words = f"--{name.replace('_', '-')}"
        parser.add_argument(words, type=positive, help="by default the preset's")
    parser.add_argument("--device", default="auto")
    given = parser.parse_args()
    changes = {"data": given.data, "device": given.device, "random_architectures": 0}
    changes |= {name: getattr(given, name) for name in SIZES if getattr(given, name)}
    searched: dict[str, list[float]] = {each: [] for each in PRECISIONS}
    tested: dict[str, list[float]] = {each: [] for each in PRECISIONS}
    found: dict[str, list[isnas.Genotype]] = {each: [] for each in PRECISIONS}
    with tempfile.TemporaryDirectory() as name:
        for seed in range(given.seeds):
            for precision in PRECISIONS:
                done = isnas.search(
                    preset=given.preset,
                    out=Path(name) / f"{seed}-{precision}",
                    seed=seed,
                    precision=precision,
                    **changes,
                )
                curve = isnas.RunRecord(done.directory).epochs("search")["valid_accuracy"]
                searched[precision].append(100 * float(curve[-1]))
                tested[precision].append(100 * done.results["found"]["test_accuracy"])
                found[precision].append(done.genotype)
    lines = [
        (precision, mean_and_deviation(searched[precision]), mean_and_deviation(tested[precision]))
        for precision in PRECISIONS
    ]
    differences = [
        (mean_and_deviation([b - a for a, b in zip(*of.values(), strict=True)]))
        for of in (searched, tested)
    ]
    lines.append(("bfloat16 minus float32, paired", *differences))
    print(origin("precision"))
    header = ("precision", "accuracy in search (%)", "test accuracy of what was found (%)")
    print(markdown_table(header, lines))
    same = fmean(shared(*pair) for pair in zip(*found.values(), strict=True))
    print(f"operations shared by the two searches of a seed: {100 * same:.0f} %")
    if given.seeds > 1:
        others = [shared(*pair) for each in found.values() for pair in combinations(each, 2)]
        print(f"by searches of the same precision and different seeds: {100 * fmean(others):.0f} %")


if __name__ == "__main__":
    run(main)
