import numpy as np
import pytest

from rmt_rl.data import orders
from rmt_rl.data.orders import ComputedOrder, Orders


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 16, 17, 1000, 4096, 70_001])
def test_a_computed_order_holds_every_item_once(size: int) -> None:
    items = ComputedOrder(np.random.default_rng([3, 0, 1]), size).at(np.arange(size))
    assert items.dtype == np.int64
    assert np.array_equal(np.sort(items), np.arange(size))


def test_a_computed_order_looks_random() -> None:
    size = 50_000
    items = ComputedOrder(np.random.default_rng([3, 0, 1]), size).at(np.arange(size))
    others = ComputedOrder(np.random.default_rng([3, 0, 2]), size).at(np.arange(size))
    bound = 4 / np.sqrt(size)  # of correlations of independent numbers
    assert abs(np.corrcoef(items, np.arange(size))[0, 1]) < bound
    assert abs(np.corrcoef(items[1:], items[:-1])[0, 1]) < bound
    assert abs(np.corrcoef(items, others)[0, 1]) < bound
    assert abs(np.corrcoef(items % 2, np.arange(size) % 2)[0, 1]) < bound
    counts = np.bincount(items[:5000] * 50 // size, minlength=50)
    assert ((counts - 100) ** 2 / 100).sum() < 100, "chi-squared with 49 degrees of freedom"


def test_a_stored_order_is_a_permutation_of_numpy() -> None:
    places = np.arange(250)
    wanted = [np.random.default_rng([5, orders.ORDER, epoch]).permutation(100) for epoch in range(3)]
    assert np.array_equal(Orders(100, seed=5)[places], np.concatenate(wanted)[:250])


def test_a_large_order_costs_no_memory_and_goes_on_after_its_end() -> None:
    size = 10**12
    order = Orders(size, seed=0)
    places = np.array([0, 1, size - 1, size, size + 1, 2 * size])
    items = order[places]
    assert len(set(items.tolist())) == len(items)
    assert items.min() >= 0
    assert items.max() < size
    assert np.array_equal(items[3:], Orders(size, seed=0)[places[3:]])
