#include "model/stream.h"

#include <nettle/sha2.h>
#include <string.h>

#include "base/checked.h"
#include "base/error.h"
#include "base/parallel.h"
#include "base/scratch.h"
#include "quant/codes.h"
#include "quant/layouts.h"
#include "quant/scheme.h"
#include "tensor/context.h"
#include "tensor/dtype.h"
#include "tensor/tensor.h"

/* A run holds about this many bytes of float weight: enough for long writes, little enough that
 * weight, codes and parts stay far under the memory bound. A piece is what one thread takes. */
enum { RUN_BYTES = 24 << 20, PIECE_ELEMENTS = 1 << 16 };

nib_status nib_nonfinite_parse(const char *text, nib_nonfinite *out) {
    static const char *const names[] = { "error", "keep", "zero" };
    *out = NIB_NONFINITE_ERROR;
    for (int i = 0; text && i < 3; i++) {
        if (strcmp(text, names[i]) != 0) continue;
        *out = (nib_nonfinite)i;
        return NIB_OK;
    }
    if (!text) return NIB_OK;
    return NIB_RAISE(NIB_E_ARGUMENT, "nonfinite is \"%s\", want error, keep or zero", text);
}

static bool whole_weight(const nib_config *config, const nib_qdesc *desc, const nib_layout *layout) {
    return (config->scheme->whole && config->scheme->whole(config)) ||
           (layout->bands && layout->bands(desc) == 0);
}

static int bands_of(const nib_config *config, const nib_qdesc *desc, const nib_layout *layout) {
    return whole_weight(config, desc, layout) ? 1 : nib_layout_bands(layout, desc);
}

/* How many rows of each band fit a run. */
static int64_t rows_at_most(const nib_config *config, const nib_qdesc *desc, const nib_layout *layout) {
    if (whole_weight(config, desc, layout)) return desc->rows;
    const int64_t row_bytes = desc->cols * nib_dtype_bits(desc->math) / 8;
    const int64_t rows = RUN_BYTES / row_bytes / bands_of(config, desc, layout);
    return rows > 0 ? rows : 1;
}

size_t nib_stream_memory(const nib_config *config, const nib_qdesc *desc, const nib_layout *layout) {
    const int bands = bands_of(config, desc, layout);
    const int64_t most = rows_at_most(config, desc, layout);
    const int64_t rows = most * bands < desc->rows ? most * bands : desc->rows;
    return (size_t)(rows * desc->cols) * ((size_t)nib_dtype_bits(desc->math) / 8 + 2);
}

/* ---- one run of rows ---- */
typedef struct piece { nib_tensor *rows; nib_status status; nib_measure cost; } piece;

typedef struct run {
    const nib_stream *s;
    nib_codes codes;
    const nib_stats *stats;
    int64_t piece_rows, count;
    piece *pieces;                     /* made before the threads start */
    nib_scratch scratch;               /* floats before and after, when measuring */
} run;

static bool is_nonfinite(const void *data, nib_dtype dtype, int64_t i) {
    if (dtype == NIB_F32) return (((const uint32_t *)data)[i] & 0x7f800000u) == 0x7f800000u;
    const uint16_t mask = dtype == NIB_BF16 ? 0x7f80u : 0x7c00u;
    return (((const uint16_t *)data)[i] & mask) == mask;
}

/* How many values are not finite. Two plain loops, so that compilers make vectors of them. */
static int64_t count_nonfinite(const void *data, nib_dtype dtype, int64_t count) {
    int64_t found = 0;
    if (dtype == NIB_F32) {
        const uint32_t *v = data;
        for (int64_t i = 0; i < count; i++) found += (v[i] & 0x7f800000u) == 0x7f800000u;
    } else {
        const uint16_t *v = data, mask = dtype == NIB_BF16 ? 0x7f80u : 0x7c00u;
        for (int64_t i = 0; i < count; i++) found += (v[i] & mask) == mask;
    }
    return found;
}

