/* saved.h: the state of a tree as optimum-quanto's state_dict() holds it. */
#ifndef NIB_FLOW_SAVED_H
#define NIB_FLOW_SAVED_H
#include <nibble/extend.h>
#include <nibble/nn.h>

/* The layout of a quantized weight's parts there; NULL: upstream has no word for such codes. */
const nib_layout *nib_saved_layout(const nib_qdesc *desc);
#endif
