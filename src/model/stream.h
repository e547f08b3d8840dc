/* stream.h: a weight from its float rows to the bytes of its parts, a run of rows at a time.
 *
 * Quantizing a file and verifying one are the same stream with another sink: one writes the bytes,
 * the other compares them. Memory is bounded by the run, not by the weight, unless the scheme or
 * the layout needs all rows at once. */
#ifndef NIB_MODEL_STREAM_H
#define NIB_MODEL_STREAM_H
#include <nibble/extend.h>

#include "flow/measure.h"

typedef enum nib_nonfinite {
    NIB_NONFINITE_ERROR = 0,
    NIB_NONFINITE_KEEP,
    NIB_NONFINITE_ZERO
} nib_nonfinite;
nib_status nib_nonfinite_parse(const char *text, nib_nonfinite *out); /* NULL: error */

typedef struct nib_stream {
    nib_ctx *ctx;
    const nib_config *config;
    nib_site site; /* the float weight */
    const nib_layout *layout;
    nib_qdesc desc;
    nib_nonfinite nonfinite;
    bool across;        /* the file has it transposed: `read` knows, and offsets in errors do */
    size_t file_offset; /* where the float weight begins in its file, for errors */

    /* `size` bytes of the float weight from its byte `offset` on. */
    nib_status (*read)(void *user, void *to, size_t size, size_t offset);
    /* Bytes [offset, offset + size) of part `part`; every byte of every part comes exactly once. */
    nib_status (*put)(void *user, int part, const void *bytes, size_t size, size_t offset);
    /* Bytes of the weight that are done, for progress; may be NULL. */
    nib_status (*step)(void *user, size_t bytes);
    void *user;

    bool digest;  /* also the SHA-256 of the float weight's bytes */
    bool measure; /* also what it cost */

    /* out */
    unsigned char sha256[32];
    nib_measure cost;
    int64_t nonfinite_count; /* kept or made zero */
} nib_stream;

nib_status nib_stream_run(nib_stream *stream);

/* Pack codes of `rows` rows from `row` on of each of B bands, those of one band after those of the
 * other, and put the bytes. Of a stream only ctx, layout, desc, put and user are asked for. */
typedef struct nib_place {
    int64_t row, rows;
    int bands;
} nib_place;
nib_status nib_stream_put(nib_stream *stream, const nib_codes *codes, const nib_place *at);

/* Put the codes of a quantized tensor of the same desc, whatever layout it has in memory. */
nib_status nib_stream_repack(nib_stream *stream, const nib_tensor *from);
#endif
