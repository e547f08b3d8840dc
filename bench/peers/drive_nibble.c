/* drive_nibble.c: linears of nibble, prepared as a model's are, through the public interface.
 *     drive_nibble N K MOST_M TYPE
 * TYPE is a scheme ("int4_weight_only:group_size=64"), or f32, f16, bf16 for a weight as it is;
 * with
 * "@int8" behind it inputs are quantized where the scheme alone would not. TYPE "limits" measures
 * the machine: M is then a nib_limit, and a product one byte or one operation. */
#include <math.h>
#include <nibble/nn.h>

#include "drive.h"

enum { MOST_THREADS = 64 };
static nib_ctx *owner, *ctx[MOST_THREADS + 1];
static int now; /* threads */
static nib_module **linear;
static int64_t next;
static nib_limits *limits;

static void or_fail(bool ok) {
    if (!ok) drive_fail(nib_last_error()->what);
}

static nib_tensor *dense(nib_dtype dtype, int64_t rows, int64_t cols, float size) {
    const size_t count = (size_t)(rows * cols);
    float *x = drive_alloc(count * 4, 0);
    drive_fill(x, count, size);
    uint16_t *half = (uint16_t *)x;
    for (size_t i = 0; dtype != NIB_F32 && i < count; i++) {
        uint32_t bits;
        memcpy(&bits, &x[i], 4);
        /* Any 16-bit numbers of that size do: of f16, 2^-7 to 2^-5 with the sign. */
        half[i] =
            (uint16_t)(dtype == NIB_BF16 ? bits >> 16
                                         : (bits >> 16 & 0x8000) | 0x2000 | (bits >> 13 & 0x7ff));
    }
    nib_tensor *t = nib_tensor_wrap(owner, dtype, (nib_shape){2, {rows, cols}}, x, free, x);
    or_fail(t != NULL);
    return t;
}

static nib_tensor *weight(const drive *d, const char *type, const nib_config *config) {
    /* Checkpoints hold bf16, and scales take the dtype of the weight. */
    const nib_dtype dtype = strcmp(type, "f32") == 0   ? NIB_F32
                            : strcmp(type, "f16") == 0 ? NIB_F16
                                                       : NIB_BF16;
    nib_tensor *w = dense(dtype, d->N, d->K, 0.02f);
    if (!config) return w;
    nib_tensor *q = nib_quantize_tensor(w, config);
    or_fail(q != NULL);
    nib_tensor_free(w);
    return q;
}

static void add_bytes(void *user, const char *op, int64_t calls, double ms, double bytes) {
    (void)calls, (void)ms;
    if (strcmp(op, "linear") == 0) *(double *)user += bytes;
}

static void drive_start(drive *d) {
    owner = nib_ctx_new(&(nib_ctx_options){.threads = 2});
    or_fail(owner != NULL);
    const char *mask = getenv("NIB_ISA");
    snprintf(d->note, sizeof d->note, "nibble %s%s%s", nib_version(), mask ? " as " : "",
             mask ? mask : "");
    if (strcmp(d->type, "limits") == 0) {
        limits = nib_limits_new(owner);
        or_fail(limits != NULL);
        d->bytes = d->copies = 1;
        return;
    }
    char type[200];
    snprintf(type, sizeof type, "%s", d->type);
    char *as_codes = strchr(type, '@');
    if (as_codes) *as_codes = 0;
    const bool scheme = type[0] != 'f' || strlen(type) > 3;
    nib_config *config = NULL;
    if (scheme && strcmp(type, "bf16") != 0) {
        config = nib_config_parse(type);
        or_fail(config != NULL);
    }
    static const nib_module_kind holder = {.name = "Weights"};
    nib_module *root = nib_module_new(owner, &holder, NULL);
    d->copies = 1;
    for (int64_t i = 0; i < d->copies; i++) {
        char name[20];
        snprintf(name, sizeof name, "%d", (int)i);
        nib_module *one = nib_linear_new(owner, weight(d, type, config), NIB_NONE);
        linear = realloc(linear, (size_t)(i + 1) * sizeof *linear);
        linear[i] = one;
        or_fail(nib_module_add(root, name, one) == NIB_OK);
        if (i == 0) {
            double bytes = 0;
            const size_t mark = nib_scope_begin(owner);
            nib_tensor *x = dense(NIB_F32, 1, d->K, 1);
            or_fail(nib_profile_begin(owner) == NIB_OK);
            or_fail(nib_module_forward(one, x) != NULL);
            or_fail(nib_profile_end(owner, add_bytes, &bytes) == NIB_OK);
            nib_tensor_free(x);
            nib_scope_end(owner, mark);
            d->bytes = (int64_t)bytes - 4 * (d->N + d->K);
            d->copies = drive_copies(d);
        }
    }
    or_fail(nib_prepare(root) == NIB_OK);
    if (as_codes) or_fail(nib_quantize_inputs(root, as_codes + 1) == NIB_OK);
    nib_config_free(config);
}

static void drive_threads(int threads) {
    if (threads < 1 || threads > MOST_THREADS) drive_fail("too many threads");
    if (!ctx[threads]) ctx[threads] = nib_ctx_new(&(nib_ctx_options){.threads = threads});
    or_fail(ctx[threads] != NULL);
    now = threads;
}

static int64_t drive_batch(drive *d, int64_t M) {
    if (limits) { /* as many as went by, so that MS comes out as the time of one */
        const double began = drive_now();
        const double rate = nib_limits_measure(limits, ctx[now], (nib_limit)M);
        return (int64_t)(rate * (drive_now() - began));
    }
    /* Made once for each number of rows, in the round that no one counts: filling 512 rows takes as
     * long as half a product. */
    static struct inputs {
        int threads;
        int64_t rows;
        nib_tensor *x;
    } made[64];
    static int count;
    int at = 0;
    while (at < count && (made[at].threads != now || made[at].rows != M)) at++;
    if (at == count) {
        if (count == sizeof made / sizeof *made) drive_fail("too many kinds of inputs");
        made[count++] = (struct inputs){now, M, NULL};
        float *data = drive_alloc((size_t)(M * d->K) * 4, 0);
        drive_fill(data, (size_t)(M * d->K), 1);
        made[at].x =
            nib_tensor_wrap(ctx[now], NIB_F32, (nib_shape){2, {M, d->K}}, data, free, data);
        or_fail(made[at].x != NULL);
    }
    const size_t mark = nib_scope_begin(ctx[now]);
    const int64_t i = M <= DRIVE_ROTATED ? next++ % d->copies : 0;
    or_fail(nib_module_forward(linear[i], made[at].x) != NULL);
    nib_scope_end(ctx[now], mark);
    return 1;
}
