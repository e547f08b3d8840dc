/* packed.c: a matrix is cut into pieces of rows, quantized in scratch that stays in a core's own
 * cache and packed straight to where its bytes belong. Pieces are independent, so any number of
 * threads gives the same bytes. */
#include "quant/packed.h"

#include <stdatomic.h>
#include <string.h>

#include "base/error.h"
#include "quant/codes.h"
#include "quant/layouts.h"
#include "quant/scheme.h"
#include "tensor/context.h"
#include "tensor/dtype.h"

enum { PIECE = 1 << 16, MOST_LANES = 64 }; /* codes of a piece, if a row is not longer */

nib_status nib_scheme_measure(const nib_config *config, nib_stats *stats, const nib_tensor *rows) {
    return config->scheme->measure ? config->scheme->measure(config, stats, rows) : NIB_OK;
}

/* What one thread works in. */
typedef struct lane {
    nib_codes codes;             /* of the longest piece, over all bands */
    void *packed[NIB_MAX_PARTS]; /* parts whose pieces are scattered */
    size_t packed_size[NIB_MAX_PARTS];
} lane;

typedef struct job {
    const nib_config *config;
    const nib_stats *stats;
    const nib_layout *layout;
    const nib_qdesc *desc;
    const nib_tensor *rows;
    void *const *part;
    int count, bands;
    nib_part parts[NIB_MAX_PARTS];
    int64_t most; /* rows of a piece, in each band */
    lane lanes[MOST_LANES];
    atomic_llong next; /* first row that no thread has claimed */
    atomic_int failed;
} job;

/* Rows [row, row + n) of a matrix, without counting references: it lives shorter than `rows`. */
static nib_tensor view_of(const nib_tensor *rows, int64_t row, int64_t n) {
    nib_tensor view = *rows;
    view.shape.dim[0] = n;
    view.data[0] += (size_t)(row * rows->stride[0]) * (size_t)(nib_dtype_bits(rows->dtype) / 8);
    return view;
}

/* A part's piece goes straight to its place unless it is scattered there, or shared by all rows and
 * another piece's to write. */
static bool direct(const nib_part *part, const nib_part_runs *runs, int64_t row) {
    return part->row_dim == NIB_ROWS_SHARED ? row == 0 : runs->count == 1;
}

static nib_status piece(const job *j, lane *l, int64_t row, int64_t n) {
    const int64_t band = j->desc->rows / j->bands;
    nib_codes codes = nib_codes_rows(&l->codes, 0, j->bands * n);
    for (int b = 0; b < j->bands; b++) {
        nib_codes out = nib_codes_rows(&codes, b * n, n);
        const nib_tensor view = view_of(j->rows, b * band + row, n);
        NIB_TRY(j->config->scheme->quantize(j->config, j->stats, &view, &out));
    }
    void *to[NIB_MAX_PARTS];
    nib_part_runs runs[NIB_MAX_PARTS];
    for (int i = 0; i < j->count; i++) {
        runs[i] = nib_part_place(&j->parts[i], j->desc, j->bands, row, n);
        to[i] = direct(&j->parts[i], &runs[i], row) ? (char *)j->part[i] + runs[i].offset
                                                    : l->packed[i];
    }
    j->layout->pack(to, &codes);
    for (int i = 0; i < j->count; i++)
        for (int64_t k = 0;
             to[i] == l->packed[i] && j->parts[i].row_dim != NIB_ROWS_SHARED && k < runs[i].count;
             k++)
            memcpy((char *)j->part[i] + runs[i].offset + (size_t)k * runs[i].step,
                   (char *)to[i] + (size_t)k * runs[i].size, runs[i].size);
    return NIB_OK;
}

static void work(void *user, int64_t begin, int64_t end) {
    job *j = user;
    const int64_t all = j->desc->rows / j->bands;
    (void)end; /* one lane a call */
    for (;;) {
        int64_t row = atomic_load(&j->next), n;
        do { /* claim the rows up to the next cut */
            if (row >= all || atomic_load(&j->failed)) return;
            n = nib_layout_run(j->layout, j->desc, row, j->most);
        } while (!atomic_compare_exchange_weak(&j->next, (long long *)&row, row + n));
        if (piece(j, &j->lanes[begin], row, n) != NIB_OK) atomic_store(&j->failed, 1);
    }
}

static nib_status lane_init(nib_mem *mem, const job *j, lane *l) {
    const nib_qdesc most = nib_qdesc_of_rows(j->desc, j->bands * j->most);
    nib_part parts[NIB_MAX_PARTS];
    NIB_TRY(nib_codes_alloc(mem, &most, &l->codes));
    j->layout->parts(&most, parts);
    for (int i = 0; i < j->count; i++) {
        const nib_part_runs runs = nib_part_place(&j->parts[i], j->desc, j->bands, 0, j->most);
        if (j->parts[i].row_dim != NIB_ROWS_SHARED && runs.count == 1) continue;
        l->packed_size[i] = nib_part_bytes(&parts[i]);
        l->packed[i] = nib_mem_alloc(mem, l->packed_size[i]);
        if (!l->packed[i]) return NIB_E_MEMORY;
    }
    return NIB_OK;
}

