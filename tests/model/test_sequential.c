/* Networks that see pictures, against torch: tests/golden/pictures/make.py. */
#include <jansson.h>
#include <nibble/io.h>
#include <nibble/nn.h>
#include <unistd.h>

#include "base/mem.h"
#include "io/safetensors.h"
#include "model/arch.h"
#include "tensor/context.h"
#include "tensor/tensor.h"
#include "test_files.h"

#define PICTURES "tests/golden/pictures/"
#define IMAGES   PICTURES "images-idx3-ubyte.gz"
#define LABELS   PICTURES "labels-idx1-ubyte.gz"
static const char *const networks[] = {"mlp", "cnn"};

static double expected(const char *network, const char *key) {
    json_t *all = json_load_file(PICTURES "expected.json", 0, NULL);
    const double value = json_number_value(json_object_get(json_object_get(all, network), key));
    json_decref(all);
    return value;
}

TEST(logits_equal_those_of_torch) {
    nib_ctx *ctx = nib_ctx_new(NULL);
    nib_safetensors *golden = nib_safetensors_open(NULL, PICTURES "logits.safetensors");
    for (int n = 0; n < 2; n++) {
        nib_model *model = nib_model_load(ctx, IN(PICTURES, networks[n]), NULL);
        CHECK(model);
        const nib_safetensors_entry *e = nib_safetensors_find(golden, networks[n]);
        const float *want = nib_safetensors_data(golden, e);
        nib_pictures pictures;
        CHECK_OK(nib_pictures_open(ctx, model, IMAGES, &pictures));
        CHECK_INT(pictures.count, 100);
        const size_t mark = nib_scope_begin(ctx);
        nib_tensor *y = nib_pictures_run(ctx, model, &pictures, 0, 16);
        CHECK(y);
        float most = 0;
        for (int i = 0; i < 160; i++) most = fmaxf(most, fabsf(want[i]));
        for (int i = 0; i < 160; i++)
            CHECK_NEAR(((const float *)nib_tensor_data(y))[i], want[i], 1e-4 * most);
        nib_scope_end(ctx, mark);
        nib_pictures_close(&pictures);
        nib_model_free(model);
    }
    nib_safetensors_close(golden);
    nib_ctx_free(ctx);
}

/* Quantized, calibrated on `data`, frozen, saved and loaded again. */
static nib_model *through_the_workflow(void **state_, nib_ctx *ctx, const char *network,
                                       const char *weights, const char *data, const char *to) {
    char text[96];
    snprintf(text, sizeof text, "quanto:weights=%s,activations=qint8", weights);
    nib_config *config = nib_config_parse(text);
    nib_model *model = nib_model_load(ctx, IN(PICTURES, network), NULL);
    nib_module *root = nib_model_root(model);
    nib_data d = {.file = data, .samples = 600};
    nib_calibration report = {0};
    CHECK_OK(nib_calibrate_begin(root, config, NULL));
    CHECK_OK(nib_model_feed(ctx, model, &d));
    CHECK_OK(nib_calibrate_end(root, &report));
    CHECK_INT(report.missed, 0);
    CHECK(d.pictures > 0);
    CHECK_OK(nib_freeze(root));
    CHECK_OK(nib_model_save(model, to, NULL));
    nib_model_free(model);
    nib_config_free(config);
    return nib_model_load(ctx, to, NULL);
}

