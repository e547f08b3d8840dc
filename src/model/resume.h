/* resume.h: the note beside unfinished work: what is done, from which bytes, with which options. */
#ifndef NIB_MODEL_RESUME_H
#define NIB_MODEL_RESUME_H
#include "model/file_plan.h"

/* Everything done so far, to be kept with nib_checkpoint_writer_note. */
nib_status nib_resume_text(const nib_file_plan *plan, nib_text *out);

/* Read a note into plan->items (done, digests, cost). Fails with NIB_E_ARGUMENT when it was made
 * with other options, another version or another list of tensors. *same_boot tells whether the
 * machine has run since, so that bytes written but not synced are still there. */
nib_status nib_resume_read(nib_file_plan *plan, const char *text, size_t size, bool *same_boot);
#endif
