#include "io/npy.h"

#include <string.h>

#include "base/checked.h"
#include "base/error.h"
#include "base/file.h"
#include "base/text_util.h"
#include "tensor/dtype.h"

enum { MAX_HEADER = NIB_NPY_MAX_HEADER - 12 }; /* of the text; NumPy itself trusts 10,000 */

static const struct {
    const char *descr;
    nib_dtype dtype;
} dtypes[] = {
    {"<f2", NIB_F16},  {"<f4", NIB_F32}, {"<f8", NIB_F64}, {"<c8", NIB_C64},
    {"|b1", NIB_BOOL}, {"|i1", NIB_I8},  {"<i2", NIB_I16}, {"<i4", NIB_I32},
    {"<i8", NIB_I64},  {"|u1", NIB_U8},  {"<u2", NIB_U16}, {"<u4", NIB_U32},
    {"<u8", NIB_U64},  {"<i1", NIB_I8},  {"<u1", NIB_U8},  {"<b1", NIB_BOOL},
};
enum { DTYPES = sizeof dtypes / sizeof *dtypes };

/* The Python literal, from text[at] on. */
typedef struct cursor {
    const char *text, *path;
    size_t at, end; /* bytes of the file */
} cursor;

static nib_status wrong(const cursor *c, size_t at, nib_status status, const char *what) {
    NIB_RAISE(status, "%s", what);
    return nib_error_at(c->path, NULL, (int64_t)at);
}

static void skip_space(cursor *c) {
    while (c->at < c->end && (c->text[c->at] == ' ' || c->text[c->at] == '\n')) c->at++;
}

static bool take(cursor *c, const char *token) {
    const size_t length = strlen(token);
    skip_space(c);
    if (c->end - c->at < length || memcmp(c->text + c->at, token, length) != 0) return false;
    c->at += length;
    return true;
}

static nib_status expect(cursor *c, const char *token) {
    if (take(c, token)) return NIB_OK;
    NIB_RAISE(NIB_E_FORMAT, "expected %s in the array's description", token);
    return nib_error_at(c->path, NULL, (int64_t)c->at);
}

/* A short string in either kind of quotes, without escapes. */
static nib_status scan_string(cursor *c, char to[24]) {
    skip_space(c);
    const size_t start = c->at;
    const char quote = c->at < c->end ? c->text[c->at] : '\0';
    if (quote != '\'' && quote != '"') return wrong(c, start, NIB_E_FORMAT, "expected a string");
    size_t n = 0;
    for (c->at++; c->at < c->end && c->text[c->at] != quote; c->at++) {
        if (n == 23 || c->text[c->at] == '\\' || !c->text[c->at])
            return wrong(c, start, NIB_E_FORMAT, "a string that is no key or dtype of an array");
        to[n++] = c->text[c->at];
    }
    to[n] = '\0';
    if (c->at == c->end) return wrong(c, c->at, NIB_E_FORMAT, "the string does not end");
    c->at++;
    return NIB_OK;
}

static nib_status scan_descr(cursor *c, nib_dtype *dtype) {
    char descr[24];
    skip_space(c);
    const size_t start = c->at;
    if (c->at < c->end && c->text[c->at] == '[')
        return wrong(c, start, NIB_E_UNSUPPORTED,
                     "an array of records; save its fields one by one");
    NIB_TRY(scan_string(c, descr));
    for (int i = 0; i < DTYPES; i++)
        if (strcmp(dtypes[i].descr, descr) == 0) *dtype = dtypes[i].dtype;
    if (*dtype) return NIB_OK;
    if (strcmp(descr, "|O") == 0)
        return wrong(c, start, NIB_E_UNSUPPORTED, "an array of Python objects is not read");
    NIB_RAISE(NIB_E_UNSUPPORTED,
              "an array of dtype \"%s\"; little-endian numbers and bool are read", descr);
    return nib_error_at(c->path, NULL, (int64_t)start);
}

static nib_status scan_number(cursor *c, int64_t *value) {
    skip_space(c);
    const size_t start = c->at;
    *value = 0;
    for (; c->at < c->end && c->text[c->at] >= '0' && c->text[c->at] <= '9'; c->at++)
        if (nib_mul_count(*value, 10, value) || nib_add_i64(*value, c->text[c->at] - '0', value))
            return wrong(c, start, NIB_E_FORMAT, "a dimension over 2^63 - 1");
    return c->at > start ? NIB_OK : wrong(c, start, NIB_E_FORMAT, "expected a dimension");
}

