"""Exponentials, logarithms and the Wright omega function of lanes, free of branches."""

from __future__ import annotations

from pyro_geo.filtering.hgf.compiled.lanes import Lanes, where

__all__ = ["exp", "log", "omega_start", "rough_log"]

_LN2_HIGH = {64: 6.93147180369123816490e-01, 32: 6.93359375e-01}
_LN2_LOW = {64: 1.90821492927058770002e-10, 32: -2.12194440054690583e-04}
_LOG2_E = 1.4426950408889634
_EXP_RANGE = {64: (-708.0, 709.0), 32: (-87.0, 88.0)}
# (e^x - 1 - x) / x^2 at Chebyshev's points of |x| <= ln(2) / 2; relative error of the
# exponential 2e-17 and 1e-9
_EXP = {
    64: (
        0.5000000000000001,
        0.16666666666666669,
        0.04166666666662413,
        0.008333333333330062,
        0.0013888888917213717,
        0.00019841269863053618,
        2.4801521295954376e-05,
        2.7557268459997064e-06,
        2.7620088445409746e-07,
        2.510038549551032e-08,
    ),
    32: (
        0.500000001346581,
        0.16666666681623232,
        0.041666464925285904,
        0.0083333109254809,
        0.0013933649996309251,
        0.00019890990824673654,
    ),
}
_ROUGH_EXP = (
    0.9999245267087007,
    0.9999849225937976,
    0.5050232922410302,
    0.16767031995463355,
)
# (2 artanh(s) / s - 2) / s^2 in s^2, for s = (m - 1) / (m + 1), m in [0.7, 1.42]
_LOG = {
    64: (
        0.666666666666667,
        0.39999999999899505,
        0.28571428625975487,
        0.2222221113479508,
        0.18182889125261723,
        0.15331721600556042,
        0.14616449685043406,
    ),
    32: (0.6666668503957586, 0.3998878056602198, 0.2957994939197279),
}
_ROUGH_LOG = (
    0.999731067897362,
    -0.5023236559476031,
    0.3536320724530045,
    -0.22362563233616445,
)


def _scaled(x: Lanes, rough: bool) -> Lanes:
    bits, mantissa = x.bits, x.mantissa_bits
    low, high = _EXP_RANGE[bits]
    x = x.at_least(low).at_most(high)
    # adding this rounds to an integer and leaves it in the lowest bits
    magic = 1.5 * 2.0**mantissa
    shifted = x * _LOG2_E + magic
    count = shifted - magic
    rest = (x - count * _LN2_HIGH[bits]) - count * _LN2_LOW[bits]
    if rough:
        value = rest.polynomial(_ROUGH_EXP)
    else:
        value = 1.0 + (rest + rest * rest * rest.polynomial(_EXP[bits]))
    exponent = shifted.as_integers().integer("shl", mantissa)
    return value.as_integers().integer("add", exponent).as_floats()


def exp(x: Lanes) -> Lanes:
    """Take the exponential; what would not be a normal number is the nearest one."""
    return _scaled(x, rough=False)


def rough_exp(x: Lanes) -> Lanes:
    """Take the exponential to 1e-4."""
    return _scaled(x, rough=True)


def _split(x: Lanes) -> tuple[Lanes, Lanes]:
    """Write a positive normal number as 2^n m, m around 1; return n and m - 1."""
    mantissa, bias = x.mantissa_bits, x.bias
    half = 0x3FE6A09E667F3BCD if x.bits == 64 else 0x3F3504F3
    one = bias << mantissa
    shifted = x.as_integers().integer("add", one - half)
    # an integer below 2^52 (2^23) in the lowest bits of 2^52 (2^23)
    stored = shifted.integer("lshr", mantissa)
    stored = stored.integer("or_", (bias + mantissa) << mantissa).as_floats()
    fraction = shifted.integer("and_", (1 << mantissa) - 1).integer("add", half)
    return stored - (2.0**mantissa + bias), fraction.as_floats() - 1.0


def log(x: Lanes) -> Lanes:
    """Take the logarithm of positive normal numbers."""
    n, f = _split(x)
    s = f / (2.0 + f)
    square = s * s
    half = 0.5 * f * f
    tail = s * (half + square * square.polynomial(_LOG[x.bits]))
    return n * _LN2_HIGH[x.bits] - ((half - (tail + n * _LN2_LOW[x.bits])) - f)


def rough_log(x: Lanes) -> Lanes:
    """Take the logarithm to an absolute 1.4e-4."""
    n, f = _split(x)
    return n * 0.6931471805599453 + f * f.polynomial(_ROUGH_LOG)


def omega_start(z: Lanes) -> Lanes:
    """Solve w + log w = z to a relative 5e-4, as a start of an exact method."""
    # one step of Fritsch, Shafer and Crowley, of fourth order, leaves rounding alone;
    # both fits are rational, in e^z up to 1 and in log z above
    x = rough_exp(z.at_most(1.0))
    above = rough_log(z.at_least(1.0))
    low = x * (1.0 + x * (1.0922886431552905 + x * 0.04640037427048101))
    low_under = 1.0 + x * (2.087878317189939 + x * 0.6826795668744559)
    high = above * (
        0.5031482145300024 + above * (0.14872293709788986 + above * 0.11694508090687847)
    )
    high_under = 1.0 + above * (-0.04124388797821318 + above * 0.13680313277817596)
    is_low = z < 1.0
    part = where(is_low, low, high) / where(is_low, low_under, high_under)
    return where(is_low, part, z - part)
