"""Running mean and variance for the normalization of rewards and advantages."""

from typing import NamedTuple


class RunningMoments(NamedTuple):
    """Mean and population variance of the numbers seen so far, and their total weight.

    The initial value is that of OpenAI baselines: a pseudo-observation of weight 1e-4 with mean 0 and variance 1.

    Reference:
        openai/baselines, common/running_mean_std.py, `RunningMeanStd`
    """

    mean: float = 0.0
    variance: float = 1.0
    weight: float = 1e-4

    def merged(self, batch: "RunningMoments") -> "RunningMoments":
        """The moments of both samples together.

        Reference:
            Chan, Golub, LeVeque 1979, Updating formulae and a pairwise algorithm for computing sample variances,
            eq. 2.1
        """
        weight = self.weight + batch.weight
        delta = batch.mean - self.mean
        mean = self.mean + delta * batch.weight / weight
        squares = self.variance * self.weight + batch.variance * batch.weight
        return RunningMoments(mean, (squares + delta * delta * self.weight * batch.weight / weight) / weight, weight)
