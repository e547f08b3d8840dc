/* conv_strip.h: what a run of positions of a convolution sees of its input, with its padding, laid
 * out so that a tap of the filter is found by one addition and 16 positions lie side by side.
 *
 *   strip  [C][rows][phases][columns]   column x of the padded input: [x % stride][x / stride]
 *
 * So positions (oy, ox) and (oy, ox + 1) are neighbours in it whatever the stride; or, of bytes,
 * columns stay in order, and the kernel steps over some (then `stride` here is 1). Its elements are
 * words of 32 bits: floats, or four codes. Where there is no padding to put around
 * and no stride between columns, the input itself is such a strip.
 *
 * Legend: C words of a pixel, K words that a filter sees, ordered by channel, row and column of the
 * window, P positions of one channel out, in rows of OW. */
#ifndef NIB_OP_CONV_STRIP_H
#define NIB_OP_CONV_STRIP_H
#include "kernel/kernel.h"
#include "op/calls.h"

typedef struct nib_strip {
    const nib_window *w;
    int64_t C, H, W, OW, P, K;
    bool in_order;                   /* given: columns stay in order */
    int64_t stride;                  /* columns of the input from one of a phase to the next */
    int64_t block_p, across, blocks; /* positions of a block; blocks of a row; blocks of all */
    int64_t rows, phases, columns;   /* columns of one phase */
    int64_t line, plane;             /* words from row to row, from channel to channel */
    int64_t apart;       /* words of one row: columns between their codes; 0: of four channels */
    bool direct;         /* the input itself */
    const int64_t *taps; /* [K], see nib_strip_taps */
} nib_strip;

typedef struct nib_place { /* positions of a block, and the first row and column of the output */
    int64_t p, count, oy, ox;
} nib_place;

/* Cut the positions into even blocks of at most `most` (a multiple of 16), or one row of them where
 * that is more and `whole_rows`: then blocks are rows. `as_it_is`: elements are those of the input.
 */
void nib_strip_cut(nib_strip *strip, int64_t most, bool whole_rows, bool as_it_is);
nib_place nib_strip_place(const nib_strip *strip, int64_t block);

/* Words of a strip; false: overflow. */
bool nib_strip_words(const nib_strip *strip, int64_t *words);

/* Where the taps lie, from the first tap of a position. */
void nib_strip_taps(const nib_strip *strip, int64_t *taps);

/* Fill it for the positions of a block, from the channels of one group of one image: floats as they
 * are, bytes as they are, or words of codes u + 128: of four channels, the missing ones anything,
 * or of four columns of one row, `apart` from each other (a window then steps over words). A strip
 * that is the input is not filled; what is given back is where it begins. */
const void *nib_strip_floats(const nib_strip *strip, const nib_place *at, const float *x,
                             float *to);
const void *nib_strip_bytes(const nib_strip *strip, const nib_place *at, const int8_t *x,
                            int8_t *to);
const void *nib_strip_codes(const nib_kernels *kernels, const nib_strip *strip, const nib_place *at,
                            const int8_t *x, int64_t channels, uint32_t *to);

/* Floats that become codes as they are laid out: clamp(rne(x / scale), low, high). */
typedef struct nib_strip_entry {
    const nib_kernels *kernels;
    float scale;
    int low, high;
} nib_strip_entry;
/* A strip of bytes in one phase that is not the input: of codes, or of floats and how these become
 * codes. */
const void *nib_strip_in_order(const nib_strip *strip, const nib_place *at, const void *x,
                               const nib_strip_entry *entry, int8_t *to);

/* Does a position see one pixel of codes, its neighbour the next? Then panels are made of the
 * input, without a strip. */
bool nib_strip_is_plain(const nib_strip *strip);
/* Words of four channels of the positions of a block: panels [K][16], `stride` words apart. Floats
 * with an entry, by way of `codes`, NIB_STRIP_CHANNELS bytes for each position. */
enum { NIB_STRIP_CHANNELS = 16 };
void nib_strip_plain(const nib_kernels *kernels, const nib_strip *strip, const nib_place *at,
                     const int8_t *x, int64_t channels, uint32_t *panels, int64_t stride);
void nib_strip_plain_floats(const nib_strip_entry *entry, const nib_strip *strip,
                            const nib_place *at, const float *x, int64_t channels, int8_t *codes,
                            uint32_t *panels, int64_t stride);

/* Taps [k, k + kc) of all positions of the block: panels of [kc][16] words, `stride` words apart.
 */
void nib_strip_panels(const nib_kernels *kernels, const nib_strip *strip, const nib_place *at,
                      const void *begin, int64_t k, int64_t kc, uint32_t *panels, int64_t stride);

#endif
