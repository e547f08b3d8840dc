/* kernel.h: every kernel, one typed slot each, its contract above it.
 *
 * A kernel is a function on pointers and sizes: it cannot fail, allocates nothing and keeps
 * nothing. Unless a contract says more:
 *   - any element count is fine, 0 included; ragged tails are part of the kernel
 *   - pointers need the alignment of their element only, `void *` none at all
 *   - outputs overlap no input; nothing is read or written outside the shapes given
 *   - float results are defined to the bit by docs/numerics.md, the same for every instruction
 *     set; only which NaN a NaN is may differ
 * `ref/` holds the judges: plain C that reads like the formula. Other sets override some slots.
 *
 * Legend: M rows, N channels (outputs), K reduced, G group size, d head dimension. */
#ifndef NIB_KERNEL_KERNEL_H
#define NIB_KERNEL_KERNEL_H
#include <nibble/nibble.h>

#include "base/cpu.h"

enum {
    NIB_PANEL = 16,            /* channels that lie side by side in a packed weight */
    NIB_ROW_BLOCK = 48,        /* rows that pack_rows_f32 packs independently of others */
    NIB_ATTENTION_BLOCK = 64,  /* tokens that one partial result of attention covers */
    NIB_ATTENTION_HEAD = 1024, /* the most columns of a head */
    NIB_ATTENTION_ROWS = 32,   /* the most rows of a call */
    NIB_KV_GROUP = 64,         /* columns of a head that share a scale in an i4 cache */
};

/* ---- weights in lanes ----
 * A panel is 16 channels side by side. Codes are unsigned and stand in cells of 64 bytes, four
 * bytes a channel, so that one load gives every lane of a vector its own channel and one broadcast
 * of four inputs serves them all:
 *   W8   [Kp/4][16][4]   byte j of a channel = u[k + j]
 *   W4   [Kp/8][16][4]   byte j = u[k + j] | u[k + 4 + j] << 4
 *   W2   [Kp/16][16][4]  byte j = u[k + j] | u[k + 4 + j] << 2 | u[k + 8 + j] << 4 | ... << 6
 *   WX   1, 3, 5, 6 or 7 bits in planes of 4, 2 and 1 bits, a whole panel of each one after the
 *        other, the low bits of a code first (3 = W2 then W1; 7 = W4, W2, W1); as W4, W2 and
 *        W1   [Kp/32][16][4]  byte j, bit i = u[k + 4 i + j]
 *   F8   [Kp][16]        a narrow float, channel after channel, four k a cell
 * A code stands for c = u - mid. Kp is K filled up to whole cells (of all planes) with u = mid
 * (F8: 0), and the last panel up to 16 channels with the same and scale 0. */
typedef enum nib_lane {
    NIB_LANE_W8,
    NIB_LANE_W4,
    NIB_LANE_W2,
    NIB_LANE_WX,
    NIB_LANE_F8,
    NIB_LANES,
    NIB_INTEGER_LANES = NIB_LANE_F8, /* those before F8 hold integers */
} nib_lane;

typedef enum nib_offset { /* what is added to scale * c, from the stored value z */
                          NIB_OFFSET_NONE = 0, /* -0 */
                          NIB_OFFSET_ADD,      /* z */
                          NIB_OFFSET_SUB,      /* -z */
                          NIB_OFFSET_POINT,    /* -(scale * z) */
} nib_offset;

typedef struct nib_lane_weight {
    nib_lane lane;
    int bits, mid;
    nib_dtype code;       /* F8: which */
    int64_t N, K;         /* channels and columns that there are */
    int64_t G, groups;    /* columns of a group: K when there is one group, else a multiple of 32
                             that divides K; at most NIB_LANE_MAX_GROUP */
    const uint8_t *codes; /* panels [ceil(N / 16)], panel_bytes apart, 64-byte aligned */
    int64_t panel_bytes;
    const void *scale, *offset; /* [panels][groups][16], f32, f16 or bf16; offset may be NULL */
    nib_dtype scale_dtype;      /* of both */
    nib_offset offset_kind;
    const float *correction; /* [panels][16]: what a row's zero point is multiplied with */
} nib_lane_weight;