TEST(as_many_drawn_digits_are_told_right_as_by_torch_and_by_quanto) {
    NEEDS_SCHEME("qint8");
    nib_ctx *ctx = nib_ctx_new(NULL);
    TEST_FOLDER(folder);
    for (int n = 0; n < 2; n++) {
        nib_model *model = nib_model_load(ctx, IN(PICTURES, networks[n]), NULL);
        nib_eval e = {.labels = LABELS};
        CHECK_OK(nib_eval_file(ctx, model, "pictures", IMAGES, &e));
        CHECK_INT(e.items, 100);
        CHECK_NEAR(100 * e.acc, expected(networks[n], "drawn"), 1e-9);
        nib_model *w8a8 = through_the_workflow(state_, ctx, networks[n], "qint8", IMAGES,
                                               IN(folder, networks[n]));
        e = (nib_eval){.labels = LABELS, .reference = model};
        CHECK_OK(nib_eval_file(ctx, w8a8, "pictures", IMAGES, &e));
        CHECK_NEAR(100 * e.acc, expected(networks[n], "drawn_w8a8"), 1e-9);
        CHECK(e.kl_mean > 0 && e.kl_mean < 0.01 && e.same_top > 0.97);
        nib_data d = {.file = IMAGES, .samples = 60};
        nib_comparison c = {.try_worst = 1};
        CHECK_OK(nib_model_compare(ctx, w8a8, model, &d, &c));
        CHECK_INT(d.pictures, 60);
        CHECK_INT(c.modules, n ? 4 : 2);
        CHECK(c.kl > 0 && c.kl < 0.01);
        e = (nib_eval){.labels = LABELS, .limit = 7};
        CHECK_OK(nib_eval_file(ctx, model, "pictures", IMAGES, &e));
        CHECK_INT(e.items, 7);
        nib_model_free(w8a8);
        nib_model_free(model);
    }
    test_folder_remove(folder);
    nib_ctx_free(ctx);
}

/* Also where rows do not fill the last byte of 2-bit codes: ten of them. */
TEST(what_was_saved_computes_what_was_frozen) {
    NEEDS_SCHEME("qint8");
    static const char *const weights[] = {"qint8", "qint4", "qint2", "qfloat8_e4m3fn"};
    nib_ctx *ctx = nib_ctx_new(NULL);
    TEST_FOLDER(folder);
    for (int w = 0; w < 4; w++)
        for (int n = 0; n < 2; n++) {
            char text[96], name[32];
            snprintf(text, sizeof text, "quanto:weights=%s,activations=qint8", weights[w]);
            snprintf(name, sizeof name, "%s-%s", networks[n], weights[w]);
            nib_config *config = nib_config_parse(text);
            nib_model *model = nib_model_load(ctx, IN(PICTURES, networks[n]), NULL);
            nib_module *root = nib_model_root(model);
            nib_eval e = {.labels = LABELS, .reference = model};
            CHECK_OK(nib_calibrate_begin(root, config, NULL));
            CHECK_OK(nib_model_feed(ctx, model, &(nib_data){.file = IMAGES}));
            CHECK_OK(nib_calibrate_end(root, NULL));
            CHECK_OK(nib_freeze(root));
            for (int prepared = 0; prepared < 2; prepared++) {
                CHECK_OK(nib_model_save(model, IN(folder, prepared ? "b" : name), NULL));
                nib_model *saved = nib_model_load(ctx, IN(folder, prepared ? "b" : name), NULL);
                CHECK_MADE(saved);
                CHECK_OK(nib_eval_file(ctx, saved, "pictures", IMAGES, &e)); /* prepares both */
                CHECK_NEAR(e.kl_mean, 0, 1e-12);
                CHECK_NEAR(e.same_top, 1, 0);
                nib_model_free(saved);
            }
            test_folder_remove(IN(folder, "b"));
            nib_model_free(model);
            nib_config_free(config);
        }
    test_folder_remove(folder);
    nib_ctx_free(ctx);
}

/* The test set of MNIST, where it is at hand: at most 0.2 points lost. */
TEST(networks_of_mnist_lose_at_most_two_in_a_thousand_at_8_and_4_bits) {
    NEEDS_SCHEME("qint8");
    static const char *const weights[] = {"qint8", "qint4,algo=mse"};
    char images[1024], labels[1024], train[1024];
    if (!test_data("mnist/t10k-images-idx3-ubyte.gz", images) ||
        !test_data("mnist/t10k-labels-idx1-ubyte.gz", labels) ||
        !test_data("mnist/train-images-idx3-ubyte.gz", train))
        return;
    nib_ctx *ctx = nib_ctx_new(NULL);
    TEST_FOLDER(folder);
    for (int n = 0; n < 2; n++) {
        nib_model *model = nib_model_load(ctx, IN(PICTURES, networks[n]), NULL);
        nib_eval plain = {.labels = labels};
        CHECK_OK(nib_eval_file(ctx, model, "pictures", images, &plain));
        CHECK_NEAR(10000 * plain.acc, expected(networks[n], "mnist"), 2);
        nib_model_free(model);
        for (int w = 0; w < 2; w++) {
            char name[32];
            snprintf(name, sizeof name, "%s-%s", networks[n], weights[w]);
            model =
                through_the_workflow(state_, ctx, networks[n], weights[w], train, IN(folder, name));
            nib_eval e = {.labels = labels};
            CHECK_OK(nib_eval_file(ctx, model, "pictures", images, &e));
            print_message("%s: %.2f %%, float %.2f %%\n", name, 100 * e.acc, 100 * plain.acc);
            CHECK(e.acc >= plain.acc - 0.002);
            nib_model_free(model);
        }
    }
    test_folder_remove(folder);
    nib_ctx_free(ctx);
}

