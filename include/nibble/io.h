/* io.h: files and text: tensors in files, tokenizers.
 *
 * Same conventions as nibble.h: makers return NULL, doers a status, and nib_last_error tells. */
#ifndef NIBBLE_IO_H
#define NIBBLE_IO_H
#include <nibble/nibble.h>
#ifdef __cplusplus
extern "C" {
#endif
#if defined(__GNUC__)
#pragma GCC visibility push(default)
#endif

/* ==== tensors in files, one at a time =============================================== */

/* ---- reading: a Hugging Face folder, a .safetensors file, or what torch.save or numpy.savez wrote:
 * .pt, .pth, .bin, .npz ---- */
typedef struct nib_tensor_info {       /* one tensor as the file has it; strings borrowed */
    const char *name;
    nib_dtype   dtype;
    nib_shape   shape;
    size_t      bytes;
    const char *file;                  /* the shard that holds it, without its folder */
    const char *scheme;                /* of the weight it is a part of; NULL: it is plain */
} nib_tensor_info;

/* A weight as a model knows it: a tensor of a file, or the parts of a quantized one. */
typedef struct nib_weight_info {       /* strings borrowed */
    const char *name;                  /* "model.layers.0.mlp.up_proj.weight" */
    nib_dtype   dtype;                 /* that of the float weight */
    bool        shape_known;           /* quanto's 4- and 2-bit files leave the shape to the model */
    nib_shape   shape;
    size_t      bytes;                 /* of all its parts in the files */
    const char *file;                  /* that holds them, without its folder */
    const char *scheme, *layout;       /* NULL: float; a scheme that is not told is "" */
} nib_weight_info;

typedef struct nib_reader nib_reader;

/* Opens and checks all of it: grammar, sizes, shards against index, parts of quantized weights.
 * Fails: NIB_E_IO, or NIB_E_FORMAT with file, tensor and byte in nib_last_error(). */
nib_reader *nib_reader_open(nib_ctx *ctx, const char *path);
void        nib_reader_free(nib_reader *reader);
size_t      nib_reader_count(const nib_reader *reader);
const char *nib_reader_metadata(const nib_reader *reader, const char *key); /* NULL: no such key */

/* The next tensor in the order of the files: NIB_OK, then NIB_END. With `tensor` it is read into
 * memory of its own, yours to nib_tensor_free; NULL only looks. */
nib_status  nib_reader_next(nib_reader *reader, nib_tensor_info *info, nib_tensor **tensor);
void        nib_reader_rewind(nib_reader *reader);     /* both lists */

/* The next weight in the order of the files: NIB_OK, then NIB_END. */
nib_status  nib_reader_next_weight(nib_reader *reader, nib_weight_info *info);
const char *nib_reader_format(const nib_reader *reader);   /* "torchao"; NULL: all of it is float */
const char *nib_reader_config(const nib_reader *reader);   /* text of config.json; NULL: none */

/* One tensor by name, yours. NIB_E_ARGUMENT when there is none. */
nib_tensor *nib_reader_load(nib_reader *reader, const char *name);

/* ---- writing: one file, appearing whole when finished. Its name tells its kind: .pt, .pth and .bin
 * as torch.save writes a state dict, so that torch.load(weights_only=True) opens it, everything
 * else safetensors ---- */
typedef struct nib_metadata { const char *key, *value; } nib_metadata;
typedef struct nib_writer nib_writer;

/* Name, dtype and shape of every tensor are given first; the other members of info are ignored.
 * Equal plans give equal bytes, for safetensors those of the reference library when there is at most
 * one metadata key. In a .pt file metadata is the attribute "metadata" of the OrderedDict. */
nib_writer *nib_writer_open(nib_ctx *ctx, const char *path, const nib_tensor_info *plan, size_t n,
                            const nib_metadata *metadata, size_t nmetadata);

/* Rows [first_row, first_row + rows' own) of a planned tensor, in any order, each row once. `rows`
 * is dense, of the planned dtype, and agrees with the plan in all dimensions but the first. */
nib_status  nib_writer_put(nib_writer *writer, const char *name, int64_t first_row,
                           const nib_tensor *rows);

/* Finishing takes the name and frees the writer, also when it fails: then nothing is left of the
 * new file and an old one is untouched. NIB_E_ARGUMENT names a tensor that misses rows. */
nib_status  nib_writer_finish(nib_writer *writer);
void        nib_writer_cancel(nib_writer *writer);

/* Bytes of the .safetensors file that this plan makes, without making it. */
nib_status  nib_writer_predict(nib_ctx *ctx, const nib_tensor_info *plan, size_t n,
                               const nib_metadata *metadata, size_t nmetadata, size_t *bytes);
/* ---- sound: WAV and what else libsndfile reads ---- */
/* A file as [count] f32 samples, channels averaged, at `rate` samples a second (0: as in the file). Yours.
 * Fails: NIB_E_FORMAT for a file that is cut or empty or no sound, NIB_E_UNSUPPORTED in a build without
 * libsndfile and libsamplerate. */
nib_tensor *nib_audio_load(nib_ctx *ctx, const char *path, int rate);
/* What Whisper hears of samples at 16000 a second: [bands, count / 160] f32, log10 of the power of mel
 * bands, scaled. The sound is cut, or padded with silence, to `count` samples (0: as it is); Whisper takes
 * 480000, 30 seconds, and 80 or 128 bands. Yours. */
nib_tensor *nib_log_mel(const nib_tensor *sound, int bands, int64_t count);

/* ---- one NumPy array in a file: little-endian numbers and bool, C order ---- */
nib_tensor *nib_npy_load(nib_ctx *ctx, const char *path);           /* yours */
nib_status  nib_npy_save(const nib_tensor *t, const char *path);    /* dense and contiguous */

/* ---- one array in an idx file, as MNIST has them, plain or packed by gzip ---- */
nib_tensor *nib_idx_load(nib_ctx *ctx, const char *path);           /* yours; images u8 [N, rows, columns] */

/* ==== end of tensors in files ======================================================= */

/* ==== tokenizers: text to ids and back ============================================== */

/* Growing results. Zero one to begin with, let calls append to it, give it back with its free
 * function (before the context goes). A call that fails leaves what was there. */
typedef struct nib_ids {
    int32_t *data;
    size_t   count, room;
    void    *owner;                    /* nibble's own */
} nib_ids;
typedef struct nib_string {            /* `data` ends with a zero byte that `length` leaves out */
    char    *data;                     /* NULL while nothing was ever appended */
    size_t   length, room;
    void    *owner;
} nib_string;
void nib_ids_free(nib_ids *ids);
void nib_string_free(nib_string *string);

/* A tokenizer never changes after it was loaded: threads may share one, each with its own
 * results. It must outlive the detokenizers made from it. */
typedef struct nib_tokenizer nib_tokenizer;

/* From a Hugging Face folder (tokenizer.json, or a GPT2Tokenizer's vocab.json and merges.txt, and
 * what tokenizer_config.json says of special tokens) or from a tokenizer.json itself. `ctx` may be NULL: the process's memory.
 * Fails: NIB_E_FORMAT for a damaged file, NIB_E_UNSUPPORTED naming the kind of model, normalizer,
 * pre-tokenizer, post-processor or decoder that nibble does not know. */
nib_tokenizer *nib_tokenizer_load(nib_ctx *ctx, const char *path);

/* The same from the bytes of a tokenizer.json; `name` stands in errors for the path. */
nib_tokenizer *nib_tokenizer_parse(nib_ctx *ctx, const char *json, size_t length,
                                   const char *name);
void nib_tokenizer_free(nib_tokenizer *tokenizer);

/* Append the ids of UTF-8 text, with those that the post-processor puts around it if
 * `add_special`. Added tokens are found in the text and become their ids.
 * Fails: NIB_E_FORMAT with the offset of the first byte that is not UTF-8. */
nib_status nib_tokenizer_encode(const nib_tokenizer *tokenizer, const char *text, size_t length,
                                bool add_special, nib_ids *ids);

/* Append the text of ids. An id without a piece (a model's table may be longer than the
 * vocabulary) stands for nothing; bytes that are not UTF-8 become U+FFFD.
 * Fails: NIB_E_ARGUMENT for a negative id. */
nib_status nib_tokenizer_decode(const nib_tokenizer *tokenizer, const int32_t *ids, size_t n,
                                bool skip_special, nib_string *text);

size_t nib_tokenizer_size(const nib_tokenizer *tokenizer); /* one more than the highest id */

/* The id of a piece as the vocabulary spells it ("\xC4\xA0the"), or -1. */
int32_t nib_tokenizer_id(const nib_tokenizer *tokenizer, const char *piece, size_t length);

/* The piece of an id, borrowed, ended by a zero byte; NULL, without an error, if there is none. */
const char *nib_tokenizer_piece(const nib_tokenizer *tokenizer, int32_t id, size_t *length);

/* The id of "bos", "eos", "unk" or "pad" as far as the tokenizer's files say, or -1. A model's
 * generation_config.json may name further ends. */
int32_t nib_tokenizer_special(const nib_tokenizer *tokenizer, const char *role);

/* Text of ids as they arrive, for showing it while it grows: bytes that do not yet form a
 * character are held back. */
typedef struct nib_detokenizer nib_detokenizer;
nib_detokenizer *nib_detokenizer_new(const nib_tokenizer *tokenizer, bool skip_special);
nib_status nib_detokenizer_next(nib_detokenizer *stream, int32_t id, nib_string *text);
nib_status nib_detokenizer_end(nib_detokenizer *stream, nib_string *text); /* what was held back */
void nib_detokenizer_free(nib_detokenizer *stream);
/* ==== end of tokenizers ============================================================= */

/* ==== speech: what was said, as a model of Whisper's kind hears it ================== */

typedef struct nib_spoken {            /* a piece of it, borrowed during the call */
    double start, end;                 /* seconds from the beginning of the sound */
    const int32_t *ids; size_t count;  /* of its text, without special tokens and times */
} nib_spoken;
typedef struct nib_transcribe_options {
    size_t size;
    const char *language;              /* "en" or "<|en|>"; NULL: as generation_config.json says, or else
                                          heard in the first window */
    const char *task;                  /* "transcribe", or "translate" into English; NULL: as that file says */
    bool timestamps;                   /* the model tells times, and pieces go from one to the next */
    int max_tokens;                    /* new ids of a window at most; 0: as many as the model has room for */
    const char *kv;                    /* both caches, as in nib_session_options */
    nib_status (*piece)(void *user, const nib_spoken *piece); void *user; /* less than NIB_OK: stop with it */
    nib_compile_when compile;          /* the step from id to id, as in nib_session_options */
    const char *tune;                  /* likewise */
} nib_transcribe_options;

/* Append the ids that a model says to a sound of [count] f32 samples at 16000 a second
 * (nib_audio_load), likeliest first at each step, as transformers' generate does: without the first
 * ids of a window and its end, with times when they are asked for. A sound that is longer than a
 * window (30 seconds) is heard in several, each from the last time told in the one before. `options`
 * and `ids` may be NULL. What was said before a failure stays in `ids`.
 * Fails: NIB_E_UNSUPPORTED for a model that does not hear, NIB_E_SHAPE or NIB_E_ARGUMENT for what is
 * no such sound, language or task. */
nib_status nib_transcribe(nib_ctx *ctx, const nib_model *model, const nib_tensor *sound,
                          const nib_transcribe_options *options, nib_ids *ids);
/* ==== end of speech ================================================================= */

#if defined(__GNUC__)
#pragma GCC visibility pop
#endif
#ifdef __cplusplus
}
#endif
#endif