/* (), (3,) or (3, 4), with a comma at the end or not */
static nib_status scan_shape(cursor *c, nib_shape *shape) {
    NIB_TRY(expect(c, "("));
    for (;;) {
        if (take(c, ")")) return NIB_OK;
        if (shape->ndim == NIB_MAX_DIMS)
            return wrong(c, c->at, NIB_E_UNSUPPORTED, "an array of more than 8 dimensions");
        NIB_TRY(scan_number(c, &shape->dim[shape->ndim++]));
        if (!take(c, ",")) return expect(c, ")");
    }
}

static nib_status scan_description(cursor *c, nib_npy *array) {
    static const char *const keys[] = {"descr", "fortran_order", "shape"};
    int seen = 0;
    bool fortran = false;
    size_t fortran_at = 0;
    NIB_TRY(expect(c, "{"));
    while (!take(c, "}")) {
        char key[24];
        skip_space(c);
        const size_t start = c->at;
        NIB_TRY(scan_string(c, key));
        int k = 0;
        while (k < 3 && strcmp(keys[k], key) != 0) k++;
        if (k == 3) return wrong(c, start, NIB_E_FORMAT, "not a key of an array's description");
        if (seen & 1 << k) return wrong(c, start, NIB_E_FORMAT, "a key that is there twice");
        seen |= 1 << k;
        NIB_TRY(expect(c, ":"));
        if (k == 0) NIB_TRY(scan_descr(c, &array->dtype));
        if (k == 1) {
            skip_space(c);
            fortran_at = c->at;
            fortran = take(c, "True");
            if (!fortran) NIB_TRY(expect(c, "False"));
        }
        if (k == 2) NIB_TRY(scan_shape(c, &array->shape));
        if (take(c, ",")) continue;
        NIB_TRY(expect(c, "}"));
        break;
    }
    if (seen != 7) return wrong(c, c->at, NIB_E_FORMAT, "descr, fortran_order or shape is missing");
    if (fortran && array->shape.ndim > 1)
        return wrong(c, fortran_at, NIB_E_UNSUPPORTED,
                     "an array in Fortran order; save numpy.ascontiguousarray of it");
    skip_space(c);
    return c->at == c->end ? NIB_OK
                           : wrong(c, c->at, NIB_E_FORMAT, "something behind the description");
}

/* Where the text begins and ends. */
static nib_status find_text(const char *path, const unsigned char *b, size_t size, size_t file_size,
                            size_t *begin, size_t *end) {
    const cursor at = {.path = path};
    if (size < 10 || memcmp(b, "\x93NUMPY", 6) != 0)
        return wrong(&at, 0, NIB_E_FORMAT, "not a .npy file: it does not begin with \\x93NUMPY");
    if (b[6] < 1 || b[6] > 3) {
        NIB_RAISE(NIB_E_UNSUPPORTED, ".npy version %d.%d; 1 to 3 are read", b[6], b[7]);
        return nib_error_at(path, NULL, 6);
    }
    *begin = b[6] == 1 ? 10 : 12;
    size_t length = (size_t)b[8] | (size_t)b[9] << 8;
    if (b[6] > 1 && size >= 12) length |= (size_t)b[10] << 16 | (size_t)b[11] << 24;
    if (length > MAX_HEADER) {
        NIB_RAISE(NIB_E_FORMAT, "a description of %zu bytes is over the limit of %d", length,
                  MAX_HEADER);
        return nib_error_at(path, NULL, 8);
    }
    *end = *begin + length;
    if (*end <= file_size) return NIB_OK;
    NIB_RAISE(NIB_E_FORMAT, "the file is %zu bytes short: it ends within its description",
              *end - file_size);
    return nib_error_at(path, NULL, (int64_t)file_size);
}

nib_status nib_npy_parse(const char *path, const void *bytes, size_t size, size_t file_size,
                         nib_npy *array) {
    size_t begin = 0, end = 0;
    int64_t count;
    *array = (nib_npy){0};
    NIB_TRY(find_text(path, bytes, size, file_size, &begin, &end));
    if (end > size)
        return NIB_RAISE(NIB_E_ARGUMENT, "%zu bytes given of a header of %zu", size, end);
    cursor c = {.text = bytes, .path = path, .at = begin, .end = end};
    NIB_TRY(scan_description(&c, array));
    array->offset = end;
    if (nib_shape_count(&array->shape, &count) ||
        nib_dtype_bytes(array->dtype, count, &array->size))
        return wrong(&c, begin, NIB_E_FORMAT, "the number of elements overflows");
    const size_t there = file_size - end;
    if (there == array->size) return NIB_OK;
    if (there < array->size)
        NIB_RAISE(NIB_E_FORMAT, "the file is %zu bytes short of its array", array->size - there);
    else
        NIB_RAISE(NIB_E_FORMAT, "the file has %zu bytes behind its array", there - array->size);
    return nib_error_at(path, NULL, (int64_t)(there < array->size ? file_size : end + array->size));
}

