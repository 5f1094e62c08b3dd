"""Folding: from super-net and coefficients to the plain discrete network with its trained weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch

from ..spaces.base import Place
from .core import CellNetwork, Coefficients


@torch.no_grad()
def fold(supernet: CellNetwork, coefficients: Mapping[str, Coefficients]) -> CellNetwork:
    """Absorb the coefficients into the weights: ``gamma <- c gamma, beta <- c beta`` in every closing norm.

    c * (gamma x + beta) = (c gamma) x + c beta; what ends in a convolution absorbs its coefficient there. So the result
    computes what the super-net computes with these coefficients, in training and in evaluation mode (ISTA-NAS, section
    3.4).

    Parameters
    ----------
    supernet : CellNetwork
        Built with ``closing_norm="all"``. It is left as it is.
    coefficients : mapping of kind to Coefficients

    Returns
    -------
    CellNetwork
        The discrete network of the active places, all its parameters trainable: no architecture variable, no inactive
        candidate. On the super-net's device and in its mode; its state loads into the network that is built from its
        genotype.

    Raises
    ------
    UserError
        When an active operation has no closing norm to absorb its coefficient, or works on some channels only.
    """
    supernet.check_foldable()
    places = {kind: coefficients[kind].places for kind in supernet.space.kinds}
    folded = extract(supernet, places)
    for kind in supernet.space.kinds:
        for place, value in zip(places[kind], coefficients[kind].values.unbind(), strict=True):
            for operation in folded.operations_at(kind, [place]):
                operation.absorb(value)
    return folded


def extract(supernet: CellNetwork, places: Mapping[str, Iterable[Place]]) -> CellNetwork:
    """Return the discrete network of these places with copies of the super-net's weights, all of them trainable.

    On the super-net's device and in its mode. It computes what the super-net computes with coefficients of 1.
    """
    found = supernet.discrete(places)
    like = next(supernet.parameters())
    found = found.to_empty(device=like.device).to(like.dtype)
    state = supernet.state_dict()
    found.load_state_dict({name: state[name] for name in found.state_dict()})
    return found.train(supernet.training)