static nib_status quantize_piece(const run *r, int64_t i) {
    const nib_config *config = r->s->config;
    const nib_tensor *rows = r->pieces[i].rows;
    nib_codes codes = nib_codes_rows(&r->codes, i * r->piece_rows, rows->shape.dim[0]);
    return config->scheme->quantize(config, r->stats, rows, &codes);
}

static void measure_piece(run *r, int64_t i) {
    const nib_tensor *rows = r->pieces[i].rows;
    const nib_codes codes = nib_codes_rows(&r->codes, i * r->piece_rows, rows->shape.dim[0]);
    const int64_t count = nib_tensor_count(rows);
    int block;
    float *before = nib_scratch_take(&r->scratch, &block), *after = before + count;
    nib_to_f32(rows->dtype, before, nib_tensor_data(rows), (size_t)count);
    nib_codes_dequantize(&codes, after);
    nib_measure_add(&r->pieces[i].cost, before, after, count);
    nib_scratch_give(&r->scratch, block);
}

static void do_pieces(void *user, int64_t begin, int64_t end) {
    run *r = user;
    for (int64_t i = begin; i < end; i++) {
        r->pieces[i].status = quantize_piece(r, i);
        if (r->pieces[i].status >= NIB_OK && r->s->measure) measure_piece(r, i);
    }
}

static void close_run(run *r) {
    nib_mem *mem = nib_ctx_mem(r->s->ctx);
    for (int64_t i = 0; r->pieces && i < r->count; i++) nib_tensor_free(r->pieces[i].rows);
    nib_mem_free(mem, r->pieces, (size_t)r->count * sizeof *r->pieces);
    nib_scratch_close(&r->scratch);
    nib_codes_free(mem, &r->codes);
}

/* Codes of the rows in `weight`, in r->codes; close_run gives them back in every case. */
static nib_status codes_of_rows(nib_stream *s, const nib_tensor *weight, const nib_stats *stats, run *r) {
    nib_mem *mem = nib_ctx_mem(s->ctx);
    const int64_t rows = weight->shape.dim[0], cols = s->desc.cols;
    const bool whole = whole_weight(s->config, &s->desc, s->layout);
    *r = (run){ .s = s, .stats = stats, .piece_rows = rows };
    const nib_qdesc desc = nib_qdesc_of_rows(&s->desc, rows);
    NIB_TRY(nib_codes_alloc(mem, &desc, &r->codes));
    if (!whole && cols > 0 && cols < PIECE_ELEMENTS) r->piece_rows = PIECE_ELEMENTS / cols;
    if (!whole && cols >= PIECE_ELEMENTS) r->piece_rows = 1;
    r->count = (rows + r->piece_rows - 1) / r->piece_rows;
    r->pieces = nib_mem_alloc_array(mem, (size_t)r->count, sizeof *r->pieces);
    if (!r->pieces) return nib_last_error()->status;
    for (int64_t i = 0; i < r->count; i++) {
        const int64_t row = i * r->piece_rows, n = rows - row < r->piece_rows ? rows - row : r->piece_rows;
        r->pieces[i].rows = nib_tensor_slice(weight, 0, row, n);
        if (!r->pieces[i].rows) return nib_last_error()->status;
    }
    const size_t floats = s->measure ? (size_t)(r->piece_rows * cols) * 2 * sizeof(float) : 0;
    NIB_TRY(nib_scratch_open(mem, s->ctx->pool, r->count, floats, &r->scratch));
    nib_parallel_for(s->ctx->pool, r->count, 1, do_pieces, r);
    for (int64_t i = 0; i < r->count; i++) {
        if (r->pieces[i].status < NIB_OK)
            return quantize_piece(r, i);   /* once more on this thread, to have the cause on record */
        s->cost.signal += r->pieces[i].cost.signal;
        s->cost.noise += r->pieces[i].cost.noise;
        if (r->pieces[i].cost.max_error > s->cost.max_error) s->cost.max_error = r->pieces[i].cost.max_error;
    }
    return NIB_OK;
}

