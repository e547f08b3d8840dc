/* block.h: who shares a scale: a group of columns, a row, or all. */
#ifndef NIB_QUANT_BLOCK_H
#define NIB_QUANT_BLOCK_H
#include <nibble/extend.h>

/* Columns of a group are at most this many: 2^24, more than any layer has. */
#define NIB_GROUP_MAX 16777216.0

/* Start a descriptor from a site with blocks of "row", "group" (of `group` columns) or "tensor".
 * Raises NIB_E_SHAPE, naming the site, when the columns are no multiple of the group. */
nib_status nib_block_plan(nib_qdesc *desc, const nib_site *site, const char *granularity,
                          int64_t group);

/* group_size without granularity=group says two things at once. */
nib_status nib_block_check(const nib_scheme *scheme, const char *granularity, int group_size);
#endif
