/* candidate.h: which tensors of a checkpoint are linear weights, told by name and shape alone, so
 * that a checkpoint of an architecture that nobody here can run quantizes too. */
#ifndef NIB_FLOW_CANDIDATE_H
#define NIB_FLOW_CANDIDATE_H
#include "flow/select.h"

enum { NIB_MAX_TENSOR_NAME = 1024 };
typedef struct nib_tensor_candidate {
    bool matrix;                    /* float, with two dimensions or more: reported when left */
    const char *kind;               /* for nib_site: "linear", "experts", "conv2d" */
    char name[NIB_MAX_TENSOR_NAME]; /* without .weight */
    nib_candidate candidate;        /* its name points into this struct */
} nib_tensor_candidate;

/* Fails only on a name over NIB_MAX_TENSOR_NAME bytes. */
nib_status nib_tensor_candidate_of(const char *tensor, nib_dtype dtype, const nib_shape *shape,
                                   nib_tensor_candidate *out);
#endif
