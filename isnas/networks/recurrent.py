"""The language model around a recurrent cell, searched or found (DARTS, ICLR 2019, section 3.1.2 and appendix A).

Words are embedded, the cell goes through them in time, and a linear layer with the embedding's weights scores the next
word. One time step, with x and h of width H, and masks m (see below):

    [c; u] = [x m_x; h m_h] W_0,          s_0 = h + sigmoid(c) (tanh(u) - h)
    [c; u] = (s_p m_h) W_i,               s_i = s_p + sigmoid(c) (f(u) - s_p)     for the node i that reads state p by f

and the new h is the mean of some states. A super-net's node adds up a N(s_i) over its active places, with the
coefficient a of each. W_i belongs to the node: all its places share it (DARTS), or each place has its own (ENAS).

N is a layer norm of each candidate's output, a row of H numbers. DARTS has a batch norm behind the whole node instead.
Where a node has one active place, such a norm leaves of the coefficient nothing but its sign, and no gradient. N does
not see the coefficient. Unlike batch norm it has no statistics to gather, so training and test agree, and it absorbs a
coefficient exactly: ``gamma <- a gamma, beta <- a beta``.

Masks of dropout are the same for all time steps of a piece and m_h for all nodes (Gal and Ghahramani, NeurIPS 2016).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..runtime.options import BaseOptions
from ..runtime.processes import part_of, processes, rank
from ..spaces.base import Place, Space
from .core import Affine, CellNetwork, Closed, Coefficients, Incoming, Norm, Term, only_kind

INIT_RANGE = 0.04
"""Initial weights are uniform in [-0.04, 0.04] (DARTS)."""

ACTIVATIONS = {
    "tanh": torch.tanh,
    "relu": torch.relu,
    "sigmoid": torch.sigmoid,
    "identity": lambda x: x,
}


@dataclass(frozen=True)
class RecurrentOptions(BaseOptions):
    """The shape of a language model around its cell, and its dropout; the defaults are DARTS's for Penn Treebank.

    Parameters
    ----------
    width : int
        Numbers of an embedded word, and of every state.
    matrices : {"node", "place"}
        Whether the places of a node share its matrix (DARTS), or each has its own (ENAS).
    dropout : float
        Dropout of the cell's outputs.
    dropout_words : float
        Share of the vocabulary whose embeddings are zero in a piece of text.
    dropout_embedding : float
        Dropout of the embedded words.
    dropout_input : float
        Dropout of what the cell reads from outside.
    dropout_hidden : float
        Dropout of what the cell and its nodes read from inside.
    vocabulary : int
        Different words.
    closing_norm : {"none", "all"}
        Whether a norm closes each candidate (a search, and what is folded from it), or none (DARTS's final network).

    Raises
    ------
    UserError
        When a value is out of its range.
    """

    least: ClassVar[dict[str, float]] = {
        "width": 1,
        "vocabulary": 2,
        "dropout": 0,
        "dropout_words": 0,
        "dropout_embedding": 0,
        "dropout_input": 0,
        "dropout_hidden": 0,
    }
    below_one: ClassVar[tuple[str, ...]] = (
        "dropout",
        "dropout_words",
        "dropout_embedding",
        "dropout_input",
        "dropout_hidden",
    )
    given: ClassVar[tuple[str, ...]] = ("vocabulary",)

    width: int = 850
    matrices: Literal["node", "place"] = "node"
    dropout: float = 0.75
    dropout_words: float = 0.1
    dropout_embedding: float = 0.2
    dropout_input: float = 0.75
    dropout_hidden: float = 0.25
    vocabulary: int = 10_000
    closing_norm: Literal["none", "all"] = "none"


class Masks(NamedTuple):
    """Factors of dropout while the network reads a piece of text; None stands for no factor."""

    words: Tensor | None = None
    """Mask of the embedding's rows, shape (vocabulary, 1)."""
    embedding: Tensor | None = None
    """Mask of the embedded words, shape (B, H), as the others."""
    input: Tensor | None = None
    hidden: Tensor | None = None
    output: Tensor | None = None


class Prediction(NamedTuple):
    """Output of the network for a piece of text: T time steps of B streams."""

    logits: Tensor
    """Scores of the next word before the softmax, shape (T, B, vocabulary)."""
    hidden: Tensor
    """The last hidden state, shape (B, H)."""
    outputs: Tensor
    """The hidden states of all time steps, shape (T, B, H)."""
    dropped: Tensor
    """The same after dropout."""


class LayerNorm(nn.LayerNorm, Norm):
    """Layer norm over the last dimension that can be run with another affine part than its own."""

    @property
    def num_features(self) -> int:
        """Size of the norm, by the name that norms have in `isnas.networks.core.Norm`."""
        return self.normalized_shape[0]

    def forward(self, x: Tensor, affine: Affine | None = None) -> Tensor:
        """Return layer_norm(x), with its own affine part by default."""
        weight, bias = (self.weight, self.bias) if affine is None else affine
        return F.layer_norm(x, self.normalized_shape, weight, bias, self.eps)


class Activation(Closed):
    """The operation at a place: an activation, its closing norm if it has one, and its matrix if it has its own.

    Parameters
    ----------
    primitive : str
    width : int
    closing_norm : {"none", "all"}
    own_matrix : bool
    """

    def __init__(self, primitive: str, width: int, closing_norm: str, own_matrix: bool) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[primitive]
        self.norm = LayerNorm(width) if closing_norm == "all" else None
        self.weight = _matrix(width, 2 * width) if own_matrix else None


class RecurrentNodes(nn.Module):
    """The nodes of a cell.

    Parameters
    ----------
    space : Space
    places : iterable of Place
        The operations to build.
    options : RecurrentOptions
    """

    def __init__(self, space: Space, places: Iterable[Place], options: RecurrentOptions) -> None:
        super().__init__()
        self.width = options.width
        own = options.matrices == "place"
        self.weights = None
        if not own:
            self.weights = nn.ParameterList(
                _matrix(options.width, 2 * options.width) for _ in range(space.nodes)
            )
        self.operations = nn.ModuleDict(
            {
                space.place_key(place): Activation(
                    space.primitives[place.operation], options.width, options.closing_norm, own
                )
                for place in places
            }
        )

    def forward(self, first: Tensor, incoming: Incoming, mask: Tensor | None) -> list[Tensor]:
        """Return all states, (B, H) each: the fixed first one, then the nodes."""
        states = [first]
        masked = [_times(first, mask)]
        for node, terms in enumerate(incoming):
            states.append(self._node(node, terms, states, masked))
            masked.append(_times(states[-1], mask))
        return states

    def _node(
        self, node: int, terms: list[Term], states: list[Tensor], masked: list[Tensor]
    ) -> Tensor:
        if not terms:
            return torch.zeros_like(states[0])
        # rows: what is multiplied by a matrix, once for all the places that share the product
        if self.weights is None:
            sources = [term.source for term in terms]
            matrix = _stacked([self.operations[term.key].weight for term in terms])
            row_of = list(range(len(terms)))
        else:
            sources = list(dict.fromkeys(term.source for term in terms))
            matrix = self.weights[node]
            row_of = [sources.index(term.source) for term in terms]
        state = _stacked([states[source] for source in sources])  # (rows, B, H)
        c, u = (_stacked([masked[source] for source in sources]) @ matrix).chunk(2, dim=-1)
        gate = torch.sigmoid(c)
        total: Tensor | None = None
        # all places with the same activation at once
        for function, members in self._by_activation(terms).items():
            rows = [row_of[i] for i in members]
            s, g, v = state, gate, u
            if rows != list(range(len(sources))):
                s, g, v = (_chosen(part, rows) for part in (state, gate, u))
            found = torch.lerp(s, function(v), g)
            found = self._closed(found, [terms[i] for i in members])
            total = found if total is None else total + found
        return total

    def _by_activation(self, terms: list[Term]) -> dict[object, list[int]]:
        found: dict[object, list[int]] = {}
        for i, term in enumerate(terms):
            found.setdefault(self.operations[term.key].activation, []).append(i)
        return found

    def _closed(self, found: Tensor, terms: list[Term]) -> Tensor:
        """Return the sum of some outputs, (places, B, H), each normed, if it is, and multiplied: (B, H)."""
        operations = [self.operations[term.key] for term in terms]
        if operations[0].norm is not None:
            affine: list[Affine] = [
                (operation.norm.weight, operation.norm.bias) if term.factor is None else term.factor
                for operation, term in zip(operations, terms, strict=True)
            ]
            if len(terms) == 1:
                return operations[0].norm(found[0], affine[0])
            weights, biases = (torch.stack(part) for part in zip(*affine, strict=True))
            found = F.layer_norm(found, found.shape[-1:], eps=operations[0].norm.eps)
            return (found * weights[:, None]).sum(0) + biases.sum(0)
        factors = [term.factor for term in terms]
        if factors[0] is not None:
            found = found * torch.stack(factors)[:, None, None]
        return found[0] if len(terms) == 1 else found.sum(0)


class RecurrentCell(nn.Module):
    """A recurrent cell.

    Parameters
    ----------
    nodes : RecurrentNodes
    concat : tuple of int
        The states whose mean is the output.
    """

    def __init__(self, nodes: RecurrentNodes, concat: tuple[int, ...]) -> None:
        super().__init__()
        self.weight = _matrix(2 * nodes.width, 2 * nodes.width)
        self.nodes = nodes
        self.concat = concat

    def forward(
        self, x: Tensor, hidden: Tensor, incoming: Incoming, mask: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Go through time: inputs, masked, (T, B, H) and h (B, H) -> all h (T, B, H) and the last one."""
        width = self.nodes.width
        # of all time steps at once
        from_input = x @ self.weight[:width]
        of_hidden = self.weight[width:]
        found = []
        for step in from_input.unbind():
            c, u = torch.addmm(step, _times(hidden, mask), of_hidden).chunk(2, dim=-1)
            first = torch.lerp(hidden, torch.tanh(u), torch.sigmoid(c))
            states = self.nodes(first, incoming, mask)
            read = [states[i] for i in self.concat]
            hidden = torch.stack(read).mean(0) if len(read) > 1 else read[0]
            found.append(hidden)
        return torch.stack(found), hidden


class RecurrentNetwork(CellNetwork):
    """Embedding, a recurrent cell, and a decoder with the embedding's weights.

    Parameters
    ----------
    space, places, concat, options
        See `CellNetwork`; the space must have one kind of cell with one input.
    """

    def __init__(
        self,
        space: Space,
        places: Mapping[str, Iterable[Place]],
        concat: Mapping[str, tuple[int, ...]],
        options: RecurrentOptions,
    ) -> None:
        super().__init__(space, places, concat, options)
        kind = only_kind(space)
        self.kinds = (kind,)
        self.embedding = nn.Parameter(_uniform(options.vocabulary, options.width))
        nodes = RecurrentNodes(space, self.places[kind], options)
        self.cells = nn.ModuleList([RecurrentCell(nodes, self.concat[kind])])
        self.bias = nn.Parameter(torch.zeros(options.vocabulary))

    def forward(
        self,
        x: Tensor,
        coefficients: Mapping[str, Coefficients] | None = None,
        *,
        hidden: Tensor | None = None,
        random: torch.Generator | None = None,
    ) -> Prediction:
        """Read a piece of text.

        Parameters
        ----------
        x : Tensor of int64, shape (T, B)
            Numbers of words.
        coefficients : mapping of kind to Coefficients, optional
            See `CellNetwork.forward`.
        hidden : Tensor, shape (B, H), optional
            The hidden state to begin with; by default zeros.
        random : torch.Generator, optional
            On the network's device: dropout is drawn from it, in training mode. Without it there is none.

        Returns
        -------
        Prediction
        """
        masks = Masks()
        if random is not None and self.training:
            masks = self.draw_masks(x.shape[1], random)
        (incoming,) = self.incoming(coefficients)
        weights = self.embedding
        embedded = F.embedding(x, _times(weights, masks.words))
        embedded = _times(_times(embedded, masks.embedding), masks.input)
        if hidden is None:
            hidden = embedded.new_zeros(x.shape[1], self.options.width)
        outputs, hidden = self.cells[0](embedded, hidden, incoming, masks.hidden)
        dropped = _times(outputs, masks.output)
        return Prediction(F.linear(dropped, weights, self.bias), hidden, outputs, dropped)

    def draw_masks(self, streams: int, generator: torch.Generator) -> Masks:
        """Draw what dropout multiplies by in a piece of so many streams, with a generator on the network's device.

        Where several processes work together, it is drawn for the streams of all, and each gets its own. The mask of
        the hidden states is for h and for all nodes.
        """
        options = self.options
        everyone = streams * processes()
        own = part_of(everyone, rank(), processes())

        def mask(rate: float, *size: int) -> Tensor | None:
            if rate == 0:
                return None
            drawn = torch.rand(size, device=generator.device, generator=generator)
            return (drawn >= rate) / (1.0 - rate)

        def of_streams(rate: float) -> Tensor | None:
            drawn = mask(rate, everyone, options.width)
            return None if drawn is None else drawn[own].to(self.embedding.dtype)

        words = mask(options.dropout_words, options.vocabulary, 1)
        return Masks(
            None if words is None else words.to(self.embedding.dtype),
            of_streams(options.dropout_embedding),
            of_streams(options.dropout_input),
            of_streams(options.dropout_hidden),
            of_streams(options.dropout),
        )

    def example(self, size: tuple[int, ...], device: torch.device | str) -> Tensor:
        """Return a piece of text of (T,) words of one stream, without content."""
        return torch.empty(*size, 1, dtype=torch.int64, device=device)

    @staticmethod
    def units(x: Tensor) -> int:
        """Return how many words a piece of text has."""
        return x.numel()


def _uniform(*size: int) -> Tensor:
    return torch.empty(size).uniform_(-INIT_RANGE, INIT_RANGE)


def _matrix(rows: int, columns: int) -> nn.Parameter:
    return nn.Parameter(_uniform(rows, columns))


def _times(x: Tensor, mask: Tensor | None) -> Tensor:
    return x if mask is None else x * mask


def _stacked(parts: list[Tensor]) -> Tensor:
    """Return tensors as one with a new first dimension; of a single one no copy is made."""
    return parts[0][None] if len(parts) == 1 else torch.stack(parts)


def _chosen(x: Tensor, rows: list[int]) -> Tensor:
    """Return some rows; a view where these are neighbours."""
    first, last = rows[0], rows[-1]
    if rows == list(range(first, last + 1)):
        return x[first : last + 1]
    return x[rows]
