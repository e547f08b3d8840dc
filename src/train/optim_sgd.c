/* optim_sgd.c: steps against the gradient, with a momentum if asked for; torch.optim.SGD's.
 * Sutskever et al., "On the Importance of Initialization and Momentum in Deep Learning", 2013. */
#include <math.h>
#include <stddef.h>

#include "base/error.h"
#include "train/optimizer.h"

static nib_status prepare(nib_optimizer_config *config) {
    nib_sgd *c = (nib_sgd *)config;
    if (c->rate == 0) c->rate = 0.001;
    if (!(c->momentum >= 0 && c->weight_decay >= 0))
        return NIB_RAISE(NIB_E_ARGUMENT, "sgd: momentum %g and weight_decay %g, want 0 or more",
                         c->momentum, c->weight_decay);
    if (c->nesterov && (c->momentum == 0 || c->dampening != 0))
        return NIB_RAISE(NIB_E_ARGUMENT, "sgd: nesterov needs a momentum, and no dampening");
    return NIB_OK;
}

static void step(const nib_optimizer_config *config, const nib_optimizer_slot *s, int64_t begin,
                 int64_t end) {
    const nib_sgd *c = (const nib_sgd *)config;
    const float rate = (float)-c->rate, momentum = (float)c->momentum,
                fresh = (float)(1 - c->dampening), decay = (float)c->weight_decay;
    float *buffer = s->state[0];
    for (int64_t i = begin; i < end; i++) {
        float d = s->g[i];
        if (decay != 0) d = fmaf(decay, s->p[i], d);
        if (momentum != 0) {
            buffer[i] = s->steps == 1 ? d : fmaf(fresh, d, buffer[i] * momentum);
            d = c->nesterov ? fmaf(momentum, buffer[i], d) : buffer[i];
        }
        s->p[i] = fmaf(rate, d, s->p[i]);
    }
}

const nib_optimizer_kind nib_optimizer_sgd = {.name = "sgd",
                                              .config_size = sizeof(nib_sgd),
                                              .rate = offsetof(nib_sgd, rate),
                                              .states = 1,
                                              .prepare = prepare,
                                              .step = step};