TEST(pictures_come_as_idx_npy_and_npz_with_the_same_result) {
    nib_ctx *ctx = nib_ctx_new(NULL);
    nib_model *model = nib_model_load(ctx, PICTURES "mlp", NULL);
    TEST_FOLDER(folder);
    nib_tensor *images = nib_idx_load(ctx, IMAGES), *labels = nib_idx_load(ctx, LABELS);
    nib_tensor *floats = nib_tensor_new(ctx, NIB_F32, (nib_shape){4, {100, 1, 28, 28}});
    nib_tensor *wide = nib_tensor_new(ctx, NIB_I64, labels->shape);
    const unsigned char *pixels = nib_tensor_data(images), *told = nib_tensor_data(labels);
    for (int i = 0; i < 100 * 784; i++)
        ((float *)nib_tensor_data_mut(floats))[i] = ((float)pixels[i] / 255 - 0.1307f) / 0.3081f;
    for (int i = 0; i < 100; i++) ((int64_t *)nib_tensor_data_mut(wide))[i] = told[i];
    CHECK_OK(nib_npy_save(images, IN(folder, "u8.npy")));
    CHECK_OK(nib_npy_save(floats, IN(folder, "f32.npy")));
    CHECK_OK(nib_npy_save(wide, IN(folder, "labels.npy")));
    nib_eval want = {.labels = LABELS};
    CHECK_OK(nib_eval_file(ctx, model, "pictures", IMAGES, &want));
    const char *const files[] = {IN(folder, "u8.npy"), IN(folder, "f32.npy")};
    for (int i = 0; i < 2; i++) {
        nib_eval e = {.labels = IN(folder, "labels.npy"), .reference = model};
        CHECK_OK(nib_eval_file(ctx, model, "pictures", files[i], &e));
        CHECK_NEAR(e.acc, want.acc, 0);
        CHECK_NEAR(e.kl_mean, 0, 0);
    }
    nib_eval e = {.labels = PICTURES "arrays.npz"};
    CHECK_OK(nib_eval_file(ctx, model, "pictures", PICTURES "arrays.npz", &e));
    CHECK_INT(e.items, 6);
    nib_tensor_free(images);
    nib_tensor_free(labels);
    nib_tensor_free(floats);
    nib_tensor_free(wide);
    test_folder_remove(folder);
    nib_model_free(model);
    nib_ctx_free(ctx);
}

static void save_array(void **state_, nib_ctx *ctx, const char *path, nib_dtype dtype,
                       nib_shape shape, const void *data) {
    nib_tensor *t = nib_tensor_wrap(ctx, dtype, shape, (void *)(uintptr_t)data, NULL, NULL);
    CHECK_OK(nib_npy_save(t, path));
    nib_tensor_free(t);
}

