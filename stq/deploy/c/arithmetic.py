"""The C of real numbers that every processor computes alike."""

from __future__ import annotations

ROUND = """\
/* v to the nearest integer, ties to even, no less than low and no more than high (-256 to 255) */
static inline int stq_nearest(float v, int low, int high)
{
    union { float f; uint32_t u; } value;
    value.f = v;
    int exponent = (int)(value.u >> 23 & 255u) - 127, whole = 0;
    if (exponent >= 9) whole = 512;
    else if (exponent >= -1) {
        uint32_t mantissa = (value.u & 0x7fffffu) | 0x800000u, half = 1u << (22 - exponent);
        uint32_t rest = mantissa & (2u * half - 1u);
        whole = exponent < 0 ? 0 : (int)(mantissa >> (23 - exponent));
        whole += rest > half || (rest == half && (whole & 1));
    }
    if (value.u >> 31) whole = -whole;
    return whole < low ? low : (whole > high ? high : whole);
}

/* the code of x: gain * x and its sum with -shift are rounded each */
static inline int stq_code(float x, float gain, float shift, int low, int high)
{
    return stq_nearest(stq_sum(gain * x, -shift), low, high);
}
"""

SUM = """\
/* a product and a sum, each rounded: the argument keeps compilers from fusing them */
static inline float stq_sum(volatile float product, float term)
{
    return product + term;
}

static inline float stq_real(int32_t acc, float multiplier, float offset)
{
    return stq_sum(multiplier * (float)acc, offset);
}
"""

MEAN = """\
/* the sum of numbers and what rounding lost of it: as exact as a sum in twice the precision */
struct stq_total { float sum, lost; };

static inline void stq_add(struct stq_total *total, float v)
{
    volatile float sum = total->sum + v;
    volatile float back = sum - total->sum;
    volatile float mine = v - back, rest = sum - back;
    volatile float theirs = total->sum - rest;
    total->sum = sum;
    total->lost += theirs + mine;
}

static inline float stq_divided(const struct stq_total *total, float count)
{
    return (total->sum + total->lost) / count;
}
"""
