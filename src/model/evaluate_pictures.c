/* evaluate_pictures.c: the share of pictures whose label a model tells, and how far it is from
 * another. */
#include <math.h>

#include "base/error.h"
#include "base/mem.h"
#include "model/array.h"
#include "model/evaluate.h"
#include "tensor/context.h"
#include "tensor/tensor.h"

/* The label of every picture, [N]. Caller owns. */
static int32_t *labels_of(const nib_task *t, int64_t count) {
    const char *path = t->eval->labels;
    const int V = t->model->hparams.vocab_size;
    nib_tensor *array = nib_array_load(t->ctx, path, "labels");
    if (!array) return NULL;
    char text[96];
    int32_t *labels = NULL;
    if (!nib_array_of_ints(array) || array->shape.ndim != 1 || array->shape.dim[0] != count)
        NIB_RAISE(NIB_E_FORMAT, "labels are %s, want [%lld] integers, one for each picture",
                  nib_shape_text(&array->shape, text, sizeof text), (long long)count);
    else
        labels = nib_mem_alloc_array(nib_ctx_mem(t->ctx), (size_t)count, sizeof *labels);
    for (int64_t i = 0; labels && i < count; i++) {
        const int64_t label = nib_array_int(array, i);
        if (label >= 0 && label < V) {
            labels[i] = (int32_t)label;
            continue;
        }
        NIB_RAISE(NIB_E_FORMAT, "label %lld of picture %lld is none of the model's 0 to %d",
                  (long long)label, (long long)i, V - 1);
        nib_mem_free(nib_ctx_mem(t->ctx), labels, (size_t)count * sizeof *labels);
        labels = NULL;
    }
    if (!labels) nib_error_at(path, NULL, -1);
    nib_tensor_free(array);
    return labels;
}

typedef struct sums {
    double right, kl, same;
} sums;

static nib_status score_some(const nib_task *t, const nib_pictures *pictures, const int32_t *labels,
                             int64_t at, int64_t n, nib_score *scores, sums *sum) {
    const nib_model *other = t->eval->reference;
    const nib_scorer own = {.ctx = t->ctx, .model = t->model},
                     its = {.ctx = t->ctx, .model = other};
    const nib_tensor *y = nib_pictures_run(t->ctx, t->model, pictures, at, n), *z = NULL;
    if (y && other) z = nib_pictures_run(t->ctx, other, pictures, at, n);
    if (!y || (other && !z)) return nib_last_error()->status;
    NIB_TRY(nib_score_rows(&own, nib_tensor_data(y), other ? &its : NULL,
                           other ? nib_tensor_data(z) : NULL, labels + at, n, scores));
    for (int64_t i = 0; i < n; i++) {
        sum->right += scores[i].best;
        sum->kl += scores[i].kl;
        sum->same += scores[i].same_top;
    }
    return NIB_OK;
}

static nib_status score_all(nib_task *t, const nib_pictures *pictures, const int32_t *labels) {
    nib_eval *e = t->eval;
    const int64_t step = nib_pictures_batch(t->model);
    const int64_t count = e->limit && e->limit < pictures->count ? e->limit : pictures->count;
    nib_mem *mem = nib_ctx_mem(t->ctx);
    nib_score *scores = nib_mem_alloc_array(mem, (size_t)step, sizeof *scores);
    nib_status status = scores ? NIB_OK : nib_last_error()->status;
    sums sum = {0};
    if (status >= NIB_OK) status = nib_model_prepare(t->ctx, t->model);
    if (status >= NIB_OK && e->reference) status = nib_model_prepare(t->ctx, e->reference);
    for (int64_t at = 0, n; at < count && status >= NIB_OK; at += n) {
        n = count - at < step ? count - at : step;
        const size_t mark = nib_scope_begin(t->ctx);
        status = score_some(t, pictures, labels, at, n, scores, &sum);
        nib_scope_end(t->ctx, mark);
        if (status >= NIB_OK)
            status = nib_ctx_progress(t->ctx, "pictures", (double)(at + n), (double)count);
    }
    nib_mem_free(mem, scores, (size_t)step * sizeof *scores);
    if (status < NIB_OK) return status;
    const double n = (double)count;
    e->items = count;
    e->acc = sum.right / n;
    e->acc_error = n > 1 ? sqrt(e->acc * (1 - e->acc) / (n - 1)) : 0;
    e->kl_mean = sum.kl / n;
    e->same_top = e->reference ? sum.same / n : 0;
    return NIB_OK;
}

nib_status nib_task_pictures(nib_task *t) {
    const nib_model *other = t->eval->reference;
    nib_pictures pictures = {0};
    if (!t->eval->labels)
        return NIB_RAISE(NIB_E_ARGUMENT, "telling what pictures show needs their labels");
    if (t->eval->protocol)
        return NIB_RAISE(NIB_E_ARGUMENT, "pictures have no protocols; leave \"%s\" out",
                         t->eval->protocol);
    if (other && (!other->arch->see || other->hparams.vocab_size != t->model->hparams.vocab_size))
        return NIB_RAISE(NIB_E_ARGUMENT, "the reference does not tell the same labels");
    NIB_TRY(nib_pictures_open(t->ctx, t->model, t->file, &pictures));
    int32_t *labels = labels_of(t, pictures.count);
    const nib_status status = labels ? score_all(t, &pictures, labels) : nib_last_error()->status;
    nib_mem_free(nib_ctx_mem(t->ctx), labels, (size_t)pictures.count * sizeof *labels);
    nib_pictures_close(&pictures);
    return status;
}
