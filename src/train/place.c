#include "train/place.h"

#include <string.h>

#include "base/error.h"
#include "base/parallel.h"
#include "quant/act8.h"
#include "tensor/context.h"
#include "tensor/dtype.h"

static bool is_float(nib_dtype dtype) {
    return dtype == NIB_F32 || dtype == NIB_F16 || dtype == NIB_BF16;
}

bool nib_place_of(const nib_tensor *t, nib_place *place) {
    if (!t || t == NIB_NONE || t->nparts == 0) return false;
    *place = (nib_place){.storage = t->part[0]->id, .begin = nib_tensor_offset(t, 0)};
    if (t->layout && !nib_act8_is(t)) return true;
    if (!t->layout && !is_float(t->dtype)) return false;
    int64_t reach = 1; /* elements from the first to the last one */
    if (t->layout) {
        place->scale = t->part[1]->id;
        place->width = 1;
        reach = nib_tensor_count(t);
    } else {
        place->width = (size_t)nib_dtype_bits(t->dtype) / 8;
        for (int i = 0; i < t->shape.ndim; i++) reach += (t->shape.dim[i] - 1) * t->stride[i];
        if (nib_tensor_count(t) == 0) reach = 0;
    }
    place->end = place->begin + (size_t)reach * place->width;
    return true;
}

bool nib_place_within(const nib_place *p, const nib_place *whole) {
    return p->storage == whole->storage && p->scale == whole->scale && p->width == whole->width &&
           p->begin >= whole->begin && p->end <= whole->end;
}

bool nib_place_equal(const nib_place *a, const nib_place *b) {
    return nib_place_within(a, b) && nib_place_within(b, a);
}

typedef struct adding {
    float *sum;
    const float *g;
} adding;

static void add_run(void *user, int64_t begin, int64_t end) {
    const adding *a = user;
    float *sum = a->sum;
    const float *g = a->g;
    for (int64_t i = begin; i < end; i++) sum[i] += g[i];
}

/* May it be written to: does nobody else hold it, or its bytes? */
static bool is_own(nib_tensor *t) {
    return atomic_load(&t->refs) == 1 && atomic_load(&t->part[0]->refs) == 1;
}

/* The sum as bytes of its own, zeros where there was none. */
static nib_status own_sum(nib_tensor **sum, nib_ctx *ctx, int64_t count) {
    if (*sum && is_own(*sum)) return NIB_OK;
    nib_tensor *own = nib_tensor_new(ctx, NIB_F32, (nib_shape){1, {count}});
    if (!own) return nib_last_error()->status;
    float *to = nib_tensor_data_mut(own);
    if (*sum)
        memcpy(to, nib_tensor_data(*sum), (size_t)count * sizeof *to);
    else
        memset(to, 0, (size_t)count * sizeof *to);
    nib_tensor_free(*sum);
    *sum = own;
    return NIB_OK;
}

static void add_view(float *sum, const nib_tensor *t, const float *g) {
    int64_t at[NIB_MAX_DIMS] = {0}, offset = 0, count = nib_tensor_count(t);
    int64_t stride[NIB_MAX_DIMS], step = 1;
    for (int i = t->shape.ndim - 1; i >= 0; i--) { /* codes have none of their own */
        stride[i] = t->layout ? step : t->stride[i];
        step *= t->shape.dim[i];
    }
    for (int64_t k = 0; k < count; k++) {
        sum[offset] += g[k];
        for (int i = t->shape.ndim - 1; i >= 0; i--) { /* the next one, as an odometer counts */
            offset += stride[i];
            if (++at[i] < t->shape.dim[i]) break;
            offset -= stride[i] * at[i];
            at[i] = 0;
        }
    }
}

nib_status nib_place_add(nib_tensor **sum, const nib_place *whole, int64_t count,
                         const nib_place *place, const nib_tensor *t, const nib_tensor *g) {
    const bool straight = t->layout || nib_tensor_contiguous(t);
    const bool all = straight && nib_tensor_count(t) == count;
    if (count == 0) return NIB_OK;
    if (all && !*sum) {
        *sum = nib_tensor_retain(g);
        return NIB_OK;
    }
    NIB_TRY(own_sum(sum, g->ctx, count));
    float *to = nib_tensor_data_mut(*sum);
    if (place->width) to += (place->begin - whole->begin) / place->width;
    adding a = {to, nib_tensor_data(g)};
    if (straight)
        nib_parallel_for(g->ctx->pool, nib_tensor_count(t), 8192, add_run, &a);
    else
        add_view(to, t, a.g);
    return NIB_OK;
}
