/* scheme.h: the registry of schemes, and configs as text. */
#ifndef NIB_QUANT_SCHEME_H
#define NIB_QUANT_SCHEME_H
#include <nibble/extend.h>

#include "base/text_util.h"
#include "tensor/tensor.h"

const nib_scheme *nib_scheme_at(size_t i); /* in list order; NULL: no more */

/* What an alias stands for, "quanto:weights=qint4" for "qint4"; NULL when it is none. */
const char *nib_scheme_alias(const char *name);

/* "int4_weight_only:group_size=32": options that differ from their defaults, in field order,
 * after the name or after an alias that says some of them, "qint4:algo=hqq"; nib_config_parse reads
 * it back to an equal config. NIB_LEAVE is "leave". */
void nib_config_print(const nib_config *config, nib_text *out);

/* The same as text of its own, "" for NULL; NULL when there is no memory. nib_mem_strfree. */
char *nib_config_text(nib_mem *mem, const nib_config *config);

/* Whether two configs say the same, whichever defaults they spell out. */
bool nib_config_same(const nib_config *a, const nib_config *b);

/* A copy to keep, since callers' configs live only during the call. Give back with nib_config_free.
 */
nib_config *nib_config_copy(const nib_config *config);

/* Ranges and contradictions of a config that a caller filled by hand; names the field. */
nib_status nib_config_check(const nib_config *config);

/* A field by its spelling, its zero resolved to what it stands for; 0 and false for one that the
 * scheme does not have. */
int64_t nib_config_option_int(const nib_config *config, const char *field);
double nib_config_option_float(const nib_config *config, const char *field);
bool nib_config_option_is(const nib_config *config, const char *field, const char *value);

/* The scheme's plan, and a check that what it says is sound. */
nib_status nib_scheme_plan(const nib_config *config, const nib_site *site, nib_qdesc *desc,
                           nib_act *in, nib_act *out);

/* Note in a quantized tensor how its codes were made, with a copy of the config, and what that
 * config's plan says of activations. */
nib_status nib_scheme_note(nib_tensor *t, const nib_config *config);

/* A dense, contiguous weight of any rank as the matrix of desc; a view that the caller owns. */
nib_tensor *nib_scheme_matrix(const nib_tensor *weight, const nib_site *site,
                              const nib_qdesc *desc);

/* A dense matrix in memory through plan, measure and quantize to codes (allocated; caller frees).
 */
nib_status nib_scheme_codes(const nib_config *config, const nib_site *site,
                            const nib_tensor *weight, nib_codes *out);
#endif
