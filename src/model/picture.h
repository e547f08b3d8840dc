/* picture.h: models that see: what config.json says of their pictures, and pictures as data.
 *
 * Legend: N pictures of C channels, H rows and W columns. */
#ifndef NIB_MODEL_PICTURE_H
#define NIB_MODEL_PICTURE_H
#include <jansson.h>
#include <nibble/nibble.h>

enum { NIB_MAX_CHANNELS = 16, NIB_MAX_SIDE = 1 << 14 };

/* Fields of config.json under the names that Hugging Face's models and image processors have. */
typedef struct nib_picture {
    int num_channels, rows, columns; /* "image_size": one number, or both */
    float image_mean[NIB_MAX_CHANNELS], image_std[NIB_MAX_CHANNELS]; /* of pixels in 0 to 1 */
} nib_picture;

nib_status nib_picture_read(const json_t *config, nib_picture *out);

/* An open file of pictures: idx (plain or packed by gzip), .npy, or .npz with one array or
 * "pixel_values". [N, C, H, W], or [N, H, W] of one channel. u8 are pixels, which become
 * (x / 255 - mean) / std; f32 are taken as they are. */
typedef struct nib_pictures {
    nib_tensor *array;
    int64_t count;
} nib_pictures;
struct nib_model;

/* Fails: NIB_E_UNSUPPORTED for a model that does not see; NIB_E_FORMAT for another dtype, rank or
 * size than the model's, or no picture at all; as the readers of the files do. */
nib_status nib_pictures_open(nib_ctx *ctx, const struct nib_model *model, const char *path,
                             nib_pictures *out);
void nib_pictures_close(nib_pictures *pictures); /* a zeroed struct is fine */

/* Pictures that run at once, so that what layers make of them stays in some megabytes. */
int64_t nib_pictures_batch(const struct nib_model *model);

/* Pictures [first, first + count) through the model.
 *   -> [count, num_labels] f32 in the open scope */
nib_tensor *nib_pictures_run(nib_ctx *ctx, const struct nib_model *model,
                             const nib_pictures *pictures, int64_t first, int64_t count);

/* nib_model_feed of a model that sees; counts data->pictures. */
nib_status nib_pictures_feed(nib_ctx *ctx, const struct nib_model *model, nib_data *data);
#endif
