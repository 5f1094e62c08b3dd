"""The task of saying what comes next in a text: language modelling by cross-entropy, measured by perplexity."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..networks.core import CellNetwork, Coefficients
from ..runtime.errors import UserError
from ..runtime.options import BaseOptions
from ..runtime.processes import all_reduce_sum
from ..runtime.randomness import generator
from .base import Measure, OptimizerOptions, Run, Task
from .language import AveragedSGD, BestByValidation, Piece, Pieces, Text, load_text
from .language.sources import EMBEDDED, END, UNKNOWN, python_version, words_of

REWARD = 80.0
"""A controller's reward is 80 / perplexity (ENAS, Pham et al., ICML 2018)."""


@dataclass(frozen=True)
class LanguageOptions(BaseOptions):
    """Options that name a text and its words.

    Parameters
    ----------
    data : str
        Text: text (the language reference of Python's own library), a folder with ptb.train.txt, ptb.valid.txt,
        ptb.test.txt (or wiki.train.tokens ..., or train.txt ...), or a UTF-8 file.
    level : {"word", "character"}
        The unit that is predicted: a word or a character.
    vocabulary : int or None
        Keep so many of the most frequent words at most; by default all that the training text has often enough.
    least_count : int
        Words of an unprepared text that its training part has less often are unknown.
    """

    least: ClassVar[dict[str, float]] = {"vocabulary": 2, "least_count": 1}
    download: ClassVar[bool] = False
    """Nothing is downloaded."""

    data: str = EMBEDDED
    level: Literal["word", "character"] = "word"
    vocabulary: int | None = None
    least_count: int = 3


@dataclass(frozen=True)
class LanguageOptimizerOptions(OptimizerOptions):
    """Options of training weights: plain stochastic gradient descent through pieces of text, with clipping.

    Parameters
    ----------
    batch_size : int
        Streams that the text is cut into, of all processes together.
    test_streams : int
        Streams that a text is cut into when a network is judged by it: the fewer, the longer it takes.
    bptt : int
        Time steps of a full piece, through which gradients go back.
    vary_length : {"no", "half", "normal"}
        How the lengths of pieces vary: not at all; one in twenty is half as long; or besides by a normal distribution.
    scale_by_length : bool
        Whether the learning rate of a step is proportional to the length of its piece.
    nonmonotone : int
        When a trained network's validation loss is above the least of all but the last so many epochs before, the mean
        of its weights from then on is what counts (averaged SGD); 0: never.
    activation_penalty : float
        Weight of the mean square of the outputs, after dropout, in the training loss.
    slowness_penalty : float
        Weight of the mean square of the outputs' change from step to step.
    """

    least: ClassVar[dict[str, float]] = {
        "test_streams": 1,
        "bptt": 1,
        "nonmonotone": 0,
        "activation_penalty": 0,
        "slowness_penalty": 0,
    }

    epochs: int = 5
    batch_size: int = 32
    learning_rate: float = 20.0
    momentum: float = 0.0
    weight_decay: float = 5e-7
    clip: float = 0.25
    test_streams: int = 10
    bptt: int = 35
    vary_length: Literal["no", "half", "normal"] = "half"
    scale_by_length: bool = True
    nonmonotone: int = 0
    activation_penalty: float = 0.0
    slowness_penalty: float = 1e-3


@dataclass(frozen=True)
class LanguageRegularizationOptions(BaseOptions):
    """No options: dropout, which keeps a language model from learning its text by heart, is its network's."""


