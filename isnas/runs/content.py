"""The form of each file of a run directory; `isnas.runs.directory` says what the files are for."""

from __future__ import annotations

from ..runtime.forms import (
    ANYTHING,
    OBJECT,
    PLAIN,
    Either,
    Form,
    List,
    Mapping,
    Number,
    Optional,
    Record,
    Tensors,
    Text,
    Whole,
)
from ..tasks.registry import TASKS

NAME = Text(longest=200, least=1)
"""A name, such as that of a part."""

TEXT = Text(longest=1_000_000)

MEASURES: dict[str, Form] = {
    "_loss": Number(loose=True),
    "_seconds": Number(0),
    **{f"_{task.measure.name}": task.measure.form for task in TASKS.values()},
}
"""Measures by the ends of their names."""

OPTIONS = Record(
    known={
        "seed": Whole(),
        "batch_size": Optional(Whole(1)),
        "epochs": Whole(),
        "freeze_threshold": Number(0),
    },
    others=ANYTHING,
)
"""Options by name, for reading; `isnas.runtime.options.Schema.from_json` checks those that a run goes on with."""

DATA = Record(
    known={
        "task": NAME,
        "source": Text(longest=4096),
        "train": Whole(),
        "test": Whole(),
        **{name: form for task in TASKS.values() for name, form in task.description.items()},
    },
    others=ANYTHING,
)
"""The form of what `isnas.tasks.base.Task.describe` returns."""

LATENCIES = Mapping(
    Record({"rest": Number(0), "error": Number(0), "costs": Mapping(Mapping(Number(0)))})
)
"""Tables of latencies by their use, see `isnas.networks.latency.LatencyTable.to_json`."""

CONFIG = Record(
    needed={"command": NAME, "options": OPTIONS},
    known={
        "format": Whole(),
        "method": NAME,
        "space": OBJECT,
        "data": Optional(DATA),
        "genotype": OBJECT,
        "network": Text(longest=4096, least=1),
        "parts": List(NAME, most=100_000),
        "processes": Whole(1),
        "threads": Whole(1),
        "latencies": LATENCIES,
        "versions": Mapping(Text(longest=200)),
        "started": Text(longest=200),
        "changes": List(Record(others=PLAIN)),
    },
    others=ANYTHING,
)
"""config.json"""

METRICS = Record(
    needed={"part": NAME, "epoch": Whole()},
    known={
        "step": Whole(),
        "phase": NAME,
        "genotype": TEXT,
        "supports_changed": Either((Whole(), TEXT)),
        "frozen": Whole(),
        "places": Whole(),
        "surviving_weights": Number(loose=True),
        "reward": Number(loose=True),
        "entropy": Number(loose=True),
    },
    endings=MEASURES,
    others=PLAIN,
)
"""A line of metrics.jsonl."""

TIMES = Record(
    needed={"part": NAME, "epoch": Whole()}, known={"seconds": Number(0)}, others=ANYTHING
)
"""A line of times.jsonl."""

RESULTS = Mapping(
    Record(
        known={
            "genotype": TEXT,
            "parameters": Whole(),
            "multiply_adds": Whole(),
            "search_epochs": Whole(),
            "folding_error": Number(loose=True),
        },
        endings=MEASURES,
        others=ANYTHING,
    )
)
"""results.json: the results of parts by their names."""

CHECKPOINT = Record(
    needed={
        "number": Whole(1),
        "stage": Optional(NAME),
        "state": Record(
            known={
                "stage": Record({"epoch": Whole(), "step": Whole()}, others=Tensors()),
                "sums": Mapping(Number(loose=True)),
            }
        ),
        "seconds": Number(0),
        "options": OPTIONS,
        "results": RESULTS,
        "recoveries": Whole(),
        "sizes": Record({"metrics": Whole(), "times": Whole()}),
    }
)
"""A checkpoint; what is in the state of its stage is for the stage to know."""

NETWORK = Record(
    needed={"genotype": OBJECT, "options": OPTIONS},
    known={"space": OBJECT, "data": Optional(DATA)},
    others=ANYTHING,
)
"""network.json"""
