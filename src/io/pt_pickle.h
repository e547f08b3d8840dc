/* pt_pickle.h: the pickle of a state dict, protocol 2, as torch.save writes it: an OrderedDict
 * whose tensors lie in storages "0", "1" ... of the same archive. */
#ifndef NIB_IO_PT_PICKLE_H
#define NIB_IO_PT_PICKLE_H
#include "base/text_util.h"
#include "io/safetensors.h"

bool nib_pt_holds(nib_dtype dtype); /* has torch.save a name for it? */

/* Every dtype of the plan is one that it holds. Metadata becomes the dict's attribute "metadata".
 */
void nib_pt_put_pickle(nib_text *text, const nib_safetensors_plan *plan);
#endif