static void lane_free(nib_mem *mem, lane *l) {
    for (int i = 0; i < NIB_MAX_PARTS; i++) nib_mem_free(mem, l->packed[i], l->packed_size[i]);
    nib_codes_free(mem, &l->codes);
}

/* Everything at once, on this thread. */
static nib_status at_once(nib_mem *mem, const job *j) {
    nib_codes codes;
    NIB_TRY(nib_codes_alloc(mem, j->desc, &codes));
    const nib_status status = j->config->scheme->quantize(j->config, j->stats, j->rows, &codes);
    if (status == NIB_OK) j->layout->pack(j->part, &codes);
    nib_codes_free(mem, &codes);
    return status;
}

nib_status nib_quantize_packed(nib_ctx *ctx, const nib_config *config, const nib_stats *stats,
                               const nib_layout *layout, const nib_qdesc *desc,
                               const nib_tensor *rows, void *const part[]) {
    const nib_scheme *s = config->scheme;
    nib_mem *mem = nib_ctx_mem(ctx);
    job j = {.config = config,
             .stats = stats,
             .layout = layout,
             .desc = desc,
             .rows = rows,
             .part = part,
             .bands = nib_layout_bands(layout, desc)};
    const bool shared = desc->block_rows > 1 && desc->block_rows < desc->rows;
    if ((s->whole && s->whole(config)) || j.bands == 0 || shared) return at_once(mem, &j);
    j.count = layout->parts(desc, j.parts);
    j.most = 0;
    for (int64_t row = 0, n; row < desc->rows / j.bands; row += n) {
        n = nib_layout_run(layout, desc, row, PIECE / desc->cols > 0 ? PIECE / desc->cols : 1);
        if (n > j.most) j.most = n;
        if (row > 0 && desc->shape.ndim <= 2) break; /* later ones are no longer */
    }
    const int threads = nib_pool_threads(ctx->pool);
    const int lanes = threads < MOST_LANES ? threads : MOST_LANES;
    nib_status status = NIB_OK;
    for (int i = 0; i < lanes && status == NIB_OK; i++) status = lane_init(mem, &j, &j.lanes[i]);
    if (status == NIB_OK) {
        nib_parallel_for(ctx->pool, lanes, 1, work, &j);
        /* A failure on a worker's thread is not on this thread's record: do that piece again here.
         */
        if (atomic_load(&j.failed)) status = at_once(mem, &j);
    }
    for (int i = 0; i < lanes; i++) lane_free(mem, &j.lanes[i]);
    return status;
}

nib_tensor *nib_quantize_tensor(const nib_tensor *weight, const nib_config *config) {
    if (!weight || !config) return NULL;
    if (config == NIB_LEAVE)
        return NIB_RAISE_NULL(NIB_E_ARGUMENT,
                              "\"leave\" says to keep a weight float, nothing to do");
    nib_ctx *ctx = weight->ctx;
    const nib_site site = {
        .kind = "linear", .name = "weight", .shape = weight->shape, .dtype = weight->dtype};
    nib_config *own = nib_config_copy(config); /* checked, and as long as this library's */
    if (!own) return NULL;
    nib_qdesc desc;
    nib_act in, out;
    nib_part parts[NIB_MAX_PARTS];
    nib_storage *storage[NIB_MAX_PARTS] = {0};
    void *bytes[NIB_MAX_PARTS] = {0};
    const size_t offset[NIB_MAX_PARTS] = {0};
    nib_tensor *t = NULL, *matrix = NULL;
    const nib_layout *layout = NULL;
    nib_stats stats = {0};
    NIB_TRY_GOTO(nib_scheme_plan(own, &site, &desc, &in, &out), done);
    matrix = nib_scheme_matrix(weight, &site, &desc);
    layout = matrix ? nib_layout_for(&desc) : NULL;
    if (!layout) goto done;
    const int count = layout->parts(&desc, parts);
    for (int i = 0; i < count; i++) {
        storage[i] = nib_storage_new(&ctx->mem, nib_part_bytes(&parts[i]));
        if (!storage[i]) goto done;
        bytes[i] = storage[i]->data;
    }
    NIB_TRY_GOTO(nib_scheme_measure(own, &stats, matrix), done);
    NIB_TRY_GOTO(nib_quantize_packed(ctx, own, &stats, layout, &desc, matrix, bytes), done);
    t = nib_tensor_quantized(ctx, layout, &desc, storage, offset);
    if (t) {
        t->config = own;
        if (in.when != NIB_ACT_STATIC) t->act = in; /* static ones are their module's */
        own = NULL;
    }
done:
    for (int i = 0; i < NIB_MAX_PARTS; i++) nib_storage_release(storage[i]);
    nib_tensor_free(matrix);
    nib_config_free(own);
    return nib_scope_own(ctx, t);
}
