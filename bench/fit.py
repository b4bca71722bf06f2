"""Least-squares fit of a power law to measured points."""

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PowerLaw:
    """y = factor * x ** exponent.

    Attributes:
        exponent: 0 is flat, 1 is linear.
        factor: y at x = 1.
        r2: the share of the variance of log y that the fit explains; 1.0 without any variance.
    """

    exponent: float
    factor: float
    r2: float

    def at(self, x: float) -> float:
        """Returns y at x."""
        return self.factor * math.pow(x, self.exponent)


def fit_power_law(xs: Sequence[float], ys: Sequence[float]) -> PowerLaw:
    """Fits a straight line to the logarithms by least squares.

    Args:
        xs: positive, at least two different ones.
        ys: positive.
    """
    log_xs, log_ys = [math.log(x) for x in xs], [math.log(y) for y in ys]
    mean_x, mean_y = math.fsum(log_xs) / len(log_xs), math.fsum(log_ys) / len(log_ys)
    pairs = list(zip(log_xs, log_ys, strict=True))
    covariance = math.fsum((x - mean_x) * (y - mean_y) for x, y in pairs)
    exponent = covariance / math.fsum((x - mean_x) ** 2 for x in log_xs)
    intercept = mean_y - exponent * mean_x
    variance = math.fsum((y - mean_y) ** 2 for y in log_ys)
    rest = math.fsum((y - intercept - exponent * x) ** 2 for x, y in pairs)
    # Rounding errors of constant ys do not count as variance.
    is_constant = variance <= 1e-24 * len(log_ys)
    return PowerLaw(exponent, math.exp(intercept), 1.0 if is_constant else 1 - rest / variance)
