/* rope.h: the frequencies of rotary position embedding. */
#ifndef NIB_MODEL_ROPE_H
#define NIB_MODEL_ROPE_H
#include <nibble/nibble.h>

typedef enum nib_rope_kind {
    NIB_ROPE_DEFAULT = 0, /* Su et al., "RoFormer", 2021 */
    NIB_ROPE_LINEAR,      /* positions divided: Chen et al., "Extending Context Window
                             of Large Language Models via Positional Interpolation" */
    NIB_ROPE_DYNAMIC,     /* base grows with the sequence ("dynamic NTK") */
    NIB_ROPE_LLAMA3,      /* low frequencies divided, high ones kept, a ramp between */
} nib_rope_kind;

typedef struct nib_rope_params {
    nib_rope_kind kind;
    double theta;  /* base of the frequencies */
    double factor; /* of every kind but the default */
    double low_freq_factor, high_freq_factor, original_positions; /* llama3 */
    int64_t max_positions; /* dynamic: longer sequences change the base */
} nib_rope_params;

/* The kind named `name`; false when it is unknown. */
bool nib_rope_kind_from_name(const char *name, nib_rope_kind *kind);

/* inv_freq[j] for j in [0, head_dim / 2), in f32 with every step rounded as training code rounds
 * it. `length` is the number of tokens of the whole sequence, this step's included; only the
 * dynamic kind depends on it, and only beyond max_positions. */
void nib_rope_inv_freq(const nib_rope_params *rope, int64_t head_dim, int64_t length,
                       float *inv_freq);

/* True when a sequence of `length` tokens uses other frequencies than a short one. */
bool nib_rope_grows(const nib_rope_params *rope, int64_t length);
#endif
