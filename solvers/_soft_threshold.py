"""The soft threshold, in torch."""

import math

import torch
from torch import Tensor


def soft_threshold(x: Tensor, threshold: float | Tensor) -> Tensor:
    """Shrink every entry towards zero by `threshold`: the proximal map of `threshold * ||.||_1`.

    The minimiser over v of `1/2 (v - x)^2 + threshold |v|`, entry by entry. Differentiable in
    both arguments wherever `|x| != threshold`.

    Parameters
    ----------
    x : Tensor of any shape
    threshold : float or Tensor that broadcasts with `x`
        At least 0.

    Returns
    -------
    Tensor
        `sign(x) * max(|x| - threshold, 0)`.

    Raises
    ------
    TypeError
        If `x` is not a tensor.
    ValueError
        If `threshold` is negative or not finite.
    """
    if not isinstance(x, Tensor):
        raise TypeError(f"x must be a torch.Tensor, got {type(x).__name__}")
    if isinstance(threshold, Tensor):
        valid = bool((torch.isfinite(threshold) & (threshold >= 0)).all())
    else:
        valid = math.isfinite(threshold) and threshold >= 0
    if not valid:
        raise ValueError(f"threshold must be finite and at least 0, got {threshold}")
    return torch.sign(x) * torch.clamp(x.abs() - threshold, min=0)
