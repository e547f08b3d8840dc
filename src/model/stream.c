#include "model/stream.h"

#include <math.h>
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

/* A run holds about this many bytes of float weight: enough for long writes, little enough to stay
 * in the caches of most machines between the tasks that look at it. A piece is what one thread
 * takes. */
enum { RUN_BYTES = 4 << 20, PIECE_ELEMENTS = 1 << 16 };

nib_status nib_nonfinite_parse(const char *text, nib_nonfinite *out) {
    static const char *const names[] = {"error", "keep", "zero"};
    *out = NIB_NONFINITE_ERROR;
    for (int i = 0; text && i < 3; i++) {
        if (strcmp(text, names[i]) != 0) continue;
        *out = (nib_nonfinite)i;
        return NIB_OK;
    }
    if (!text) return NIB_OK;
    return NIB_RAISE(NIB_E_ARGUMENT, "nonfinite is \"%s\", want error, keep or zero", text);
}

static bool whole_weight(const nib_config *config, const nib_qdesc *desc,
                         const nib_layout *layout) {
    return (config->scheme->whole && config->scheme->whole(config)) ||
           (layout->bands && layout->bands(desc) == 0);
}

static int bands_of(const nib_config *config, const nib_qdesc *desc, const nib_layout *layout) {
    return whole_weight(config, desc, layout) ? 1 : nib_layout_bands(layout, desc);
}

/* How many rows of each band fit a run. */
static int64_t rows_at_most(const nib_config *config, const nib_qdesc *desc,
                            const nib_layout *layout) {
    if (whole_weight(config, desc, layout)) return desc->rows;
    const int64_t row_bytes = desc->cols * nib_dtype_bits(desc->math) / 8;
    const int64_t rows = RUN_BYTES / row_bytes / bands_of(config, desc, layout);
    return rows > 0 ? rows : 1;
}

/* ---- one run of rows ---- */
typedef nib_place place;

/* The next run, read while this one is at work. Failing to is nothing yet: the caller reads again.
 */
typedef struct ahead {
    place at;
    nib_tensor *buffer;
    nib_status status;
} ahead;

typedef struct piece {
    nib_tensor *rows;
    nib_status status;
    int64_t nonfinite;
    nib_measure cost;
    float scale, zero; /* its own copy of those that all pieces share */
} piece;

