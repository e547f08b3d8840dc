#include "model/picture.h"

#include "base/error.h"
#include "base/json.h"
#include "model/arch.h"
#include "model/array.h"
#include "tensor/context.h"
#include "tensor/dtype.h"
#include "tensor/tensor.h"

enum { SAMPLES = 128 };

/* ---- config.json ---- */

static nib_status one_side(const json_t *value, int *side) {
    const json_int_t n = json_integer_value(value);
    if (!json_is_integer(value) || n < 1 || n > NIB_MAX_SIDE)
        return NIB_RAISE(NIB_E_FORMAT,
                         "\"image_size\" is no number from 1 to %d, nor rows and columns of these",
                         NIB_MAX_SIDE);
    *side = (int)n;
    return NIB_OK;
}

/* Numbers of the channels; all `fallback` where the key is missing. */
static nib_status of_channels(const json_t *config, const char *key, double fallback, double least,
                              int channels, float out[NIB_MAX_CHANNELS]) {
    json_t *list = NULL;
    NIB_TRY(nib_json_array(config, key, false, &list));
    if (list && json_array_size(list) != (size_t)channels)
        return NIB_RAISE(NIB_E_FORMAT, "\"%s\" has %zu numbers, but there are %d channels", key,
                         json_array_size(list), channels);
    for (int i = 0; i < channels; i++) {
        const json_t *value = list ? json_array_get(list, (size_t)i) : NULL;
        const double x = list ? json_number_value(value) : fallback;
        if ((list && !json_is_number(value)) || !(x >= least && x <= 1e6))
            return NIB_RAISE(NIB_E_FORMAT, "\"%s\" has a value that is no number from %g to 1e6",
                             key, least);
        out[i] = (float)x;
    }
    return NIB_OK;
}

nib_status nib_picture_read(const json_t *config, nib_picture *out) {
    int64_t channels = 1;
    NIB_TRY(nib_json_int(config, "num_channels", 1, NIB_MAX_CHANNELS, false, &channels));
    out->num_channels = (int)channels;
    const json_t *size = json_object_get(config, "image_size");
    const bool both = json_is_array(size) && json_array_size(size) == 2;
    NIB_TRY(one_side(both ? json_array_get(size, 0) : size, &out->rows));
    NIB_TRY(one_side(both ? json_array_get(size, 1) : size, &out->columns));
    NIB_TRY(of_channels(config, "image_mean", 0, -1e6, out->num_channels, out->image_mean));
    return of_channels(config, "image_std", 1, 1e-6, out->num_channels, out->image_std);
}

/* ---- files ---- */

static nib_shape shape_of(const nib_picture *p, int64_t count) {
    return (nib_shape){4, {count, p->num_channels, p->rows, p->columns}};
}

static nib_status check(const nib_picture *p, const nib_tensor *t) {
    char got[96], want[96];
    nib_shape shape = t->shape;
    if (shape.ndim == 3 && p->num_channels == 1)
        shape = (nib_shape){4, {shape.dim[0], 1, shape.dim[1], shape.dim[2]}};
    if (t->dtype != NIB_U8 && t->dtype != NIB_F32)
        return NIB_RAISE(NIB_E_FORMAT, "pictures of %s; want pixels of u8, or f32",
                         nib_dtype_name(t->dtype));
    const nib_shape wanted = shape_of(p, shape.ndim ? shape.dim[0] : 0);
    if (!nib_shape_equal(&shape, &wanted))
        return NIB_RAISE(
            NIB_E_FORMAT,
            "an array %s, but the model sees pictures [N, %d, %d, %d]%s: that would be "
            "%s",
            nib_shape_text(&t->shape, got, sizeof got), p->num_channels, p->rows, p->columns,
            p->num_channels == 1 ? ", or without the 1" : "",
            nib_shape_text(&wanted, want, sizeof want));
    return shape.dim[0] ? NIB_OK : NIB_RAISE(NIB_E_FORMAT, "there is not a single picture");
}

