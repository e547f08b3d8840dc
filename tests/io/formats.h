/* formats.h: what the tests of formats share: quantizing and verifying folders by text, and a small
 * checkpoint to begin from. */
#ifndef NIB_TESTS_IO_FORMATS_H
#define NIB_TESTS_IO_FORMATS_H
#include <jansson.h>

#include "io/format.h"
#include "quant/scheme.h"
#include "test_files.h"

#define GOLDEN "tests/golden/formats/"

static nib_status quantize(const char *from, const char *to, const char *const *rules,
                           const char *format) {
    nib_rule list[4];
    size_t n = 0;
    for (; n < 4 && rules[2 * n]; n++)
        list[n] = (nib_rule){rules[2 * n], nib_config_parse(rules[2 * n + 1])};
    nib_ctx *ctx = nib_ctx_new(&(nib_ctx_options){.threads = 1});
    const nib_status status = nib_quantize_file(
        ctx, from, to, list, n, NULL, &(nib_file_options){.format = format, .overwrite = true});
    nib_ctx_free(ctx);
    for (size_t i = 0; i < n; i++)
        if (list[i].config != NIB_LEAVE) nib_config_free((nib_config *)(uintptr_t)list[i].config);
    return status;
}

static nib_status verify(const char *folder, const char *source, nib_report *report) {
    nib_ctx *ctx = nib_ctx_new(&(nib_ctx_options){.threads = 1});
    const nib_status status = nib_verify_file(ctx, folder, source, report);
    nib_ctx_free(ctx);
    return status;
}

static json_t *json_of(const char *folder, const char *name) {
    size_t size;
    char *text = test_read(IN(folder, name), &size);
    json_t *value = text ? json_loads(text, 0, NULL) : NULL;
    free(text);
    return value;
}

/* A folder with two matrices, a bias and a norm; `tensor` names what the file says of itself. */
static void write_source(void **state_, const char *folder, nib_dtype dtype) {
    static const struct {
        const char *name;
        nib_shape shape;
    } tensors[] = {
        {"layers.0.down_proj.weight", {2, {48, 256}}},
        {"layers.0.up_proj.weight", {2, {128, 128}}},
        {"layers.0.up_proj.bias", {1, {128}}},
        {"norm.weight", {1, {256}}},
    };
    nib_safetensors_planned planned[4];
    for (int i = 0; i < 4; i++)
        planned[i] = (nib_safetensors_planned){tensors[i].name, dtype, tensors[i].shape};
    const nib_safetensors_pair pairs[] = {{"format", "pt"}, {"author", "somebody"}};
    const nib_safetensors_plan plan = {planned, 4, pairs, 2};
    mkdir(folder, 0700);
    nib_safetensors_writer *writer =
        nib_safetensors_writer_open(NULL, IN(folder, "model.safetensors"), &plan);
    CHECK_MADE(writer);
    uint64_t seed = test_seed();
    for (size_t i = 0; i < 4; i++) {
        static unsigned char bytes[4 * 128 * 128];
        size_t n = 1, size = dtype == NIB_F32 ? 4 : 2;
        for (int d = 0; d < planned[i].shape.ndim; d++) n *= (size_t)planned[i].shape.dim[d];
        for (size_t k = 0; k < n; k++) {
            const float x = test_uniform(&seed);
            uint32_t bits;
            memcpy(&bits, &x, sizeof bits);
            if (size == 4)
                memcpy(bytes + 4 * k, &bits, 4);
            else if (dtype == NIB_BF16)
                memcpy(bytes + 2 * k, &(uint16_t){(uint16_t)(bits >> 16)}, 2);
            else
                memcpy(bytes + 2 * k, &(uint16_t){(uint16_t)(0x3000 | (bits >> 16 & 0x83ff))},
                       2); /* 0.125 to 0.25 */
        }
        CHECK_OK(nib_safetensors_writer_put(writer, i, bytes, n * size, 0));
    }
    CHECK_OK(nib_safetensors_writer_finish(writer));
    static const char config[] = "{\"model_type\": \"none\", \"kept\": [1, 2]}\n";
    test_write(IN(folder, "config.json"), config, sizeof config - 1);
}
#endif
