#include "model/samples.h"

#include <nibble/io.h>
#include <string.h>

#include "base/error.h"
#include "base/file.h"
#include "base/json.h"
#include "base/text_util.h"
#include "model/array.h"
#include "model/listen.h"
#include "tensor/context.h"
#include "tensor/dtype.h"
#include "tensor/tensor.h"

enum { SAMPLES = 128, CONTEXT = 512, MOST_BYTES = 1 << 30 };

typedef struct reading {
    nib_ctx *ctx;
    const nib_model *model;
    nib_tokenizer *tokenizer;
    int64_t most, context;
    int32_t bos;
    nib_samples *out;
} reading;

void nib_samples_free(nib_samples *s) {
    for (size_t i = 0; i < s->sounds_room; i++) nib_tensor_free(s->sounds[i]);
    nib_mem_free(s->mem, s->sounds, s->sounds_room * sizeof *s->sounds);
    nib_mem_free(s->mem, s->ids, s->room * sizeof *s->ids);
    nib_mem_free(s->mem, s->ends, s->samples_room * sizeof *s->ends);
    *s = (nib_samples){.mem = s->mem};
}

static nib_status add_id(nib_samples *s, int32_t id) {
    if (s->count == s->room) {
        const size_t room = s->room ? s->room * 2 : 4096;
        int32_t *grown =
            nib_mem_realloc(s->mem, s->ids, s->room * sizeof *grown, room * sizeof *grown);
        if (!grown) return nib_last_error()->status;
        s->ids = grown;
        s->room = room;
    }
    s->ids[s->count++] = id;
    return NIB_OK;
}

/* One sample of `count` ids, BOS before it where the tokenizer has one; a single token teaches
 * nothing of what follows and is passed over. */
static nib_status add_sample(const reading *r, const int32_t *ids, int64_t count) {
    nib_samples *s = r->out;
    const int64_t lead = r->bos >= 0;
    if (count > r->context - lead) count = r->context - lead;
    if (count + lead < 2) return NIB_OK;
    if (s->samples == s->samples_room) {
        const size_t room = s->samples_room ? s->samples_room * 2 : 64;
        size_t *grown =
            nib_mem_realloc(s->mem, s->ends, s->samples_room * sizeof *grown, room * sizeof *grown);
        if (!grown) return nib_last_error()->status;
        s->ends = grown;
        s->samples_room = room;
    }
    if (lead) NIB_TRY(add_id(s, r->bos));
    for (int64_t i = 0; i < count; i++) {
        if (ids[i] < 0 || ids[i] >= r->model->hparams.vocab_size)
            return NIB_RAISE(NIB_E_FORMAT, "the tokenizer gives id %d, the model has %d tokens",
                             (int)ids[i], r->model->hparams.vocab_size);
        NIB_TRY(add_id(s, ids[i]));
    }
    s->ends[s->samples++] = s->count;
    return NIB_OK;
}

static bool full(const reading *r) { return (int64_t)r->out->samples >= r->most; }

/* The place of the i-th of `taken` things spread evenly over `all`; below 2^31 all of them. */
static int64_t nth_of(int64_t i, int64_t taken, int64_t all) { return i * all / taken; }

static nib_status of_text(const reading *r, const char *text, size_t size, bool one) {
    nib_ids ids = {0};
    nib_status status = nib_tokenizer_encode(r->tokenizer, text, size, false, &ids);
    const int64_t step = r->context - (r->bos >= 0), count = (int64_t)ids.count;
    const int64_t windows = one ? count > 0 : (count + step - 1) / step;
    const int64_t taken = windows < r->most ? windows : r->most;
    for (int64_t i = 0; i < taken && status >= NIB_OK && !full(r); i++) {
        const int64_t at = nth_of(i, taken, windows) * step, left = count - at;
        status = add_sample(r, ids.data + at, left < step ? left : step);
    }
    nib_ids_free(&ids);
    return status;
}