typedef struct run {
    const nib_stream *s;
    nib_codes codes;
    const nib_tensor *weight;
    const nib_stats *stats;
    struct sha256_ctx *sha; /* NULL: no digest of this run */
    ahead *ahead;           /* NULL: this is the last run */
    struct behind *behind;  /* NULL: this is the first */
    int64_t piece_rows, count;
    piece *pieces;       /* made before the threads start */
    nib_scratch scratch; /* floats before and after, when measuring */
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

/* Count them, and make them zero where that was asked for. */
static int64_t settle_nonfinite(const nib_stream *s, nib_tensor *rows) {
    const int64_t count = nib_tensor_count(rows);
    const size_t element = (size_t)nib_dtype_bits(rows->dtype) / 8;
    unsigned char *data = rows->data[0];
    const int64_t found = count_nonfinite(data, rows->dtype, count);
    for (int64_t i = 0; found && s->nonfinite == NIB_NONFINITE_ZERO && i < count; i++)
        if (is_nonfinite(data, rows->dtype, i)) memset(data + (size_t)i * element, 0, element);
    return found;
}

static nib_status refuse_nonfinite(const nib_stream *s, const nib_tensor *weight, const place *at) {
    const void *data = nib_tensor_data(weight);
    const int64_t band = s->desc.rows / at->bands, cols = s->desc.cols;
    int64_t i = 0;
    while (!is_nonfinite(data, weight->dtype, i)) i++;
    const int64_t held = i / cols, row = held / at->rows * band + at->row + held % at->rows;
    const size_t element = (size_t)nib_dtype_bits(weight->dtype) / 8;
    NIB_RAISE(NIB_E_FORMAT,
              "NaN or infinity at row %lld, column %lld; --nonfinite keep or zero goes on",
              (long long)row, (long long)(i % cols));
    const int64_t at_file = s->across ? i % cols * s->desc.rows + row : row * cols + i % cols;
    return nib_error_at(NULL, NULL, (int64_t)(s->file_offset + (size_t)at_file * element));
}

/* Rows of a run as they lie in the weight, those of one band after those of the other. */
static nib_status read_rows(const nib_stream *s, nib_tensor *weight, const place *at) {
    const int64_t band = s->desc.rows / at->bands;
    const size_t row_bytes = (size_t)s->desc.cols * ((size_t)nib_dtype_bits(s->desc.math) / 8);
    unsigned char *to = weight->data[0];
    for (int b = 0; b < at->bands; b++, to += (size_t)at->rows * row_bytes)
        NIB_TRY(s->read(s->user, to, (size_t)at->rows * row_bytes,
                        (size_t)(b * band + at->row) * row_bytes));
    return NIB_OK;
}

/* Where the codes of a piece go. Each piece writes a scale that holds for the whole weight, the
 * same value; only the first writes it where it stays. */
static nib_codes codes_of_piece(const run *r, int64_t i) {
    piece *p = &r->pieces[i];
    nib_codes codes = nib_codes_rows(&r->codes, i * r->piece_rows, p->rows->shape.dim[0]);
    if (i > 0 && r->s->desc.block_rows > 1 && nib_qdesc_blocks(&codes.desc) == 1) {
        codes.scale = &p->scale;
        if (codes.zero) codes.zero = &p->zero;
    }
    return codes;
}

static nib_status quantize_piece(const run *r, int64_t i) {
    const nib_config *config = r->s->config;
    const nib_tensor *rows = r->pieces[i].rows;
    nib_codes codes = codes_of_piece(r, i);
    return config->scheme->quantize(config, r->stats, rows, &codes);
}

static void measure_piece(run *r, int64_t i) {
    const nib_tensor *rows = r->pieces[i].rows;
    const nib_codes codes = codes_of_piece(r, i);
    const int64_t count = nib_tensor_count(rows);
    int block;
    float *before = nib_scratch_take(&r->scratch, &block), *after = before + count;
    nib_to_f32(rows->dtype, before, nib_tensor_data(rows), (size_t)count);
    nib_codes_dequantize(&codes, after);
    nib_measure_add(&r->pieces[i].cost, before, after, count);
    nib_scratch_give(&r->scratch, block);
}

/* The sum of squares that measuring gives is finite exactly if the weights are, which saves looking
 * at them once more. */
static void do_piece(run *r, int64_t i) {
    piece *p = &r->pieces[i];
    const bool look = !r->s->measure || r->s->nonfinite == NIB_NONFINITE_ZERO;
    if (look) p->nonfinite = settle_nonfinite(r->s, p->rows);
    if (p->nonfinite && r->s->nonfinite == NIB_NONFINITE_ERROR) return;
    p->status = quantize_piece(r, i);
    if (p->status < NIB_OK || !r->s->measure) return;
    measure_piece(r, i);
    if (!look && !isfinite(p->cost.signal)) p->nonfinite = settle_nonfinite(r->s, p->rows);
}

static void write_behind(const nib_stream *s, struct behind *b);

/* The longest tasks are claimed first. */
enum { DIGEST, WRITE_BEHIND, READ_AHEAD, FIRST_PIECE };
static void do_tasks(void *user, int64_t begin, int64_t end) {
    run *r = user;
    for (int64_t i = begin; i < end; i++) {
        if (i >= FIRST_PIECE)
            do_piece(r, i - FIRST_PIECE);
        else if (i == WRITE_BEHIND && r->behind)
            write_behind(r->s, r->behind);
        else if (i == READ_AHEAD && r->ahead)
            r->ahead->status = read_rows(r->s, r->ahead->buffer, &r->ahead->at);
        else if (i == DIGEST && r->sha)
            sha256_update(r->sha, nib_tensor_bytes(r->weight), nib_tensor_data(r->weight));
    }
}

static void close_run(run *r) {
    nib_mem *mem = nib_ctx_mem(r->s->ctx);
    for (int64_t i = 0; r->pieces && i < r->count; i++) nib_tensor_free(r->pieces[i].rows);
    nib_mem_free(mem, r->pieces, (size_t)r->count * sizeof *r->pieces);
    nib_scratch_close(&r->scratch);
    nib_codes_free(mem, &r->codes);
}

/* Cut the run into pieces of whole rows; those of a weight that goes as a whole are one. */
static nib_status open_run(run *r) {
    const nib_stream *s = r->s;
    nib_mem *mem = nib_ctx_mem(s->ctx);
    const int64_t rows = r->weight->shape.dim[0], cols = s->desc.cols;
    const nib_qdesc desc = nib_qdesc_of_rows(&s->desc, rows);
    NIB_TRY(nib_codes_alloc(mem, &desc, &r->codes));
    r->piece_rows = rows;
    if (!whole_weight(s->config, &s->desc, s->layout))
        r->piece_rows = cols < PIECE_ELEMENTS ? PIECE_ELEMENTS / cols : 1;
    r->count = (rows + r->piece_rows - 1) / r->piece_rows;
    r->pieces = nib_mem_alloc_array(mem, (size_t)r->count, sizeof *r->pieces);
    if (!r->pieces) return nib_last_error()->status;
    for (int64_t i = 0; i < r->count; i++) {
        const int64_t row = i * r->piece_rows,
                      n = rows - row < r->piece_rows ? rows - row : r->piece_rows;
        r->pieces[i].rows = nib_tensor_slice(r->weight, 0, row, n);
        if (!r->pieces[i].rows) return nib_last_error()->status;
    }
    const size_t floats = s->measure ? (size_t)(r->piece_rows * cols) * 2 * sizeof(float) : 0;
    return nib_scratch_open(mem, s->ctx->pool, r->count, floats, &r->scratch);
}

static nib_status settle_run(nib_stream *s, run *r, const place *at, bool first_pass) {
    for (int64_t i = 0; i < r->count; i++) {
        const piece *p = &r->pieces[i];
        if (p->nonfinite && s->nonfinite == NIB_NONFINITE_ERROR)
            return refuse_nonfinite(s, r->weight, at);
        if (p->status < NIB_OK) { /* once more on this thread, to have the cause on record */
            NIB_TRY(quantize_piece(r, i));
            if (s->measure) measure_piece(r, i);
        }
        if (first_pass) s->nonfinite_count += p->nonfinite;
        s->cost.signal += p->cost.signal;
        s->cost.noise += p->cost.noise;
        if (p->cost.max_error > s->cost.max_error) s->cost.max_error = p->cost.max_error;
    }
    return NIB_OK;
}

/* ---- parts of a run, to their places, while the next run is at work ---- */
typedef struct behind {
    nib_codes codes;
    place at;
    int n;
    void *bytes[NIB_MAX_PARTS];
    size_t size[NIB_MAX_PARTS];
    nib_status status;
    nib_error error; /* of the thread that wrote */
} behind;

static nib_status put_part(const nib_stream *s, int index, const nib_part *part,
                           const unsigned char *bytes, const place *at) {
    const nib_part_runs runs = nib_part_place(part, &s->desc, at->bands, at->row, at->rows);
    if (part->row_dim == NIB_ROWS_SHARED && at->row > 0)
        return NIB_OK; /* shared: once, with the first rows */
    for (int64_t i = 0; i < runs.count; i++)
        NIB_TRY(s->put(s->user, index, bytes + (size_t)i * runs.size, runs.size,
                       runs.offset + (size_t)i * runs.step));
    return NIB_OK;
}

static void write_behind(const nib_stream *s, behind *b) {
    nib_part parts[NIB_MAX_PARTS];
    (void)s->layout->parts(&s->desc, parts);
    s->layout->pack(b->bytes, &b->codes);
    b->status = NIB_OK;
    for (int i = 0; i < b->n && b->status >= NIB_OK; i++)
        b->status = put_part(s, i, &parts[i], b->bytes[i], &b->at);
    if (b->status < NIB_OK) b->error = *nib_last_error();
}

static void close_behind(const nib_stream *s, behind *b) {
    nib_mem *mem = nib_ctx_mem(s->ctx);
    for (int i = 0; i < b->n; i++) nib_mem_free(mem, b->bytes[i], b->size[i]);
    nib_codes_free(mem, &b->codes);
    *b = (behind){0};
}

/* Take the codes of a run that is done, with room for its parts. */
static nib_status open_behind(const nib_stream *s, nib_codes *codes, const place *at, behind *b) {
    nib_part packed[NIB_MAX_PARTS];
    *b = (behind){.codes = *codes, .at = *at};
    *codes = (nib_codes){0};
    const int n = s->layout->parts(&b->codes.desc, packed);
    for (int i = 0; i < n; i++) {
        b->size[i] = nib_part_bytes(&packed[i]);
        b->bytes[i] = nib_mem_alloc_zero(nib_ctx_mem(s->ctx), b->size[i]);
        if (!b->bytes[i]) return nib_last_error()->status;
        b->n = i + 1;
    }
    return NIB_OK;
}

nib_status nib_stream_put(nib_stream *s, const nib_codes *codes, const nib_place *at) {
    nib_codes borrowed = *codes;
    behind b;
    nib_status status = open_behind(s, &borrowed, at, &b);
    if (status >= NIB_OK) {
        write_behind(s, &b);
        status = b.status;
    }
    b.codes = (nib_codes){0}; /* the caller's */
    close_behind(s, &b);
    return status;
}

/* The run before is written, or it failed and its cause is put on record here. */
static nib_status settle_behind(nib_stream *s, behind *b) {
    const nib_status status = b->status;
    if (status < NIB_OK) nib_error_restore(&b->error);
    const size_t bytes =
        (size_t)(b->codes.desc.rows * s->desc.cols) * ((size_t)nib_dtype_bits(s->desc.math) / 8);
    close_behind(s, b);
    return status >= NIB_OK && s->step ? s->step(s->user, bytes) : status;
}

/* ---- the weight ---- */
typedef nib_status each_run(nib_stream *s, nib_tensor *weight, const place *at, ahead *next,
                            void *user);

static place place_at(const nib_stream *s, int64_t row) {
    const bool whole = whole_weight(s->config, &s->desc, s->layout);
    const int bands = bands_of(s->config, &s->desc, s->layout);
    const int64_t most = rows_at_most(s->config, &s->desc, s->layout), band = s->desc.rows / bands;
    return (place){row,
                   row >= band ? 0
                   : whole     ? band
                               : nib_layout_run(s->layout, &s->desc, row, most),
                   bands};
}

/* Each run of rows in order. Two buffers: one at work, one being filled. */
static nib_status walk_runs(nib_stream *s, each_run *each, void *user) {
    const int64_t band = s->desc.rows / bands_of(s->config, &s->desc, s->layout);
    int64_t room = 0;
    for (place at = place_at(s, 0); at.rows; at = place_at(s, at.row + at.rows))
        room = at.rows * at.bands > room ? at.rows * at.bands : room;
    const nib_shape shape = {2, {room, s->desc.cols}};
    const place first = place_at(s, 0);
    nib_tensor *buffer = nib_tensor_new(s->ctx, s->desc.math, shape);
    nib_tensor *other =
        buffer && first.rows < band ? nib_tensor_new(s->ctx, s->desc.math, shape) : NULL;
    nib_status status = buffer && (other || first.rows == band) ? read_rows(s, buffer, &first)
                                                                : nib_last_error()->status;
    for (place at = first; at.rows && status >= NIB_OK;) {
        ahead next = {.at = place_at(s, at.row + at.rows), .buffer = other, .status = NIB_END};
        nib_tensor *weight = nib_tensor_slice(buffer, 0, 0, at.rows * at.bands);
        status = weight ? each(s, weight, &at, next.at.rows ? &next : NULL, user)
                        : nib_last_error()->status;
        nib_tensor_free(weight);
        if (status >= NIB_OK && next.at.rows && next.status != NIB_OK)
            status = read_rows(s, other, &next.at);
        other = buffer;
        buffer = next.buffer;
        at = next.at;
    }
    nib_tensor_free(buffer);
    nib_tensor_free(other);
    return status;
}

/* The first pass of a scheme that needs one. */
static nib_status measure_run(nib_stream *s, nib_tensor *weight, const place *at, ahead *next,
                              void *user) {
    (void)next;
    const int64_t found = settle_nonfinite(s, weight);
    if (found && s->nonfinite == NIB_NONFINITE_ERROR) return refuse_nonfinite(s, weight, at);
    s->nonfinite_count += found;
    return s->config->scheme->measure(s->config, user, weight);
}

typedef struct output {
    nib_stats stats;
    struct sha256_ctx *sha;
    bool first_pass;
    behind behind;
} output;

static nib_status output_run(nib_stream *s, nib_tensor *weight, const place *at, ahead *next,
                             void *user) {
    output *out = user;
    behind *before = at->row ? &out->behind : NULL;
    run r = {.s = s,
             .weight = weight,
             .stats = &out->stats,
             .sha = out->sha,
             .ahead = next,
             .behind = before};
    nib_status status = open_run(&r);
    if (status >= NIB_OK) nib_parallel_for(s->ctx->pool, FIRST_PIECE + r.count, 1, do_tasks, &r);
    if (status >= NIB_OK && before) status = settle_behind(s, before);
    if (status >= NIB_OK) status = settle_run(s, &r, at, out->first_pass);
    if (status >= NIB_OK) status = open_behind(s, &r.codes, at, &out->behind);
    close_run(&r);
    return status;
}

/* Every run, and the last one's parts. */
static nib_status output_all(nib_stream *s, output *out) {
    nib_status status = walk_runs(s, output_run, out);
    if (status >= NIB_OK) {
        write_behind(s, &out->behind);
        status = settle_behind(s, &out->behind);
    }
    close_behind(s, &out->behind);
    return status;
}

/* Bands are read out of order, which no running digest can follow: such a weight is read again. */
static nib_status digest_in_order(nib_stream *s, struct sha256_ctx *sha) {
    const size_t whole =
        (size_t)(s->desc.rows * s->desc.cols) * ((size_t)nib_dtype_bits(s->desc.math) / 8);
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
    s->cost = (nib_measure){0};
    s->nonfinite_count = 0;
    output out = {.first_pass = s->config->scheme->measure == NULL};
    if (!out.first_pass) NIB_TRY(walk_runs(s, measure_run, &out.stats));
    const bool banded = bands_of(s->config, &s->desc, s->layout) > 1;
    /* The digest is of the bytes in the file, so not of values that were made zero. */
    const bool apart = banded || s->nonfinite == NIB_NONFINITE_ZERO;
    if (s->digest && !apart) out.sha = &sha;
    if (s->digest && apart) NIB_TRY(digest_in_order(s, &sha));
    NIB_TRY(output_all(s, &out));
    if (s->digest) sha256_digest(&sha, sizeof s->sha256, s->sha256);
    return NIB_OK;
}
