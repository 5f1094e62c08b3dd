"""Networks on disk: what is read back is what was written, by this version and by earlier ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from isnas import (
    GENOTYPES,
    NASBENCH201_SPACE,
    Genotype,
    UserError,
    build_network,
    load_network,
    save_network,
)

CELL = "|nor_conv_3x3~0|+|skip_connect~0|nor_conv_1x1~1|+|nor_conv_3x3~0|avg_pool_3x3~1|skip_connect~2|"

EARLIER = {
    "genotype": {
        "cell": {
            "inputs": 1,
            "nodes": [
                [["nor_conv_3x3", 0]],
                [["skip_connect", 0], ["nor_conv_1x1", 1]],
                [["nor_conv_3x3", 0], ["avg_pool_3x3", 1], ["skip_connect", 2]],
            ],
            "concat": [3],
        }
    },
    "options": {
        "channels": 2,
        "cells": 1,
        "classes": 4,
        "in_channels": 3,
        "closing_norm": "none",
        "partial": 1,
    },
    "space": {
        "primitives": ["skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3"],
        "nodes": 3,
        "inputs": 1,
        "kinds": ["cell"],
        "one_per_edge": True,
        "output": [3],
    },
    "data": None,
}
"""What 0.1.0 wrote beside a network of NAS-Bench-201."""


@pytest.mark.parametrize("name", ["darts", "nasbench201"])
def test_a_network_comes_back(name: str, tmp_path: Path) -> None:
    shape = {"channels": 2, "cells": 3, "classes": 4}
    given = {"darts": GENOTYPES["DARTS_V2"], "nasbench201": Genotype.parse(CELL, NASBENCH201_SPACE)}
    genotype = given[name]
    network = build_network(genotype, seed=1, **shape).eval()
    save_network(network, tmp_path / "network.pt")
    again = load_network(tmp_path / "network.pt")
    x = torch.randn(2, 3, 8, 8)
    assert Genotype.of(again) == Genotype.of(network)
    assert torch.equal(again(x), network(x))


def test_a_network_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    genotype = Genotype.parse(CELL, NASBENCH201_SPACE)
    network = build_network(genotype, channels=2, cells=1, classes=4).eval()
    torch.save(network.state_dict(), tmp_path / "network.pt")
    (tmp_path / "network.json").write_text(json.dumps(EARLIER))
    again = load_network(tmp_path / "network.pt")
    x = torch.randn(2, 3, 8, 8)
    assert Genotype.of(again) == genotype
    assert torch.equal(again(x), network(x))


@pytest.mark.parametrize("kind", [torch.complex64, torch.int64, torch.bool])
def test_values_of_another_kind_are_refused(kind: torch.dtype, tmp_path: Path) -> None:
    """PyTorch would convert them with the loss of a part."""
    network = build_network(GENOTYPES["DARTS_V2"], channels=2, cells=3, classes=4)
    save_network(network, tmp_path / "network.pt")
    state = network.state_dict()
    torch.save({**state, "stem.0.weight": state["stem.0.weight"].to(kind)}, tmp_path / "network.pt")
    with pytest.raises(UserError, match=f"stem.0.weight has values {kind}, expected torch.float32"):
        load_network(tmp_path / "network.pt")
    torch.save({**state, "stem.0.weight": state["stem.0.weight"].double()}, tmp_path / "network.pt")
    assert load_network(tmp_path / "network.pt")