static nib_status of_line(const reading *r, const char *path, const char *line, size_t size,
                          int64_t offset) {
    json_t *row = nib_json_parse(line, size, path, offset);
    if (!row) return nib_last_error()->status;
    const json_t *text = json_object_get(row, "text");
    nib_status status = NIB_OK;
    if (json_is_string(text))
        status = of_text(r, json_string_value(text), json_string_length(text), true);
    else
        status = NIB_RAISE(NIB_E_FORMAT, "a line is no object with a \"text\"");
    if (status < NIB_OK) nib_error_at(path, NULL, offset);
    json_decref(row);
    return status;
}

/* The line at `at`, its end in *next; false: a blank one. */
static bool line_at(const char *text, size_t size, size_t at, size_t *length, size_t *next) {
    const char *end = memchr(text + at, '\n', size - at);
    *length = end ? (size_t)(end - text) - at : size - at;
    *next = at + *length + 1;
    size_t blanks = 0;
    while (blanks < *length && strchr(" \t\r", text[at + blanks])) blanks++;
    return blanks < *length;
}

static nib_status of_lines(const reading *r, const char *path, const char *text, size_t size) {
    int64_t lines = 0, line = 0, i = 0;
    size_t length, next;
    for (size_t at = 0; at < size; at = next) lines += line_at(text, size, at, &length, &next);
    const int64_t taken = lines < r->most ? lines : r->most;
    for (size_t at = 0; at < size && i < taken; at = next) {
        if (!line_at(text, size, at, &length, &next) || line++ != nth_of(i, taken, lines)) continue;
        NIB_TRY(of_line(r, path, text + at, length, (int64_t)at));
        i++;
    }
    return NIB_OK;
}

/* ---- sounds ---- */

static nib_status keep_window(void *user, nib_tensor *mel, const int32_t *said, int64_t count) {
    const reading *r = user;
    nib_samples *s = r->out;
    const size_t before = s->samples;
    NIB_TRY(add_sample(r, said, count));
    if (s->samples == before) return NIB_OK; /* one id: nothing follows it */
    if (s->samples > s->sounds_room) {
        const size_t room = s->samples_room;
        nib_tensor **grown = nib_mem_realloc(
            s->mem, s->sounds, s->sounds_room * sizeof(nib_tensor *), room * sizeof(nib_tensor *));
        if (!grown) return nib_last_error()->status;
        for (size_t i = s->sounds_room; i < room; i++) grown[i] = NULL;
        s->sounds = grown;
        s->sounds_room = room;
    }
    s->sounds[before] = nib_keep(mel);
    return NIB_OK;
}

static nib_status hear(void *user, const nib_tensor *sound) {
    reading *r = user;
    return nib_listen(r->ctx, r->model, sound,
                      &(nib_transcribe_options){.max_tokens = (int)r->context}, NULL, keep_window,
                      r);
}

nib_status nib_samples_begin(const nib_samples *samples, size_t sample, nib_scorer *scorer) {
    return samples->sounds ? nib_scorer_hear(scorer, samples->sounds[sample]) : NIB_OK;
}

static nib_status of_sounds(reading *r, const nib_data *data) {
    r->bos = -1;
    nib_status status = nib_sounds_each(r->ctx, data->file, r->most, hear, r);
    if (status >= NIB_OK && !r->out->samples) {
        NIB_RAISE(NIB_E_FORMAT, "the model says nothing to the sounds here");
        status = nib_error_at(data->file, NULL, -1);
    }
    if (status < NIB_OK) nib_samples_free(r->out);
    return status;
}

/* ---- arrays of ids ---- */

