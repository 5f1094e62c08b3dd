"""Fair paths: weights of all candidates of a choice get equally many steps (FairNAS, Chu et al., arXiv 1907.01845)."""

from __future__ import annotations

import torch

from ..runtime.randomness import generator
from ..spaces.base import Place, Space


def fair_path(
    space: Space, s: tuple[int, ...], seed: int, step: int, width: int = 1
) -> dict[str, tuple[Place, ...]]:
    """Return the places that a step trains, of each kind of cell: a function of seed and step alone.

    Where candidates are in groups, each candidate of a group is there `width` times in as many consecutive steps as the
    group has candidates. Where all may be active, or each is decided on by itself, ``s`` of the n candidates are there
    at a time, and each once in the n / s steps (rounded down) of a turn; those that a turn leaves out are drawn anew in
    the next one.

    Parameters
    ----------
    space : Space
    s : tuple of int
        Active places of every choice.
    seed : int
    step : int
        Counted from the beginning of the search.
    width : int
        Candidates of a group that are there at a time; all, where there are fewer.
    """
    places: dict[str, tuple[Place, ...]] = dict.fromkeys(space.kinds, ())
    for i, (choice, number) in enumerate(zip(space.choices, s, strict=True)):
        if choice.groups is None or choice.yes_or_no:
            turn, position = divmod(step, len(choice.candidates) // number)
            random = generator(seed, "fair path", i, turn)
            order = torch.randperm(len(choice.candidates), generator=random).tolist()
            chosen = order[position * number : (position + 1) * number]
        else:
            chosen = []
            for group, members in enumerate(choice.members):
                turn, position = divmod(step, len(members))
                random = generator(seed, "fair path", i, group, turn)
                order = torch.randperm(len(members), generator=random).tolist()
                there = (order + order)[position : position + min(width, len(members))]
                chosen.extend(members[k] for k in there)
        places[choice.kind] += tuple(choice.candidates[k] for k in sorted(chosen))
    return places
