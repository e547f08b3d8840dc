/* quantize_file.c: a float checkpoint in, a quantized one out, as a stream in bounded memory. */
#include <nettle/sha2.h>
#include <string.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/parallel.h"
#include "base/text_util.h"
#include "io/checkpoint_write.h"
#include "io/tensor_writer.h"
#include "model/across.h"
#include "model/file_plan.h"
#include "model/file_report.h"
#include "model/resume.h"
#include "model/shard_plan.h"
#include "model/stream.h"
#include "tensor/context.h"
#include "tensor/dtype.h"

enum { COPY_BYTES = 4 << 20 };

typedef struct work {
    nib_ctx *ctx;
    nib_file_plan plan;
    nib_checkpoint_writer *out;
    const nib_file_item *item;
    size_t first; /* index in the shard of the item's first part */
    double done, total;
    bool single;    /* one file: no note, no other files */
    bool same_boot; /* what was written and not synced is still there */
    bool unlike;    /* the work to be resumed is another one */
    int64_t noted_ns;
} work;

static nib_status read_source(void *user, void *to, size_t size, size_t offset) {
    const work *w = user;
    return w->item->across ? nib_across_read(w->plan.source, w->item->source, to, size, offset)
                           : nib_checkpoint_read(w->plan.source, w->item->source, to, size, offset);
}

static nib_status put_part(void *user, int part, const void *bytes, size_t size, size_t offset) {
    const work *w = user;
    return nib_checkpoint_writer_put(w->out, w->first + (size_t)part, bytes, size, offset);
}

static nib_status step(void *user, size_t bytes) {
    work *w = user;
    w->done += (double)bytes;
    return nib_ctx_progress(w->ctx, "quantize", w->done, w->total);
}

static nib_status pass_through(work *w, unsigned char *buffer, bool put, unsigned char digest[32]);

static nib_status quantize_item(work *w, const nib_stored *stored, nib_file_item *item,
                                unsigned char *buffer) {
    if (item->across) { /* the digest is of the bytes in the file, which are read in another order
                         */
        const double done = w->done;
        NIB_TRY(pass_through(w, buffer, false, item->sha256));
        w->done = done;
    }
    nib_stream s = {.ctx = w->ctx,
                    .config = stored->config,
                    .layout = stored->layout,
                    .desc = stored->desc,
                    .site = {item->kind, stored->name, stored->shape, stored->dtype},
                    .nonfinite = w->plan.nonfinite,
                    .file_offset = item->source->entry->offset,
                    .read = read_source,
                    .put = put_part,
                    .step = step,
                    .user = w,
                    .across = item->across,
                    .digest = !item->across,
                    .measure = true};
    if (nib_stream_run(&s) < NIB_OK) {
        nib_error_at(nib_checkpoint_file(w->plan.source, item->source->shard), stored->name, -1);
        return nib_last_error()->status;
    }
    if (s.digest) memcpy(item->sha256, s.sha256, sizeof item->sha256);
    item->sqnr_db = nib_measure_sqnr_db(&s.cost);
    item->max_error = s.cost.max_error;
    item->nonfinite = s.nonfinite_count;
    return NIB_OK;
}

/* One piece of a weight's bytes: digested, written where `put` says so, while the next is read. */
typedef struct pass {
    const work *w;
    struct sha256_ctx *sha;
    unsigned char *now, *next; /* COPY_BYTES each */
    size_t at, size, next_size;
    bool put;
    nib_status status[3];
    nib_error error[3]; /* of the thread that failed */
} pass;

static void pass_tasks(void *user, int64_t begin, int64_t end) {
    pass *p = user;
    for (int64_t i = begin; i < end; i++) {
        p->status[i] = NIB_OK;
        if (i == 0) sha256_update(p->sha, p->size, p->now);
        if (i == 1 && p->put)
            p->status[i] =
                nib_checkpoint_writer_put(p->w->out, p->w->first, p->now, p->size, p->at);
        if (i == 2 && p->next_size)
            p->status[i] = nib_checkpoint_read(p->w->plan.source, p->w->item->source, p->next,
                                               p->next_size, p->at + p->size);
        if (p->status[i] < NIB_OK) p->error[i] = *nib_last_error();
    }
}