static nib_status of_array(const reading *r, const nib_tensor *t) {
    const int V = r->model->hparams.vocab_size;
    char text[96];
    if (!nib_array_of_ints(t) || t->shape.ndim < 1 || t->shape.ndim > 2)
        return NIB_RAISE(NIB_E_FORMAT,
                         "an array %s of %s; token ids are integers, [N, T] samples or [T]",
                         nib_shape_text(&t->shape, text, sizeof text), nib_dtype_name(t->dtype));
    const int64_t rows = t->shape.ndim == 2 ? t->shape.dim[0] : 1,
                  columns = t->shape.dim[t->shape.ndim - 1];
    /* Of [T] every sample takes as many as there may be; a row of [N, T] is one sample. */
    const int64_t step = t->shape.ndim == 2 ? columns : r->context;
    int32_t *ids = nib_mem_alloc_array(r->out->mem, (size_t)r->context, sizeof *ids);
    nib_status status = ids ? NIB_OK : nib_last_error()->status;
    for (int64_t m = 0; m < rows; m++)
        for (int64_t at = 0; at < columns && status >= NIB_OK && !full(r); at += step) {
            const int64_t left = columns - at, n = left < r->context ? left : r->context;
            for (int64_t i = 0; i < n && status >= NIB_OK; i++) {
                const int64_t id = nib_array_int(t, m * columns + at + i);
                ids[i] = (int32_t)id;
                if (id < 0 || id >= V)
                    status = NIB_RAISE(NIB_E_FORMAT,
                                       "element %lld is %lld, which is none of the model's ids, 0 "
                                       "to %d",
                                       (long long)(m * columns + at + i), (long long)id, V - 1);
            }
            if (status >= NIB_OK) status = add_sample(r, ids, n);
        }
    nib_mem_free(r->out->mem, ids, (size_t)r->context * sizeof *ids);
    if (status >= NIB_OK && !r->out->samples)
        status = NIB_RAISE(NIB_E_FORMAT, "there is no sample of two ids here");
    return status;
}

static nib_status read_array(reading *r, const char *path) {
    nib_tensor *t = nib_array_load(r->ctx, path, "input_ids");
    r->bos = -1; /* ids run as they are */
    nib_status status = t ? of_array(r, t) : nib_last_error()->status;
    nib_tensor_free(t);
    if (status < NIB_OK) {
        nib_error_at(path, NULL, -1);
        nib_samples_free(r->out);
    }
    return status;
}
/* ---- all of it ---- */

nib_status nib_samples_read(nib_ctx *ctx, const nib_model *model, const nib_data *data,
                            nib_samples *out) {
    *out = (nib_samples){.mem = nib_ctx_mem(ctx)};
    const int64_t allowed = nib_model_max_tokens(model);
    reading r = {.ctx = ctx,
                 .model = model,
                 .most = data->samples ? data->samples : SAMPLES,
                 .context = data->context       ? data->context
                            : allowed < CONTEXT ? allowed
                                                : CONTEXT,
                 .out = out};
    if (r.most < 1 || r.context < 2 || r.context > allowed)
        return NIB_RAISE(NIB_E_ARGUMENT,
                         "%lld samples of %lld tokens: want at least one, of 2 to the model's %lld",
                         (long long)r.most, (long long)r.context, (long long)allowed);
    if (!data->file && (model->arch->see || model->arch->hear))
        return NIB_RAISE(NIB_E_ARGUMENT, "no file of data was named, and only models of text make "
                                         "up their own");
    if (!data->file) return nib_samples_draw(ctx, model, r.most, r.context, out);
    if (model->arch->hear) return of_sounds(&r, data);
    if (nib_sound_is(data->file)) {
        NIB_RAISE(NIB_E_ARGUMENT, "this is a sound, and %s reads text", model->arch->doc);
        return nib_error_at(data->file, NULL, -1);
    }
    if (nib_array_is(data->file)) return read_array(&r, data->file);
    size_t size = 0;
    r.tokenizer = nib_tokenizer_load(ctx, model->path);
    char *text = r.tokenizer ? nib_file_read_whole(out->mem, data->file, MOST_BYTES, &size) : NULL;
    nib_status status = text ? NIB_OK : nib_last_error()->status;
    if (status >= NIB_OK) {
        r.bos = nib_tokenizer_special(r.tokenizer, "bos");
        if (r.bos >= model->hparams.vocab_size) r.bos = -1;
        status = nib_text_ends(data->file, ".jsonl") ? of_lines(&r, data->file, text, size)
                                                     : of_text(&r, text, size, false);
        if (status >= NIB_OK && !out->samples)
            status = NIB_RAISE(NIB_E_FORMAT, "there is no text of two tokens here");
        if (status < NIB_OK) nib_error_at(data->file, NULL, -1);
    }
    if (text) nib_mem_free(out->mem, text, size + 1);
    nib_tokenizer_free(r.tokenizer);
    if (status < NIB_OK) nib_samples_free(out);
    return status;
}

