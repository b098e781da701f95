"""The C that sums the products of a row of weights with four positions side by side, for each width of weights."""

from __future__ import annotations

from string import Template

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
