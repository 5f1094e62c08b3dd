"""Text that a trained language model writes."""

from __future__ import annotations

from pathlib import Path

from ..runs.saved import load_network, saved_data
from ..runtime.errors import UserError
from ..tasks.registry import task_of


def sample(
    run: str | Path,
    *,
    length: int = 100,
    start: str = "",
    temperature: float = 1.0,
    seed: int = 0,
) -> str:
    """Return a text that a run's network writes: word by word, or character by character, each drawn by its scores.

    Words that the network does not know are not drawn.

    Parameters
    ----------
    run : path
        A run directory that holds a network.pt, or a network.pt.
    length : int
        Words or characters to write.
    start : str
        The beginning of the text; by default a new line.
    temperature : float
        Scores are divided by it: below 1 likely words become likelier; 0: always the most likely one.
    seed : int

    Raises
    ------
    UserError
        When there is no such network, it is none of text, or `start` has a word that it does not know.
    """
    path = Path(run)
    if path.is_dir():
        path = path / "network.pt"
        if not path.exists():
            raise UserError(
                f"{run} holds no network.pt: the run has trained no network, or not yet"
            )
    if length < 1:
        raise UserError(f"length must be at least 1, got {length}")
    if not 0 <= temperature < float("inf"):
        raise UserError(f"temperature must be at least 0 and finite, got {temperature}")
    network = load_network(path)
    return task_of(network.space).sample(
        network,
        saved_data(path),
        length=length,
        start=start,
        temperature=temperature,
        seed=seed,
    )