nib_status nib_pictures_open(nib_ctx *ctx, const nib_model *model, const char *path,
                             nib_pictures *out) {
    *out = (nib_pictures){0};
    if (!path) return NIB_RAISE(NIB_E_ARGUMENT, "no file of pictures was named");
    if (!model->arch->see) {
        NIB_RAISE(NIB_E_UNSUPPORTED, "%s takes no pictures", model->arch->doc);
        return nib_error_at(model->path, NULL, -1);
    }
    out->array = nib_array_load(ctx, path, "pixel_values");
    if (!out->array) return nib_last_error()->status;
    if (check(&model->hparams.picture, out->array) < NIB_OK) {
        nib_pictures_close(out);
        return nib_error_at(path, NULL, -1);
    }
    out->count = out->array->shape.dim[0];
    return NIB_OK;
}

void nib_pictures_close(nib_pictures *p) {
    nib_tensor_free(p->array);
    *p = (nib_pictures){0};
}

/* ---- running ---- */

int64_t nib_pictures_batch(const nib_model *model) {
    enum { PIXELS = 1 << 18, MOST = 250 };
    const nib_picture *p = &model->hparams.picture;
    const int64_t most = PIXELS / ((int64_t)p->num_channels * p->rows * p->columns);
    return most < 1 ? 1 : most > MOST ? MOST : most;
}

static nib_tensor *batch_of(nib_ctx *ctx, const nib_picture *p, const nib_pictures *all,
                            int64_t first, int64_t count) {
    const int64_t plane = (int64_t)p->rows * p->columns, each = p->num_channels * plane;
    nib_tensor *x = nib_scope_own(ctx, nib_tensor_result(ctx, NIB_F32, shape_of(p, count)));
    if (!x) return NULL;
    float *to = nib_tensor_data_mut(x);
    if (all->array->dtype == NIB_F32) {
        const float *from = (const float *)nib_tensor_data(all->array) + first * each;
        for (int64_t i = 0; i < count * each; i++) to[i] = from[i];
        return x;
    }
    const uint8_t *from = (const uint8_t *)nib_tensor_data(all->array) + first * each;
    for (int64_t i = 0; i < count * each; i++) {
        const int64_t c = i / plane % p->num_channels;
        to[i] = ((float)from[i] / 255 - p->image_mean[c]) / p->image_std[c];
    }
    return x;
}

nib_tensor *nib_pictures_run(nib_ctx *ctx, const nib_model *model, const nib_pictures *pictures,
                             int64_t first, int64_t count) {
    return model->arch->see(&model->hparams, model->root,
                            batch_of(ctx, &model->hparams.picture, pictures, first, count));
}

nib_status nib_pictures_feed(nib_ctx *ctx, const nib_model *model, nib_data *data) {
    nib_pictures all;
    if (data->samples < 0)
        return NIB_RAISE(NIB_E_ARGUMENT, "%lld samples: want 0 or more", (long long)data->samples);
    NIB_TRY(nib_pictures_open(ctx, model, data->file, &all));
    const int64_t most = data->samples ? data->samples : SAMPLES;
    if (all.count > most) all.count = most;
    nib_status status = nib_model_prepare(ctx, model);
    for (int64_t at = 0, n; at < all.count && status >= NIB_OK; at += n) {
        n = all.count - at < nib_pictures_batch(model) ? all.count - at : nib_pictures_batch(model);
        const size_t mark = nib_scope_begin(ctx);
        if (!nib_pictures_run(ctx, model, &all, at, n)) status = nib_last_error()->status;
        nib_scope_end(ctx, mark);
        if (status >= NIB_OK) {
            data->pictures += n;
            status = nib_ctx_progress(ctx, "data", (double)(at + n), (double)all.count);
        }
    }
    nib_pictures_close(&all);
    return status;
}