/* Rows of inputs as 8-bit codes: x[m, k] = scale[m] * (q[m, k] - zero[m]). */
typedef struct nib_rows_i8 {
    const int8_t *q; /* [M] rows ld bytes apart; from K on zeros up to ld */
    int64_t ld;      /* a multiple of 64, at least K; 64-byte aligned rows */
    const float *scale;
    const int32_t *zero; /* [M]; NULL: none */
    const int32_t *sums; /* [M][groups of the weight], of the codes of each group */
    bool seven_bits;     /* all codes lie in [-64, 64]: some machines are faster with these */
} nib_rows_i8;

enum {
    NIB_LANE_MAX_GROUP = 65536, /* so that a sum of products of 8-bit codes fits 32 bits */
    NIB_LANE_ROWS = 8,          /* rows that lane_rows and dense_rows take at most */
    NIB_LANE_SCRATCH = 256 << 10,
    NIB_DIGITS = 3, /* of fixed point: digits_row_i8 */
};

/* ---- a cache of keys and values ----
 * One part: NIB_ATTENTION_BLOCK tokens of one key head, from a multiple of 64 on. Tokens lie in
 * lanes for keys and columns for values, four neighbours in the other direction side by side: the
 * cell of W8 and W4 above, so that neither product needs a sum across lanes. dp is d filled up to
 * a multiple of 16; kernel/kv_place.h says where an element lies.
 *   f32  k, v [64][d] f32
 *   f8   k [4][d][16 tokens], v [64][d], e4m3fn;      k_scale, v_scale [64] f32
 *   i8   k [4][dp/4][16 tokens][4 d], v [dp/16][16][16 d][4 tokens], bytes c + 128; scales as f8
 *   i4   k [4][dp/8][16 tokens][4], v [dp/16][8][16 d][4]: byte j = u[j] | u[j + 4] << 4;
 *        value = scale * u - shift; k_scale, k_shift [4][groups][16], v_scale, v_shift
 *        [groups][64] bf16, groups of NIB_KV_GROUP columns */
typedef struct nib_kv_part {
    const void *k, *v;
    const void *k_scale, *k_shift, *v_scale, *v_shift; /* NULL where there is none */
} nib_kv_part;

/* Queries that share a key head: its query heads, of one or more positions. */
typedef struct nib_attention_rows {
    int64_t rows, d;            /* 1 .. NIB_ATTENTION_ROWS, 1 .. NIB_ATTENTION_HEAD */
    const int32_t *first, *end; /* [rows] 0 <= first < end <= NIB_ATTENTION_BLOCK */
    const float *q;             /* [rows, d]: caches of f32 and f8, */
    float scale;                /* and what their scores are multiplied by */
    const int16_t *code;        /* what attention_codes made: caches of i8 (one group) and i4 */
    const int32_t *code_sum;
    const float *factor;
    const float *slope; /* [rows] of ALiBi, or NULL: slope * (t - own) joins the score of token t */
    const int32_t
        *own; /* [rows], with slopes: the row's own token, counted from the part's first */
} nib_attention_rows;

/* ---- convolutions of codes ----
 * The sum of a filter's codes times those of a position, exact in 32 bits, becomes
 *   y[m][i] = (float(sum) * scale[m]) * x_scale + bias[m], each step rounded,
 * or, where y is NULL, the code q[m][i] = clamp(rne(y / y_scale), low, high); a NaN gives 0. */
enum { NIB_FILTER_BLOCK = 8 }; /* filters whose words lie side by side */
typedef struct nib_conv_i8 {
    int64_t M, K;          /* filters, words of four codes that each has */
    const int8_t *filters; /* [M / 8][K][8][4], those that are not there 0 */
    const int32_t *sums;   /* [M] of a filter's codes */
    const float *scale;    /* [M] */
    const float *bias;     /* [M]; NULL is -0 */
    float x_scale, y_scale;
    int low, high;
    int64_t ldy; /* from filter to filter */
    float *y;
    int8_t *q;
} nib_conv_i8;

