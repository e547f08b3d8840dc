/* speech.h: what config.json and generation_config.json of a model that hears say, besides what
 * they say of its decoder. */
#ifndef NIB_MODEL_SPEECH_H
#define NIB_MODEL_SPEECH_H
#include <jansson.h>
#include <nibble/nibble.h>

enum {
    NIB_MAX_SUPPRESSED = 256,
    NIB_MAX_FORCED = 8,
    NIB_MAX_LANGUAGES = 128,
    NIB_SPEECH_RATE = 16000, /* samples a second */
    NIB_SPEECH_HOP = 160,    /* samples from frame to frame */
    NIB_FRAMES_A_STEP = 2,   /* of the sound, to one row of the encoder */
};

typedef struct nib_language {
    char code[16]; /* "en": the token is "<|en|>" */
    int32_t id;
} nib_language;

typedef struct nib_speech {
    /* Fields of config.json under their own names. */
    int encoder_layers, encoder_attention_heads, encoder_ffn_dim;
    int num_mel_bins, max_source_positions; /* rows of the encoder: half as many as frames */
    /* Special tokens; -1: the model has none. */
    int32_t start, no_timestamps, transcribe, translate;
    int32_t forced[NIB_MAX_FORCED]; /* after the start; -1: left open, as the language is */
    int nforced;
    int32_t suppress[NIB_MAX_SUPPRESSED], begin_suppress[NIB_MAX_SUPPRESSED];
    int nsuppress, nbegin_suppress; /* never said, and not said first */
    nib_language languages[NIB_MAX_LANGUAGES];
    int nlanguages;
    int max_initial_timestamp_index; /* -1: any time may come first */
    int max_length;              /* ids after the first ones; 0: as many as there are positions */
    char language[16], task[16]; /* "": not said */
    bool english_only;           /* "is_multilingual" is false */
} nib_speech;

/* The special tokens, of generation_config.json, or in folders without one of config.json. Ids are
 * below `vocabulary`. Fails as nib_hparams_read. */
nib_status nib_speech_read(const json_t *config, const json_t *generation, int vocabulary,
                           nib_speech *out);

/* The id of a language as "en" or "<|en|>"; raises NIB_E_ARGUMENT, naming those that are known. */
nib_status nib_speech_language(const nib_speech *speech, const char *language, int32_t *id);

/* The first token of a time, which stands for 0.00; past the vocabulary where there are none. */
int32_t nib_speech_first_time(const nib_speech *speech);

/* What may not be said next gets a logit of -INFINITY. `said`: what was said in this window after
 * the first ids; `eos`: ids from there on end or command. */
void nib_speech_rule(const nib_speech *speech, bool timestamps, const int32_t *said, int64_t count,
                     int32_t eos, float *logits, int64_t vocabulary);
#endif
