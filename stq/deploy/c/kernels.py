"""The fixed C of the export: what every network needs, and the loops of its layers, each only where it is used.

A layer is sums of products of two unsigned numbers: ``w`` of a weight ``low + step * w``, and ``u`` of an operand
``u + zero``. Codes are stored as u, one a byte, channels last. Four output positions are computed at a time. Where
neither number has many bits, two products fit into one 32-bit multiplication: two positions lie in the two halves of a
word, which is added to until a half could overflow. Where both numbers have one bit, 32 products are one AND, whose
ones are counted. Positions that CMSIS-NN multiplies lie one behind the other.
"""

from __future__ import annotations

from string import Template

LAYER = Template("""\
#if defined(__GNUC__)
#define STQ_INLINE inline __attribute__((always_inline))
#define STQ_ALONE __attribute__((noinline))
#else
#define STQ_INLINE inline
#define STQ_ALONE
#endif

struct stq_exception { int32_t acc; int32_t code; };

struct stq_layer {
    const uint8_t *weight; /* packed, one row for each output, 8 weights in `bits` bytes */
    const uint8_t *padding; /* one pixel of zero operands */
    const stq_factor *factor; /* code = (factor * acc + bias) >> shift */
    const int32_t *bias;
    const int64_t *wide_bias; /* where 32 bits are too few */
    const struct stq_exception *odd; /* sums whose code is another, by output from odd_from[o] to odd_from[o + 1] */
    const uint16_t *odd_from;
    const stq_threshold *thresholds; /* or: how many of them are at most sign * acc */
    const int8_t *sign;
    const $factor *scale, *seen; /* or: a real number, scale * acc + offset */
    const $wide *offset;
    int32_t step, low, row_bytes;
    int16_t height, width, channels, rows, columns, inputs, outputs, groups;
    uint8_t kernel_rows, kernel_columns, stride_rows, stride_columns, dilation_rows, dilation_columns, top, left;
    int16_t blocks, chunk, levels;
    uint8_t shift, gain, first;
    uint8_t in_bits, out_bits; /* that a code takes where codes share bytes, 0: a byte */
    uint8_t layout; /* of positions side by side: 0 bytes, 1 two in the halves of a word, 2 bits, 3 int8 for CMSIS-NN */
};
""")

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

SUMS = Template("""\
/* sums of an output at the four positions; of_lowest: what weights that are all the lowest would give */
static STQ_INLINE void stq_sums_$name(const struct stq_layer *l, int o, const int32_t *of_lowest, int32_t *acc)
{
    int32_t sums[4], step = l->step;
    $sums
    acc[0] = step * sums[0] + of_lowest[0];
    acc[1] = step * sums[1] + of_lowest[1];
    acc[2] = step * sums[2] + of_lowest[2];
    acc[3] = step * sums[3] + of_lowest[3];
}
""")
DOT = "stq_dot_{name}(l->weight + o * l->row_bytes, stq_words, l->blocks, l->chunk, sums);"
MATRIX = "for (int j = 0; j < 4; j++) sums[j] = stq_matrix[j * l->outputs + o % l->outputs];"

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

