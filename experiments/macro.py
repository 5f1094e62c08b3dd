"""Is a search of ENAS's macro space worth more than chance? Sparse coding, ENAS, evolution and random search compared.

It is `isnas.compare` in the space macro, on some of the images, shrunk: all searches have the same images, budget and
sizes, and what they find is trained and tested by the same recipe, as are random networks.

about.json, rows.jsonl, table.md    see `isnas.comparison.compare`

python -m experiments.macro --scale tiny|small [--data NAME|FOLDER] [--seeds N] [--jobs N] [--out DIR]
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from isnas import spaces
from isnas.comparison.compare import compare, comparison_schema
from isnas.runtime.options import Composition
from isnas.spaces.base import Space

from ._command import Launch, Parser, run_command, run_module
from ._images import Subset, prepare_images

METHODS = ("ista-two-stage", "enas", "evolution", "random")
"""The methods that are compared."""

CONSTANTS = (
    # by the score: through coefficients, the sign alone of an operation's would count before a batch norm
    "ista-two-stage.matrix=balanced",
    "ista-two-stage.rule=non_negative",
    "ista-two-stage.init_scale=0.0",
    "ista-two-stage.gradient=score",
    "ista-two-stage.perturbation=1.0",
    "ista-two-stage.warm_up_share=0.4",
    "ista-two-stage.code_weight_decay=0.0",
    "ista-two-stage.code_learning_rate=0.03",
    # of ENAS's macro search
    "enas.tanh_constant=1.5",
    "enas.op_tanh_reduce=1.0",
    # few architectures fit into a budget
    "evolution.population=5",
    "evolution.sample=2",
)
"""Options that differ from those of the quick searches of cells."""


@dataclass(frozen=True)
class Scale:
    """The size of the experiment.

    Parameters
    ----------
    images : Subset
    seeds : int
        The default of ``--seeds``.
    space : Space
    options : Composition
        Options of the comparison.
    """

    images: Subset
    seeds: int
    space: Space
    options: Composition


def _scale(images: Subset, seeds: int, layers: int, **options: object) -> Scale:
    space = spaces.get("macro", layers=layers)
    fixed = {"methods": METHODS, "set": CONSTANTS, "seeds": seeds}
    return Scale(images, seeds, space, comparison_schema(space).compose(**fixed, **options))


SCALES = {
    # minutes on digits: that it runs
    "tiny": _scale(
        Subset("digits", 200, 60),
        1,
        3,
        channels=2,
        budget="4epochs",
        child_epochs=1,
        batch_size=32,
        evaluation_epochs=1,
        sampled=2,
    ),
    "small": _scale(
        Subset("cifar10", 4000, 2000, 16),
        3,
        6,
        channels=8,
        budget="10epochs",
        child_epochs=2,
        batch_size=32,
        evaluation_epochs=15,
        sampled=4,
    ),
}
"""The sizes by name."""


def run(launch: Launch) -> None:
    """Run the trials that are not in `launch.out` yet."""
    size = SCALES[launch.scale]
    data = launch.data or size.images.data
    images = prepare_images(launch.out, size.images, data, launch.data_root)
    compare(
        size.space,
        out=launch.out,
        jobs=launch.jobs,
        progress=launch.progress,
        words=launch.arguments,
        module=__name__,
        options=size.options.replace(
            data=images, seeds=launch.seeds or size.seeds, device=launch.device
        ),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return 0, 2 after a user's mistake, 130 when interrupted."""
    return run_command(Parser(__name__, "Methods in ENAS's macro space.", SCALES), run, arguments)


if __name__ == "__main__":
    run_module(__spec__.name)