nib_status nib_npy_read(nib_mem *mem, const char *path, nib_npy *array, void **data) {
    nib_file file;
    NIB_TRY(nib_file_open(mem, path, &file));
    const size_t room = file.size < NIB_NPY_MAX_HEADER ? file.size : NIB_NPY_MAX_HEADER;
    char *header = nib_mem_alloc(mem, room);
    nib_status status = header ? nib_file_read(&file, header, room, 0) : NIB_E_MEMORY;
    if (status == NIB_OK) status = nib_npy_parse(path, header, room, file.size, array);
    nib_mem_free(mem, header, room);
    *data = status == NIB_OK ? nib_mem_alloc(mem, array->size) : NULL;
    if (status == NIB_OK && !*data) status = NIB_E_MEMORY;
    if (status == NIB_OK) status = nib_file_read(&file, *data, array->size, array->offset);
    if (status < NIB_OK) {
        nib_mem_free(mem, *data, array->size);
        *data = NULL;
        nib_error_at(path, NULL, -1);
    }
    nib_file_close(&file);
    return status;
}

/* As numpy.lib.format writes it: room for the first dimension to grow to 21 digits, then blanks
 * up to a multiple of 64 and a line end. */
static void describe(nib_text *text, const char *descr, const nib_shape *shape) {
    nib_text_append(text, "\x93NUMPY\x01\x00\x00\x00", 10);
    nib_text_format(text, "{'descr': '%s', 'fortran_order': False, 'shape': (", descr);
    for (int d = 0; d < shape->ndim; d++)
        nib_text_format(text, d ? ", %lld" : "%lld", (long long)shape->dim[d]);
    nib_text_add(text, shape->ndim == 1 ? ",), }" : "), }");
    size_t digits = 0;
    for (int64_t n = shape->dim[0]; shape->ndim && (n || !digits); n /= 10) digits++;
    for (size_t i = digits; digits && i < 21; i++) nib_text_add(text, " ");
    while (!text->failed && text->length % 64 != 63) nib_text_add(text, " ");
    nib_text_add(text, "\n");
}

nib_status nib_npy_write(nib_mem *mem, const char *path, nib_dtype dtype, const nib_shape *shape,
                         const void *data, size_t size) {
    const char *descr = NULL;
    int64_t count;
    size_t bytes;
    for (int i = DTYPES; i-- > 0;) /* the first of two spellings is NumPy's own */
        if (dtypes[i].dtype == dtype) descr = dtypes[i].descr;
    if (!descr) return NIB_RAISE(NIB_E_DTYPE, "NumPy has no dtype for %s", nib_dtype_name(dtype));
    if (shape->ndim < 0 || shape->ndim > NIB_MAX_DIMS || nib_shape_count(shape, &count) ||
        nib_dtype_bytes(dtype, count, &bytes) || bytes != size)
        return NIB_RAISE(NIB_E_SHAPE, "shape and dtype do not make %zu bytes", size);
    nib_text text = {.mem = mem};
    describe(&text, descr, shape);
    size_t whole;
    nib_file_writer *writer = NULL;
    nib_status status = text.failed ? NIB_E_MEMORY : NIB_OK;
    if (status == NIB_OK && nib_add_size(text.length, size, &whole))
        status = NIB_RAISE(NIB_E_SHAPE, "the array overflows a file");
    if (status == NIB_OK) {
        text.data[8] = (char)((text.length - 10) & 255);
        text.data[9] = (char)((text.length - 10) >> 8);
        writer = nib_file_writer_open(mem, path, whole);
        status = writer ? nib_file_writer_put(writer, text.data, text.length, 0)
                        : nib_last_error()->status;
    }
    if (status == NIB_OK) status = nib_file_writer_put(writer, data, size, text.length);
    if (status == NIB_OK)
        status = nib_file_writer_commit(writer);
    else
        nib_file_writer_abort(writer);
    nib_text_free(&text);
    return status < NIB_OK ? nib_error_at(path, NULL, -1) : NIB_OK;
}