TEST(bad_pictures_and_labels_are_one_error_that_says_what_is_wrong) {
    nib_ctx *ctx = nib_ctx_new(NULL);
    nib_model *model = nib_model_load(ctx, PICTURES "cnn", NULL);
    TEST_FOLDER(folder);
    static const unsigned char bytes[2 * 28 * 28];
    static const double wide[28 * 28];
    const char *path = IN(folder, "a.npy");
    const struct {
        nib_dtype dtype;
        nib_shape shape;
        const char *what;
    } bad[] = {
        {NIB_U8, {2, {28, 28}}, "an array [28, 28], but the model sees pictures [N, 1, 28, 28]"},
        {NIB_U8, {3, {1, 28, 27}}, "an array [1, 28, 27], but"},
        {NIB_U8, {4, {1, 2, 28, 28}}, "an array [1, 2, 28, 28], but"},
        {NIB_U8, {0, {0}}, "an array [], but"},
        {NIB_U8, {3, {0, 28, 28}}, "there is not a single picture"},
        {NIB_F64, {3, {1, 28, 28}}, "pictures of f64; want pixels of u8, or f32"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        save_array(state_, ctx, path, bad[i].dtype, bad[i].shape,
                   bad[i].dtype == NIB_F64 ? (const void *)wide : (const void *)bytes);
        nib_data d = {.file = path};
        CHECK_FAILS(nib_model_feed(ctx, model, &d), NIB_E_FORMAT, bad[i].what);
        CHECK(strcmp(nib_last_error()->path, path) == 0);
    }
    const uint8_t high[2] = {3, 10};
    const int8_t low[2] = {-1, 0};
    const float real[2] = {1, 2};
    const char *pictures = IN(folder, "p.npy");
    save_array(state_, ctx, pictures, NIB_U8, (nib_shape){3, {2, 28, 28}}, bytes);
    nib_eval e = {.labels = path};
    save_array(state_, ctx, path, NIB_U8, (nib_shape){1, {2}}, high);
    CHECK_FAILS(nib_eval_file(ctx, model, "pictures", pictures, &e), NIB_E_FORMAT,
                "label 10 of picture 1 is none of the model's 0 to 9");
    save_array(state_, ctx, path, NIB_I8, (nib_shape){1, {2}}, low);
    CHECK_FAILS(nib_eval_file(ctx, model, "pictures", pictures, &e), NIB_E_FORMAT,
                "label -1 of picture 0");
    save_array(state_, ctx, path, NIB_F32, (nib_shape){1, {2}}, real);
    CHECK_FAILS(nib_eval_file(ctx, model, "pictures", pictures, &e), NIB_E_FORMAT,
                "labels are [2], want [2] integers");
    save_array(state_, ctx, path, NIB_U8, (nib_shape){1, {1}}, high);
    CHECK_FAILS(nib_eval_file(ctx, model, "pictures", pictures, &e), NIB_E_FORMAT,
                "labels are [1], want [2] integers");
    CHECK(strcmp(nib_last_error()->path, path) == 0);
    e = (nib_eval){0};
    CHECK_FAILS(nib_eval_file(ctx, model, "pictures", pictures, &e), NIB_E_ARGUMENT,
                "needs their labels");
    e = (nib_eval){.labels = LABELS, .protocol = "half"};
    CHECK_FAILS(nib_eval_file(ctx, model, "pictures", pictures, &e), NIB_E_ARGUMENT,
                "pictures have no protocols");
    /* A cut file, one of another kind, one that is not there, an .npz without the array. */
    size_t size = 0;
    char *whole = test_read(pictures, &size);
    test_write(path, whole, size - 5);
    nib_data d = {.file = path};
    CHECK_FAILS(nib_model_feed(ctx, model, &d), NIB_E_FORMAT, "5 bytes short");
    test_write(IN(folder, "cut"),
               "\0\0\x08\x03\0\0\0\x02\0\0\0\x1c\0\0\0\x1c"
               "abc",
               19);
    d.file = IN(folder, "cut");
    CHECK_FAILS(nib_model_feed(ctx, model, &d), NIB_E_FORMAT, "the idx file is cut");
    d.file = "README.md";
    CHECK_FAILS(nib_model_feed(ctx, model, &d), NIB_E_FORMAT, "begins with two zero bytes");
    d.file = IN(folder, "nowhere.npy");
    CHECK_FAILS(nib_model_feed(ctx, model, &d), NIB_E_IO, "");
    d.file = NULL;
    CHECK_FAILS(nib_model_feed(ctx, model, &d), NIB_E_ARGUMENT, "no file of data was named");
    d = (nib_data){.file = pictures, .samples = -1};
    CHECK_FAILS(nib_model_feed(ctx, model, &d), NIB_E_ARGUMENT, "-1 samples");
    e = (nib_eval){.labels = PICTURES "arrays.npz"};
    CHECK_FAILS(nib_eval_file(ctx, model, "pictures", PICTURES "ids.npz", &e), NIB_E_FORMAT,
                "pictures of u16");
    free(whole);
    test_folder_remove(folder);
    nib_model_free(model);
    nib_ctx_free(ctx);
}

TEST(a_model_of_text_takes_no_pictures_and_the_other_way_round) {
    nib_ctx *ctx = nib_ctx_new(NULL);
    nib_model *sees = nib_model_load(ctx, PICTURES "mlp", NULL);
    nib_model *reads = nib_model_load(ctx, "tests/golden/eval/with_bos", NULL);
    nib_eval e = {.labels = LABELS};
    CHECK_FAILS(nib_eval_file(ctx, reads, "pictures", IMAGES, &e), NIB_E_UNSUPPORTED,
                "takes no pictures");
    e = (nib_eval){.labels = LABELS, .reference = reads};
    CHECK_FAILS(nib_eval_file(ctx, sees, "pictures", IMAGES, &e), NIB_E_ARGUMENT,
                "does not tell the same labels");
    e = (nib_eval){0};
    CHECK_FAILS(nib_eval_file(ctx, sees, "perplexity", "README.md", &e), NIB_E_UNSUPPORTED,
                "sees pictures and takes no tokens");
    CHECK_FAILS(nib_session_new(ctx, sees, NULL) ? NIB_OK : nib_last_error()->status,
                NIB_E_UNSUPPORTED, "has nothing to say");
    nib_data d = {.file = IMAGES};
    CHECK_FAILS(nib_model_smooth(ctx, sees, &d, 0.5, NULL), NIB_E_UNSUPPORTED,
                "no norms with float linears");
    nib_model_free(sees);
    nib_model_free(reads);
    nib_ctx_free(ctx);
}

/* The folder of a network, with config.json as given. */
static void write_network(const char *folder, const char *network, json_t *config) {
    size_t size = 0;
    char *weights = test_read(IN(IN(PICTURES, network), "model.safetensors"), &size);
    char *text = json_dumps(config, 0);
    test_write(IN(folder, "model.safetensors"), weights, size);
    test_write(IN(folder, "config.json"), text, strlen(text));
    free(text);
    free(weights);
}

TEST(a_config_that_is_wrong_is_one_error_with_the_layer_it_is_in) {
    static const struct {
        const char *set; /* merged into the config */
        int layer;       /* or into this one; -1: the config */
        nib_status status;
        const char *what, *tensor;
    } cases[] = {
        {"{\"layers\": []}", -1, NIB_E_FORMAT, "\"layers\" has 0 entries", ""},
        {"{\"layers\": 3}", -1, NIB_E_FORMAT, "\"layers\"", ""},
        {"{\"num_labels\": 0}", -1, NIB_E_FORMAT, "\"num_labels\"", ""},
        {"{\"image_size\": 0}", -1, NIB_E_FORMAT, "\"image_size\"", ""},
        {"{\"image_size\": [28]}", -1, NIB_E_FORMAT, "\"image_size\"", ""},
        {"{\"image_mean\": [1, 2]}", -1, NIB_E_FORMAT, "\"image_mean\" has 2 numbers", ""},
        {"{\"image_std\": [0]}", -1, NIB_E_FORMAT, "\"image_std\"", ""},
        {"{\"num_channels\": 99}", -1, NIB_E_FORMAT, "\"num_channels\"", ""},
        {"{\"type\": \"Conv2\"}", 0, NIB_E_UNSUPPORTED, "did you mean \"Conv2d\"?",
         "layers[0] conv1"},
        {"{\"name\": \"a.b\"}", 0, NIB_E_FORMAT, "without dots", "layers[0] a.b"},
        {"{\"name\": \"\"}", 0, NIB_E_FORMAT, "without dots", "layers[0] "},
        {"{\"name\": \"conv1\"}", 1, NIB_E_FORMAT, "two layers of this name", "layers[1] conv1"},
        {"{\"groups\": 3}", 4, NIB_E_FORMAT, "3 groups do not divide 8 and 16", "layers[4] conv2"},
        {"{\"kernel_size\": [3]}", 4, NIB_E_FORMAT, "\"kernel_size\"", "layers[4] conv2"},
        {"{\"kernel_size\": [3, 3, 3]}", 4, NIB_E_FORMAT, "\"kernel_size\"", "layers[4] conv2"},
        {"{\"stride\": 0}", 0, NIB_E_FORMAT, "\"stride\"", "layers[0] conv1"},
        {"{\"padding\": \"some\"}", 4, NIB_E_ARGUMENT, "want same or valid", "layers[4] conv2"},
        {"{\"in_features\": 255}", 10, NIB_E_FORMAT, "config.json asks for [10, 255]", "fc.weight"},
        {"{\"bias\": false}", 10, NIB_E_FORMAT, "asks for no such bias", "fc.bias"},
        {"{\"normalized_shape\": [2, 3]}", 9, NIB_E_FORMAT, "\"normalized_shape\"",
         "layers[9] norm"},
        {"{\"name\": \"other\"}", 10, NIB_E_FORMAT, "there is no tensor other.", "other.bias"},
        {"{\"type\": \"ReLU\"}", 3, NIB_OK, "", ""},
        {"{\"type\": \"Identity\", \"name\": \"n\"}", 9, NIB_E_FORMAT,
         "there is a tensor norm.bias, but config.json has no such layer", "norm.bias"},
    };
    nib_ctx *ctx = nib_ctx_new(NULL);
    TEST_FOLDER(folder);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        json_t *config = json_load_file(PICTURES "cnn/config.json", 0, NULL);
        json_t *set = json_loads(cases[i].set, 0, NULL);
        CHECK(set);
        json_object_update(cases[i].layer < 0 ? config
                                              : json_array_get(json_object_get(config, "layers"),
                                                               (size_t)cases[i].layer),
                           set);
        write_network(folder, "cnn", config);
        nib_model *model = nib_model_load(ctx, folder, NULL);
        CHECK(!model == (cases[i].status != NIB_OK));
        if (!model) {
            CHECK_INT(nib_last_error()->status, cases[i].status);
            if (!strstr(nib_last_error()->what, cases[i].what))
                print_message("%s: %s\n", cases[i].set, nib_last_error()->what);
            CHECK(strstr(nib_last_error()->what, cases[i].what));
            CHECK(strcmp(nib_last_error()->tensor, cases[i].tensor) == 0);
        } else { /* layers that do not fit are told when they meet */
            nib_data d = {.file = IMAGES};
            CHECK_FAILS(nib_model_feed(ctx, model, &d), NIB_E_SHAPE, "");
        }
        nib_model_free(model);
        json_decref(set);
        json_decref(config);
    }
    test_folder_remove(folder);
    nib_ctx_free(ctx);
}

