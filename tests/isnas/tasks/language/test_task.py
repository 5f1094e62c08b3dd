"""The task of language: perplexity is right, comes close to a language's entropy, and tests touch what they may."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from isnas import UserError, build_network, get_space
from isnas.runs.evaluation import evaluation_schema, from_scratch
from isnas.runs.loop import drive
from isnas.runs.training import Training
from isnas.spaces.recurrent import GENOTYPES
from isnas.tasks.language import Text
from isnas.tasks.language_task import LanguageOptimizerOptions, LanguageTask
from isnas.tasks.registry import TASKS, task_of

TASK = LanguageTask()
CPU = torch.device("cpu")
STATES = 6


def transitions() -> torch.Tensor:
    random = torch.Generator().manual_seed(3)
    return (2.5 * torch.randn(STATES, STATES, generator=random, dtype=torch.float64)).softmax(1)


def entropy_rate(matrix: torch.Tensor) -> float:
    """Return the entropy of the next state given the present one, in nats, in the long run."""
    stationary = torch.linalg.matrix_power(matrix, 1000)[0]
    return float(-(stationary[:, None] * matrix * matrix.log()).sum())


def markov_text(train: int = 30_000, test: int = 20_000) -> Text:
    """Return a text whose next word depends on the present one alone."""
    matrix = transitions()
    random = torch.Generator().manual_seed(4)
    tokens = {}
    cumulated = matrix.cumsum(1)
    for split, n in (("train", train), ("valid", test), ("test", test)):
        state, found = 0, []
        for u in torch.rand(n, generator=random, dtype=torch.float64).tolist():
            state = min(int((cumulated[state] < u).sum()), STATES - 1)
            found.append(f"w{state}")
        tokens[split] = tuple(found)
    vocabulary = ("<unk>", *(f"w{i}" for i in range(STATES)))
    return Text("markov", "word", tokens, (), {}).with_vocabulary(vocabulary)


@pytest.mark.slow
def test_a_markov_languages_entropy_is_approached_and_not_undercut() -> None:
    data = markov_text()
    genotype = GENOTYPES["DARTS_V1"]
    recipe = evaluation_schema(genotype.space).compose(
        width=12,
        epochs=4,
        batch_size=16,
        bptt=20,
        learning_rate=10.0,
        dropout=0.0,
        dropout_embedding=0.0,
        dropout_input=0.0,
        dropout_hidden=0.0,
    )
    training = Training(from_scratch(genotype, recipe, TASK, data), recipe, TASK, data, CPU)
    for _ in drive(training):
        pass
    feed = TASK.test_feed(data, recipe.optimizer, CPU)
    found = TASK.test(training.network, feed)["test_loss"]
    # what the very language says of this text; a model can come below its mean only by chance
    matrix = transitions()
    states = torch.tensor([int(token[1:]) for token in data.tokens["test"]])
    ideal = float(-matrix[states[:-1], states[1:]].log().mean())
    assert abs(ideal - entropy_rate(matrix)) < 0.02
    assert ideal - 0.005 < found < ideal + 0.06
    assert found < 0.7 * math.log(STATES)


def small_network(vocabulary: int = STATES + 1) -> torch.nn.Module:
    torch.manual_seed(0)
    return build_network(GENOTYPES["DARTS_V2"], width=5, vocabulary=vocabulary)


def test_perplexity_is_that_of_all_words_of_a_stream() -> None:
    data = markov_text(400, 203)
    network = small_network().eval()
    optimizer = LanguageOptimizerOptions(test_streams=2, bptt=7)
    found = TASK.test(network, TASK.test_feed(data, optimizer, CPU))
    streams = data.ids["test"][:202].view(2, 101).T
    logits = network(streams[:-1]).logits.flatten(0, 1)
    expected = float(F.cross_entropy(logits, streams[1:].flatten()).detach())
    assert found["test_loss"] == pytest.approx(expected, rel=1e-6)
    assert found["test_perplexity"] == pytest.approx(math.exp(expected), rel=1e-6)
    assert found["test_bits_per_word"] == pytest.approx(expected / math.log(2), rel=1e-6)
    assert "bits" not in TASK.describe_test(found)
    assert TASK.describe_test({"test_perplexity": 4.0, "test_bits_per_character": 2.0}) == (
        "4.00 (2.000 bits per character)"
    )


def test_a_shared_score_begins_from_nothing_and_leaves_the_feed_alone() -> None:
    data = markov_text(400, 203)
    network = small_network()
    optimizer = LanguageOptimizerOptions(test_streams=2, bptt=7)
    feed = TASK.scoring_feed(data, optimizer, seed=0, device=CPU)
    assert network.training
    one = TASK.shared_score(network, None, feed.epoch(0))
    assert network.training
    assert feed.hidden is None
    assert one == TASK.shared_score(network, None, feed.epoch(0))
    few = TASK.scoring_feed(data, optimizer, seed=0, device=CPU, amount=30)
    assert len(few) == 2
    assert TASK.reward(one) == pytest.approx(80 / one)
    assert not TASK.measure.higher_is_better


def test_the_loss_reads_a_piece_from_its_hidden_state_however_often() -> None:
    data = markov_text(400, 203)
    network = small_network().train()
    optimizer = LanguageOptimizerOptions(
        batch_size=3, bptt=7, activation_penalty=2.0, slowness_penalty=3.0
    )
    feed = TASK.training_feed(data, optimizer, seed=0, stream="a", device=CPU)
    pieces = feed.epoch(0)
    TASK.loss(network, next(pieces), optimizer=optimizer)
    piece = next(pieces)
    assert piece.hidden is not None
    one, metrics = TASK.loss(network, piece, optimizer=optimizer)
    two, _ = TASK.loss(network, piece, optimizer=optimizer)
    assert torch.equal(one, two)
    # the penalties, written out
    found = network(piece.inputs, hidden=piece.hidden, random=piece.random())
    slow = (found.outputs[1:] - found.outputs[:-1]).square().mean()
    expected = metrics["loss"] + 2 * found.dropped.square().mean() + 3 * slow
    torch.testing.assert_close(one, expected)
    assert TASK.rate_factor(piece, optimizer) == len(piece.inputs) / 7
    assert next(pieces).hidden is feed.hidden


def test_the_search_has_a_piece_to_choose_by_in_every_step() -> None:
    data = markov_text(400, 100)
    optimizer = LanguageOptimizerOptions(batch_size=3, bptt=7)
    common = {"seed": 0, "stream": "a", "device": CPU}
    train = TASK.training_feed(data, optimizer, **common)
    code = TASK.code_feed(data, optimizer, **common)
    assert len(code) == len(train) == len(list(code.epoch(0)))


def test_nothing_of_the_test_is_left_for_a_search() -> None:
    data = TASK.without_test(markov_text(400, 100))
    assert data.tokens["test"] == () and len(data.ids["test"]) == 0


def test_a_network_for_other_words_does_not_fit() -> None:
    data = markov_text(400, 100)
    TASK.check_fits(small_network(), data)
    with pytest.raises(UserError, match="knows 9 different words; markov has 7"):
        TASK.check_fits(small_network(9), data)
    with pytest.raises(UserError, match="knows characters; the text is read by words"):
        TASK.prepared_as(data, {"level": "character"}, Path("network.pt"))


def test_the_space_brings_the_task() -> None:
    assert task_of(get_space("recurrent")) is TASKS["language"]