class LanguageTask(Task):
    """Language modelling."""

    name = "language"
    unit = "tokens"
    measure = Measure("perplexity", higher_is_better=False)
    # pieces of all lengths, each unrolled, and generators: each would be compiled anew
    compilable = False
    data_options = LanguageOptions
    optimizer_options = LanguageOptimizerOptions
    regularization_options = LanguageRegularizationOptions

    def load(
        self, options: LanguageOptions, *, test_only: bool = False, download: bool | None = None
    ) -> Text:
        return load_text(
            options.data,
            level=options.level,
            vocabulary=options.vocabulary,
            least_count=options.least_count,
        )

    def describe(self, data: Text, options: LanguageOptions) -> dict[str, Any]:
        return {
            "task": self.name,
            "source": options.data,
            "level": data.level,
            **{split: len(tokens) for split, tokens in data.tokens.items()},
            "vocabulary": list(data.vocabulary),
            "fingerprint": data.fingerprint(),
            **({"python": python_version()} if options.data == EMBEDDED else {}),
        }

    def to(self, data: Text, device: torch.device) -> Text:
        return replace(data, ids={split: ids.to(device) for split, ids in data.ids.items()})

    def test_amount(self, data: Text) -> int:
        return len(data.ids["test"])

    def options_of_saved(self, saved: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
        names = {"data": "source", "level": "level"}
        return {
            option: saved[name]
            for option, name in names.items()
            if option not in given and name in saved
        }

    def prepared_as(self, data: Text, saved: dict[str, Any], path: Any) -> Text:
        if not saved:
            return data
        if data.level != saved["level"]:
            raise UserError(
                f"the network in {path} knows {saved['level']}s; the text is read by {data.level}s"
            )
        return data.with_vocabulary(saved["vocabulary"])

    def in_words(self, data: Text) -> str:
        amounts = ", ".join(
            f"{len(data.ids[split]):,} to {what}"
            for split, what in (("train", "train on"), ("valid", "choose by"), ("test", "test on"))
        )
        return f"{data.name}: {amounts}; {len(data.vocabulary):,} different {data.level}s"

    def shape(self, data: Text) -> dict[str, Any]:
        return {"vocabulary": len(data.vocabulary)}

    def network_needs(self, regularization: LanguageRegularizationOptions) -> dict[str, Any]:
        return {}

    def example(self, data: Text) -> tuple[int, ...]:
        return (1,)

    def amount(self, data: Text) -> int:
        return len(data.ids["train"])

    def tiny(self, data: Text) -> bool:
        """Return False: what a step takes depends on the network's width, which is not the text's."""
        return False

    def without_test(self, data: Text) -> Text:
        return replace(
            data,
            tokens={**data.tokens, "test": ()},
            ids={**data.ids, "test": data.ids["test"][:0]},
        )

    def check_fits(self, network: CellNetwork, data: Text) -> None:
        wanted, given = network.options.vocabulary, len(data.vocabulary)
        if wanted != given:
            raise UserError(
                f"the network knows {wanted:,} different {data.level}s; {data.name} has {given:,}"
            )

    def _pieces(
        self, data: Text, split: str, options: LanguageOptimizerOptions, **how: Any
    ) -> Pieces:
        part = {"train": "training", "valid": "validation"}.get(split, split)
        return Pieces(
            data.ids[split],
            **{
                "streams": options.batch_size,
                "length": options.bptt,
                "part": part,
                "unit": data.level,
                **how,
            },
        )

    def training_feed(
        self,
        data: Text,
        optimizer: LanguageOptimizerOptions,
        *,
        seed: int,
        stream: str,
        device: torch.device,
        part: Literal["all", "weights"] = "all",
        regularization: Any = None,
    ) -> Pieces:
        # the validation text is never trained on: the parts are the same
        return self._pieces(
            data,
            "train",
            optimizer,
            seed=seed,
            stream=stream,
            device=device,
            vary=optimizer.vary_length,
        )

    def code_feed(
        self,
        data: Text,
        optimizer: LanguageOptimizerOptions,
        *,
        seed: int,
        stream: str,
        device: torch.device,
        vary: bool = True,
    ) -> Pieces:
        # a piece for each of the training text, which is longer
        steps = len(self._pieces(data, "train", optimizer))
        return self._pieces(
            data,
            "valid",
            optimizer,
            seed=seed,
            stream=stream,
            device=device,
            vary=optimizer.vary_length if vary else "no",
            steps=steps,
        )

    def scoring_feed(
        self,
        data: Text,
        optimizer: LanguageOptimizerOptions,
        *,
        seed: int,
        device: torch.device,
        amount: int | None = None,
        name: str = "scoring",
        whole: bool = False,
    ) -> Pieces:
        streams = self._test_streams(data, "valid", optimizer)
        feed = self._pieces(data, "valid", optimizer, streams=streams, device=device)
        if amount is None or whole:
            return feed
        steps = min(len(feed), max(1, amount // (streams * optimizer.bptt)))
        return self._pieces(data, "valid", optimizer, streams=streams, device=device, steps=steps)

    def test_feed(
        self, data: Text, optimizer: LanguageOptimizerOptions, device: torch.device
    ) -> Pieces:
        streams = self._test_streams(data, "test", optimizer)
        return self._pieces(data, "test", optimizer, streams=streams, device=device)

    @staticmethod
    def _test_streams(data: Text, split: str, optimizer: LanguageOptimizerOptions) -> int:
        """Return the streams to judge by: of a short text fewer than asked for."""
        return max(1, min(optimizer.test_streams, len(data.ids[split]) // (optimizer.bptt + 1)))

    def regularize(
        self,
        network: CellNetwork,
        batch: Piece,
        options: Any,
        done: float | None,
        coefficients: Mapping[str, Coefficients] | None,
        random: torch.Generator,
    ) -> dict[str, Any]:
        return {}

    def optimizer(
        self, parameters: list[nn.Parameter], options: LanguageOptimizerOptions
    ) -> AveragedSGD:
        return AveragedSGD(
            parameters,
            lr=options.learning_rate,
            momentum=options.momentum,
            weight_decay=options.weight_decay,
        )

    def rate_factor(self, batch: Piece, options: LanguageOptimizerOptions) -> float:
        """Return the length of the piece in full lengths, where rates are proportional to it."""
        return batch.relative_length if options.scale_by_length else 1.0

    def watch(
        self, data: Text, options: LanguageOptimizerOptions, device: torch.device
    ) -> BestByValidation:
        """Return what judges a network by the validation text after every epoch, and keeps the best weights."""
        feed = self.scoring_feed(data, options, seed=0, device=device, whole=True)

        def loss(network: nn.Module) -> float:
            return self._mean_loss(network, feed.epoch(0))

        return BestByValidation(loss, options.nonmonotone)

    def loss(
        self,
        run: Run,
        batch: Piece,
        coefficients: Mapping[str, Coefficients] | None = None,
        *,
        optimizer: LanguageOptimizerOptions,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        found = run(batch.inputs, coefficients, hidden=batch.hidden, random=batch.random())
        batch.carry(found.hidden)
        logits = found.logits.flatten(0, 1)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        targets = batch.targets.flatten()
        entropy = F.cross_entropy(logits, targets)
        loss = entropy
        if optimizer.label_smoothing:
            loss = F.cross_entropy(logits, targets, label_smoothing=optimizer.label_smoothing)
        if optimizer.activation_penalty:
            loss = loss + optimizer.activation_penalty * found.dropped.square().mean()
        if optimizer.slowness_penalty and len(found.outputs) > 1:
            loss = loss + optimizer.slowness_penalty * found.outputs.diff(dim=0).square().mean()
        return loss, {"loss": entropy.detach()}

    def epoch_metrics(self, means: dict[str, float]) -> dict[str, float]:
        """Return an epoch's means, with the perplexities that belong to the losses."""
        found = dict(means)
        for part in ("train", "valid"):
            if f"{part}_loss" in means:
                found[f"{part}_perplexity"] = perplexity(means[f"{part}_loss"])
        return found

    def outputs(
        self,
        network: CellNetwork,
        batch: Piece,
        coefficients: Mapping[str, Coefficients] | None = None,
    ) -> Tensor:
        return network(batch.inputs, coefficients, hidden=batch.hidden).logits

    def test(self, network: nn.Module, feed: Pieces) -> dict[str, float]:
        loss = self._mean_loss(network, feed.epoch(0))
        return {
            "test_perplexity": perplexity(loss),
            "test_loss": loss,
            f"test_bits_per_{feed.unit}": loss / math.log(2),
        }

    def describe_test(self, found: Mapping[str, Any]) -> str:
        text = super().describe_test(found)
        if "test_bits_per_character" in found:
            text += f" ({found['test_bits_per_character']:.3f} bits per character)"
        return text

    def shared_score(
        self,
        network: CellNetwork,
        coefficients: Mapping[str, Coefficients],
        batches: Iterable[Piece],
    ) -> float:
        """Return the perplexity of one architecture with a super-net's weights on pieces that follow each other.

        The first one begins with a hidden state of zero. There is no dropout.

        Raises
        ------
        ValueError
            When there is no piece.
        """
        return perplexity(self._mean_loss(network, batches, coefficients))

    def reward(self, value: float) -> float:
        return REWARD / value

    @torch.no_grad()
    def sample(
        self,
        network: CellNetwork,
        saved: dict[str, Any],
        *,
        length: int,
        start: str = "",
        temperature: float = 1.0,
        seed: int = 0,
    ) -> str:
        vocabulary = saved.get("vocabulary", ())
        if len(vocabulary) != network.options.vocabulary:
            raise UserError("the words of the network are not saved beside it")
        number = {token: i for i, token in enumerate(vocabulary)}
        by_words = saved["level"] == "word"
        given = list(words_of(start) if by_words else start)
        for token in given:
            if token not in number:
                raise UserError(f"start: the network does not know the {saved['level']} {token!r}")
        # a text without a beginning begins a line
        before = given or [END if by_words else "\n"]
        x = torch.tensor([[number.get(token, 0)] for token in before])
        random = generator(seed, "sample")
        hidden = None
        written = given
        network.eval()
        for _ in range(length):
            logits, hidden = network(x, hidden=hidden)[:2]
            scores = logits[-1, 0].double()
            scores[number[UNKNOWN]] = -math.inf
            if temperature == 0:
                drawn = int(scores.argmax())
            else:
                weights = (scores / temperature).softmax(0)
                drawn = int(torch.multinomial(weights, 1, generator=random))
            written.append(vocabulary[drawn])
            x = torch.tensor([[drawn]])
        if not by_words:
            return "".join(written)
        lines = " ".join("\n" if token == END else token for token in written).split("\n")
        return "\n".join(line.strip() for line in lines)

    @torch.no_grad()
    def _mean_loss(
        self,
        network: nn.Module,
        pieces: Iterable[Piece],
        coefficients: Mapping[str, Coefficients] | None = None,
    ) -> float:
        """Return the mean cross-entropy over all words of pieces that follow each other, in nats."""
        was_training = network.training
        network.eval()
        hidden = None
        total = torch.zeros((), dtype=torch.float64)
        words = 0
        for piece in pieces:
            if piece.inputs.shape[1] == 0:  # fewer streams than processes
                continue
            logits, hidden = network(piece.inputs, coefficients, hidden=hidden)[:2]
            targets = piece.targets.flatten()
            total = total.to(logits.device)
            total += F.cross_entropy(logits.flatten(0, 1), targets, reduction="sum")
            words += len(targets)
        network.train(was_training)
        total, number = all_reduce_sum(torch.stack([total, total.new_tensor(words)])).tolist()
        if number == 0:
            raise ValueError("perplexity needs at least one piece of text, got none")
        return total / number


def perplexity(loss: float) -> float:
    """Return exp(loss), infinity where that is too large or no number."""
    return math.exp(loss) if loss < 700 else math.inf
