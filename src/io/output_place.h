/* output_place.h: where a checkpoint comes to stand: OUT, beside it OUT.partial while it is made,
 * and OUT.replaced for the moment in which the old one makes way. Who makes one file alone has OUT
 * only: its writer has a temporary file of its own. */
#ifndef NIB_IO_OUTPUT_PLACE_H
#define NIB_IO_OUTPUT_PLACE_H
#include "io/checkpoint_write.h"

typedef struct nib_output_place {
    nib_mem *mem;
    char *path, *partial, *spare, *parent;
    bool is_file;
    bool resume;   /* OUT.partial was there, and is gone on with */
    bool only_new; /* errors do not propose to overwrite or to resume */
    bool replaces; /* there is an OUT that is not empty */
    bool made;     /* OUT.partial was not there */
    int lock;      /* of OUT.partial; -1: not held */
} nib_output_place;

/* May OUT be written, and is there room? Then make OUT.partial, or take over what is there, and
 * hold it. Errors: as nib_checkpoint_writer_open. To be freed in any case. */
nib_status nib_output_place_open(nib_mem *mem, const nib_checkpoint_output *output,
                                 nib_output_place *place);

/* The commit: OUT.partial becomes OUT. *taken: it did, even where what follows failed. */
nib_status nib_output_place_take_name(nib_output_place *place, bool *taken);

void nib_output_place_free(nib_output_place *place); /* gives up the lock; removes no file */
#endif
