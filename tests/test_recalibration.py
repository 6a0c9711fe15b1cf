"""The threshold follows labels: it keeps the bound on traffic other than the shipped calibration's, and closes."""

import random
from collections.abc import Callable

import numpy as np
import pytest

from chatlab.cache.bound import CLOSED, shipped
from chatlab.cache.recalibration import AUDIT_SHARE, WINDOW, Comparator, Label, Recalibration


def test_without_labels_it_is_the_shipped_one() -> None:
    for max_error in (0.02, 0.05, 0.1):
        assert Recalibration(max_error).threshold == shipped().threshold(max_error) < CLOSED


def labelled(wrong_share: float, n: int, seed: int = 0, low: float = 0.0) -> list[Label]:
    """Labels whose share of wrong ones is the same at every score."""
    chance = random.Random(seed)
    return [Label(chance.uniform(low, 1), chance.random() >= wrong_share) for _ in range(n)]


def told(recalibration: Recalibration, labels: list[Label], requests: int = 1) -> float:
    for label in labels:
        for _ in range(requests):
            recalibration.asked()
        recalibration.learn(label)
    return recalibration.threshold


def test_right_ones_lower_it_and_wrong_ones_close_it() -> None:
    assert told(Recalibration(0.05), labelled(0.0, 1_000)) < shipped().threshold(0.05)
    assert told(Recalibration(0.05), labelled(0.2, 1_000)) == CLOSED
    assert told(Recalibration(0.3), labelled(0.2, 1_000)) == CLOSED, "a fifth of all requests would be wrong"


def test_what_left_the_window_is_forgotten() -> None:
    recalibration = Recalibration(0.05)
    assert told(recalibration, labelled(0.2, 500)) == CLOSED
    assert told(recalibration, labelled(0.0, WINDOW)) < shipped().threshold(0.05)
    assert recalibration.n_labels == WINDOW


def test_the_latest_alone_can_close_it() -> None:
    recalibration = Recalibration(0.1)
    assert told(recalibration, labelled(0.0, 2_000)) < CLOSED
    assert told(recalibration, labelled(0.15, 700)) == CLOSED, "0.04 of all, 0.15 of the latest"


def test_the_share_of_all_requests_is_kept_too() -> None:
    rare, often = Recalibration(0.2), Recalibration(0.2)
    told(rare, labelled(0.06, 2_000), requests=10)
    told(often, labelled(0.06, 2_000))
    assert rare.threshold < 0.3
    assert often.threshold > rare.threshold, "with a candidate for each request 6 % of them would be wrong"


def test_a_person_is_believed_more_than_a_comparison() -> None:
    comparator = Comparator(false_same=0.05, false_different=0.05)
    as_if_all_were_the_same = labelled(0.05, 1_000)
    compared, certain = Recalibration(0.1, comparator), Recalibration(0.1, comparator)
    assert told(compared, [*as_if_all_were_the_same, *[Label(0.9, False)] * 10], requests=10) < CLOSED
    told(certain, [*as_if_all_were_the_same, *[Label(0.9, False, source="person")] * 10], requests=10)
    assert certain.threshold > compared.threshold


def test_the_comparators_error_is_taken_out() -> None:
    comparator = Comparator(false_same=0.0, false_different=0.2)
    as_if_a_fifth_were_wrong = labelled(0.2, 1_000)
    assert told(Recalibration(0.05), as_if_a_fifth_were_wrong, requests=4) == CLOSED
    assert told(Recalibration(0.05, comparator), as_if_a_fifth_were_wrong, requests=4) < CLOSED
    as_if_two_fifths_were = labelled(0.4, 1_000)  # a quarter is
    assert told(Recalibration(0.05, comparator), as_if_two_fifths_were, requests=4) == CLOSED
    assert comparator.said(np.array([0.0, 0.25, 1.0])) == pytest.approx([0.2, 0.4, 1.0])


def test_what_is_not_served_tells_of_what_is() -> None:
    """Wrong ones far below the threshold raise it, before a single one was served."""
    as_shipped, harder = Recalibration(0.05), Recalibration(0.05)
    low = [Label(chance, chance > 0.15) for chance in np.linspace(0.02, 0.27, 600).tolist()]
    told(as_shipped, low, requests=4)
    told(harder, [Label(label.score, same=False) for label in low], requests=4)
    assert harder.threshold > as_shipped.threshold


def test_what_the_exact_tier_serves_counts_as_right() -> None:
    alone, beside_exact = Recalibration(0.05), Recalibration(0.05)
    for recalibration in (alone, beside_exact):
        told(recalibration, labelled(0.05, 500), requests=20)
    for _ in range(1_000):
        alone.asked()
        beside_exact.asked(exact=True)
    for recalibration in (alone, beside_exact):
        recalibration.learn(Label(0.5, True, source="person"))  # a person's is heard at once
    assert beside_exact.threshold < alone.threshold == CLOSED


@pytest.mark.parametrize("comparator", [None, Comparator(0.05, 0.1)])
@pytest.mark.parametrize("traps", [0.05, 0.3])
def test_the_bound_holds_on_other_traffic(comparator: Comparator | None, traps: float) -> None:
    """Scores of right ones lean to 1, of wrong ones to 0; served and audited as the cache does."""
    shares = [wrong_share(random.Random(seed), traps, 0.1, comparator) for seed in range(8)]
    assert sum(share <= 0.1 for share in shares) >= 7


def wrong_share(chance: random.Random, traps: float, max_error: float, comparator: Comparator | None) -> float:
    recalibration = Recalibration(max_error, comparator)
    beta: Callable[[float, float], float] = chance.betavariate
    served, wrong = 0, 0
    for _ in range(1_500):
        for _ in range(4):
            recalibration.asked()
        same = chance.random() >= traps
        score = beta(3, 1.5) if same else beta(1, 5)
        said = same
        if comparator is not None:
            said = chance.random() >= comparator.false_different if same else chance.random() < comparator.false_same
        if score < recalibration.threshold:
            recalibration.learn(Label(score, said))
            continue
        served, wrong = served + 1, wrong + (not same)
        if chance.random() < AUDIT_SHARE:
            recalibration.learn(Label(score, said, 1 / AUDIT_SHARE, "audit"))
    assert served > 100
    return wrong / served
