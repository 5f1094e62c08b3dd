"""The estimator behaves as scikit-learn's do, and its network as the library's."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.exceptions import NotFittedError
from sklearn.utils.estimator_checks import check_estimator

import isnas
from isnas import ImageClassifier, UserError

TINY = {"channels": 2, "cells": 3, "epochs": 1, "device": "cpu", "batch_size": 64}


@pytest.fixture(scope="module")
def digits() -> tuple[np.ndarray, np.ndarray]:
    """Return 120 images and their labels as words."""
    data = load_digits()
    return data.images[:120], np.array([f"digit {i}" for i in data.target[:120]])


@pytest.fixture(scope="module")
def fitted(digits: tuple[np.ndarray, np.ndarray]) -> ImageClassifier:
    """Return a classifier that has seen them."""
    return ImageClassifier(genotype="ISTA_onestage", flip=False, **TINY).fit(*digits)


def test_it_answers_with_the_labels_it_was_given(
    fitted: ImageClassifier, digits: tuple[np.ndarray, np.ndarray]
) -> None:
    images, labels = digits
    probabilities = fitted.predict_proba(images)
    assert probabilities.shape == (120, 10)
    assert np.allclose(probabilities.sum(1), 1, atol=1e-9)
    answers = fitted.predict(images)
    assert np.array_equal(answers, fitted.classes_[probabilities.argmax(1)])
    assert set(answers) <= set(labels)
    assert fitted.score(images, labels) == (answers == labels).mean()
    assert isinstance(fitted.network_, isnas.CellNetwork) and fitted.image_shape_ == (1, 8, 8)


def test_each_image_is_answered_by_itself(
    fitted: ImageClassifier, digits: tuple[np.ndarray, np.ndarray]
) -> None:
    images, _ = digits
    alone = np.concatenate([fitted.predict_proba(images[i : i + 1]) for i in range(5)])
    assert np.allclose(alone, fitted.predict_proba(images)[:5], atol=1e-6)


def test_rows_are_square_images(
    fitted: ImageClassifier, digits: tuple[np.ndarray, np.ndarray]
) -> None:
    images, labels = digits
    rows = ImageClassifier(genotype="ISTA_onestage", flip=False, **TINY)
    rows.fit(images.reshape(120, 64), labels)
    expected = fitted.predict_proba(images)
    assert np.array_equal(rows.predict_proba(images.reshape(120, 64)), expected)
    assert rows.n_features_in_ == 64


def test_pickle_and_clone(fitted: ImageClassifier, digits: tuple[np.ndarray, np.ndarray]) -> None:
    again = pickle.loads(pickle.dumps(fitted))
    assert np.array_equal(again.predict_proba(digits[0]), fitted.predict_proba(digits[0]))
    new = clone(fitted)
    assert new.get_params() == fitted.get_params()
    with pytest.raises(NotFittedError):
        new.predict(digits[0])


def test_colours_and_bytes_are_taken_as_they_are() -> None:
    drawn = np.random.default_rng(0)
    images = drawn.integers(0, 256, (20, 9, 7, 3), dtype=np.uint8)
    model = ImageClassifier(genotype="ISTA_onestage", **TINY).fit(images, np.arange(20) % 2)
    assert model.image_shape_ == (3, 9, 7) and model.range_ == (0.0, 255.0)
    seen = model._images(images)
    assert torch.equal(seen, torch.from_numpy(images).permute(0, 3, 1, 2))


def test_other_numbers_are_scaled_to_the_range_of_the_training_images() -> None:
    model = ImageClassifier()
    model.range_ = (-1.0, 1.0)
    values = np.array([-9.0, -1, 0, 0.5, 1, 9]).reshape(6, 1, 1)
    seen = model._images(np.broadcast_to(values, (6, 4, 4)))[:, 0, 0, 0]
    assert seen.tolist() == [0, 0, 128, 191, 255, 255]


@pytest.mark.parametrize(
    ("X", "y", "message"),
    [
        (np.zeros((6, 8, 8, 2)), [0, 1] * 3, "C 1 or 3"),
        (np.zeros((6, 8, 8)), [1] * 6, "one class"),
        (np.zeros((6, 8, 8)), [0.5, 1.2, 2.5, 3.1, 4.2, 5.5], "Unknown label type"),
        (np.full((6, 8, 8), np.nan), [0, 1] * 3, "NaN"),
        (np.zeros((0, 8, 8)), [], "minimum of 1"),
        (np.zeros((6, 0, 8)), [0, 1] * 3, "must have pixels"),
    ],
)
def test_wrong_arguments_are_value_errors(X: Any, y: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ImageClassifier(genotype="ISTA_onestage", **TINY).fit(X, y)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"batch_size": "64"}, "batch_size must be a whole number, got '64'"),
        ({"batch_size": None}, "batch_size must be a whole number, got None"),
        ({"flip": "no"}, "flip must be true or false, got 'no'"),
        ({"padding": None}, "padding must be true or false, got None"),
        ({"device": 3}, "device must be one of auto, .*, got 3"),
        ({"random_state": "x"}, "random_state must be a whole number, a generator .*, got 'x'"),
        ({"random_state": 1.5}, "random_state must be"),
        ({"genotype": 3}, "expected a Genotype, the name of a published one or a file, got 3"),
        ({"genotype": "ENAS_LM"}, "needs a space of images, but recurrent is not one"),
        ({"genotype": None, "space": "recurrent"}, "needs a space of images, but recurrent is"),
    ],
)
def test_arguments_of_a_wrong_kind_are_named(given: dict[str, Any], message: str) -> None:
    model = ImageClassifier(**{"genotype": "ISTA_onestage", **TINY, **given})
    with pytest.raises(UserError, match=message):
        model.fit(np.zeros((6, 8, 8)), [0, 1] * 3)


def test_a_generator_a_genotype_and_a_device_may_be_given() -> None:
    given = {"genotype": isnas.GENOTYPES["ISTA_onestage"], "device": torch.device("cpu")}
    for state in (np.random.default_rng(0), np.random.RandomState(0)):
        model = ImageClassifier(**{**TINY, **given, "random_state": state})
        assert model.fit(np.eye(8)[None].repeat(6, 0), [0, 1] * 3).genotype_


def test_other_sizes_are_refused_at_prediction(fitted: ImageClassifier) -> None:
    with pytest.raises(UserError, match=r"\(8, 9\), but fit saw \(8, 8\)"):
        fitted.predict(np.zeros((2, 8, 9)))


def test_it_searches(digits: tuple[np.ndarray, np.ndarray]) -> None:
    images, labels = digits
    model = ImageClassifier(search_epochs=1, flip=False, random_state=1, **TINY)
    model.fit(images, labels)
    found = isnas.Genotype.parse(model.genotype_)
    assert found == isnas.Genotype.of(model.network_)
    with pytest.raises(UserError, match="no method is called"):
        ImageClassifier("gdsa", **TINY).fit(images, labels)


def test_the_seed_decides(digits: tuple[np.ndarray, np.ndarray]) -> None:
    images, labels = digits

    def probabilities(seed: Any) -> np.ndarray:
        model = ImageClassifier(genotype="ISTA_onestage", random_state=seed, **TINY)
        return model.fit(images, labels).predict_proba(images[:3])

    one = probabilities(1)
    assert np.array_equal(one, probabilities(1)) and not np.array_equal(one, probabilities(2))


class Untrained(ImageClassifier):
    """As the estimator, but after two epochs nobody expects a good score of it."""

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.poor_score = True
        return tags


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of batches that are larger than the few rows of the checks
def test_passes_scikit_learns_checks() -> None:
    """All of `check_estimator`, whose rows of numbers are taken as square images, but for what is not installed."""
    model = Untrained(
        genotype="DARTS_V2",
        flip=False,
        padding=False,
        **{**TINY, "epochs": 2, "batch_size": 16},
    )
    checks = check_estimator(model, on_skip=None)
    assert len(checks) > 40
    skipped = [check["check_name"] for check in checks if check["status"] != "passed"]
    assert set(skipped) <= {"check_array_api_input", "check_classifier_data_not_an_array"}
