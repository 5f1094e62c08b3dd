"""Streams of text, and the pieces of them that a network reads one after the other.

A text is cut into B streams of equal length, side by side; a piece is T time steps of all of them. Gradients stay
within a piece (truncated backpropagation through time); the hidden state goes on to the next one.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...runtime.errors import UserError
from ...runtime.processes import all_reduce_sum, part_of, processes, rank
from ...runtime.randomness import generator

LEAST_LENGTH = 5
"""Least length of a varied piece (Merity, Keskar and Socher, ICLR 2018), whose other constants follow."""
SPREAD = 5.0
"""Standard deviation of a varied piece's length."""
FULL_SHARE = 0.95
"""Share of the pieces of full length; the others are half as long."""
MOST_MORE = 20
"""A varied piece is longer than a full one by so much at most."""


@dataclass(frozen=True, eq=False)
class Piece:
    """A piece of text.

    Parameters
    ----------
    inputs, targets : Tensor of int64, shape (T, B)
        Words, and the word after each of them.
    hidden : Tensor, shape (B, H), or None
        The hidden state to begin with; None: zeros. However often the piece is read, it begins with this one.
    feed : Pieces
    names : tuple
        Names that the random numbers for this piece depend on, beside the seed.
    """

    inputs: Tensor
    targets: Tensor
    hidden: Tensor | None
    feed: Pieces
    names: tuple[str | int, ...]

    @property
    def relative_length(self) -> float:
        """T, in full lengths."""
        return len(self.inputs) / self.feed.length

    def carry(self, hidden: Tensor) -> None:
        """Let the next piece begin with this hidden state."""
        self.feed.hidden = hidden.detach()

    def random(self) -> torch.Generator:
        """Return a new generator for this piece on its device: the same whenever it is read."""
        return generator(self.feed.seed, *self.names, device=self.inputs.device)


class Pieces:
    """The pieces of a text as a function of (seed, stream, epoch, step), and the hidden state that goes through them.

    An epoch is the whole text once, from hidden states of zero. Where several processes work together each has its part
    of the streams.

    Parameters
    ----------
    ids : Tensor of int64, shape (n,)
        The text.
    streams : int
        B, of all processes together.
    length : int
        T of a full piece.
    part : str
        The role of the text, for messages: "training", "validation" or "test".
    seed : int
    stream : str
        Name of this stream of random numbers.
    device : torch.device
    vary : {"no", "half", "normal"}
        How the lengths of pieces vary: not at all; one in twenty is half as long; or, besides, all lengths are drawn
        from a normal distribution. They are stretched a little, so that an epoch always has as many pieces.
    steps : int, optional
        Pieces of an epoch, where it is to have others than the text has: it is read again and again, from hidden states
        of zero each time, or in part.
    unit : str
        "word" or "character".

    Attributes
    ----------
    hidden : Tensor or None
        The hidden state that the next piece begins with.

    Raises
    ------
    UserError
        When the text is too short for so many streams.
    """

    def __init__(
        self,
        ids: Tensor,
        *,
        streams: int,
        length: int,
        part: str,
        seed: int = 0,
        stream: str = "",
        device: torch.device | str = "cpu",
        vary: str = "no",
        steps: int | None = None,
        unit: str = "word",
    ) -> None:
        rows = len(ids) // streams
        if rows < 2:
            raise UserError(
                f"the {part} text has {len(ids)} {unit}s, too few for {streams} streams (batch_size): each needs "
                f"2 at least"
            )
        self.batch_size = streams
        self.length = length
        self.seed = seed
        self.stream = stream
        self.vary = vary
        self.unit = unit
        self.device = torch.device(device)
        self._part = part_of(streams, rank(), processes())
        columns = ids[: rows * streams].view(streams, rows)[self._part]
        self._rows = columns.T.contiguous()  # (time, own streams)
        self._pieces = -(-(rows - 1) // length)
        self._steps = self._pieces if steps is None else steps
        self.hidden: Tensor | None = None

    def __len__(self) -> int:
        """Return the number of pieces of an epoch."""
        return self._steps

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Piece]:
        """Return the pieces of an epoch, from step `start` on; these go on with the present hidden state."""
        for step in range(start, self._steps):
            turn, i = divmod(step, self._pieces)
            if i == 0 or step == start:
                bounds = self._bounds(epoch, turn)
            if i == 0:
                self.hidden = None
            first, last = bounds[i], bounds[i + 1]
            inputs, targets = self._rows[first:last], self._rows[first + 1 : last + 1]
            yield Piece(
                inputs.to(self.device),
                targets.to(self.device),
                self.hidden,
                self,
                (self.stream, "piece", epoch, step),
            )

    def _bounds(self, epoch: int, turn: int) -> list[int]:
        """Return where the pieces of a turn through the text begin, and its end."""
        whole, number = len(self._rows) - 1, self._pieces
        lengths = torch.full((number,), float(self.length), dtype=torch.float64)
        if self.vary == "no":
            return [*range(0, whole, self.length), whole]
        random = generator(self.seed, self.stream, "lengths", epoch, turn)
        drawn = torch.rand(number, generator=random, dtype=torch.float64)
        lengths[drawn >= FULL_SHARE] /= 2
        if self.vary == "normal":
            lengths += SPREAD * torch.randn(number, generator=random, dtype=torch.float64)
            least = min(LEAST_LENGTH, self.length)
            lengths = lengths.clamp(least, self.length + MOST_MORE)
        ends = (lengths.cumsum(0) * (whole / lengths.sum())).round().long().tolist()
        # where the text is short, rounding must leave no piece empty
        ends = list(itertools.accumulate(ends, lambda before, end: max(before + 1, end), initial=0))
        return [min(end, whole - (number - i)) for i, end in enumerate(ends)]

    def state_dict(self) -> dict[str, Any]:
        """Return the hidden state of all processes' streams."""
        if self.hidden is None:
            return {"hidden": None}
        everyone = self.hidden.new_zeros(self.batch_size, self.hidden.shape[1])
        everyone[self._part] = self.hidden
        return {"hidden": all_reduce_sum(everyone)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        hidden = state["hidden"]
        self.hidden = None if hidden is None else hidden[self._part].to(self.device)
