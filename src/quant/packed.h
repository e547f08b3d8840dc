/* packed.h: rows of a weight to the bytes of its parts, on all threads of a context. */
#ifndef NIB_QUANT_PACKED_H
#define NIB_QUANT_PACKED_H
#include <nibble/extend.h>

/* The first pass of a scheme over rows, if it has one; none otherwise. */
nib_status nib_scheme_measure(const nib_config *config, nib_stats *stats, const nib_tensor *rows);

/* Quantize a dense matrix [desc->rows, desc->cols] and pack it: whole parts of the matrix that desc
 * describes. Of a larger matrix that streams through memory, `rows` is one run (with B bands, B
 * runs one after the other), desc is nib_qdesc_of_rows, and nib_part_place says where the parts go.
 * The config is checked, desc comes from its plan, the layout holds it. Memory: a few hundred KiB a
 * thread, and for `whole` schemes the codes of all rows. */
nib_status nib_quantize_packed(nib_ctx *ctx, const nib_config *config, const nib_stats *stats,
                               const nib_layout *layout, const nib_qdesc *desc,
                               const nib_tensor *rows, void *const part[]);
#endif