/* ---- parts of a run, to their places ---- */
typedef struct place { int64_t row, rows; int bands; } place; /* rows from `row` on of every band */

static nib_status put_part(nib_stream *s, int index, const nib_part *part, const unsigned char *bytes,
                           const place *at) {
    const nib_part_runs runs = nib_part_place(part, &s->desc, at->bands, at->row, at->rows);
    if (part->row_dim == NIB_ROWS_SHARED && at->row > 0) return NIB_OK;   /* shared: once, with the first rows */
    for (int64_t i = 0; i < runs.count; i++)
        NIB_TRY(s->put(s->user, index, bytes + (size_t)i * runs.size, runs.size,
                       runs.offset + (size_t)i * runs.step));
    return NIB_OK;
}

static nib_status pack_and_put(nib_stream *s, const nib_codes *codes, const place *at) {
    nib_mem *mem = nib_ctx_mem(s->ctx);
    nib_part whole[NIB_MAX_PARTS], packed[NIB_MAX_PARTS];
    const int n = s->layout->parts(&s->desc, whole);
    (void)s->layout->parts(&codes->desc, packed);
    void *bytes[NIB_MAX_PARTS] = { 0 };
    size_t size[NIB_MAX_PARTS] = { 0 };
    nib_status status = NIB_OK;
    for (int i = 0; i < n && status >= NIB_OK; i++) {
        size[i] = nib_part_bytes(&packed[i]);
        bytes[i] = nib_mem_alloc_zero(mem, size[i]);
        if (!bytes[i]) status = nib_last_error()->status;
    }
    if (status >= NIB_OK) s->layout->pack(bytes, codes);
    for (int i = 0; i < n && status >= NIB_OK; i++) status = put_part(s, i, &whole[i], bytes[i], at);
    for (int i = 0; i < n; i++) nib_mem_free(mem, bytes[i], size[i]);
    return status;
}

/* ---- the weight ---- */

/* Rows of a run as they lie in the weight, those of one band after those of the other. */
static nib_status read_rows(nib_stream *s, nib_tensor *weight, const place *at, bool first_pass) {
    const int64_t band = s->desc.rows / at->bands, count = at->rows * s->desc.cols;
    const size_t element = (size_t)nib_dtype_bits(s->desc.math) / 8;
    const size_t row_bytes = (size_t)s->desc.cols * element;
    unsigned char *to = nib_tensor_data_mut(weight);
    for (int b = 0; b < at->bands; b++, to += (size_t)at->rows * row_bytes) {
        const int64_t row = b * band + at->row;
        NIB_TRY(s->read(s->user, to, (size_t)at->rows * row_bytes, (size_t)row * row_bytes));
        const int64_t found = count_nonfinite(to, s->desc.math, count);
        if (!found) continue;
        if (first_pass) s->nonfinite_count += found;
        for (int64_t i = 0; s->nonfinite != NIB_NONFINITE_KEEP && i < count; i++) {
            if (!is_nonfinite(to, s->desc.math, i)) continue;
            if (s->nonfinite == NIB_NONFINITE_ERROR)
                return NIB_RAISE(NIB_E_FORMAT,
                                 "NaN or infinity at row %lld, column %lld; --nonfinite keep or zero "
                                 "goes on", (long long)(row + i / s->desc.cols),
                                 (long long)(i % s->desc.cols));
            memset(to + (size_t)i * element, 0, element);
        }
    }
    return NIB_OK;
}

typedef nib_status each_run(nib_stream *s, const nib_tensor *weight, const place *at, void *user);