/* All bytes of w->item through `buffer` of 2 COPY_BYTES, and their digest. */
static nib_status pass_through(work *w, unsigned char *buffer, bool put, unsigned char digest[32]) {
    const size_t whole = w->item->source->entry->size;
    struct sha256_ctx sha;
    sha256_init(&sha);
    pass p = {.w = w, .sha = &sha, .now = buffer, .next = buffer + COPY_BYTES, .put = put};
    p.size = whole < COPY_BYTES ? whole : COPY_BYTES;
    NIB_TRY(nib_checkpoint_read(w->plan.source, w->item->source, p.now, p.size, 0));
    while (p.at < whole) {
        const size_t left = whole - p.at - p.size;
        p.next_size = left < COPY_BYTES ? left : COPY_BYTES;
        nib_parallel_for(w->ctx->pool, 3, 1, pass_tasks, &p);
        for (int i = 0; i < 3; i++) {
            if (p.status[i] >= NIB_OK) continue;
            nib_error_restore(&p.error[i]);
            return p.status[i];
        }
        NIB_TRY(step(w, p.size));
        unsigned char *const read = p.next;
        p.next = p.now;
        p.now = read;
        p.at += p.size;
        p.size = p.next_size;
    }
    sha256_digest(&sha, 32, digest);
    return NIB_OK;
}

/* ---- going on where interrupted work stopped ---- */

/* The float bytes of an item that was done must still be those that it was made from. */
static nib_status check_unchanged(work *w, const nib_stored *stored, const nib_file_item *item,
                                  unsigned char *buffer) {
    unsigned char now[32];
    NIB_TRY(pass_through(w, buffer, false, now));
    if (memcmp(now, item->sha256, sizeof now) == 0) return NIB_OK;
    w->unlike = true;
    NIB_RAISE(NIB_E_ARGUMENT, "this weight has changed since the work was begun; overwrite it "
                              "(--force) instead of resuming");
    return nib_error_at(nib_checkpoint_file(w->plan.source, item->source->shard), stored->name, -1);
}

static nib_status note(work *w, bool now) {
    enum { SECONDS = 2 };
    const int64_t time = nib_now_ns();
    if (w->single || (!now && time - w->noted_ns < (int64_t)SECONDS * 1000000000)) return NIB_OK;
    nib_text text = {.mem = w->plan.mem};
    nib_status status = nib_resume_text(&w->plan, &text);
    if (status >= NIB_OK) status = nib_checkpoint_writer_note(w->out, text.data, text.length);
    nib_text_free(&text);
    w->noted_ns = nib_now_ns();
    return status;
}

static nib_status read_note(work *w) {
    size_t size;
    nib_status status;
    char *text = nib_checkpoint_writer_noted(w->out, &size, &status);
    if (!text) return status;
    status = nib_resume_read(&w->plan, text, size, &w->same_boot);
    nib_mem_free(w->plan.mem, text, size + 1);
    return status;
}

/* ---- files ---- */
static nib_status write_shard(work *w, size_t shard, unsigned char *buffer) {
    nib_file_plan *plan = &w->plan;
    nib_shard_plan about;
    NIB_TRY(nib_shard_plan_open(plan, shard, &about));
    const nib_safetensors_plan whole = {about.planned, about.count, about.metadata.pairs,
                                        about.metadata.count};
    nib_shard_state state;
    nib_status status =
        nib_checkpoint_writer_begin(w->out, nib_shard_plan_name(plan, shard), &whole, &state);
    nib_shard_plan_close(&about);
    w->first = 0;
    for (size_t i = 0; i < plan->manifest.count && status >= NIB_OK; i++) {
        const nib_stored *stored = &plan->manifest.items[i];
        nib_file_item *item = &plan->items[i];
        if (stored->shard != shard) continue;
        w->item = item;
        const bool there = state == NIB_SHARD_DONE || (state == NIB_SHARD_BEGUN && w->same_boot);
        if (item->done && there) {
            status = check_unchanged(w, stored, item, buffer);
            for (int k = 0; k < stored->nparts + stored->nconstants && status >= NIB_OK; k++)
                status = nib_checkpoint_writer_keep(w->out, w->first + (size_t)k);
        } else {
            status = stored->layout ? quantize_item(w, stored, item, buffer)
                                    : pass_through(w, buffer, true, item->sha256);
            if (status >= NIB_OK) status = nib_shard_plan_constants(stored, w->first, w->out);
            item->done = status >= NIB_OK;
            if (status >= NIB_OK) status = note(w, false);
        }
        w->first += (size_t)stored->nparts + (size_t)stored->nconstants;
    }
    if (status >= NIB_OK) status = nib_checkpoint_writer_end(w->out);
    return status >= NIB_OK ? note(w, true) : status;
}

