/* optim_adamw.c: steps by the mean of gradients over the root of the mean of their squares, weights
 * drawn to zero apart from that; torch.optim.AdamW's.
 * Loshchilov and Hutter, "Decoupled Weight Decay Regularization", 2019. */
#include <math.h>
#include <stddef.h>

#include "base/error.h"
#include "train/optimizer.h"

static nib_status prepare(nib_optimizer_config *config) {
    nib_adamw *c = (nib_adamw *)config;
    if (c->rate == 0) c->rate = 0.001;
    if (c->beta1 == 0) c->beta1 = 0.9;
    if (c->beta2 == 0) c->beta2 = 0.999;
    if (c->eps == 0) c->eps = 1e-8;
    c->weight_decay = c->weight_decay == 0 ? 0.01 : c->weight_decay < 0 ? 0 : c->weight_decay;
    if (!(c->beta1 > 0 && c->beta1 < 1 && c->beta2 > 0 && c->beta2 < 1 && c->eps > 0))
        return NIB_RAISE(NIB_E_ARGUMENT, "adamw: beta1 %g, beta2 %g, eps %g; want betas below 1",
                         c->beta1, c->beta2, c->eps);
    return NIB_OK;
}

static double decay(const nib_optimizer_config *config, int i) {
    const nib_adamw *c = (const nib_adamw *)config;
    return i ? c->beta2 : c->beta1;
}

static void step(const nib_optimizer_config *config, const nib_optimizer_slot *s, int64_t begin,
                 int64_t end) {
    const nib_adamw *c = (const nib_adamw *)config;
    const float shrink = (float)(1 - c->rate * c->weight_decay), fresh = (float)(1 - c->beta1),
                old = (float)c->beta2, fresh2 = (float)(1 - c->beta2), eps = (float)c->eps,
                root = (float)sqrt(1 - s->power[1]), size = (float)(-c->rate / (1 - s->power[0]));
    float *mean = s->state[0], *square = s->state[1];
    for (int64_t i = begin; i < end; i++) {
        const float g = s->g[i];
        mean[i] = fmaf(fresh, g - mean[i], mean[i]);
        square[i] = square[i] * old + fresh2 * g * g;
        const float by = sqrtf(square[i]) / root + eps;
        s->p[i] = s->p[i] * shrink + size * mean[i] / by;
    }
}

const nib_optimizer_kind nib_optimizer_adamw = {.name = "adamw",
                                                .config_size = sizeof(nib_adamw),
                                                .rate = offsetof(nib_adamw, rate),
                                                .states = 2,
                                                .prepare = prepare,
                                                .decay = decay,
                                                .step = step};
