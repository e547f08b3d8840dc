#include "tensor/dtype.h"

#include <string.h>

#include "base/checked.h"

typedef struct dtype_row {
    const char *name, *torch;
    int bits;
    bool is_float, is_signed;
} dtype_row;

static const dtype_row rows[] = {
    [NIB_F32] = {"f32", "float32", 32, true, true},
    [NIB_F16] = {"f16", "float16", 16, true, true},
    [NIB_BF16] = {"bf16", "bfloat16", 16, true, true},
    [NIB_F64] = {"f64", "float64", 64, true, true},
    [NIB_C64] = {"c64", "complex64", 64, false, true},
    [NIB_F8_E4M3FN] = {"f8_e4m3fn", "float8_e4m3fn", 8, true, true},
    [NIB_F8_E5M2] = {"f8_e5m2", "float8_e5m2", 8, true, true},
    [NIB_F8_E4M3FNUZ] = {"f8_e4m3fnuz", "float8_e4m3fnuz", 8, true, true},
    [NIB_F8_E5M2FNUZ] = {"f8_e5m2fnuz", "float8_e5m2fnuz", 8, true, true},
    [NIB_F8_E8M0] = {"f8_e8m0", "float8_e8m0fnu", 8, true, false},
    [NIB_F6_E2M3] = {"f6_e2m3", "", 6, true, true},
    [NIB_F6_E3M2] = {"f6_e3m2", "", 6, true, true},
    [NIB_F4_E2M1] = {"f4_e2m1", "float4_e2m1fn_x2", 4, true, true},
    [NIB_I8] = {"i8", "int8", 8, false, true},
    [NIB_I16] = {"i16", "int16", 16, false, true},
    [NIB_I32] = {"i32", "int32", 32, false, true},
    [NIB_I64] = {"i64", "int64", 64, false, true},
    [NIB_U8] = {"u8", "uint8", 8, false, false},
    [NIB_U16] = {"u16", "uint16", 16, false, false},
    [NIB_U32] = {"u32", "uint32", 32, false, false},
    [NIB_U64] = {"u64", "uint64", 64, false, false},
    [NIB_BOOL] = {"bool", "bool", 8, false, false},
    [NIB_I1] = {"i1", "int1", 1, false, true},
    [NIB_I2] = {"i2", "int2", 2, false, true},
    [NIB_I3] = {"i3", "int3", 3, false, true},
    [NIB_I4] = {"i4", "int4", 4, false, true},
    [NIB_I5] = {"i5", "int5", 5, false, true},
    [NIB_I6] = {"i6", "int6", 6, false, true},
    [NIB_I7] = {"i7", "int7", 7, false, true},
    [NIB_U1] = {"u1", "uint1", 1, false, false},
    [NIB_U2] = {"u2", "uint2", 2, false, false},
    [NIB_U3] = {"u3", "uint3", 3, false, false},
    [NIB_U4] = {"u4", "uint4", 4, false, false},
    [NIB_U5] = {"u5", "uint5", 5, false, false},
    [NIB_U6] = {"u6", "uint6", 6, false, false},
    [NIB_U7] = {"u7", "uint7", 7, false, false},
};

static const dtype_row *row_of(nib_dtype dtype) {
    static const dtype_row none = {"?", "", 0, false, false};
    const size_t i = (size_t)dtype;
    return i < sizeof rows / sizeof *rows && rows[i].name ? &rows[i] : &none;
}

int nib_dtype_bits(nib_dtype dtype) { return row_of(dtype)->bits; }
const char *nib_dtype_name(nib_dtype dtype) { return row_of(dtype)->name; }
const char *nib_dtype_torch_name(nib_dtype dtype) { return row_of(dtype)->torch; }
bool nib_dtype_is_float(nib_dtype dtype) { return row_of(dtype)->is_float; }

bool nib_dtype_is_signed_int(nib_dtype dtype) {
    const dtype_row *r = row_of(dtype);
    return r->is_signed && !r->is_float && dtype != NIB_C64;
}

nib_dtype nib_dtype_from_torch_name(const char *name) {
    if (strncmp(name, "torch.", 6) == 0) name += 6;
    for (size_t i = 0; *name && i < sizeof rows / sizeof *rows; i++)
        if (rows[i].torch && strcmp(rows[i].torch, name) == 0) return (nib_dtype)i;
    return (nib_dtype)0;
}

bool nib_dtype_bytes(nib_dtype dtype, int64_t count, size_t *bytes) {
    const size_t bits = (size_t)nib_dtype_bits(dtype);
    size_t whole;
    if (count < 0 || nib_mul_size((size_t)count, bits, &whole)) return true;
    if (nib_add_size(whole, 7, &whole)) return true;
    *bytes = whole / 8;
    return false;
}
