"""The statistics against the published definitions, against rliable, and by simulation."""

import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from lightning_rl.report.coverage import coverage, improvement_coverage
from lightning_rl.report.statistics import (
    AGGREGATES,
    interquartile_mean,
    mean_of_means_interval,
    median,
    optimality_gap,
    percentile_interval,
    performance_profile,
    probability_of_improvement,
    resampled,
    t_interval,
    t_quantile,
)

Scores = list[NDArray[np.float64]]


def drawn(games: int, runs: int, seed: int = 0) -> Scores:
    """Scores of some runs per game, some of them above 1, with ties."""
    rng = np.random.default_rng(seed)
    return [rng.normal(game / games, 0.5, runs).round(1) for game in range(games)]


def table(scores: Scores) -> NDArray[np.float64]:
    """rliable's layout: a row per run, a column per game."""
    return np.stack(scores, axis=-1)


def seed_rliable() -> None:
    """It draws from numpy's global generator, whichever it is given."""
    np.random.seed(7)  # noqa: NPY002


class TestDefinitions:
    """What Agarwal et al. 2021 define, written plainly."""

    @pytest.mark.parametrize(("games", "runs"), [(1, 3), (2, 5), (16, 3), (5, 7)])
    def test_interquartile_mean(self, games: int, runs: int) -> None:
        scores = drawn(games, runs)
        ordered = sorted(value for game in scores for value in game)
        cut = int(0.25 * len(ordered))

        assert interquartile_mean(scores) == pytest.approx(np.mean(ordered[cut : len(ordered) - cut]), rel=1e-12)

    def test_median_is_over_games(self) -> None:
        assert median([np.array([0.0, 2.0]), np.array([5.0]), np.array([9.0, 9.0, 9.0])]) == 5.0
        assert median([np.array([0.0, 2.0]), np.array([5.0])]) == 3.0

    def test_what_is_above_1_makes_up_for_nothing(self) -> None:
        assert optimality_gap([np.array([3.0, 0.0]), np.array([1.0])]) == 0.25

    def test_profile(self) -> None:
        scores = [np.array([0.1, 0.5]), np.array([0.5, 0.9])]

        shares = performance_profile(scores, np.array([0.0, 0.1, 0.5, 0.9]))

        assert shares.tolist() == [1.0, 0.75, 0.25, 0.0]

    def test_improvement_counts_ties_half_and_games_equally(self) -> None:
        first = [np.array([1.0, 2.0]), np.array([1.0])]
        second = [np.array([1.0, 3.0]), np.array([0.0, 0.0, 0.0])]

        assert probability_of_improvement(first, second) == pytest.approx((1.5 / 4 + 1) / 2)

    def test_resamples_are_drawn_within_each_game(self) -> None:
        draws = resampled([np.array([1.0, 2.0, 3.0]), np.array([10.0, 20.0])], 200, np.random.default_rng(0))

        assert [draw.shape for draw in draws] == [(200, 3), (200, 2)]
        assert [set(draw.ravel()) for draw in draws] == [{1.0, 2.0, 3.0}, {10.0, 20.0}]

    def test_a_whole_bootstrap_is_each_resample_alone(self) -> None:
        draws = resampled(drawn(4, 5), 20, np.random.default_rng(0))

        for statistic in AGGREGATES.values():
            alone = [float(statistic([game[number] for game in draws])) for number in range(20)]
            assert statistic(draws) == pytest.approx(alone, rel=1e-12)