/* Each run of rows in order, read into one buffer. */
static nib_status walk_runs(nib_stream *s, bool first_pass, each_run *each, void *user) {
    const bool whole = whole_weight(s->config, &s->desc, s->layout);
    const int bands = bands_of(s->config, &s->desc, s->layout);
    const int64_t most = rows_at_most(s->config, &s->desc, s->layout), band = s->desc.rows / bands;
    int64_t room = 0;
    for (int64_t row = 0, rows; row < band; row += rows) {
        rows = whole ? band : nib_layout_run(s->layout, &s->desc, row, most);
        room = rows > room ? rows : room;
    }
    nib_tensor *buffer = nib_tensor_new(s->ctx, s->desc.math, (nib_shape){ 2, { room * bands, s->desc.cols } });
    if (!buffer) return nib_last_error()->status;
    nib_status status = NIB_OK;
    for (int64_t row = 0, rows; row < band && status >= NIB_OK; row += rows) {
        rows = whole ? band : nib_layout_run(s->layout, &s->desc, row, most);
        const place at = { row, rows, bands };
        status = read_rows(s, buffer, &at, first_pass);
        nib_tensor *weight = status >= NIB_OK ? nib_tensor_slice(buffer, 0, 0, rows * bands) : NULL;
        if (weight) status = each(s, weight, &at, user);
        else if (status >= NIB_OK) status = nib_last_error()->status;
        nib_tensor_free(weight);
    }
    nib_tensor_free(buffer);
    return status;
}

static nib_status measure_run(nib_stream *s, const nib_tensor *weight, const place *at, void *user) {
    (void)at;
    return s->config->scheme->measure(s->config, user, weight);
}

typedef struct output { nib_stats stats; struct sha256_ctx *sha; } output;

static void digest(struct sha256_ctx *sha, const nib_tensor *weight) {
    sha256_update(sha, nib_tensor_bytes(weight), nib_tensor_data(weight));
}

static nib_status output_run(nib_stream *s, const nib_tensor *weight, const place *at, void *user) {
    output *out = user;
    run r = { .s = s };
    if (out->sha) digest(out->sha, weight);
    nib_status status = codes_of_rows(s, weight, &out->stats, &r);
    if (status >= NIB_OK) status = pack_and_put(s, &r.codes, at);
    close_run(&r);
    if (status >= NIB_OK && s->step) status = s->step(s->user, nib_tensor_bytes(weight));
    return status;
}

/* Bands are read out of order, which no running digest can follow: such a weight is read again. */
static nib_status digest_in_order(nib_stream *s, struct sha256_ctx *sha) {
    const size_t whole = (size_t)(s->desc.rows * s->desc.cols) * ((size_t)nib_dtype_bits(s->desc.math) / 8);
    const size_t room = whole < RUN_BYTES ? whole : RUN_BYTES;
    unsigned char *bytes = nib_mem_alloc(nib_ctx_mem(s->ctx), room);
    if (!bytes) return nib_last_error()->status;
    nib_status status = NIB_OK;
    for (size_t at = 0; at < whole && status >= NIB_OK; at += room) {
        const size_t size = whole - at < room ? whole - at : room;
        status = s->read(s->user, bytes, size, at);
        if (status >= NIB_OK) sha256_update(sha, size, bytes);
    }
    nib_mem_free(nib_ctx_mem(s->ctx), bytes, room);
    return status;
}

nib_status nib_stream_run(nib_stream *s) {
    struct sha256_ctx sha;
    sha256_init(&sha);
    s->cost = (nib_measure){ 0 };
    s->nonfinite_count = 0;
    output out = { .stats = { 0 } };
    const bool two_passes = s->config->scheme->measure != NULL;
    if (two_passes) NIB_TRY(walk_runs(s, true, measure_run, &out.stats));
    const bool banded = bands_of(s->config, &s->desc, s->layout) > 1;
    /* The digest is of the bytes in the file, so not of values that were made zero. */
    const bool apart = banded || s->nonfinite == NIB_NONFINITE_ZERO;
    if (s->digest && !apart) out.sha = &sha;
    if (s->digest && apart) NIB_TRY(digest_in_order(s, &sha));
    NIB_TRY(walk_runs(s, !two_passes, output_run, &out));
    if (s->digest) sha256_digest(&sha, sizeof s->sha256, s->sha256);
    return NIB_OK;
}