static nib_status write_report(work *w) {
    nib_text text = {.mem = w->plan.mem};
    nib_status status = nib_file_report_text(&w->plan, &text);
    if (status >= NIB_OK)
        status = nib_checkpoint_writer_file(w->out, "quant_report.json", text.data, text.length);
    nib_text_free(&text);
    return status;
}

static nib_status do_work(work *w, const char *to, const nib_file_options *options, size_t need) {
    const nib_file_plan *plan = &w->plan;
    const nib_checkpoint_output output = {.path = to,
                                          .input = plan->source,
                                          .stem = plan->source->stem,
                                          .need = need,
                                          .overwrite = options->overwrite,
                                          .resume = options->resume};
    w->out = nib_checkpoint_writer_open(plan->mem, &output);
    if (!w->out) return nib_last_error()->status;
    unsigned char *buffer = nib_mem_alloc(plan->mem, 2 * COPY_BYTES);
    nib_status status = buffer ? NIB_OK : nib_last_error()->status;
    if (status >= NIB_OK && options->resume && !w->single) {
        status = read_note(w);
        w->unlike = status < NIB_OK;
    }
    for (size_t i = 0; i < plan->source->shard_count && status >= NIB_OK; i++)
        status = write_shard(w, i, buffer);
    nib_mem_free(plan->mem, buffer, 2 * COPY_BYTES);
    if (status >= NIB_OK && !w->single) status = write_report(w);
    if (status >= NIB_OK && !w->single) status = nib_shard_plan_texts(plan, w->out);
    if (status >= NIB_OK) return nib_checkpoint_writer_finish(w->out);
    const nib_error cause = *nib_last_error();
    if (w->unlike)
        nib_checkpoint_writer_leave(w->out); /* not ours to throw away: it can still be finished */
    else
        nib_checkpoint_writer_abort(w->out);
    nib_error_restore(&cause);
    return status;
}

nib_status nib_quantize_file(nib_ctx *ctx, const char *from, const char *to, const nib_rule *rules,
                             size_t n, const nib_select *select, const nib_file_options *options) {
    nib_file_options o = {0};
    if (options) {
        const size_t given = options->size && options->size < sizeof o ? options->size : sizeof o;
        memcpy(&o, options, given);
    }
    if (!ctx || !from || (!to && !o.dry_run))
        return NIB_RAISE(NIB_E_ARGUMENT,
                         "quantizing a file needs a context, a source and a destination");
    work w = {.ctx = ctx};
    NIB_TRY(nib_file_plan_open(ctx, from, rules, n, select, &o, &w.plan));
    size_t weights = 0, index = 0, config = 0;
    w.single = to && nib_tensor_writer_is_name(to);
    w.total = (double)w.plan.source->payload;
    nib_status status = nib_file_plan_to(&w.plan, to);
    if (status >= NIB_OK) status = nib_shard_plan_predict(&w.plan, &weights, &index, &config);
    if (status >= NIB_OK && !o.dry_run) status = do_work(&w, to, &o, weights + index + config);
    if (status >= NIB_OK) nib_file_plan_report(&w.plan, o.dry_run);
    nib_report *report = w.plan.selection.select.report;
    if (status >= NIB_OK && report) {
        report->bytes_weights = weights;
        report->bytes_index = index;
        report->bytes_config = config;
    }
    nib_file_plan_close(&w.plan);
    return status;
}