typedef struct nib_kernels {
    /* ---- widening and narrowing, n elements; base/halffloat.h value by value ---- */
    void (*f16_to_f32)(float *out, const void *x, size_t n);
    void (*bf16_to_f32)(float *out, const void *x, size_t n);
    void (*f32_to_f16)(void *out, const float *x, size_t n);
    void (*f32_to_bf16)(void *out, const float *x, size_t n);
    void (*f32_to_e4m3fn)(uint8_t *out, const float *x, size_t n);
    void (*f32_to_e5m2)(uint8_t *out, const float *x, size_t n);
    void (*f32_to_e4m3fnuz)(uint8_t *out, const float *x, size_t n);
    /* out[i] = table[x[i]]: widens any 8-bit code; the caller makes the table. */
    void (*table_to_f32)(float *out, const uint8_t *x, size_t n, const float table[256]);
    /* out[i] = scale * x[i], x of `format` NIB_F8_E4M3FN, NIB_F8_E5M2 or NIB_F8_E4M3FNUZ */
    void (*scale_f8)(float *out, const uint8_t *x, size_t n, nib_dtype format, float scale);

    /* ---- f32 product with packed weights ---- */
    /* Lay K columns of up to 16 rows of a weight side by side, missing channels as zeros.
     *   w      [n <= 16, K], rows ldw apart   ->   panel [K, 16] */
    void (*pack_f32)(float *panel, const float *w, int64_t ldw, int64_t n, int64_t K);
    /* y[m, n] = chain over ascending k of fma(x[m, k], w[n, k], acc), acc starting from 0, or
     * from y[m, n] when `accumulate`: K may be done in blocks, in order, with the same bits.
     *   x [M, K] rows ldx apart; panels [ceil(N / 16)] of [K, 16], panel_stride floats apart;
     *   y [M, N] rows ldy apart: only its N columns are touched. K = 0 gives zeros. */
    void (*gemm_f32)(float *y, int64_t ldy, const float *x, int64_t ldx, const float *panels,
                     int64_t panel_stride, int64_t M, int64_t N, int64_t K, bool accumulate);

    /* The same for rows laid side by side once and then met by many panels.
     *   x [M, K] rows ldx apart  ->  out, M * K floats in an order of the set's own; blocks of
     *   NIB_ROW_BLOCK rows follow one another, so that each may be packed by itself */
    void (*pack_rows_f32)(float *out, const float *x, int64_t ldx, int64_t M, int64_t K);
    /* Columns [k, k + kc) of packed rows by panels that hold just these; y is started when k = 0,
     * else continued. */
    void (*gemm_rows_f32)(float *y, int64_t ldy, const float *rows, int64_t M, int64_t K, int64_t k,
                          int64_t kc, const float *panels, int64_t panel_stride, int64_t N);

    /* ---- convolutions: what several positions of the output see, found by one addition each ----
     */
    /* Words of 32 bits side by side, for 1 <= lanes <= NIB_PANEL: panel[k][l] =
     * words[taps[k] + from[l]], and 0 in the lanes that there are not.   ->  panel [kc, 16] */
    void (*words_by_taps)(void *panel, const void *words, const int64_t *taps, int64_t kc,
                          const int64_t *from, int lanes);
    /* One filter on n neighbours: y[i] = chain over ascending k of fma(x[taps[k] + i], w[k], acc)
     * from +0. */
    void (*taps_f32)(float *y, int64_t n, const float *x, const int64_t *taps, const float *w,
                     int64_t K);

    /* One filter of c->K codes (not words; filled up to a multiple of 4 with zeros) on `rows` runs
     * of n neighbours: code k of position i of row r meets x[r * step + taps[k] + i * stride],
     * stride 1 or 2. What follows
     * the sums is as below for c->M = 1, and goes to row r, c->ldy from the one before. */
    void (*taps_i8)(const nib_conv_i8 *c, const int8_t *x, const int64_t *taps, int64_t n,
                    int64_t rows, int64_t step, int64_t stride);
    /* Words of the bytes of four rows, u = q + 128, row 0 in the low byte: those of position i,
     * rows[j][i * stride], go to out[i / 16 * step + i % 16].   i < n, step >= 16 */
    void (*words_of_rows)(uint32_t *out, int64_t step, const int8_t *const rows[4], int64_t n,
                          int64_t stride);
    /* Filters of codes on n positions, and what follows the sums; see nib_conv_i8.
     *   panels  words u = q + 128 of four codes, [K][16] of 16 positions, `stride` words apart */
    void (*conv_i8)(const nib_conv_i8 *c, const uint32_t *panels, int64_t stride, int64_t n);
    /* x[i] = (x[i] * a) * b + c: what follows the sums of a row; a and b 1, c -0 change no bit. */
    void (*scale_add_f32)(float *x, size_t n, float a, float b, float c);

    /* ---- products with weights in lanes, for panels [panel, panel + panels) ----
     * y [M, N] rows ldy apart, y pointing at channel 0 of panel 0; only channels below N are
     * touched. docs/numerics.md "Products" fixes every step. */
    /* Inputs in f32, x [M <= NIB_LANE_ROWS, K] rows ldx apart, by W8 or F8; weights of fewer bits
     * meet the digits of their inputs, by lane_i8: w = fma(scale, c, offset);  acc = fma(x[m, k],
     * w, acc) over ascending k from +0 */
    void (*lane_rows[NIB_LANES])(float *y, int64_t ldy, const float *x, int64_t ldx, int64_t M,
                                 const nib_lane_weight *w, int64_t panel, int64_t panels);
    /* The same two for gemm_f32: columns [k, k + kc) of one panel, k a multiple of 32.
     *   ->  out [kc, 16], what pads the last panel as zeros */
    void (*lane_widen[NIB_LANES])(float *out, const nib_lane_weight *w, int64_t panel, int64_t k,
                                  int64_t kc);
    /* Inputs as 8-bit codes, any M. From y = +0, groups ascending:
     *     t = sum of u * q over the group, minus mid * sums[m][g]              exact
     *     y = fma(scale, t, y);  with an offset also  y = fma(offset, sums[m][g], y)
     * then, with a zero,  y = fma(-zero[m], correction, y);  then  y = y * rows->scale[m].
     * `scratch`: NIB_LANE_SCRATCH bytes, 64-byte aligned. */
    void (*lane_i8[NIB_INTEGER_LANES])(float *y, int64_t ldy, const nib_rows_i8 *rows, int64_t M,
                                       const nib_lane_weight *w, int64_t panel, int64_t panels,
                                       void *scratch);
    /* Dense weights where they lie: w [N, K] of `dtype` F32, F16 or BF16, rows ldw elements apart;
     * M <= NIB_LANE_ROWS. The one chain of gemm_f32. */
    void (*dense_rows)(float *y, int64_t ldy, const float *x, int64_t ldx, int64_t M, const void *w,
                       nib_dtype dtype, int64_t ldw, int64_t N, int64_t K);

    /* ---- reductions: 16 lanes, element i in lane i mod 16, then a tree ---- */
    float (*dot_f32)(const float *x, const float *y, size_t n);
    float (*sum_f32)(const float *x, size_t n);
    float (*sum_squares_f32)(const float *x, size_t n);

    /* ---- ranges of groups: x [groups, G] contiguous, G >= 1, one result a group ---- */
    /* Order is that of the real line with -0 before +0. A group that holds a NaN gives NaN, so
     * a group is finite exactly if its results are. */
    void (*minmax_f32)(float *min, float *max, const float *x, int64_t groups, int64_t G);
    void (*absmax_f32)(float *out, const float *x, int64_t groups, int64_t G);

    /* What w lost to v, in double: *signal = sum w^2, *noise = sum (w - v)^2, element i in lane
     * i mod 8, then a tree; *most = the largest |w - v|. Not for NaN. */
    void (*loss_f32)(double *signal, double *noise, double *most, const float *w, const float *v,
                     size_t n);

    /* ---- rounding to integer codes: x [groups, G] contiguous, one scale and zero a group ----
     * `math` is NIB_F32, NIB_BF16 or NIB_F16: the result of every float step is rounded to it.
     * rne: to the nearest integer, ties to even. qmin and qmax lie in [-128, 255], |zero| <= 512;
     * codes are stored as the low byte. A NaN gives the byte 0. `zero` NULL stands for zeros. */
    /* q = clamp(rne(x * inverse) + zero, qmin, qmax) */
    void (*quantize_scaled)(uint8_t *q, const float *x, int64_t groups, int64_t G,
                            const float *inverse, const int32_t *zero, int qmin, int qmax,
                            nib_dtype math);
    /* q = clamp(rne((x - shift) / scale) + zero, qmin, qmax); shift NULL: rne(x / scale) */
    void (*quantize_divided)(uint8_t *q, const float *x, int64_t groups, int64_t G,
                             const float *shift, const float *scale, const int32_t *zero, int qmin,
                             int qmax, nib_dtype math);
    /* q = clamp(rne(x / scale), qmin, qmax) in f32: rows of n, ldx and ldq apart */
    void (*quantize_lines)(uint8_t *q, int64_t ldq, const float *x, int64_t ldx, int64_t rows,
                           int64_t n, float scale, int qmin, int qmax);
    /* q = narrow(clamp(x / scale, -limit, limit)) to `format`: NIB_F8_E4M3FN, NIB_F8_E5M2 or
     * NIB_F8_E4M3FNUZ. 0 / 0 counts as +0; another NaN keeps the sign of x. */
    void (*quantize_f8)(uint8_t *q, const float *x, int64_t groups, int64_t G, const float *scale,
                        float limit, nib_dtype format, nib_dtype math);

    /* ---- inputs to 8-bit codes: docs/numerics.md "Inputs" ----
     * Rows of n floats, one after another; their codes are ldq apart, and each has its scale and
     * zero. Codes of `bits` 8 or 7, signed; x = scale * (q - zero). The range is widened to hold 0,
     * so that 0 has a code. zero NULL: symmetric, no zero point. symmetric  scale = max(largest |x|
     * / ((qmax - qmin) / 2), eps) else       scale = max((high - low) / (qmax - qmin), eps) zero =
     * clamp(qmin - rne(low / scale), qmin, qmax) q = clamp(rne(x * (1 / scale)) + zero, qmin, qmax)
     * A row with a NaN gets scale NaN, zero 0 and codes 0. eps > 0. sums NULL, or of each row's
     * codes, n <= 2^24. */
    void (*quantize_rows_i8)(int8_t *q, int64_t ldq, float *scale, int32_t *zero, int32_t *sums,
                             const float *x, int64_t rows, int64_t n, int bits, float eps);
    /* The same of one row that rms_norm_f32 makes, which `normed` [n] receives; to the bit what the
     * two give one after the other. */
    void (*rms_norm_quantize_i8)(int8_t *q, float *scale, int32_t *zero, float *normed,
                                 const float *x, const float *weight, int64_t n, float epsilon,
                                 int bits, float eps);
    /* A row as fixed point of three signed digits, the highest first, ld apart:
     *     x[i] = scale[0] * q[i] + scale[1] * q[ld + i] + scale[2] * q[2 ld + i]
     * but for rounding at the end of the last. With 2^e <= largest |x| < 2^(e + 1), e at least
     * -105, scale[2] = 2^(e - 21), scale[1] = 256 scale[2], scale[0] = 256 scale[1] X = rne(x /
     * scale[2]);  digits of X to the base 256, each in [-128, 127] A row that is not finite gets
     * scales NaN and digits 0. */
    void (*digits_row_i8)(int8_t *q, int64_t ld, float scale[NIB_DIGITS], const float *x,
                          int64_t n);
    /* y[i] = (t[i] + t[ld + i]) + t[2 ld + i]: a row of results from those of its digits */
    void (*add_digits)(float *y, const float *t, int64_t ld, size_t n);
    /* sums[g] = sum of q[g, :], q [groups, G <= 2^24] contiguous */
    void (*sums_i8)(int32_t *sums, const int8_t *q, int64_t groups, int64_t G);

    /* ---- back to floats: q, out [groups, G]; each float step rounded to `math` ---- */
    /* out = (q - zero) * scale, q - zero exact. q is int8 when `is_signed`, else uint8. */
    void (*dequantize_scaled)(float *out, const uint8_t *q, int64_t groups, int64_t G,
                              bool is_signed, const float *scale, const int32_t *zero,
                              nib_dtype math);
    /* out = q * scale + add, two steps */
    void (*dequantize_shifted)(float *out, const uint8_t *q, int64_t groups, int64_t G,
                               bool is_signed, const float *scale, const float *add,
                               nib_dtype math);

    /* ---- two 4-bit codes a byte, even element in the low half ---- */
    /* n codes, one a byte (upper bits ignored) -> (n + 1) / 2 bytes, a missing last code 0. */
    void (*pack_u4)(uint8_t *out, const uint8_t *codes, size_t n);
    void (*unpack_u4)(uint8_t *codes, const uint8_t *bytes, size_t n);
    /* n codes of 1 to 8 bits, as base/bits.h has them -> one a byte */
    void (*unpack_bits)(uint8_t *codes, const uint8_t *bytes, size_t n, int bits);
    /* Lines of W8, W4, W2 or of the plane of one bit of WX (its lane), 64 bytes each, from words of
     * four columns, a byte a column, those of 16 channels side by side, [lines * n][16] with
     * n = 8 / bits of a code, and sums of the codes of each `every` lines:
     *   u = word ^ flip >> shift & (bits of a code in each byte)
     *   line[c] = u[0][c] | u[1][c] << bits | ...      sums[i / every][c] += codes of line i
     * F8: a line is four columns, [4][16] bytes, as they are; no sums. Other threads see the lines
     * after lines_laid. every >= 1. */
    void (*lay_lines)(uint8_t *to, const uint32_t *words, int64_t lines, nib_lane lane,
                      uint32_t flip, int shift, int64_t every, int32_t *sums);
    /* The same for W4 from words [lines][16] of eight columns, the first in the lowest 4 bits. */
    void (*lay_halves)(uint8_t *to, const uint32_t *words, int64_t lines, uint32_t flip,
                       int64_t every, int32_t *sums);
    /* Corrections of 16 channels go on over groups; scale, zero, sums [groups][16]:
     *   acc = fma(scale, sum - less, acc), then fma(offset, columns, acc) where there is one */
    void (*correct_lines)(float acc[NIB_PANEL], const float *scale, const float *zero,
                          nib_offset kind, const int32_t *sums, int64_t groups, int32_t less,
                          float columns);
    void (*lines_laid)(void);

    /* ---- elementwise; out may be x itself ---- */
    void (*exp_f32)(float *out, const float *x, size_t n);
    void (*tanh_f32)(float *out, const float *x, size_t n);
    void (*sigmoid_f32)(float *out, const float *x, size_t n);
    void (*silu_f32)(float *out, const float *x, size_t n);      /* x * sigmoid(x) */
    void (*gelu_f32)(float *out, const float *x, size_t n);      /* by erf */
    void (*gelu_tanh_f32)(float *out, const float *x, size_t n); /* by tanh */
    /* silu(gate) * up; out may be either */
    void (*silu_mul_f32)(float *out, const float *gate, const float *up, size_t n);

    /* ---- rows of a transformer ---- */
    /* out = x * (1 / sqrt(mean(x^2) + epsilon)) * weight; weight NULL: ones. out may be x. */
    void (*rms_norm_f32)(float *out, const float *x, const float *weight, size_t n, float epsilon);
    /* out = (x - mean) / sqrt(variance + epsilon) * weight + bias; either may be NULL. out may be
     * x. */
    void (*layer_norm_f32)(float *out, const float *x, const float *weight, const float *bias,
                           size_t n, float epsilon);
    /* x = exp(x - max) / sum, in place; all -inf gives NaN, n = 0 nothing. */
    void (*softmax_f32)(float *x, size_t n);
    /* Rotate pairs (x[i], x[i + half]) by the angle whose cos[i], sin[i] are given, in place. */
    void (*rope_f32)(float *x, const float *cos, const float *sin, size_t half);
    /* ---- attention: query rows against the tokens of one part of a cache, see nib_kv_part ----
     * Each row r attends to the tokens first[r] .. end[r] - 1 of the part, at least one, and what
     * it finds is folded into what parts before gave it:
     *   max [rows], sum [rows], out [rows, d]    which start as -inf, 0 and zeros
     * by attention_merge_f32 with the largest score (with slopes, of fma(slope, t - own, score)),
     * the sum of p_t and the sum of p_t v_t, p_t = exp(score_t - largest). After the last part the
     * caller multiplies out by 1 / sum. Tokens that no row sees may hold anything. What follows a
     * part's keys, values and scales in memory may be fetched, never read: it is most often the
     * head's next part. */
    void (*attention_f32)(float *out, float *max, float *sum, const nib_attention_rows *rows,
                          const nib_kv_part *part);
    void (*attention_f8)(float *out, float *max, float *sum, const nib_attention_rows *rows,
                         const nib_kv_part *part);
    void (*attention_i8)(float *out, float *max, float *sum, const nib_attention_rows *rows,
                         const nib_kv_part *part);
    void (*attention_i4)(float *out, float *max, float *sum, const nib_attention_rows *rows,
                         const nib_kv_part *part);
    /* Queries for caches of integers: codes of 15 bits, their sums over groups of `group` columns
     * (the last one may be shorter), and what turns a score in code units into one.
     *   q [rows, d]  ->  code [rows, dp], sum [rows, ceil(d / group)], factor [rows] */
    void (*attention_codes)(int16_t *code, int32_t *sum, float *factor, const float *q,
                            int64_t rows, int64_t d, int64_t group, float scale);
    /* Fold one row's results over some tokens (part_max, part_sum, part [d]) into (max, sum,
     * out [d]). */
    void (*attention_merge_f32)(float *out, float *max, float *sum, const float *part,
                                float part_max, float part_sum, int64_t d);

    /* ---- what a machine can do at most: timed beside other work, no part of it ---- */
    /* The xor of all 64-bit words of a and, unless it is NULL, of b: `size` bytes of each, a
     * multiple of 8. Reads as fast as memory gives; two pointers are two streams. */
    uint64_t (*limit_read)(const void *a, const void *b, size_t size);
    /* `rounds` times 8 steps of acc = fma(x, y, acc) from +0, in as many accumulators of full
     * vectors as keep all units busy. -> what each lane then holds; *operations: how many
     * multiplications and additions that took. */
    float (*limit_fma)(double *operations, float x, float y, size_t rounds);
    /* The same for 8-bit codes: each int32 lane gains 4 * u * s a step, wrapping. limit_u8 takes
     * any u; limit_u4 u <= 15, which lets sums wait in 16 bits where that is faster. */
    int32_t (*limit_u8)(double *operations, uint8_t u, int8_t s, size_t rounds);
    int32_t (*limit_u4)(double *operations, uint8_t u, int8_t s, size_t rounds);
} nib_kernels;

/* One file of kernels: what it is called, what it needs of the machine, which slots it fills. */
typedef struct nib_kernel_set {
    const char *name;
    uint32_t needs; /* NIB_CPU_* */
    void (*install)(nib_kernels *kernels);
} nib_kernel_set;

/* Fill every slot with the last set in kernel_list.h that a machine of `features` can run. */
void nib_kernels_fill(nib_kernels *kernels, uint32_t features);

/* Set i of kernel_list.h, plainest first; NULL when there are no more. */
const nib_kernel_set *nib_kernel_set_at(size_t i);
#endif
