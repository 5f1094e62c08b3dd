"""Source of a plain PyTorch module that computes what a network computes, and needs nothing of isnas."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from ..networks.operations import BatchNorm, StridedPointwise
from ..runtime.errors import UserError

OPERATORS: dict[Any, str] = {
    operator.add: "+",
    operator.sub: "-",
    operator.mul: "*",
    operator.truediv: "/",
    operator.floordiv: "//",
    operator.mod: "%",
}
"""Python's signs of what networks do with tensors and sizes."""


class _Scores(nn.Module):
    """A network with images as its only argument."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, classes)."""
        return self.network(x)


class _Tracer(fx.Tracer):
    """Records a network down to the layers that PyTorch has, too."""

    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        """Return whether a module is such a layer."""
        own = isinstance(module, BatchNorm | StridedPointwise)
        return own or super().is_leaf_module(module, name)


def plain_source(network: nn.Module, docstring: str) -> str:
    """Return the source of ``class Network(nn.Module)``, for a file that has imported torch, nn and F.

    Its layers have the names of the network's with ``_`` for ``.``: what is ``cells.0.inputs.1.2.weight`` in the
    network's state is ``cells_0_inputs_1_2.weight`` there.

    Parameters
    ----------
    network : nn.Module
        A discrete network that is called with images only.
    docstring : str
        One line.

    Raises
    ------
    UserError
        When the network does something that cannot be written so.
    """
    try:
        graph = _Tracer().trace(_Scores(network))
    except (fx.proxy.TraceError, TypeError) as error:
        raise _unwritable(str(error).splitlines()[0]) from None
    layers, lines = _written(graph, network)
    return "\n".join(
        [
            "class Network(nn.Module):",
            f'    """{docstring}"""',
            "",
            "    def __init__(self) -> None:",
            "        super().__init__()",
            *(f"        self.{attribute} = {layer}" for attribute, layer in layers.items()),
            "",
            "    def forward(self, x: torch.Tensor) -> torch.Tensor:",
            *(f"        {line}" for line in lines),
            "",
        ]
    )


def _written(graph: fx.Graph, network: nn.Module) -> tuple[dict[str, str], list[str]]:
    """Return the layers by attribute, and the lines of the forward pass."""
    names = {
        node: str(node.target).removeprefix("network.")
        for node in graph.nodes
        if node.op in ("call_module", "get_attr")
    }
    for node, name in list(names.items()):
        if node.op == "call_module" and isinstance(network.get_submodule(name), nn.Identity):
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
    inline = _inline(graph)
    steps = [node for node in graph.nodes if node not in inline and node.op != "placeholder"]
    reads = {node: _variables_of(node, inline) for node in steps}
    last = {source: i for i, node in enumerate(steps) for source in reads[node]}

    layers: dict[str, str] = {}
    lines: list[str] = []
    texts: dict[fx.Node, str] = {}  # how a value is written where it is used
    made, place = 0, ""
    for node in graph.nodes:
        if node.op == "placeholder":
            texts[node] = "x"
            continue
        if node in names:
            # a tensor by itself, such as a convolution's weight, is its layer's
            name = names[node] if node.op == "call_module" else names[node].rpartition(".")[0]
            attribute = name.replace(".", "_")
            if not attribute.isidentifier():
                raise _unwritable(f"{name!r:.60} is no name of Python's")
            layers[attribute] = _layer(network.get_submodule(name))
        if node.op == "call_module" and (now := _place(names[node])) != place:
            lines.append(f"# {now}")
            place = now
        text = _text(node, texts, names)
        if node in inline:
            texts[node] = text
        elif node.op == "output":
            lines.append(f"return {text}")
        else:
            i = steps.index(node)
            free = [texts[source] for source in reads[node] if last[source] == i]
            made += not free
            texts[node] = free[0] if free else f"x{made}"
            lines.append(f"{texts[node]} = {text}")
    return layers, lines


def _inline(graph: fx.Graph) -> set[fx.Node]:
    """Return what is written where it is used: shapes and sizes, parts of a tensor, and weights."""
    found: set[fx.Node] = set()
    for node in graph.nodes:
        of_sizes = bool(node.all_input_nodes) and found.issuperset(node.all_input_nodes)
        read = node.op == "get_attr" or node.target in (getattr, operator.getitem)
        if read or (node.target in OPERATORS and of_sizes):
            found.add(node)
    return found


