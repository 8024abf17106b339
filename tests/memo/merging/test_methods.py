"""The six methods against peft's tensor functions, and what each of them promises, however a tensor is sliced."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft.utils import merge_utils

from memlora_plugins.errors import SettingsError
from memlora_plugins.memo.merging.methods import METHODS, MergeMethod, Recipe, combine

SEEDS = (11, 12, 13, 14)


def merged(vectors: Sequence[torch.Tensor], recipe: Recipe, rows: int = 100) -> torch.Tensor:
    """The merge of whole tensors, done in slices of so many rows."""
    slices = [list(vector.split(rows)) for vector in vectors]
    return torch.cat(list(combine(slices, vectors[0].numel(), recipe, SEEDS[: len(vectors)])))


def some(count: int, *shape: int, seed: int = 1) -> list[torch.Tensor]:
    """Random task vectors of one tensor, all of their magnitudes different."""
    dice = torch.Generator().manual_seed(seed)
    return [torch.randn(shape or (12, 10), generator=dice) for _ in range(count)]


@pytest.mark.parametrize("rows", [1, 5, 100])
@pytest.mark.parametrize("density", [0.3, 0.5, 0.77])
@pytest.mark.parametrize("models", [1, 2, 4])
def test_ties_is_that_of_peft(models: int, density: float, rows: int) -> None:
    vectors = some(models)
    ours = merged(vectors, Recipe(method="ties", density=density), rows)
    torch.testing.assert_close(ours, merge_utils.ties(vectors, torch.ones(models), density))


def test_linear_and_task_arithmetic_are_those_of_peft() -> None:
    vectors = some(3)
    weights = (0.2, 1.5, 0.7)
    expected = merge_utils.task_arithmetic(vectors, torch.tensor(weights))
    torch.testing.assert_close(merged(vectors, Recipe(method="linear", weights=weights), 5), expected)
    torch.testing.assert_close(merged(vectors, Recipe(method="linear")), sum(vectors) / 3)
    torch.testing.assert_close(merged(vectors, Recipe(method="task_arithmetic")), sum(vectors))


@pytest.mark.parametrize("method", METHODS)
def test_slices_do_not_matter(method: MergeMethod) -> None:
    vectors = some(2)
    whole = merged(vectors, Recipe(method=method))
    for rows in (1, 5):
        sliced = merged(vectors, Recipe(method=method), rows)
        torch.testing.assert_close(sliced, whole)
        assert torch.equal(sliced == 0, whole == 0)


def test_of_equal_magnitudes_the_first_are_kept() -> None:
    # bfloat16 weights differ by few distinct amounts, so equal magnitudes are the rule
    vector = torch.tensor([1.0, -2, 2, 0, 2, -2, 2, 1]).reshape(4, 2)
    for rows in (1, 2, 4):
        found = merged([vector], Recipe(method="ties", density=0.5), rows)
        assert found.flatten().tolist() == [0, -2, 2, 0, 2, -2, 0, 0]


def test_a_density_of_less_than_one_entry_keeps_none() -> None:
    assert not merged([torch.ones(1)], Recipe(method="ties", density=0.5)).any()


def test_ties_elects_a_sign_by_magnitude_and_averages_those_that_have_it() -> None:
    first, second, third = torch.tensor([3.0, 1]), torch.tensor([-1.0, 2]), torch.tensor([-1.0, 0])
    found = merged([first, second, third], Recipe(method="ties", density=1))
    assert found.tolist() == [3, 1.5]


def test_weights_of_ties_count_in_vote_and_mean() -> None:
    first, second = torch.tensor([3.0, 1]), torch.tensor([-1.0, 4])
    found = merged([first, second], Recipe(method="ties", density=1, weights=(1, 5)))
    assert found.tolist() == pytest.approx([-1, 21 / 6])


@given(st.floats(0.1, 10))
def test_only_the_proportion_of_weights_counts_in_ties(factor: float) -> None:
    vectors = some(2)
    once = merged(vectors, Recipe(method="ties", weights=(1, 2)))
    torch.testing.assert_close(merged(vectors, Recipe(method="ties", weights=(factor, 2 * factor))), once)


def test_task_arithmetic_keeps_what_does_not_overlap() -> None:
    first, second = torch.tensor([1.0, 2, 0, 0]), torch.tensor([0.0, 0, 3, 4])
    assert merged([first, second], Recipe(method="task_arithmetic")).tolist() == [1, 2, 3, 4]
    assert merged([first, second], Recipe(method="ties", density=0.5)).tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize("method", ["linear", "slerp", "ties"])
def test_a_vector_with_itself_is_itself(method: MergeMethod) -> None:
    [vector] = some(1)
    torch.testing.assert_close(merged([vector, vector], Recipe(method=method, density=1)), vector)


def test_slerp_goes_from_one_end_to_the_other_on_an_arc() -> None:
    first, second = torch.tensor([2.0, 0]), torch.tensor([0.0, 4])

    def at(t: float) -> list[float]:
        return merged([first, second], Recipe(method="slerp", t=t), 1).tolist()

    assert at(0) == pytest.approx([2, 0], abs=1e-6)
    assert at(1) == pytest.approx([0, 4], abs=1e-6)
    assert at(0.5) == pytest.approx([3 / math.sqrt(2)] * 2)


@given(st.floats(0, 1), st.integers(0, 1000))
def test_slerp_keeps_a_magnitude_that_both_have(t: float, seed: int) -> None:
    first, second = some(2, 40, seed=seed)
    second *= first.norm() / second.norm()
    found = merged([first, second], Recipe(method="slerp", t=t))
    torch.testing.assert_close(found.norm(), first.norm())


@pytest.mark.parametrize("other", [[2.0, 4.0], [-1.0, -2.0], [0.0, 0.0]])
def test_slerp_without_an_arc_goes_straight(other: list[float]) -> None:
    first, second = torch.tensor([1.0, 2]), torch.tensor(other)
    torch.testing.assert_close(merged([first, second], Recipe(method="slerp", t=0.25)), 0.75 * first + 0.25 * second)


@pytest.mark.parametrize("density", [0.3, 0.7])
def test_dare_drops_and_makes_up_for_it(density: float) -> None:
    [vector] = some(1, 200, 100)
    found = merged([vector], Recipe(method="dare_linear", density=density), 7)
    kept = found != 0
    assert kept.float().mean().item() == pytest.approx(density, abs=0.02)
    torch.testing.assert_close(found[kept], vector[kept] / density)


def test_the_expectation_of_dare_is_the_linear_merge() -> None:
    vectors = some(2)
    mean = torch.zeros_like(vectors[0])
    for seed in range(2000):
        [found] = combine([[one] for one in vectors], 120, Recipe(method="dare_linear"), (seed, 10_000 + seed))
        mean += found / 2000
    assert (mean - merged(vectors, Recipe(method="linear"))).abs().max() < 0.15


def test_dare_ties_elects_among_what_was_not_dropped() -> None:
    vectors = some(3)
    dropped = [merged([one], Recipe(method="dare_linear")) for one in vectors]
    for place, seed in enumerate(SEEDS[:3]):
        [dropped[place]] = combine([[vectors[place]]], 120, Recipe(method="dare_linear"), (seed,))
    expected = merged(dropped, Recipe(method="ties", density=1))
    torch.testing.assert_close(merged(vectors, Recipe(method="dare_ties"), 5), expected)


def test_at_density_1_dare_drops_nothing() -> None:
    vectors = some(2)
    assert torch.equal(
        merged(vectors, Recipe(method="dare_linear", density=1)), merged(vectors, Recipe(method="linear"))
    )


def test_double_precision_stays() -> None:
    vectors = [vector.double() for vector in some(2)]
    assert merged(vectors, Recipe(method="ties")).dtype == torch.float64


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"method": "average"}, "task_arithmetic"),
        ({"density": 0}, "density"),
        ({"density": 1.1}, "density"),
        ({"density": math.nan}, "density"),
        ({"t": -0.1}, "t lies"),
        ({"scale": 0}, "scale"),
        ({"scale": math.inf}, "scale"),
        ({"weights": (1, 0)}, "above 0"),
        ({"weights": (1, math.nan)}, "above 0"),
        ({"method": "slerp", "weights": (1, 2)}, "slerp has no weights"),
    ],
)
def test_values_out_of_range_are_refused(given: dict[str, object], told: str) -> None:
    with pytest.raises(SettingsError, match=told):
        Recipe(**given)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("recipe", "models", "told"),
    [
        (Recipe(), 0, "no model"),
        (Recipe(method="slerp"), 3, "not 3"),
        (Recipe(weights=(1, 2)), 3, "2 were given"),
    ],
)
def test_a_recipe_for_another_number_of_models_is_refused(recipe: Recipe, models: int, told: str) -> None:
    with pytest.raises(SettingsError, match=told):
        recipe.check(models)


@pytest.mark.parametrize("method", METHODS)
def test_a_recipe_survives_its_row(method: MergeMethod) -> None:
    weights = None if method in ("slerp", "task_arithmetic") else (1.0, 2.0)
    recipe = Recipe(method=method, density=0.3, t=0.7, weights=weights, seed=3, scale=0.9)
    again = Recipe.from_row({**recipe.row(), "tensors": 9})
    assert again.row() == recipe.row()
    assert again.label == recipe.label
