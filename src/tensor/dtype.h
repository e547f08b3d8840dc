/* dtype.h: the table of element types. */
#ifndef NIB_TENSOR_DTYPE_H
#define NIB_TENSOR_DTYPE_H
#include <nibble/nibble.h>

/* Bits of one element, 0 for a value that is no dtype. Sub-byte codes are stored packed. */
int nib_dtype_bits(nib_dtype dtype);

const char *nib_dtype_torch_name(nib_dtype dtype);     /* "bfloat16", "float8_e4m3fn"; "" if none */
nib_dtype nib_dtype_from_torch_name(const char *name); /* with or without "torch."; 0: unknown */

bool nib_dtype_is_float(nib_dtype dtype); /* any float, narrow ones too */
bool nib_dtype_is_signed_int(nib_dtype dtype);

/* Bytes of `count` elements, sub-byte ones packed and the last byte filled up; true: overflow. */
bool nib_dtype_bytes(nib_dtype dtype, int64_t count, size_t *bytes);
#endif
