#include "quant/block.h"

#include <string.h>

#include "base/error.h"
#include "quant/codes.h"

nib_status nib_block_plan(nib_qdesc *desc, const nib_site *site, const char *granularity,
                          int64_t group) {
    NIB_TRY(nib_qdesc_init(desc, site));
    if (strcmp(granularity, "tensor") == 0) return NIB_OK;
    desc->block_rows = 1;
    if (strcmp(granularity, "row") == 0) return NIB_OK;
    if (desc->cols % group != 0)
        return NIB_RAISE(NIB_E_SHAPE, "%s: %lld columns are no multiple of group_size %lld",
                         site->name, (long long)desc->cols, (long long)group);
    desc->block_cols = group;
    return NIB_OK;
}

nib_status nib_block_check(const nib_scheme *scheme, const char *granularity, int group_size) {
    if (group_size == 0 || (granularity && strcmp(granularity, "group") == 0)) return NIB_OK;
    return NIB_RAISE(NIB_E_ARGUMENT, "%s: group_size=%d goes with granularity=group only",
                     scheme->name, group_size);
}
