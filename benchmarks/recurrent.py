"""Cost of a search step beside the same step of the language model that it would find.

    python -m benchmarks.recurrent | tee benchmarks/results/recurrent.txt     # some minutes of one core

As in ``step.py``: whole steps, each compared with that of the discrete network that has the same operations, norms and
trainable parameters, trained by itself; ratios are medians of ratios within a round. The network that is trained in the
end, DARTS's, has no norms and stands beside it. All pieces of text are of full length.
"""

from __future__ import annotations

import argparse

import torch

from experiments._command import positive
from isnas import Genotype, get_space
from isnas.networks.core import CellNetwork, train_affine
from isnas.networks.folding import extract
from isnas.runs.evaluation import evaluation_schema, from_scratch
from isnas.runs.training import Training
from isnas.runtime.devices import cpu_threads, resolve_device
from isnas.searches.base import Setting
from isnas.searches.registry import METHODS, search_options
from isnas.tasks.language import Text
from isnas.tasks.language.sources import UNKNOWN
from isnas.tasks.registry import task_of

from ._measure import origin, run
from .step import Measured, report, weights_loss

SPACE = get_space("recurrent")
TASK = task_of(SPACE)

RIVALS = {"DARTS, first order": "darts-1", "DARTS, second order": "darts-2"}


def random_text(words: int, vocabulary: int) -> Text:
    """Return a text without sense."""
    names = (UNKNOWN, *(f"w{i}" for i in range(1, vocabulary)))
    random = torch.Generator().manual_seed(0)
    drawn = torch.randint(1, vocabulary, (words,), generator=random).tolist()
    tokens = tuple(names[i] for i in drawn)
    parts = dict.fromkeys(("train", "valid", "test"), tokens)
    return Text("random", "word", parts, (), {}).with_vocabulary(names)


def steps_of(shape: dict[str, object], text: Text, device: torch.device) -> dict[str, Measured]:
    """Return the steps by name."""
    found: dict[str, Measured] = {}

    def add_alone(name: str, network: CellNetwork, base: str) -> None:
        recipe = evaluation_schema(SPACE).compose(**shape)
        training = Training(network, recipe, TASK, text, device)
        batch = next(training.batches(0, 0))
        found[name] = Measured(
            lambda: training.train_step(batch),
            lambda: training.weights.loss(batch)[0],
            training.network,
            base,
        )

    def stage_of(method: str) -> object:
        options = search_options(method, SPACE, **shape)
        return METHODS[method].create(Setting(SPACE, TASK, text, device, options))

    search = stage_of("ista-two-stage")
    train, valid = next(search.batches(0, 0))
    base = "found network, norms as in the search"
    network = extract(search.network, search.code.places)
    train_affine(network.cells, False)
    add_alone(base, network, base)

    def weights() -> None:
        with torch.no_grad():
            coefficients = search.code.coefficients()
        search.train_weights(train, coefficients)

    def code_loss() -> torch.Tensor:
        with search.weights.fixed():
            return search.weights.loss(valid, search.code.coefficients())[0]

    found["two-stage search, weights"] = Measured(
        weights, lambda: weights_loss(search, train), search.network, base
    )
    found["two-stage search, architecture"] = Measured(
        lambda: search.train_code(valid), code_loss, search.network, base
    )
    one = stage_of("ista-one-stage")
    batch = next(one.batches(0, 0))
    found["one-stage, searching"] = Measured(
        lambda: one.train_step(batch),
        lambda: one.weights.loss(batch, one.code.coefficients())[0],
        one.network,
        base,
    )
    recipe = evaluation_schema(SPACE).compose(**shape)
    genotype: Genotype = search.genotype()
    add_alone("found network, without norms", from_scratch(genotype, recipe, TASK, text), base)
    for name, method in RIVALS.items():
        rival = stage_of(method)
        pair = next(rival.batches(0, 0))
        found[name] = Measured(
            lambda rival=rival, pair=pair: rival.train_step(pair),
            lambda rival=rival, pair=pair: weights_loss(rival, pair[0]),
            rival.network,
            base,
            batches=2,
        )
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--width", type=positive, default=300)
    parser.add_argument("--batch-size", type=positive, default=64)
    parser.add_argument("--bptt", type=positive, default=35)
    parser.add_argument("--vocabulary", type=positive, default=10_000)
    parser.add_argument("--rounds", type=positive, default=5)
    parser.add_argument("--threads", type=positive, default=1)
    parser.add_argument("--device", default="auto")
    given = parser.parse_args()
    device = resolve_device(given.device)
    names = ("width", "batch_size", "bptt")
    shape = {name: getattr(given, name) for name in names} | {"vary_length": "no"}
    text = random_text(given.batch_size * (given.bptt + 1), given.vocabulary)
    text = TASK.to(text, device)
    print(origin("recurrent"))
    with cpu_threads(given.threads):
        report(steps_of(shape, text, device), given.rounds, device, text.ids["train"])


if __name__ == "__main__":
    run(main)
