/* file_plan.h: what quantizing a checkpoint will do, known before any work: for each tensor which
 * scheme or why none, for each output file its exact bytes. */
#ifndef NIB_MODEL_FILE_PLAN_H
#define NIB_MODEL_FILE_PLAN_H
#include "flow/select.h"
#include "io/format.h"
#include "io/manifest.h"
#include "model/stream.h"

typedef struct nib_file_item { /* beside manifest.items[i] */
    const nib_checkpoint_tensor *source;
    const char *kind; /* "linear", "experts" */
    bool matrix;      /* reported when left */
    bool across;      /* quantized as the linear that it is: model/across.h */
    char *why_left;   /* NULL: quantized, or nothing to say */
    /* filled by the work */
    bool done;
    unsigned char sha256[32];
    double sqnr_db, max_error;
    int64_t nonfinite;
} nib_file_item;

typedef struct nib_file_plan {
    nib_ctx *ctx;
    nib_mem *mem;
    nib_checkpoint *source;
    json_t *config;    /* config.json as it will be written; NULL: there is none */
    char *config_text; /* as it was */
    bool has_across;   /* the source has linears that lie across */
    bool unties_head;  /* the head is made from the embedding */
    nib_selection selection;
    nib_nonfinite nonfinite;
    nib_manifest manifest; /* of what is written; no format: all of it float */
    nib_file_item *items;
    size_t items_room;
    const char *to; /* the output, whose name tells its kind; NULL: a folder, or none */
} nib_file_plan;

/* Fails before anything is written: a source that is quantized already, nothing that matches, a
 * weight that does not fit, a format that cannot hold a scheme (naming those that can). */
nib_status nib_file_plan_open(nib_ctx *ctx, const char *from, const nib_rule *rules, size_t nrules,
                              const nib_select *select, const nib_file_options *options,
                              nib_file_plan *out);
void nib_file_plan_close(nib_file_plan *plan);

/* What is known of a weight before the format is chosen. */
typedef struct nib_draft {
    const char *name;
    nib_dtype dtype;
    nib_shape shape; /* of the float weight */
    size_t shard;    /* file that it goes to */
    bool quantized;
    bool across;              /* quantized: shape is [out, in], which no other format knows */
    const nib_config *config; /* NULL with `quantized`: not known */
    nib_qdesc desc;
} nib_draft;

/* Fill plan->manifest with the drafts, in the format that was asked for or that of the schemes, and
 * set plan->config's "quantization_config". Needs mem and config. */
nib_status nib_file_plan_fill(nib_file_plan *plan, const nib_draft *drafts, size_t count,
                              const char *format);

/* What is written will be called `to` (NULL: nothing is). Fails: NIB_E_ARGUMENT for a single file
 * in a format that needs another beside it. */
nib_status nib_file_plan_to(nib_file_plan *plan, const char *to);

/* Totals into the report that the caller gave, and a row for each matrix. */
void nib_file_plan_report(const nib_file_plan *plan, bool dry_run);
#endif