/* ---- feeding ---- */

static nib_status run_sample(nib_scorer *s, const int32_t *ids, int64_t count) {
    const int64_t most = nib_scorer_rows(s);
    for (int64_t at = 0, rows; at < count; at += rows) {
        rows = count - at < most ? count - at : most;
        NIB_TRY(nib_scorer_step(s, ids, at, rows, count, NIB_WANT_ALL, NULL));
    }
    return NIB_OK;
}

static nib_status feed_text(nib_ctx *ctx, const nib_model *model, nib_data *d) {
    nib_samples samples;
    NIB_TRY(nib_samples_read(ctx, model, d, &samples));
    nib_scorer scorer = {0};
    nib_status status = nib_scorer_open(ctx, model, NULL, &scorer);
    for (size_t i = 0, begin = 0; i < samples.samples && status >= NIB_OK; i++) {
        status = run_sample(&scorer, samples.ids + begin, (int64_t)(samples.ends[i] - begin));
        d->tokens += (int64_t)(samples.ends[i] - begin);
        begin = samples.ends[i];
        if (status >= NIB_OK)
            status = nib_ctx_progress(ctx, "data", (double)(i + 1), (double)samples.samples);
    }
    nib_scorer_close(&scorer);
    nib_samples_free(&samples);
    return status;
}

typedef struct feeding {
    nib_ctx *ctx;
    const nib_model *model;
    nib_data *data;
} feeding;

/* Id by id, as it will run. */
static nib_status feed_sound(void *user, const nib_tensor *sound) {
    const feeding *f = user;
    nib_ids ids = {0};
    const nib_status status = nib_transcribe(
        f->ctx, f->model, sound, &(nib_transcribe_options){.max_tokens = f->data->context}, &ids);
    f->data->tokens += (int64_t)ids.count;
    nib_ids_free(&ids);
    return status;
}

nib_status nib_model_feed(nib_ctx *ctx, nib_model *model, nib_data *data) {
    if (!ctx || !model) return nib_last_error()->status;
    if (!data) return NIB_RAISE(NIB_E_ARGUMENT, "feeding a model needs data");
    nib_data d = {0};
    const size_t given = data->size && data->size < sizeof d ? data->size : sizeof d;
    memcpy(&d, data, given);
    d.tokens = 0;
    if (!d.file && (model->arch->see || model->arch->hear))
        return NIB_RAISE(NIB_E_ARGUMENT, "no file of data was named");
    if (d.samples < 0 || d.context < 0)
        return NIB_RAISE(NIB_E_ARGUMENT, "%lld samples of %d tokens: want 0 or more",
                         (long long)d.samples, d.context);
    d.pictures = 0;
    nib_status status;
    if (model->arch->see)
        status = nib_pictures_feed(ctx, model, &d);
    else if (model->arch->hear)
        status = nib_sounds_each(ctx, d.file, d.samples ? d.samples : SAMPLES, feed_sound,
                                 &(feeding){ctx, model, &d});
    else
        status = feed_text(ctx, model, &d);
    /* Weights may be quantized after this, and are then to be prepared again. */
    model->prepared = false;
    if (status >= NIB_OK) memcpy(data, &d, given);
    return status;
}