def _variables_of(node: fx.Node, inline: set[fx.Node]) -> list[fx.Node]:
    """Return the values that a node reads from variables, in order."""
    found: dict[fx.Node, None] = {}
    for source in node.all_input_nodes:
        found.update(dict.fromkeys(_variables_of(source, inline) if source in inline else [source]))
    return list(found)


def _text(node: fx.Node, texts: dict[fx.Node, str], names: dict[fx.Node, str]) -> str:
    """Return a node as Python."""

    def shown(value: Any) -> str:
        if isinstance(value, fx.Node):
            return texts[value]
        if isinstance(value, slice):
            ends = ("" if end is None else shown(end) for end in (value.start, value.stop))
            step = "" if value.step is None else f":{shown(value.step)}"
            return ":".join(ends) + step
        if isinstance(value, list | tuple):
            inside = ", ".join(map(shown, value))
            comma = "," if len(value) == 1 else ""
            return f"[{inside}]" if isinstance(value, list) else f"({inside}{comma})"
        if value is None or isinstance(value, bool | int | float | str):
            return repr(value)
        raise _unwritable(f"{value!r:.60} is no plain value")

    arguments = [shown(value) for value in node.args]
    named = [f"{name}={shown(value)}" for name, value in node.kwargs.items()]
    if node.op == "output":
        return arguments[0]
    if node.op == "get_attr":
        layer, _, tensor = names[node].rpartition(".")
        return f"self.{layer.replace('.', '_')}.{tensor}"
    if node.op == "call_module":
        while node.args[len(arguments) - 1] is None:  # our layers take more than PyTorch's
            arguments.pop()
        function = f"self.{names[node].replace('.', '_')}"
    elif node.op == "call_method":
        function = f"{arguments.pop(0)}.{node.target}"
    elif node.op == "call_function" and node.target in OPERATORS:
        left, right = (f"({part})" if " " in part else part for part in arguments)
        return f"{left} {OPERATORS[node.target]} {right}"
    elif node.op == "call_function" and node.target is getattr:
        return f"{arguments[0]}.{node.args[1]}"
    elif node.op == "call_function" and node.target is operator.getitem:
        place = node.args[1] if isinstance(node.args[1], tuple) else (node.args[1],)
        return f"{arguments[0]}[{', '.join(map(shown, place))}]"
    elif node.op == "call_function":
        function = _function(node.target)
    else:
        raise _unwritable(f"{node.op} of {node.target}")
    return f"{function}({', '.join([*arguments, *named])})"


def _function(target: Callable[..., Any]) -> str:
    name = target.__name__
    for module, short in ((F, "F"), (torch, "torch")):
        if getattr(module, name, None) is target:
            return f"{short}.{name}"
    raise _unwritable(f"the function {name}")


def _layer(module: nn.Module) -> str:
    """Return the expression that makes a layer."""
    if isinstance(module, BatchNorm):
        return f"nn.BatchNorm2d({module.num_features})"
    if isinstance(module, StridedPointwise):
        more = f", groups={module.groups}" if module.groups > 1 else ""
        return f"nn.Conv2d({module.in_channels}, {module.out_channels}, 1, stride={module.step}{more}, bias=False)"
    if isinstance(module, nn.AvgPool2d):  # its own text leaves these out
        more = f"ceil_mode={module.ceil_mode}, count_include_pad={module.count_include_pad}"
        return f"nn.AvgPool2d({module.extra_repr()}, {more})"
    name = type(module).__name__
    if getattr(nn, name, None) is not type(module):
        raise _unwritable(f"the layer {name}")
    return f"nn.{name}({module.extra_repr()})"


def _place(name: str) -> str:
    """Return in which part of the network a layer is: ``cells.0``, ``stem``."""
    parts = name.split(".")
    return ".".join(parts[:2]) if parts[0] == "cells" else parts[0]


def _unwritable(reason: str) -> UserError:
    return UserError(f"the network cannot be written as plain PyTorch: {reason}")
