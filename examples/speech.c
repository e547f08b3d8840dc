/* A speech model through quanto's workflow: quantized, calibrated by transcribing a sound, frozen,
 * saved as optimum-quanto does, put back onto a float model, and what each of them says.
 * speech [FOLDER [SOUND]] */
#include <nibble/io.h>
#include <nibble/nn.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static nib_status say(nib_ctx *ctx, const nib_model *model, const nib_tensor *sound,
                      const nib_tokenizer *tokenizer, const char *who) {
    nib_ids ids = {0};
    nib_string text = {0};
    nib_status status = nib_transcribe(ctx, model, sound, NULL, &ids);
    if (status == NIB_OK)
        status = nib_tokenizer_decode(tokenizer, ids.data, ids.count, true, &text);
    if (status == NIB_OK) printf("%-12s%s\n", who, text.data ? text.data : "");
    nib_string_free(&text);
    nib_ids_free(&ids);
    return status;
}

static nib_status work(nib_ctx *ctx, const char *folder, const char *path, const char *to) {
    nib_tensor *sound = nib_audio_load(ctx, path, 16000);
    if (!sound && nib_last_error()->status == NIB_E_UNSUPPORTED) {
        printf("%s\n", nib_last_error()->what); /* a build without libsndfile */
        return NIB_OK;
    }
    nib_model *model = nib_model_load(ctx, folder, NULL), *again = NULL;
    nib_tokenizer *tokenizer = nib_tokenizer_load(ctx, folder);
    nib_module *root = nib_model_root(model);
    nib_calibration report = {0};
    nib_status status = sound && model && tokenizer ? say(ctx, model, sound, tokenizer, "float:")
                                                    : nib_last_error()->status;
    if (status == NIB_OK)
        status =
            nib_calibrate_begin(root, NIB_QUANTO(.weights = "qint8", .activations = "qint8"), NULL);
    if (status == NIB_OK) {
        status = nib_transcribe(ctx, model, sound, NULL, NULL);
        const nib_status ended = nib_calibrate_end(root, &report);
        if (status == NIB_OK) status = ended;
    }
    if (status == NIB_OK) status = nib_freeze(root);
    if (status == NIB_OK) status = say(ctx, model, sound, tokenizer, "frozen:");
    if (status == NIB_OK) status = nib_module_save(root, to); /* and quanto_qmap.json beside it */
    if (status == NIB_OK) {
        again = nib_model_load(ctx, folder, NULL);
        status =
            again ? nib_requantize_file(nib_model_root(again), to, NULL) : nib_last_error()->status;
    }
    if (status == NIB_OK) status = say(ctx, again, sound, tokenizer, "requantized:");
    if (status == NIB_OK)
        printf("%d modules calibrated, %d with float outputs\n", report.modules,
               report.streamlined);
    nib_model_free(again);
    nib_model_free(model);
    nib_tokenizer_free(tokenizer);
    nib_tensor_free(sound);
    return status;
}

int main(int argc, char **argv) {
    const char *folder = argc > 1 ? argv[1] : "tests/golden/model/whisper_text";
    const char *sound = argc > 2 ? argv[2] : "tests/golden/model/whisper_sound.wav";
    const char *room = getenv("TMPDIR");
    char parent[1024], file[1100], map[1100];
    snprintf(parent, sizeof parent, "%s/nibble-speech-XXXXXX", room ? room : "/tmp");
    if (!mkdtemp(parent)) {
        perror(parent);
        return 1;
    }
    snprintf(file, sizeof file, "%s/model.safetensors", parent);
    snprintf(map, sizeof map, "%s/quanto_qmap.json", parent);
    nib_ctx *ctx = nib_ctx_new(NULL);
    const nib_status status = work(ctx, folder, sound, file);
    if (status != NIB_OK)
        fprintf(stderr, "%s %s: %s\n", nib_last_error()->path, nib_last_error()->tensor,
                nib_last_error()->what);
    nib_ctx_free(ctx);
    unlink(file);
    unlink(map);
    rmdir(parent);
    return status != NIB_OK;
}
