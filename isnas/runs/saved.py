"""Networks on disk: a state dict, and beside it how to build the network and what its data were."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

from .. import spaces
from ..networks.core import CellNetwork
from ..networks.registry import family
from ..runtime.errors import UserError
from ..runtime.files import read_json, read_tensors, write_json, write_tensors
from ..spaces.genotype import Genotype


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
    description = {
        "genotype": Genotype.of(network).to_json(),
        "options": dataclasses.asdict(network.options),
        "data": data,
    }
    cpu = copy.deepcopy(network).cpu()
    write_tensors(path, cpu.state_dict())
    write_json(Path(path).with_suffix(".json"), description)


def network_file(path: str | Path) -> Path:
    """Return the file of weights that a path means: that of a run's directory, or of a description, ``network.json``.

    Raises
    ------
    UserError
        When a directory holds no network.
    """
    path = Path(path)
    if path.is_dir():
        if not (path / "network.pt").is_file():
            raise UserError(f"{path} holds no network: there is no network.pt in it")
        return path / "network.pt"
    return path.with_suffix(".pt") if path.suffix == ".json" else path


def saved_data(path: str | Path) -> dict[str, Any]:
    """Return the facts on its data that `save_network` wrote beside a network, see `network_file`; {} without any."""
    path = network_file(path)
    if not path.is_file():
        raise UserError(f"{path} cannot be read: there is no such file")
    data = read_json(path.with_suffix(".json"))
    return (data.get("data") if isinstance(data, dict) else None) or {}


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
    path = network_file(path)
    state = read_tensors(path)
    description = read_json(path.with_suffix(".json"))
    try:
        # the space stood beside the genotype in earlier versions
        space = spaces.from_json(description["space"]) if "space" in description else None
        genotype = Genotype.from_json(description["genotype"], space)
        kind = family(genotype.space)
        network = kind.build_network(genotype, kind.options(**description["options"]))
        network.load_state_dict(state)
    except (KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise UserError(
            f"{path} is not the state of the network that {path.with_suffix('.json')} describes: "
            f"{str(error).splitlines()[0]}"
        ) from None
    return network.eval()
