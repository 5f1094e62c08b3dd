"""Behaviour of `solvers.soft_threshold`."""

import pytest
import torch

from solvers import soft_threshold


def test_is_the_proximal_map_by_brute_force():
    grid = torch.linspace(-3, 3, 60_001, dtype=torch.float64)
    for threshold in (0.0, 0.3, 1.0):
        x = torch.linspace(-2, 2, 41, dtype=torch.float64)
        cost = 0.5 * (grid - x[:, None]) ** 2 + threshold * grid.abs()
        assert torch.allclose(soft_threshold(x, threshold), grid[cost.argmin(1)], atol=1e-4)


def test_threshold_broadcasts():
    x = torch.tensor([[3.0, -3.0], [1.0, -1.0]])
    result = soft_threshold(x, torch.tensor([1.0, 2.0]))
    assert result.tolist() == [[2.0, -1.0], [0.0, 0.0]]


def test_gradient():
    x = torch.tensor([2.0, -2.0, 0.5, 0.0], dtype=torch.float64, requires_grad=True)
    threshold = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    soft_threshold(x, threshold).sum().backward()
    assert x.grad.tolist() == [1.0, 1.0, 0.0, 0.0]
    assert threshold.grad.item() == 0.0  # -sign(x), summed over two opposite entries
    assert torch.autograd.gradcheck(soft_threshold, (x[:3].detach().requires_grad_(), threshold))


def test_dtype_is_kept():
    assert soft_threshold(torch.ones(2, dtype=torch.float16), 0.5).dtype == torch.float16


@pytest.mark.parametrize("threshold", [-0.1, float("nan"), torch.tensor([1.0, -1.0])])
def test_bad_threshold_is_named(threshold):
    with pytest.raises(ValueError, match="threshold must be finite and at least 0, got"):
        soft_threshold(torch.ones(2), threshold)


def test_only_tensors():
    with pytest.raises(TypeError, match=r"x must be a torch\.Tensor, got list"):
        soft_threshold([1.0], 0.5)
