"""The figure of recoveries: legible, and its numbers are what theory says."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from figures import recovery
from isnas.runtime.errors import UserError


def test_figure(check_figure: Callable[[Figure], list[str]]) -> None:
    figure = recovery.make_figure(3, sparsities=(1, 2), lengths=(2, 4, 8), sizes=(10, 14))
    texts = check_figure(figure)
    for text in (
        "Gaussian: LASSO, cut to s",
        "Uniform: best subset",
        "s = 2",
        "m (length of the code)",
    ):
        assert text in texts


@pytest.mark.slow
def test_figure_at_its_full_size(check_figure: Callable[[Figure], list[str]]) -> None:
    check_figure(recovery.make_figure(1))


def test_no_trials() -> None:
    with pytest.raises(UserError, match="trials must be at least 1"):
        recovery.make_figure(0)


@pytest.mark.parametrize("kind", recovery.KINDS)
def test_best_subset_needs_one_measurement_more_than_s(kind: str) -> None:
    def probability(m: int) -> float:
        random = torch.Generator().manual_seed(m)
        return recovery.recovery_probability(
            "best subset", kind, m, 10, 2, trials=20, random=random
        )

    assert probability(3) == 1.0
    assert probability(2) < 0.3  # every two columns fit b exactly


@pytest.mark.parametrize("rule", recovery.RULES)
def test_enough_measurements_recover_everything(rule: str) -> None:
    random = torch.Generator().manual_seed(0)
    found = recovery.recovery_probability(rule, "orthogonal", 10, 10, 2, trials=20, random=random)
    assert found == 1.0


def test_phase_diagram_shows_each_value_where_it_belongs() -> None:
    probability = np.arange(12.0).reshape(2, 2, 3) / 12
    ax = Figure().subplots()
    image = recovery.draw_phases(
        probability, ax, lengths=(3, 4, 5), sizes=(14, 21), sparsities=(1, 2)
    )
    rows = [label.get_text() for label in ax.get_yticklabels()]
    assert rows == ["14", "21", "14", "21"]
    assert (image.get_array() == probability.reshape(4, 3)).all()


def test_residuals() -> None:
    random = torch.Generator().manual_seed(0)
    fractions = (1e-6, 1e-2, 1.0)
    found = recovery.residuals("gaussian", fractions, m=7, n=14, s=2, trials=20, random=random)
    assert found["LASSO"].shape == (3, 20)
    assert found["best subset"].shape == (1, 20)
    assert (found["LASSO"][0] < 1e-4).all()  # 14 columns span all of the 7 dimensions
    np.testing.assert_allclose(found["LASSO"][2], 1)  # z = 0
    # no two columns fit better than the best two
    for name in ("LASSO, cut to s", "path, s non-zeros"):
        assert (found[name] >= found["best subset"] - 1e-12).all()