DOT_ONES = """\
/* of weights and operands of one bit each, 32 in a word; at most 31 words are counted in bytes */
static STQ_INLINE void stq_dot_ones(const uint8_t *weight, const uint32_t *x, int blocks, int chunk, int32_t *sums)
{
    (void)chunk;
    sums[0] = sums[1] = sums[2] = sums[3] = 0;
    while (blocks > 0) {
        const uint32_t *end = x + 4 * (blocks < 31 ? blocks : 31);
        uint32_t a = 0, b = 0, c = 0, d = 0;
        for (; x < end; x += 4, weight += 4) {
            uint32_t w = stq_word(weight);
            a += stq_ones_of(w & x[0]);
            b += stq_ones_of(w & x[1]);
            c += stq_ones_of(w & x[2]);
            d += stq_ones_of(w & x[3]);
        }
        blocks -= 31;
        sums[0] += (int32_t)((a & 0xff00ffu) * 0x10001u >> 16) + (int32_t)((a >> 8 & 0xff00ffu) * 0x10001u >> 16);
        sums[1] += (int32_t)((b & 0xff00ffu) * 0x10001u >> 16) + (int32_t)((b >> 8 & 0xff00ffu) * 0x10001u >> 16);
        sums[2] += (int32_t)((c & 0xff00ffu) * 0x10001u >> 16) + (int32_t)((c >> 8 & 0xff00ffu) * 0x10001u >> 16);
        sums[3] += (int32_t)((d & 0xff00ffu) * 0x10001u >> 16) + (int32_t)((d >> 8 & 0xff00ffu) * 0x10001u >> 16);
    }
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

IN_ONES = """
            if (!x) from[j] = inside ? stq_ones : stq_ones + {half};"""

# how a code is made of acc: what is read once for an output, and the expression
SHIFTED = ("int32_t factor = l->factor[o], bias = l->bias[o];", "stq_shifted(factor * acc[j] + bias, shift, levels)")
WIDE = (
    "int32_t factor = l->factor[o];\n            int64_t bias = l->wide_bias[o];",
    "stq_shifted_wide((int64_t)factor * acc[j] + bias, shift, levels)",
)
COUNTED = (
    "const stq_threshold *thresholds = l->thresholds + o * levels;\n    int32_t sign = l->sign ? l->sign[o] : 1;",
    "stq_steps(sign * acc[j], thresholds, levels)",
)
CORRECTED = (
    WIDE[0]
    + "\n            const struct stq_exception *odd = l->odd + l->odd_from[o], *end = l->odd + l->odd_from[o + 1];",
    "stq_corrected(stq_shifted_wide((int64_t)factor * acc[j] + bias, shift, levels), acc[j], odd, end)",
)
FINISH = {"shifted": SHIFTED, "wide": WIDE, "corrected": CORRECTED, "counted": COUNTED}
LOCALS = "int shift = l->shift, levels = l->levels, gain = l->gain, first = l->first;\n    (void)shift;"

SHIFT = """\
static inline int stq_shifted(int32_t sum, int shift, int levels)
{
    int code = sum < 0 ? 0 : sum >> shift;
    return code > levels ? levels : code;
}
"""

WIDE_SHIFT = """\
static inline int stq_shifted_wide(int64_t sum, int shift, int levels)
{
    int32_t code = sum < 0 ? 0 : (int32_t)(sum >> shift);
    return code > levels ? levels : code;
}
"""

CORRECT = """\
static inline int stq_corrected(int code, int32_t acc, const struct stq_exception *odd, const struct stq_exception *end)
{
    for (; odd < end; odd++)
        if (acc == odd->acc) return odd->code;
    return code;
}
"""

STEPS = """\
/* how many of count ascending thresholds are at most acc */
static inline int stq_steps(int32_t acc, const stq_threshold *thresholds, int count)
{
    int low = 0, high = count;
    while (low < high) {
        int middle = (low + high) / 2;
        if (acc >= thresholds[middle]) low = middle + 1;
        else high = middle;
    }
    return low;
}
"""

CONV_CODES = Template("""\
static void stq_conv_$name(const struct stq_layer *l, const uint8_t *x, uint8_t *y)
{
    int32_t of_lowest[4], acc[4];
    int positions = l->rows * l->columns, total = l->outputs * l->groups;
    $locals
    for (int next = 0; next < positions; next += 4)
    for (int group = 0; group < l->groups; group++) {
        int at = stq_four_from(next, positions);
        stq_gather(l, x, at, group, of_lowest);
        for (int o = group * l->outputs; o < (group + 1) * l->outputs; o++) {
            $to
            $once
            stq_sums_$dot(l, o, of_lowest, acc);
            if (positions < 4) {
                for (int j = 0; j < positions; j++) $store
                continue;
            }
            $codes
        }
    }
}
""")
# how real numbers are held: as they are, or as whole ones (see ``fixed.py``)
FLOAT = {"real": "float", "factor": "float", "wide": "float", "kept": "*to", "shift": ""}
FIXED = {
    "real": "int32_t",
    "factor": "int32_t",
    "wide": "int64_t",
    "kept": "(int64_t)*to * ((int64_t)1 << l->shift)",
    "shift": ", l->shift",
}
TO = "uint8_t *to = y + at * total + o;"
CODE = "to[{j} * total] = (uint8_t)(gain * {code} + first);"
PACKED_CODE = "stq_put(y, (at + {j}) * total + o, l->out_bits, gain * {code} + first);"
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

CONV_REAL = Template("""\
static void stq_conv_real_$dot(const struct stq_layer *l, const uint8_t *x, $real *y)
{
    int32_t of_lowest[4], acc[4];
    int positions = l->rows * l->columns, total = l->outputs * l->groups;
    for (int next = 0; next < positions; next += 4)
    for (int group = 0; group < l->groups; group++) {
        int at = stq_four_from(next, positions);
        for (int pass = l->seen ? 0 : 1; pass < 2; pass++) { /* the weights on inputs inside the picture come first */
            stq_gather(l, pass ? x : 0, at, group, of_lowest);
            for (int o = group * l->outputs; o < (group + 1) * l->outputs; o++) {
                $real *to = y + at * total + o;
                stq_sums_$dot(l, o, of_lowest, acc);
                for (int j = 0; j < 4 && at + j < positions; j++, to += total) {
                    $wide offset = l->seen && pass ? $kept : l->offset[o];
                    if (pass) *to = stq_real(acc[j] + (l->bias ? l->bias[o] : 0), l->scale[o], offset$shift);
                    else *to = stq_real(acc[j], l->seen[o], offset$shift);
                }
            }
        }
    }
}
""")

DEPTHWISE = Template("""\
/* one input channel for each output; weights are int8 or int16, by channel; kernels of $rows by $columns */
static void stq_depthwise_$name(const struct stq_layer *l, const uint8_t *x, $type *y)
{
    const uint8_t *from[$taps];
    int inner[$taps];
    $locals
    int place = 0;
    for (int k = 0; k < $taps; k++)
        inner[k] = (k / $columns * l->dilation_rows * l->width + k % $columns * l->dilation_columns) * l->channels;
    for (int top = -l->top, row_of_y = 0; row_of_y < l->rows; row_of_y++, top += l->stride_rows)
    for (int left = -l->left, column_of_y = 0; column_of_y < l->columns; column_of_y++, left += l->stride_columns) {
        int right = left + ($columns - 1) * l->dilation_columns, bottom = top + ($rows - 1) * l->dilation_rows;
        int inside = top >= 0 && left >= 0 && bottom < l->height && right < l->width;
        int first_of = (top * l->width + left) * l->channels;
        for (int k = 0; k < $taps; k++) {
            int row = top + k / $columns * l->dilation_rows, column = left + k % $columns * l->dilation_columns;
            int there = inside || (row >= 0 && row < l->height && column >= 0 && column < l->width);
            from[k] = there ? $from_codes : l->padding;
        }
        const $weight *w = (const $weight *)(const void *)l->weight;
        for (int o = 0; o < l->groups; o++, w += $taps) {
            int32_t acc = $products;
            $once
            $store
        }
    }
}
""")

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


_products = "\n        ".join(
    f"w = weight[{i}];" + "".join(f" {v} += w * x[{4 * j + i}];" for j, v in enumerate("abcd")) for i in range(4)
)
DOT_BYTES = f"""\
#if defined(__ARM_FEATURE_DSP)
#include <arm_acle.h>

