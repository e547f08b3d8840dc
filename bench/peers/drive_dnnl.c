/* drive_dnnl.c: oneDNN 2.x, matmul with weights in the form that the library picks. TYPE is f32,
 * bf16, u8s8 or s8s8; the last two end in f32 with a scale for each channel, and begin with the
 * library's own reorder of f32 inputs by a scale that is known beforehand, less work than finding
 * one; "u8s8-codes" and "s8s8-codes" are handed codes. OMP_NUM_THREADS=T drive_dnnl N K MOST_M TYPE
 * (the number of threads is the process's) */
#include <oneapi/dnnl/dnnl.h>
#include <stdbool.h>

#include "drive.h"

#define CHECK(call)                                                                                \
    do {                                                                                           \
        if ((call) != dnnl_success) drive_fail(#call);                                             \
    } while (0)

enum { MOST = 16 };
static dnnl_engine_t engine;
static dnnl_stream_t stream;
static dnnl_data_type_t in_type, w_type;
static size_t in_size, w_size;
static bool floats; /* inputs are given as f32 and become codes in the time of a product */
static float *scales;
static void *x, *y, *given;

static struct product { /* one a number of rows */
    int64_t M, copies;
    dnnl_primitive_t primitive, quantize;
    dnnl_memory_t given, in, out, *w;
} products[MOST];
static int64_t next;

static struct product *make(drive *d, int64_t M) {
    struct product *p = products;
    while (p->M && p->M != M) p++;
    if (p->M) return p;
    dnnl_memory_desc_t in, w, out;
    const dnnl_dims_t in_dims = {M, d->K}, w_dims = {d->K, d->N}, out_dims = {M, d->N};
    CHECK(dnnl_memory_desc_init_by_tag(&in, 2, in_dims, in_type, dnnl_ab));
    CHECK(dnnl_memory_desc_init_by_tag(&w, 2, w_dims, w_type, dnnl_format_tag_any));
    CHECK(dnnl_memory_desc_init_by_tag(&out, 2, out_dims, dnnl_f32, dnnl_ab));
    dnnl_matmul_desc_t matmul;
    CHECK(dnnl_matmul_desc_init(&matmul, &in, &w, NULL, &out));
    dnnl_primitive_attr_t attr;
    CHECK(dnnl_primitive_attr_create(&attr));
    if (w_size == 1) CHECK(dnnl_primitive_attr_set_output_scales(attr, d->N, 2, scales));
    dnnl_primitive_desc_t desc;
    CHECK(dnnl_primitive_desc_create(&desc, &matmul, attr, engine, NULL));
    const char *what;
    dnnl_primitive_desc_query(desc, dnnl_query_impl_info_str, 0, &what);
    const size_t used = strlen(d->note);
    snprintf(d->note + used, sizeof d->note - used, "M=%d:%s ", (int)M, what);
    CHECK(dnnl_primitive_create(&p->primitive, desc));
    const dnnl_memory_desc_t *packed = dnnl_primitive_desc_query_md(desc, dnnl_query_weights_md, 0);
    const size_t size = dnnl_memory_desc_get_size(packed);
    p->M = M;
    p->copies = M <= DRIVE_ROTATED ? d->copies : 1;
    p->w = calloc((size_t)p->copies, sizeof *p->w);
    for (int64_t i = 0; i < p->copies; i++)
        CHECK(dnnl_memory_create(&p->w[i], packed, engine, drive_alloc(size, w_size == 1 ? 3 : 0)));
    CHECK(dnnl_memory_create(&p->in, &in, engine, x));
    CHECK(dnnl_memory_create(&p->out, &out, engine, y));
    if (!floats) return p;
    dnnl_memory_desc_t from;
    CHECK(dnnl_memory_desc_init_by_tag(&from, 2, in_dims, dnnl_f32, dnnl_ab));
    CHECK(dnnl_memory_create(&p->given, &from, engine, given));
    const float scale = 30;
    CHECK(dnnl_primitive_attr_create(&attr));
    CHECK(dnnl_primitive_attr_set_output_scales(attr, 1, 0, &scale));
    CHECK(dnnl_reorder_primitive_desc_create(&desc, &from, engine, &in, engine, attr));
    CHECK(dnnl_primitive_create(&p->quantize, desc));
    return p;
}

static void drive_start(drive *d) {
    static const struct {
        const char *name;
        dnnl_data_type_t in, w;
        size_t in_size, w_size;
    } types[] = {{"f32", dnnl_f32, dnnl_f32, 4, 4},
                 {"bf16", dnnl_bf16, dnnl_bf16, 2, 2},
                 {"u8s8", dnnl_u8, dnnl_s8, 1, 1},
                 {"s8s8", dnnl_s8, dnnl_s8, 1, 1}};
    const size_t length = strcspn(d->type, "-");
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        if (strlen(types[i].name) == length && strncmp(types[i].name, d->type, length) == 0)
            in_type = types[i].in, w_type = types[i].w, in_size = types[i].in_size,
            w_size = types[i].w_size;
    if (!in_size || (d->type[length] && strcmp(d->type + length, "-codes") != 0))
        drive_fail("no such type");
    floats = in_size == 1 && !d->type[length];
    CHECK(dnnl_engine_create(&engine, dnnl_cpu, 0));
    CHECK(dnnl_stream_create(&stream, engine, dnnl_stream_default_flags));
    d->bytes = d->N * d->K * (int64_t)w_size;
    d->copies = drive_copies(d);
    scales = drive_alloc((size_t)d->N * 4, 0);
    for (int64_t n = 0; n < d->N; n++) scales[n] = 1e-3f;
    x = drive_alloc((size_t)(d->most * d->K) * in_size, in_size == 1 ? 5 : 0);
    y = drive_alloc((size_t)(d->most * d->N) * 4, 0);
    if (floats) {
        given = drive_alloc((size_t)(d->most * d->K) * 4, 0);
        drive_fill(given, (size_t)(d->most * d->K), 1);
    }
    make(d, d->most);
    const dnnl_version_t *v = dnnl_version();
    const size_t used = strlen(d->note);
    snprintf(d->note + used, sizeof d->note - used, "%d.%d.%d", v->major, v->minor, v->patch);
}

static void drive_threads(int threads) {
    const char *fixed = getenv("OMP_NUM_THREADS");
    if (!fixed || atoi(fixed) != threads) drive_fail("OMP_NUM_THREADS is another");
}

static int64_t drive_batch(drive *d, int64_t M) {
    const struct product *p = make(d, M);
    const dnnl_exec_arg_t inputs[] = {{DNNL_ARG_FROM, p->given}, {DNNL_ARG_TO, p->in}};
    if (floats) CHECK(dnnl_primitive_execute(p->quantize, stream, 2, inputs));
    const dnnl_exec_arg_t arguments[] = {{DNNL_ARG_SRC, p->in},
                                         {DNNL_ARG_WEIGHTS, p->w[next++ % p->copies]},
                                         {DNNL_ARG_DST, p->out}};
    CHECK(dnnl_primitive_execute(p->primitive, stream, 3, arguments));
    CHECK(dnnl_stream_wait(stream));
    return 1;
}
