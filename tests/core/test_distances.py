"""Proves the assumption of src/_fastpath/shortest.cpp for all floats, with exact integers.

It truncates n * 2^q / 10^k to 64 fraction bits, exceeding it by up to 2^-69, and compares it with
integers: a float's value (n = 4c) with even ones, the ends of its interval (n = 4c - 2, 4c + 2;
4c - 1 below a power of two) with multiples of four. That is correct if none of these numbers lies
within 2^-63 of such an integer without being one.
"""

import math
from collections.abc import Iterator
from fractions import Fraction

MANTISSA = 52
EXPONENTS = range(-1074, 972)  # q of all float64s, which include those of the other types
ENOUGH = Fraction(1, 2**63)


def regular_exponent(q: int) -> int:
    """As in src/_fastpath/powers_of_ten.hpp."""
    return (q * 1262611) >> 22


def uneven_exponent(q: int) -> int:
    """As in src/_fastpath/powers_of_ten.hpp."""
    return (q * 1262611 - 524031) >> 22


def binary_exponent(power: int) -> int:
    """As in src/_fastpath/powers_of_ten.hpp."""
    return (power * 1741647) >> 19


def exact_power(base: int, exponent: int) -> Fraction:
    return Fraction(base) ** exponent


def min_distances(step: Fraction, max_n: int) -> Iterator[Fraction]:
    """The least nonzero distances of n * step from an integer, for n from 1 to `max_n`.

    Yields the one from above, then the one from below; nothing if all are integers. An n nearer
    than all before it is always the sum of two earlier ones: the best approximations of a number
    are the convergents of its continued fraction and the intermediate fractions.
    """
    whole = step.denominator
    above, below = step.numerator % whole, -step.numerator % whole  # in units of 1 / whole
    n_above = n_below = 1
    if above == 0:
        return
    while above != below:
        if above > below:
            times = min((above - 1) // below, (max_n - n_above) // n_below)
            above, n_above = above - times * below, n_above + times * n_below
        else:
            times = min((below - 1) // above, (max_n - n_below) // n_above)
            below, n_below = below - times * above, n_below + times * n_above
        if times == 0:
            break
    yield Fraction(above, whole)
    yield Fraction(below, whole)


def distances(number: Fraction) -> Iterator[Fraction]:
    """The distances of one number from its neighbouring integers, if it is none."""
    above = number - math.floor(number)
    if above != 0:
        yield above
        yield 1 - above


def test_the_least_distances_are_those_of_all_multiples() -> None:
    for step in {Fraction(a, b) for a in range(1, 40) for b in range(1, 40)}:
        for max_n in (1, 2, 3, 7, 19, 60):
            each = [tuple(distances(n * step)) for n in range(1, max_n + 1)]
            least = [min(side) for side in zip(*filter(None, each), strict=True)]
            assert list(min_distances(step, max_n)) == least


def test_the_exponents_are_the_logarithms() -> None:
    # One more on each side: the cheaper form computes specials too.
    for q in range(EXPONENTS.start - 1, EXPONENTS.stop + 1):
        power = exact_power(2, q)
        regular, uneven = regular_exponent(q), uneven_exponent(q)
        assert exact_power(10, regular) <= power < exact_power(10, regular + 1)
        assert exact_power(10, uneven) <= power * 3 / 4 < exact_power(10, uneven + 1)
        for k in {regular, uneven}:
            binary = binary_exponent(-k)
            assert exact_power(2, binary) <= exact_power(10, -k) < exact_power(2, binary + 1)
            assert 1 <= q + binary + 1 <= 4


def test_no_float_is_too_near_to_what_it_is_compared_with() -> None:
    for q in EXPONENTS:
        unit = exact_power(2, q) / exact_power(10, regular_exponent(q))
        # In units of 2: 4c, with c up to 2^53. In units of 4: 4c - 2 and 4c + 2.
        values = min_distances(2 * unit, 2 ** (MANTISSA + 1))
        ends = min_distances(unit / 2, 2 ** (MANTISSA + 2) + 1)
        assert all(2 * distance > ENOUGH for distance in values)
        assert all(4 * distance > ENOUGH for distance in ends)
        # Powers of two, of each type.
        unit = exact_power(2, q) / exact_power(10, uneven_exponent(q))
        for mantissa in (7, 10, 23, MANTISSA):
            n = 4 * 2**mantissa
            assert all(2 * distance > ENOUGH for distance in distances(n * unit / 2))
            for end in (n - 1, n + 2):
                assert all(4 * distance > ENOUGH for distance in distances(end * unit / 4))
