"""Several runs at once: which of them differ only in the seed."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import Any

from isnas.runs.records import RunRecord, Trajectory
from isnas.runtime.errors import UserError
from isnas.spaces.base import Space

# what does not make a run another experiment
_INCIDENTAL = {"seed", "device", "data_root", "download", "checkpoint_steps", "tensorboard"}

Groups = dict[str, list[RunRecord]]
"""Runs by label; the runs of one label differ in the seed only, or were given the same label."""


def add_runs(parser: argparse.ArgumentParser) -> None:
    """Add the argument for one or more runs, ``RUN`` or ``LABEL=RUN``."""
    parser.add_argument(
        "runs",
        metavar="[LABEL=]RUN",
        nargs="+",
        help="run directories; those with one label, or that differ in the seed only, are "
        "shown together",
    )


def open_groups(texts: Sequence[str]) -> Groups:
    """Open runs given as ``RUN`` or ``LABEL=RUN`` and group them.

    Raises
    ------
    UserError
        When a directory holds no run.
    """
    labelled: list[tuple[str, RunRecord]] = []
    for text in texts:
        label, mark, directory = text.partition("=")
        if Path(text).exists() or not mark:
            label, directory = "", text
        labelled.append((label, RunRecord(directory)))
    return group_runs(labelled)


def group_runs(labelled: Sequence[tuple[str, RunRecord]]) -> Groups:
    """Group runs by label; those with the label ``""`` get one that says the method and what is special."""
    settings: list[tuple[str, dict[str, Any]]] = []
    for label, run in labelled:
        if not label and (own := _settings(run)) not in settings:
            settings.append(own)
    taken = {label for label, _ in labelled}
    names = []
    for command, options in settings:
        others = [o for c, o in settings if c == command]
        differing = {k: options[k] for k in options if any(o.get(k) != options[k] for o in others)}
        name = ", ".join([command, *map(_setting, differing.items())])
        number = sum(other == name or other.startswith(f"{name} (") for other in (*names, *taken))
        names.append(f"{name} ({number + 1})" if number else name)
    groups: Groups = {}
    several = len({data_of(run) for _, run in labelled}) > 1
    for label, run in labelled:
        name = label or names[settings.index(_settings(run))]
        # what was reached on different images is never shown as one
        name = f"{name} on {data_of(run)}" if several and data_of(run) not in name else name
        groups.setdefault(name, []).append(run)
    return groups


def data_of(run: RunRecord) -> str:
    """Return the name of a run's data: the data set's, or the last part of a directory."""
    data = run.config.get("data") or {}
    return PurePath(str(data.get("source") or run.options.get("data"))).name


def _settings(run: RunRecord) -> tuple[str, dict[str, Any]]:
    """Return what makes a run an experiment: its method, options and architecture given."""
    own = {name: value for name, value in run.options.items() if name not in _INCIDENTAL}
    return run.method, {**own, "genotype": run.config.get("genotype")}


def _setting(item: tuple[str, Any]) -> str:
    name, value = item
    if name == "genotype":
        return "another genotype"
    return f"{name.replace('_', ' ')} {value}"


def trajectories_of(run: RunRecord) -> dict[str, list[Trajectory]]:
    """Return a run's trajectories by kind of cell, and by what is decided where a node has several choices.

    The names are such as "normal" or "network skips".

    Raises
    ------
    UserError
        When it has none.
    """
    found: dict[str, list[Trajectory]] = {}
    for trajectory in run.trajectories.values():
        name = f"{trajectory.kind} {trajectory.name}".strip()
        found.setdefault(name, []).append(trajectory)
    if not found:
        raise UserError(f"{run.directory} holds no sparse codes (yet): it is a run of {run.method}")
    return found


def heading(space: Space, codes: Sequence[Trajectory]) -> str:
    """Return the heading of trajectories in a space that `trajectories_of` has put together."""
    return codes[0].name.capitalize() or space.kind_label(codes[0].kind)
