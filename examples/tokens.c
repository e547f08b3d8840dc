/* Text to ids, ids to text, and text that grows as ids arrive.
 *     tokens [FOLDER [TEXT]] */
#include <nibble/io.h>
#include <stdio.h>
#include <string.h>

int main(int argc, char **argv) {
    const char *folder = argc > 1 ? argv[1] : "models/kjv-llama";
    const char *text =
        argc > 2 ? argv[2] : "In the beginning God created the heaven and the earth.";
    nib_ids ids = {0};
    nib_string back = {0}, grown = {0};
    nib_tokenizer *tokenizer = nib_tokenizer_load(NULL, folder);
    nib_detokenizer *stream = nib_detokenizer_new(tokenizer, true); /* NULL in, NULL out */
    nib_status status = nib_tokenizer_encode(tokenizer, text, strlen(text), true, &ids);
    if (status == NIB_OK)
        status = nib_tokenizer_decode(tokenizer, ids.data, ids.count, true, &back);
    for (size_t i = 0; status == NIB_OK && i < ids.count; i++) {
        const size_t before = grown.length;
        status = nib_detokenizer_next(stream, ids.data[i], &grown);
        if (status == NIB_OK) printf("%6d  \"%s\"\n", (int)ids.data[i], grown.data + before);
    }
    if (status == NIB_OK) status = nib_detokenizer_end(stream, &grown);
    if (status == NIB_OK)
        printf("%zu ids of %zu: %s\n", ids.count, nib_tokenizer_size(tokenizer), back.data);
    else
        fprintf(stderr, "%s: %s\n", nib_last_error()->path, nib_last_error()->what);
    const int differs = status == NIB_OK && strcmp(grown.data, back.data) != 0;
    nib_string_free(&grown);
    nib_string_free(&back);
    nib_ids_free(&ids);
    nib_detokenizer_free(stream);
    nib_tokenizer_free(tokenizer);
    return status < NIB_OK || differs;
}
