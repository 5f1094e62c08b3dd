"""Sparse-coding, one-stage neural architecture search.

`search`, `train`, `evaluate` and `compare` do whole runs; the parts they are made of are here, too: spaces and
genotypes, the sparse code, super-nets and discrete networks, folding, data.
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from .api import *  # noqa: F403


def __getattr__(name: str) -> Any:
    """Import what is public, which takes seconds, when it is used first."""
    if name.startswith("_") and name != "__all__":
        raise AttributeError(f"module 'isnas' has no attribute {name!r}")
    from importlib import import_module, util

    if util.find_spec(f"isnas.{name}") is not None:
        return import_module(f"isnas.{name}")
    api = import_module("isnas.api")
    try:
        globals()[name] = value = getattr(api, name)
    except AttributeError:
        raise AttributeError(f"module 'isnas' has no attribute {name!r}") from None
    return value


def __dir__() -> list[str]:
    """Return the public names."""
    return sorted([*globals(), *__getattr__("__all__")])
