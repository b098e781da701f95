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