@pytest.mark.filterwarnings("ignore::FutureWarning")  # arch renames what rliable calls
class TestRliable:
    """rliable's numbers with the same resamples, to 1e-9."""

    REPETITIONS = 200

    @pytest.fixture
    def rly(self) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # those of its dependencies
            pytest.importorskip("rliable", reason="rliable, pandas<3 and arch<8 are not installed")
            from rliable import library, metrics

        return library, metrics

    @pytest.mark.parametrize(("games", "runs"), [(16, 5), (3, 4), (1, 3)])
    def test_aggregates(self, rly: Any, games: int, runs: int) -> None:
        library, metrics = rly
        scores = drawn(games, runs)
        peers: dict[str, Callable[[Any], float]] = {
            "iqm": metrics.aggregate_iqm,
            "mean": metrics.aggregate_mean,
            "median": metrics.aggregate_median,
            "optimality_gap": metrics.aggregate_optimality_gap,
        }
        draws = self.draws(library, table(scores))
        for name, peer in peers.items():
            seed_rliable()
            point, interval = library.get_interval_estimates(
                {"ours": table(scores)},
                lambda one, peer=peer: np.array([peer(one)]),
                reps=self.REPETITIONS,
            )
            ours = AGGREGATES[name]
            assert float(ours(scores)) == pytest.approx(float(point["ours"][0]), abs=1e-9)
            assert percentile_interval(ours(draws)) == pytest.approx(interval["ours"][:, 0].tolist(), abs=1e-9)

    def test_profile(self, rly: Any) -> None:
        library, _ = rly
        scores, thresholds = drawn(16, 5), np.linspace(-0.5, 1.5, 41)
        seed_rliable()
        shares, intervals = library.get_interval_estimates(
            {"ours": table(scores)},
            lambda one: library.score_distributions(one, thresholds),
            reps=self.REPETITIONS,
        )

        ours = performance_profile(self.draws(library, table(scores)), thresholds)

        assert performance_profile(scores, thresholds) == pytest.approx(shares["ours"], abs=1e-9)
        assert np.percentile(ours, (2.5, 97.5), axis=0) == pytest.approx(intervals["ours"], abs=1e-9)

    def test_probability_of_improvement(self, rly: Any) -> None:
        _, metrics = rly
        first, second = drawn(16, 5, seed=1), drawn(16, 4, seed=2)

        ours = probability_of_improvement(first, second)

        assert float(ours) == pytest.approx(metrics.probability_of_improvement(table(first), table(second)), abs=1e-9)

    def draws(self, library: Any, scores: NDArray[np.float64]) -> Scores:
        """The resamples that rliable draws from this seed."""
        seed_rliable()
        bootstrap = library.StratifiedBootstrap(scores)
        found = np.stack([positional[0] for positional, _ in bootstrap.bootstrap(self.REPETITIONS)])
        return list(np.moveaxis(found, -1, 0))


class TestStudent:
    @pytest.mark.parametrize(
        ("freedom", "quantile"),
        [(1, 12.706205), (2, 4.302653), (3, 3.182446), (4, 2.776445), (9, 2.262157), (1000, 1.962339)],
    )
    def test_quantile_is_that_of_the_tables(self, freedom: int, quantile: float) -> None:
        assert t_quantile(freedom) == pytest.approx(quantile, abs=1e-6)

    def test_interval_of_three_runs(self) -> None:
        low, high = t_interval(np.array([3.4, 4.9, 6.7])) or (0.0, 0.0)

        half = 4.302653 * np.std([3.4, 4.9, 6.7], ddof=1) / math.sqrt(3)
        assert (low, high) == pytest.approx((5 - half, 5 + half), abs=1e-5)

    def test_two_runs_have_none(self) -> None:
        assert t_interval(np.array([3.4, 4.9])) is None
        assert mean_of_means_interval([np.array([1.0, 2.0, 3.0]), np.array([1.0, 2.0])]) is None

    def test_equal_runs_have_one_of_no_width(self) -> None:
        assert t_interval(np.full(3, 2.5)) == (2.5, 2.5)

    @pytest.mark.parametrize(("games", "runs"), [(1, 3), (5, 3)])
    def test_interval_of_a_mean_over_games_holds_the_truth(self, games: int, runs: int) -> None:
        rng = np.random.default_rng(0)
        held = 0
        for _ in range(600):
            low, high = mean_of_means_interval([rng.normal(size=runs) for _ in range(games)]) or (1.0, 1.0)
            held += low <= 0 <= high

        assert 0.93 <= held / 600 <= 0.99  # Welch's is on the wide side for few runs


class TestCoverage:
    def test_three_runs_of_one_game_are_too_few(self) -> None:
        shares = coverage((3,))

        assert (
            0.70 <= shares["iqm"] <= 0.80
        )  # 75 % in theory: Student's 2 degrees of freedom within 1.6 standard errors

    @pytest.mark.slow
    def test_ten_runs_of_sixteen_games_are_enough(self) -> None:
        shares = coverage((10,) * 16, repetitions=2000)

        assert 0.915 <= shares["iqm"] <= 0.96  # 93.7 % in theory
        assert 0.915 <= shares["mean"] <= 0.96

    def test_games_may_have_different_numbers_of_runs(self) -> None:
        assert coverage((3, 4), repetitions=200)["mean"] > coverage((3,), repetitions=200)["mean"]

    def test_comparisons_of_few_runs_find_differences_that_are_not_there(self) -> None:
        few, many = improvement_coverage((3,), (3,)), improvement_coverage((10,) * 4, (10,) * 4)

        assert few < 0.87  # of two equal methods, three runs against three in one game differ too often
        assert 0.91 < many < 0.98