TEST(every_failed_allocation_with_pictures_is_reported) {
    bool done = false;
    for (long n = 0; !done; n += n < 200 ? 1 : 13) {
        nib_ctx *ctx = nib_ctx_new(&(nib_ctx_options){.threads = 1});
        nib_mem_fail_after(n, false);
        nib_model *model = nib_model_load(ctx, PICTURES "cnn", NULL);
        nib_data d = {.file = PICTURES "arrays.npz"};
        nib_eval e = {.labels = PICTURES "arrays.npz", .reference = model};
        nib_status status = model ? nib_model_feed(ctx, model, &d) : nib_last_error()->status;
        if (status == NIB_OK)
            status = nib_eval_file(ctx, model, "pictures", PICTURES "arrays.npz", &e);
        done = nib_mem_fail_after(-1, false) <= n;
        if (status != NIB_OK) CHECK_INT(status, NIB_E_MEMORY);
        CHECK(status == NIB_OK || !done);
        CHECK_INT(ctx->owned_count, 0);
        nib_model_free(model);
        nib_ctx_free(ctx);
    }
}

TESTS(RUNS(logits_equal_those_of_torch),
      RUNS(as_many_drawn_digits_are_told_right_as_by_torch_and_by_quanto),
      RUNS(what_was_saved_computes_what_was_frozen),
      RUNS(networks_of_mnist_lose_at_most_two_in_a_thousand_at_8_and_4_bits),
      RUNS(pictures_come_as_idx_npy_and_npz_with_the_same_result),
      RUNS(bad_pictures_and_labels_are_one_error_that_says_what_is_wrong),
      RUNS(a_model_of_text_takes_no_pictures_and_the_other_way_round),
      RUNS(a_config_that_is_wrong_is_one_error_with_the_layer_it_is_in),
      RUNS(every_failed_allocation_with_pictures_is_reported))