static STQ_INLINE int32_t stq_products(uint32_t even, uint32_t odd, uint32_t x, int32_t sum)
{{
    sum = __smlad((int32_t)even, (int32_t)__uxtb16(x), sum);
    return __smlad((int32_t)odd, (int32_t)__uxtb16(x >> 8 | x << 24), sum);
}}
#endif

/* of weights of 8 bits whose products with operands of 8 bits need 32 bits each: four of a position side by side */
static STQ_ALONE void stq_dot_bytes(const uint8_t *weight, const uint32_t *words, int blocks, int chunk, int32_t *sums)
{{
    const uint8_t *end = weight + 8 * blocks;
    (void)chunk;
#if defined(__ARM_FEATURE_DSP)
    int32_t a = 0, b = 0, c = 0, d = 0;
    for (; weight < end; weight += 4, words += 4) {{
        uint32_t w = weight[0] | (uint32_t)weight[1] << 8 | (uint32_t)weight[2] << 16 | (uint32_t)weight[3] << 24;
        uint32_t even = __uxtb16(w), odd = __uxtb16(w >> 8 | w << 24);
        a = stq_products(even, odd, words[0], a);
        b = stq_products(even, odd, words[1], b);
        c = stq_products(even, odd, words[2], c);
        d = stq_products(even, odd, words[3], d);
    }}
#else
    const uint8_t *x = (const uint8_t *)words;
    uint32_t a = 0, b = 0, c = 0, d = 0;
    for (; weight < end; weight += 4, x += 16) {{
        uint32_t w;
        {_products}
    }}
#endif
    sums[0] = (int32_t)a;
    sums[1] = (int32_t)b;
    sums[2] = (int32_t)c;
    sums[3] = (int32_t)d;
}}
"""


def dot(bits: int, whole: bool) -> str:
    """The loop over blocks of eight weights of 1, 2, 3, 4 or 8 bits, two positions in a word.

    whole: no half can overflow in a row, or the loop stops and adds before one could.
    """
    if bits == 8:
        steps = [f"w = weight[{i}]; a += w * x[{2 * i}]; b += w * x[{2 * i + 1}];" for i in range(8)]
        load = "uint32_t w;"
    else:
        mask = f"{2**bits - 1}u"
        shift = [f"v >> {bits * i} & {mask}" if i else f"v & {mask}" for i in range(8)]
        steps = [f"w = {shift[i]}; a += w * x[{2 * i}]; b += w * x[{2 * i + 1}];" for i in range(8)]
        parts = [f"(uint32_t)weight[{i}] << {8 * i}" if i else "weight[0]" for i in range(bits)]
        load = f"uint32_t w, v = {' | '.join(parts)};"
    texts = {"bits": bits, "load": load}
    if whole:
        return DOT_WHOLE.substitute(texts, body="\n        ".join(steps))
    return DOT_CHUNKS.substitute(texts, body="\n            ".join(steps))


DOT_WHOLE = Template("""\
static STQ_INLINE void stq_dot_$bits(const uint8_t *weight, const uint32_t *x, int blocks, int chunk, int32_t *sums)
{
    const uint8_t *end = weight + $bits * blocks;
    uint32_t a = 0, b = 0;
    (void)chunk;
    while (weight < end) {
        $load
        $body
        weight += $bits;
        x += 16;
    }
    sums[0] = (int32_t)(a & 0xffffu);
    sums[1] = (int32_t)(a >> 16);
    sums[2] = (int32_t)(b & 0xffffu);
    sums[3] = (int32_t)(b >> 16);
}
""")

DOT_CHUNKS = Template("""\
static STQ_INLINE void stq_dot_long_$bits(
    const uint8_t *weight, const uint32_t *x, int blocks, int chunk, int32_t *sums)
{
    sums[0] = sums[1] = sums[2] = sums[3] = 0;
    while (blocks > 0) { /* as many blocks as surely stay below 2^16 in each half */
        const uint8_t *end = weight + $bits * (blocks < chunk ? blocks : chunk);
        uint32_t a = 0, b = 0;
        while (weight < end) {
            $load
            $body
            weight += $bits;
            x += 16;
        }
        blocks -= chunk;
        sums[0] += (int32_t)(a & 0xffffu);
        sums[1] += (int32_t)(a >> 16);
        sums[2] += (int32_t)(b & 0xffffu);
        sums[3] += (int32_t)(b >> 16);
    }
}
""")
