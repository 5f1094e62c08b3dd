"""Pieces cover the text once, in order, whatever their lengths, and the hidden state goes from one to the next."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from isnas import UserError
from isnas.tasks.language import Pieces


def pieces(n: int = 200, streams: int = 3, length: int = 7, **how: object) -> Pieces:
    return Pieces(torch.arange(n), streams=streams, length=length, part="training", **how)


@given(
    n=st.integers(6, 400),
    streams=st.integers(1, 3),
    length=st.integers(1, 40),
    vary=st.sampled_from(["no", "half", "normal"]),
    epoch=st.integers(0, 3),
)
def test_an_epoch_is_the_text_once(
    n: int, streams: int, length: int, vary: str, epoch: int
) -> None:
    feed = pieces(n, streams, length, vary=vary, seed=5, stream="a")
    found = list(feed.epoch(epoch))
    assert len(found) == len(feed)
    rows = n // streams
    inputs = torch.cat([piece.inputs for piece in found])
    expected = torch.arange(rows * streams).view(streams, rows).T
    assert torch.equal(inputs, expected[:-1])
    assert all(torch.equal(piece.targets, piece.inputs + 1) for piece in found)
    # from the middle on it is the same
    again = list(feed.epoch(epoch, len(feed) // 2))
    assert torch.equal(
        torch.cat([piece.inputs for piece in again]),
        torch.cat([piece.inputs for piece in found[len(feed) // 2 :]]),
    )


def test_lengths_vary_as_said() -> None:
    feed = pieces(400_000, 1, 35, vary="normal", seed=1, stream="a")
    lengths = torch.tensor([float(len(piece.inputs)) for piece in feed.epoch(0)])
    relative = torch.tensor([piece.relative_length for piece in feed.epoch(0)])
    torch.testing.assert_close(relative * 35, lengths)
    stretched = 35 / (0.95 * 35 + 0.05 * 17.5)
    assert abs(float(lengths.median()) - 35 * stretched) < 0.5
    assert abs(float((lengths < 25).float().mean()) - 0.05) < 0.02
    assert abs(float(lengths[lengths > 25].std()) - 5) < 0.5
    assert lengths.max() <= 56 * stretched
    half = pieces(400_000, 1, 35, vary="half", seed=1, stream="a")
    lengths = {len(piece.inputs) for piece in half.epoch(0)}
    assert lengths <= {17, 18, 35, 36}
    other = [len(piece.inputs) for piece in half.epoch(1)]
    assert other != [len(piece.inputs) for piece in half.epoch(0)]


def test_the_hidden_state_is_carried_and_begins_at_zero() -> None:
    feed = pieces()
    seen = []
    for step, piece in enumerate(feed.epoch(0)):
        seen.append(piece.hidden)
        piece.carry(torch.full((3, 2), float(step)).requires_grad_())
        piece.carry(torch.full((3, 2), step + 0.5))  # of a second pass: the last one counts
    assert seen[0] is None
    assert [float(hidden[0, 0]) for hidden in seen[1:]] == [s + 0.5 for s in range(len(seen) - 1)]
    assert not any(hidden.requires_grad for hidden in seen[1:])
    assert next(iter(feed.epoch(1))).hidden is None


def test_the_hidden_state_survives_a_checkpoint() -> None:
    feed = pieces()
    running = feed.epoch(0)
    for _ in range(3):
        next(running).carry(torch.randn(3, 2))
    state = feed.state_dict()
    other = pieces()
    other.load_state_dict(state)
    one, two = next(running), next(other.epoch(0, 3))
    assert torch.equal(one.hidden, two.hidden)
    assert torch.equal(one.inputs, two.inputs)
    assert torch.equal(torch.rand(4, generator=one.random()), torch.rand(4, generator=two.random()))


def test_a_short_text_is_read_again() -> None:
    feed = pieces(60, 2, 10, steps=7)  # three pieces
    found = list(feed.epoch(0))
    assert len(feed) == len(found) == 7
    assert [int(piece.inputs[0, 0]) for piece in found] == [0, 10, 20, 0, 10, 20, 0]
    for piece in feed.epoch(0):
        piece.carry(torch.ones(2, 1))
        if piece.inputs[0, 0] == 0:
            assert piece.hidden is None
        else:
            assert piece.hidden is not None


def test_too_short_a_text_is_one_line() -> None:
    with pytest.raises(UserError, match="training text has 5 words, too few for 3 streams"):
        pieces(5)
