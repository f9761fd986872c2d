import math
from fractions import Fraction
from random import Random
from statistics import fmean

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plantune_lite.evaluate.stats import (
    Estimate,
    holm,
    majority,
    mcnemar,
    mean,
    of_problems,
    of_trainings,
    over_trainings,
    p_text,
    paired,
    sign_flips,
    t_quantile,
    t_tails,
    wilson,
)

SHARES = st.lists(st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]), min_size=1, max_size=40)


@pytest.mark.parametrize(
    ("right", "of", "low", "high"),
    [(22, 60, 0.2562, 0.4932), (0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (1, 2, 0.0945, 0.9055)],
)
def test_wilson_gives_the_known_intervals(right, of, low, high):
    found = wilson(right, of)
    assert found.value == right / of
    assert (found.low, found.high) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(1, 400).flatmap(lambda of: st.tuples(st.integers(0, of), st.just(of))))
def test_wilson_holds_the_share_and_narrows_with_more_problems(counts):
    right, of = counts
    found, more = wilson(right, of), wilson(10 * right, 10 * of)
    assert 0 <= found.low <= found.value <= found.high <= 1
    assert more.high - more.low < found.high - found.low


def test_nothing_measured_can_be_anything():
    found = wilson(0, 0)
    assert math.isnan(found.value) and (found.low, found.high) == (0, 1)
    assert mean([]).high == 1


@settings(deadline=None, max_examples=50)
@given(SHARES, st.integers(0, 5))
def test_the_bootstrap_holds_the_mean_and_is_the_same_for_a_seed(values, seed):
    found = mean(values, seed=seed, draws=200)
    assert found.value == fmean(values)
    assert 0 <= found.low <= found.value <= found.high <= 1
    assert found == mean(list(reversed(values)), seed=seed, draws=200)


def test_the_bootstrap_of_zeros_and_ones_is_near_wilson():
    found, exact = mean([1.0] * 90 + [0.0] * 210), wilson(90, 300)
    assert (found.low, found.high) == pytest.approx((exact.low, exact.high), abs=0.01)


def test_twenty_of_twenty_is_not_certain():
    assert 0.8 < mean([1.0] * 20).low < 0.95


def test_samples_that_agree_tell_less_than_samples_that_differ():
    """60 problems x 4 samples are 60 trials where a problem's samples are all alike, not 240."""
    alike = of_problems([1.0] * 20 + [0.0] * 40)
    mixed = of_problems([1 / 4] * 40 + [1 / 2] * 20)
    assert alike == wilson(20, 60)
    assert mixed.high - mixed.low < (alike.high - alike.low) / 2


def test_values_without_bounds_get_no_extra_problems():
    found = mean([3.0, 4.0, 5.0] * 30, bounds=None)
    assert found.value == 4 and 3.8 < found.low < 4 < found.high < 4.2


def test_a_95_percent_interval_holds_the_truth_about_so_often():
    rng, held = Random(0), 0
    for _ in range(300):
        found = mean([float(rng.random() < 0.9) for _ in range(60)], draws=300)
        held += found.low <= 0.9 <= found.high
    assert 0.91 <= held / 300 <= 0.99


@pytest.mark.parametrize(("won", "lost", "p"), [(0, 0, 1.0), (5, 5, 1.0), (18, 3, 0.00149), (6, 0, 0.03125)])
def test_mcnemar_is_a_fair_coin(won, lost, p):
    assert mcnemar(won, lost) == pytest.approx(p, abs=5e-6)
    assert mcnemar(lost, won) == mcnemar(won, lost)


@pytest.mark.parametrize(("won", "lost"), [(18, 3), (9, 4), (30, 25)])
def test_flipping_signs_is_mcnemar_where_answers_are_right_or_wrong(won, lost):
    differences = [1.0] * won + [-1.0] * lost + [0.0] * 40
    assert sign_flips(differences) == pytest.approx(mcnemar(won, lost), abs=0.01)


def test_two_models_are_compared_problem_by_problem():
    ours, theirs = [1, 1, 1, 0, 1, 0], [0, 1, 0, 1, 0, 0]
    found = paired(ours, theirs)
    assert (found.problems, found.won, found.lost) == (6, 3, 1)
    assert found.difference.value == pytest.approx(1 / 3)
    assert found.p == mcnemar(3, 1)


def test_shares_over_samples_are_compared_by_flipping_signs():
    found = paired([0.75] * 30, [0.5] * 30)
    assert found.p < 0.001 and found.difference.low > 0


@pytest.mark.parametrize(
    ("df", "reach"), [(1, 12.7062), (2, 4.3027), (3, 3.1824), (4, 2.7764), (5, 2.5706), (9, 2.2622), (30, 2.0423)]
)
def test_student_s_t_has_the_known_quantiles(df, reach):
    assert t_quantile(df) == pytest.approx(reach, abs=5e-5)
    assert t_tails(-reach, df) == pytest.approx(0.05, abs=1e-5)


