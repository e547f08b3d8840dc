/* A tokenizer.json of any bytes; where it loads, a fixed text goes there and back. */
#include <nibble/io.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char text[] =
    "  The quick brown fox's 42nd jump <s>\n\n\tover </s> caf\xC3\xA9 e\xCC\x81 "
    "\xE4\xBD\xA0\xE5\xA5"
    "\xBD \xE2\x96\x81x \xF0\x9F\x91\x8D\xF0\x9F\x8F\xBD a\0b <0x41> aaaaaaaaaaaaaaaaaaaaaaaaaaab ";

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    nib_tokenizer *t = nib_tokenizer_parse(NULL, (const char *)data, size, "fuzz");
    nib_ids ids = {0};
    nib_string back = {0};
    if (t && nib_tokenizer_encode(t, text, sizeof text - 1, true, &ids) == NIB_OK) {
        const size_t count = nib_tokenizer_size(t);
        for (size_t i = 0; i < ids.count; i++)
            if (ids.data[i] < 0 || (size_t)ids.data[i] >= count) abort();
        nib_tokenizer_decode(t, ids.data, ids.count, false, &back);
        nib_detokenizer *stream = nib_detokenizer_new(t, true);
        for (size_t i = 0; stream && i < ids.count; i++)
            nib_detokenizer_next(stream, ids.data[i], &back);
        if (stream) nib_detokenizer_end(stream, &back);
        nib_detokenizer_free(stream);
    }
    nib_string_free(&back);
    nib_ids_free(&ids);
    nib_tokenizer_free(t);
    if (nib_mem_used(NULL) != 0) abort(); /* something was left behind */
    return 0;
}
