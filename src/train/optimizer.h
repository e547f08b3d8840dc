/* optimizer.h: what a kind of optimizer does. One file and one line of optimizer_list.h each. */
#ifndef NIB_TRAIN_OPTIMIZER_H
#define NIB_TRAIN_OPTIMIZER_H
#include <nibble/train.h>

enum { NIB_OPTIMIZER_STATES = 2 };

typedef struct nib_optimizer_slot { /* one tensor of `count` floats */
    float *p;
    const float *g;
    float *state[NIB_OPTIMIZER_STATES]; /* zeros before the first step */
    int64_t count;
    int64_t steps;                      /* this one included */
    double power[NIB_OPTIMIZER_STATES]; /* decay^steps */
} nib_optimizer_slot;

struct nib_optimizer_kind {
    const char *name;
    size_t config_size, rate; /* rate: where the config has it */
    int states;
    nib_status (*prepare)(nib_optimizer_config *config); /* put in what zero stands for; check */
    /* What power[i] is of; NULL: nothing. */
    double (*decay)(const nib_optimizer_config *config, int i);
    /* Elements [begin, end), in any order and on any thread. */
    void (*step)(const nib_optimizer_config *config, const nib_optimizer_slot *slot, int64_t begin,
                 int64_t end);
};

const nib_optimizer_kind *nib_optimizer_kind_at(size_t i); /* in list order; NULL: no more */
#endif
