"""Networks on disk: a state dict, and beside it how to build the network and what its data were."""

from __future__ import annotations

import copy
import dataclasses
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..networks.core import CellNetwork
from ..networks.registry import family
from ..runtime.errors import FileError, UserError, printable
from ..runtime.files import (
    Folder,
    as_path,
    check_input,
    read_json,
    read_tensors,
    write_json,
    write_tensors,
)
from ..spaces import from_json
from ..spaces.genotype import Genotype
from .content import NETWORK

FILE = "network.pt"
"""Name of the file of a run's network."""


def save_network(
    network: CellNetwork, path: str | Path, data: dict[str, Any] | None = None
) -> None:
    """Write a discrete network: its state dict to `path`, and how to build it to ``network.json`` beside it.

    Parameters
    ----------
    network : CellNetwork
    path : path
    data : dict, optional
        Facts on its data to keep with it, as `Task.describe` returns them: the task, classes, how inputs are prepared.
    """
    state, description = _contents(network, data)
    write_tensors(path, state)
    write_json(Path(path).with_suffix(".json"), description)


def save_in(
    folder: Folder, network: CellNetwork, data: dict[str, Any] | None, name: str = FILE
) -> None:
    """Write a discrete network into a run directory, see `save_network`."""
    state, description = _contents(network, data)
    folder.write_tensors(name, state)
    folder.write_json(str(Path(name).with_suffix(".json")), description)


def _contents(
    network: CellNetwork, data: dict[str, Any] | None
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    description = {
        "genotype": Genotype.of(network).to_json(),
        "options": dataclasses.asdict(network.options),
        "data": data,
    }
    return copy.deepcopy(network).cpu().state_dict(), description


def network_file(path: str | Path) -> Path:
    """Return the file of weights that a path means: that of a run directory, or that beside a ``network.json``.

    Raises
    ------
    UserError
        When a directory holds no network.
    """
    path = as_path(path)
    if not os.path.isdir(path):
        return path.with_suffix(".pt") if path.suffix == ".json" else path
    if Folder(path).size(FILE) is None:
        raise UserError(f"{path} holds no trained network (yet): there is no {FILE} in it")
    return path / FILE


def saved_data(path: str | Path) -> dict[str, Any]:
    """Return the facts on its data that `save_network` wrote beside a network; {} where there are none."""
    return _description(path).get("data") or {}


def _description(path: str | Path) -> dict[str, Any]:
    """Return what is said beside a network on how to build it."""
    folder, path = as_path(path), network_file(path)
    if os.path.isdir(folder):
        return Folder(folder).read_json("network.json", NETWORK)
    check_input(path)
    return read_json(path.with_suffix(".json"), NETWORK)


def load_network(path: str | Path) -> CellNetwork:
    """Read a network that `save_network` wrote, also that of an earlier version, in evaluation mode, on the CPU.

    Parameters
    ----------
    path : path
        See `network_file`.

    Raises
    ------
    UserError
        When a file is missing or damaged, or the two do not fit each other.
    """
    description = _description(path)
    folder, path = Path(path), network_file(path)
    state = Folder(folder).read_tensors(FILE) if os.path.isdir(folder) else read_tensors(path)
    try:
        return _built(description, state).eval()
    except (KeyError, TypeError, AttributeError, RuntimeError, ValueError) as error:
        reason = printable(str(error).partition("\n")[0])
        raise FileError(
            f"{path} is not the state of the network that {path.with_suffix('.json').name} describes: {reason}"
        ) from None


def _built(description: dict[str, Any], state: Any) -> CellNetwork:
    """Return the network of a description with a state, which must be its own."""
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise FileError("it is no state dict")
    # building a network of very many cells would take longer than refusing it
    cells = description["options"].get("cells", 0)
    if type(cells) is int and cells > len(state):
        raise FileError(f"it has {len(state)} tensors for {cells} cells")
    # earlier versions said the space beside the genotype
    space = from_json(description["space"]) if "space" in description else None
    genotype = Genotype.from_json(description["genotype"], space)
    kind = family(genotype.space)
    shape = kind.options(**description["options"])
    with torch.device("meta"):  # nothing is allocated
        expected = kind.build_network(genotype, shape).state_dict()
    if different := set(expected) ^ set(state):
        name = min(different)
        raise FileError(f"{name} is {'missing' if name in expected else 'too many'}")
    for name, tensor in expected.items():
        if tensor.shape != state[name].shape:
            raise FileError(
                f"{name} has the shape {(*state[name].shape,)}, expected {(*tensor.shape,)}"
            )
        # PyTorch would convert them, and lose what the others cannot say
        if tensor.is_floating_point() != state[name].is_floating_point():
            raise FileError(f"{name} has values {state[name].dtype}, expected {tensor.dtype}")
    network = kind.build_network(genotype, shape)
    network.load_state_dict(state)
    return network
