"""The C that lays the inputs of four output positions side by side, and codes that share bytes."""

from __future__ import annotations

from string import Template

BITS, CMSIS = 2, 3  # layouts that have code of their own


ONES = Template("static const uint8_t stq_ones[$twice] = {$ones};\n")

COLUMNS = Template("""\
static uint32_t stq_words[$words];
$before
/* where the four positions begin that are computed next: the last ones overlap those before */
static inline int stq_four_from(int next, int positions)
{
    return next + 4 > positions && positions > 4 ? positions - 4 : next;
}

/* the inputs of four output positions from `at` on, side by side; of_lowest: their sums times the lowest weight */
static void stq_gather(const struct stq_layer *l, const uint8_t *x, int at, int group, int32_t *of_lowest)
{
    int32_t sums[4];
    uint32_t *words = stq_words;
    uint8_t *bytes = (uint8_t *)stq_words;
    int top[4], left[4], last = l->rows * l->columns - 1, inner = 0;$declared
    for (int j = 0; j < 4; j++) {
        int place = at + j < last ? at + j : last;
        top[j] = place / l->columns * l->stride_rows - l->top;
        left[j] = place % l->columns * l->stride_columns - l->left;
        sums[j] = 0;
    }
    for (int ky = 0; ky < l->kernel_rows; ky++)
    for (int kx = 0; kx < l->kernel_columns; kx++) {
        const uint8_t *from[4];
        for (int j = 0; j < 4; j++) {
            int row = top[j] + ky * l->dilation_rows, column = left[j] + kx * l->dilation_columns;
            int inside = row >= 0 && row < l->height && column >= 0 && column < l->width;
            int place = (row * l->width + column) * l->channels + group * l->inputs;
            from[j] = inside && x ? $codes : l->padding;$ones
        }$inside
        const uint8_t *a = from[0], *b = from[1], *c = from[2], *d = from[3], *end = a + l->inputs;
        if (l->layout == 1) {
            uint32_t first = 0, second = 0;
            while (a < end) {
                uint32_t p = *a++ | (uint32_t)*b++ << 16, q = *c++ | (uint32_t)*d++ << 16;
                words[0] = p;
                words[1] = q;
                words += 2;
                first += p;
                second += q;
            }
            sums[0] += (int32_t)(first & 0xffffu);
            sums[1] += (int32_t)(first >> 16);
            sums[2] += (int32_t)(second & 0xffffu);
            sums[3] += (int32_t)(second >> 16);
        } else {
            while (a < end) {
                sums[0] += bytes[0] = *a++;
                sums[1] += bytes[4] = *b++;
                sums[2] += bytes[8] = *c++;
                sums[3] += bytes[12] = *d++;
                bytes += ++inner & 3 ? 1 : 13;
            }
        }
    }
$after
    of_lowest[0] = l->low * sums[0];
    of_lowest[1] = l->low * sums[1];
    of_lowest[2] = l->low * sums[2];
    of_lowest[3] = l->low * sums[3];
    if (l->layout == 1) {
        while (words < stq_words + 16 * l->blocks) *words++ = 0;
    } else if (l->layout == 0) {
        for (; inner < 8 * l->blocks; bytes += ++inner & 3 ? 1 : 13) bytes[0] = bytes[4] = bytes[8] = bytes[12] = 0;
    }
}
""")

IN_ONES = """
            if (!x) from[j] = inside ? stq_ones : stq_ones + {half};"""

ONES_OF = """
/* how many bits of v are one, in each of its bytes */
static inline uint32_t stq_ones_of(uint32_t v)
{
    v -= v >> 1 & 0x55555555u;
    v = (v & 0x33333333u) + (v >> 2 & 0x33333333u);
    return (v + (v >> 4)) & 0x0f0f0f0fu;
}

static inline uint32_t stq_word(const uint8_t *bytes)
{
    return bytes[0] | (uint32_t)bytes[1] << 8 | (uint32_t)bytes[2] << 16 | (uint32_t)bytes[3] << 24;
}
"""

DECLARED_BITS = """
    uint32_t bits[4] = {0, 0, 0, 0};
    int filled = 0;"""

IN_BITS = """
        if (l->layout == 2) { /* four bytes of 0 or 1 become four bits; the top of a product has them in order */
            for (int i = 0; i < l->inputs; i += 4) {
                for (int j = 0; j < 4; j++) bits[j] |= (stq_word(from[j] + i) * 0x10204080u >> 28) << filled;
                filled += 4;
                if (filled == 32) {
                    for (int j = 0; j < 4; j++) *words++ = bits[j], bits[j] = 0;
                    filled = 0;
                }
            }
            continue;
        }"""

AFTER_BITS = """
    if (l->layout == 2) {
        if (filled)
            for (int j = 0; j < 4; j++) *words++ = bits[j];
        for (uint32_t *word = stq_words; word < words; word += 4)
            for (int j = 0; j < 4; j++) sums[j] += (int32_t)(stq_ones_of(word[j]) * 0x1010101u >> 24);
    }"""

CMSIS_BEFORE = Template("""
#include "arm_nnsupportfunctions.h"
static int32_t stq_matrix[$matrix];
""")

IN_CMSIS = """
        if (l->layout == 3) {
            for (int j = 0; j < 4; j++) {
                uint8_t *to = bytes + j * l->kernel_rows * l->kernel_columns * l->inputs;
                for (int i = 0; i < l->inputs; i++) {
                    sums[j] += from[j][i];
                    to[i] = from[j][i] ^ 128u;
                }
            }
            bytes += l->inputs;
            continue;
        }"""

AFTER_CMSIS = """
    if (l->layout == 3) {
        inner = l->kernel_rows * l->kernel_columns * l->inputs;
        const int8_t *weight = (const int8_t *)l->weight + group * l->outputs * inner;
        for (int i = 0; i < 4 * l->outputs; i++) stq_matrix[i] = 0;
        arm_nn_mat_mult_nt_t_s8_s32((int8_t *)stq_words, weight, stq_matrix, 4, inner, l->outputs, 128, 1);
    }"""

GET = """\
/* codes of 1, 2 or 4 bits that share bytes */
static inline int stq_get(const uint8_t *x, int n, int bits)
{
    return x[n * bits >> 3] >> (n * bits & 7) & ((1 << bits) - 1);
}
"""

PUT = """\
static inline void stq_put(uint8_t *y, int n, int bits, int code)
{
    int shift = n * bits & 7, others = ~(((1 << bits) - 1) << shift);
    y[n * bits >> 3] = (uint8_t)((y[n * bits >> 3] & others) | code << shift);
}
"""

LINE = Template("""\
static uint8_t stq_line[$bytes];

/* codes from a place on, a byte each: where they are, or, where they share bytes, in a line of their own */
static const uint8_t *stq_codes(const struct stq_layer *l, const uint8_t *x, int place, int count, int line)
{
    uint8_t *to = stq_line;
    if (!l->in_bits) return x + place;
    to += line * count;
    for (int i = 0; i < count; i++) to[i] = (uint8_t)stq_get(x, place + i, l->in_bits);
    return to;
}
""")
