/* evaluate.h: the tasks of nib_eval_file. Each fills its fields of the result. */
#ifndef NIB_MODEL_EVALUATE_H
#define NIB_MODEL_EVALUATE_H
#include <nibble/io.h>

#include "model/scorer.h"

typedef struct nib_task {
    nib_ctx *ctx;
    const nib_model *model;
    const nib_tokenizer *tokenizer; /* of the model's folder */
    const char *file;
    const char *text; /* the whole file, ended by a zero byte */
    size_t size;
    nib_eval *eval;
} nib_task;

/* Ids of a text, each checked to be one of the model's; errors name the file. */
nib_status nib_task_encode(const nib_task *task, const char *text, size_t size, bool special,
                           nib_ids *ids);

nib_status nib_task_perplexity_quanto(nib_task *task); /* evaluate_quanto.c */
nib_status nib_task_pictures(nib_task *task); /* evaluate_pictures.c; without tokenizer and text */
nib_status nib_task_hellaswag(nib_task *task);
nib_status nib_task_lambada(nib_task *task);
#endif