def test_several_trainings_are_compared_by_their_differences():
    """By hand: mean 0.04, standard deviation 0.02, so t = 0.04 / (0.02 / sqrt(3)) = 3.46 with 2 degrees of freedom."""
    found = over_trainings(paired([1, 1, 0, 1], [0, 1, 1, 0]), [0.02, 0.04, 0.06])
    assert (found.difference.value, found.trainings, found.won) == (pytest.approx(0.04), 3, 2)
    assert (found.difference.low, found.difference.high) == pytest.approx((-0.0097, 0.0897), abs=5e-5)
    assert found.p == pytest.approx(0.0742, abs=5e-5)


def test_trainings_that_all_differ_by_as_much_leave_the_test_to_the_problems():
    by_problem = paired([1, 1, 0, 1], [0, 1, 1, 0])
    assert over_trainings(by_problem, [0.0, 0.0]).p == by_problem.p


def test_an_arm_s_interval_is_never_narrower_than_its_problems_say():
    alike, apart = of_trainings([0.5, 0.5], wilson(50, 100)), of_trainings([0.2, 0.8], wilson(50, 100))
    assert alike == wilson(50, 100) and (apart.low, apart.high) == (0, 1)


def test_equal_arms_are_called_different_in_5_percent_of_studies_by_trainings_and_in_over_10_by_problems():
    """Two arms that are equal but for their seeds' luck, 5 points: 5 seeds each, the same 100 problems."""
    rng, studies, wrong = Random(0), 500, {"trainings": 0, "problems": 0}

    def arm():
        rates = [rng.gauss(0.5, 0.05) for _ in range(5)]
        return [[rng.random() < rate for _ in range(100)] for rate in rates]

    for _ in range(studies):
        ours, theirs = arm(), arm()
        seeds = [fmean(one) - fmean(other) for one, other in zip(ours, theirs, strict=True)]
        wrong["trainings"] += over_trainings(paired([1], [0]), seeds).p < 0.05
        means = [[fmean(of_problem) for of_problem in zip(*one, strict=True)] for one in (ours, theirs)]
        wrong["problems"] += sign_flips([one - other for one, other in zip(*means, strict=True)], flips=200) < 0.05
    assert 0.03 <= wrong["trainings"] / studies <= 0.07
    assert 0.10 <= wrong["problems"] / studies <= 0.22


def test_a_model_is_not_better_than_itself():
    found = paired([1, 0, 1, 0] * 10, [1, 0, 1, 0] * 10)
    assert (found.difference.value, found.won, found.lost, found.p) == (0, 0, 0, 1)
    assert found.difference.low < 0 < found.difference.high


@settings(deadline=None, max_examples=25)
@given(st.lists(st.tuples(st.sampled_from([0.0, 0.5, 1.0]), st.sampled_from([0.0, 0.5, 1.0])), min_size=1, max_size=30))
def test_a_comparison_turned_round_has_the_same_p_and_the_other_counts(pairs):
    ours, theirs = zip(*pairs, strict=True)
    one, other = paired(ours, theirs), paired(theirs, ours)
    assert (one.won, one.lost) == (other.lost, other.won)
    assert one.p == pytest.approx(other.p, abs=0.03)


def test_other_numbers_of_problems_cannot_be_paired():
    with pytest.raises(ValueError):
        paired([1, 0], [1])


def test_holm_gives_the_known_correction():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.2]) == [0.2] and holm([]) == []


@given(st.lists(st.floats(0, 1), max_size=12))
def test_holm_never_lowers_and_keeps_the_order(p_values):
    corrected = holm(p_values)
    assert all(p <= q <= 1 for p, q in zip(p_values, corrected, strict=True))
    by_p = [q for _, q in sorted(zip(p_values, corrected, strict=True))]
    assert by_p == sorted(by_p)


@pytest.mark.parametrize(
    ("answers", "chosen"),
    [
        (["3", "4", "4"], "4"),
        (["3", "4"], "3"),
        (["0.5", "3", "3", "1/2", "0.50"], "0.5"),
        (["3", "0.5", "1/2", "3"], "3"),
        ([], None),
    ],
)
def test_the_majority_is_of_answers_that_are_the_same_and_ties_go_to_the_first(answers, chosen):
    assert majority(answers, lambda one, other: Fraction(one) == Fraction(other)) == chosen


def test_figures_in_words():
    assert wilson(22, 60).percent() == "36.7 % (25.6 to 49.3)"
    assert Estimate(0.25, -0.1, 0.369).points() == "+25.0 points (-10.0 to +36.9)"
    assert [p_text(p) for p in (0.0004, 0.013, 0.24)] == ["< 0.001", "0.013", "0.24"]
