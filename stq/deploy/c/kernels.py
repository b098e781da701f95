"""The fixed C of the export: what every network needs, and the loops of its layers, each only where it is used.

A layer is sums of products of two unsigned numbers: ``w`` of a weight ``low + step * w``, and ``u`` of an operand
``u + zero``. Codes are stored as u, one a byte, channels last. Four output positions are computed at a time. Where
neither number has many bits, two products fit into one 32-bit multiplication: two positions lie in the two halves of a
word, which is added to until a half could overflow.
"""

from __future__ import annotations

from string import Template

LAYER = """\
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
    const float *scale, *offset, *seen; /* or: a real number, scale * acc + offset */
    int (*dot)(const uint8_t *weight, const uint32_t *columns, int blocks, int chunk, int32_t *sums);
    int32_t step, low;
    int16_t height, width, channels, rows, columns, inputs, outputs, groups;
    uint8_t kernel_rows, kernel_columns, stride_rows, stride_columns, dilation_rows, dilation_columns, top, left;
    int16_t blocks, chunk, row_bytes, levels;
    uint8_t shift, gain, first, halves;
};
"""

ONES = Template("static const uint8_t stq_ones[$twice] = {$ones};\n")

COLUMNS = Template("""\
static uint32_t stq_words[$words];

/* the inputs of four output positions from `at` on, side by side, and their sums */
static void stq_gather(const struct stq_layer *l, const uint8_t *x, int at, int group, int32_t *sums)
{
    uint32_t *words = stq_words;
    uint8_t *bytes = (uint8_t *)stq_words;
    int top[4], left[4], last = l->rows * l->columns - 1;
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
            from[j] = inside ? x + (row * l->width + column) * l->channels + group * l->inputs : l->padding;$ones
        }
        const uint8_t *a = from[0], *b = from[1], *c = from[2], *d = from[3], *end = a + l->inputs;
        if (l->halves) {
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
                sums[1] += bytes[1] = *b++;
                sums[2] += bytes[2] = *c++;
                sums[3] += bytes[3] = *d++;
                bytes += 4;
            }
        }
    }
    if (l->halves) {
        while (words < stq_words + 16 * l->blocks) *words++ = 0;
    } else {
        while (bytes < (uint8_t *)stq_words + 32 * l->blocks) *bytes++ = 0;
    }
}

/* sums of a group's outputs at four positions, for one row of weights */
static void stq_sums(const struct stq_layer *l, const uint8_t *weight, const int32_t *of_inputs, int32_t *acc)
{
    int32_t sums[4];
    l->dot(weight, stq_words, l->blocks, l->chunk, sums);
    for (int j = 0; j < 4; j++) acc[j] = l->step * sums[j] + l->low * of_inputs[j];
}
""")

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
    int32_t of_inputs[4], acc[4];
    int positions = l->rows * l->columns, total = l->outputs * l->groups;
    $locals
    for (int at = 0; at < positions; at += 4)
    for (int group = 0; group < l->groups; group++) {
        const uint8_t *weight = l->weight + group * l->outputs * l->row_bytes;
        int count = positions - at < 4 ? positions - at : 4;
        stq_gather(l, x, at, group, of_inputs);
        for (int o = group * l->outputs; o < (group + 1) * l->outputs; o++, weight += l->row_bytes) {
            uint8_t *to = y + at * total + o;
            $once
            stq_sums(l, weight, of_inputs, acc);
            for (int j = 0; j < count; j++, to += total) *to = (uint8_t)(gain * $code + first);
        }
    }
}
""")

CONV_REAL = """\
static void stq_conv_real(const struct stq_layer *l, const uint8_t *x, float *y)
{
    int32_t of_inputs[4], acc[4], of_ones[4], seen[4];
    int positions = l->rows * l->columns, total = l->outputs * l->groups;
    for (int at = 0; at < positions; at += 4)
    for (int group = 0; group < l->groups; group++) {
        const uint8_t *weight = l->weight + group * l->outputs * l->row_bytes;
        for (int pass = l->seen ? 0 : 1; pass < 2; pass++) { /* the weights on inputs inside the picture come first */
            const uint8_t *row = weight;
            stq_gather(l, pass ? x : 0, at, group, pass ? of_inputs : of_ones);
            for (int o = group * l->outputs; o < (group + 1) * l->outputs; o++, row += l->row_bytes) {
                float *to = y + at * total + o;
                stq_sums(l, row, pass ? of_inputs : of_ones, pass ? acc : seen);
                for (int j = 0; j < 4 && at + j < positions; j++, to += total) {
                    float offset = l->seen && pass ? *to : l->offset[o];
                    if (pass) *to = stq_real(acc[j] + (l->bias ? l->bias[o] : 0), l->scale[o], offset);
                    else *to = stq_real(seen[j], l->seen[o], offset);
                }
            }
        }
    }
}
"""

DEPTHWISE = Template("""\
/* one input channel for each output; weights are int8 or int16, by channel */
static void stq_depthwise_$name(const struct stq_layer *l, const uint8_t *x, $type *y)
{
    const uint8_t *from[$taps];
    const $weight *weights = (const $weight *)(const void *)l->weight;
    $locals
    int taps = l->kernel_rows * l->kernel_columns;
    for (int at = 0; at < l->rows * l->columns; at++) {
        int top = at / l->columns * l->stride_rows - l->top, left = at % l->columns * l->stride_columns - l->left;
        for (int k = 0; k < taps; k++) {
            int row = top + k / l->kernel_columns * l->dilation_rows;
            int column = left + k % l->kernel_columns * l->dilation_columns;
            int inside = row >= 0 && row < l->height && column >= 0 && column < l->width;
            from[k] = inside ? x + (row * l->width + column) * l->channels : l->padding;
        }
        const $weight *w = weights;
        for (int o = 0; o < l->groups; o++) {
            int32_t acc = 0;
            $once
            for (int k = 0; k < taps; k++) acc += *w++ * from[k][o];
            y[at * l->groups + o] = $finish;
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


def dot_bytes() -> str:
    """The loop over blocks of eight weights of 8 bits whose products with operands of 8 bits need 32 bits each."""
    places = [
        f"w = weight[{i}];" + "".join(f" {v} += w * x[{4 * i + j}];" for j, v in enumerate("abcd")) for i in range(8)
    ]
    body = "\n        ".join(places)
    return f"""\
static int stq_dot_bytes(const uint8_t *weight, const uint32_t *columns, int blocks, int chunk, int32_t *sums)
{{
    const uint8_t *x = (const uint8_t *)columns, *end = weight + 8 * blocks;
    uint32_t a = 0, b = 0, c = 0, d = 0;
    (void)chunk;
    while (weight < end) {{
        uint32_t w;
        {body}
        weight += 8;
        x += 32;
    }}
    sums[0] = (int32_t)a;
    sums[1] = (int32_t)b;
    sums[2] = (int32_t)c;
    sums[3] = (int32_t)d;
    return 0;
}}
"""


def dot(bits: int) -> str:
    """The loop over blocks of eight weights of 1, 2, 3, 4 or 8 bits, two positions in a word."""
    if bits == 8:
        steps = [f"w = weight[{i}]; a += w * x[{2 * i}]; b += w * x[{2 * i + 1}];" for i in range(8)]
        load = "uint32_t w;"
    else:
        mask = f"{2**bits - 1}u"
        shift = [f"v >> {bits * i} & {mask}" if i else f"v & {mask}" for i in range(8)]
        steps = [f"w = {shift[i]}; a += w * x[{2 * i}]; b += w * x[{2 * i + 1}];" for i in range(8)]
        parts = [f"(uint32_t)weight[{i}] << {8 * i}" if i else "weight[0]" for i in range(bits)]
        load = f"uint32_t w, v = {' | '.join(parts)};"
    body = "\n            ".join(steps)
    return f"""\
static int stq_dot_{bits}(const uint8_t *weight, const uint32_t *x, int blocks, int chunk, int32_t *sums)
{{
    sums[0] = sums[1] = sums[2] = sums[3] = 0;
    while (blocks > 0) {{ /* as many blocks as surely stay below 2^16 in each half */
        const uint8_t *end = weight + {bits} * (blocks < chunk ? blocks : chunk);
        uint32_t a = 0, b = 0;
        while (weight < end) {{
            {load}
            {body}
            weight += {bits};
            x += 16;
        }}
        blocks -= chunk;
        sums[0] += (int32_t)(a & 0xffffu);
        sums[1] += (int32_t)(a >> 16);
        sums[2] += (int32_t)(b & 0xffffu);
        sums[3] += (int32_t)(b >> 16);
    }}
    return 0;
}}
"""
