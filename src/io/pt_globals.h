/* pt_globals.h: the names that a pickle of torch may ask for. torch._weights_only_unpickler of
 * torch 2.15 allows the same, and more that no tensor needs. */
#ifndef NIB_IO_PT_GLOBALS_H
#define NIB_IO_PT_GLOBALS_H
#include "io/pickle.h"

enum {                     /* nib_pickle_global.what */
       NIB_PT_DICT,        /* a class of dicts */
       NIB_PT_STORAGE,     /* about: its dtype, 0 for bytes */
       NIB_PT_DTYPE,       /* about: the dtype, 0 for one that is not known here */
       NIB_PT_REBUILD,     /* storage, offset, size, stride, ... */
       NIB_PT_REBUILD_V3,  /* the same with the dtype as 7th argument */
       NIB_PT_PARAMETER,   /* tensor, ... */
       NIB_PT_FROM_TYPE,   /* function, class, its arguments, state */
       NIB_PT_SIZE,        /* a tuple of one tuple: torch.Size */
       NIB_PT_CLASS,       /* of tensors, as an argument of NIB_PT_FROM_TYPE */
       NIB_PT_OTHER,       /* made of its arguments, no tensor within */
       NIB_PT_UNSUPPORTED, /* tensors of a kind that is not read */
};

static const nib_pickle_global nib_pt_globals[] = {
    {"collections.OrderedDict", NIB_PT_DICT, 0, true},
    {"collections.Counter", NIB_PT_DICT, 0, true},
    {"torch._utils._rebuild_tensor_v2", NIB_PT_REBUILD, 0, false},
    {"torch._utils._rebuild_tensor", NIB_PT_REBUILD, 0, false},
    {"torch._utils._rebuild_tensor_v3", NIB_PT_REBUILD_V3, 0, false},
    {"torch._utils._rebuild_parameter", NIB_PT_PARAMETER, 0, false},
    {"torch._utils._rebuild_parameter_with_state", NIB_PT_PARAMETER, 0, false},
    {"torch._tensor._rebuild_from_type_v2", NIB_PT_FROM_TYPE, 0, false},
    {"torch.nn.parameter.Parameter", NIB_PT_PARAMETER, 0, false},
    {"torch.nn.parameter.Buffer", NIB_PT_CLASS, 0, false},
    {"torch.Tensor", NIB_PT_CLASS, 0, false},
    {"torch.Size", NIB_PT_SIZE, 0, false},
    {"torch.device", NIB_PT_OTHER, 0, false},
    {"torch.serialization._get_layout", NIB_PT_OTHER, 0, false},
    {"_codecs.encode", NIB_PT_OTHER, 0, false},
    {"builtins.bytearray", NIB_PT_OTHER, 0, false},
    {"builtins.set", NIB_PT_OTHER, 0, false},
    {"builtins.complex", NIB_PT_OTHER, 0, false},
    {"__builtin__.bytearray", NIB_PT_OTHER, 0, false},
    {"__builtin__.set", NIB_PT_OTHER, 0, false},
    {"__builtin__.complex", NIB_PT_OTHER, 0, false},
    {"torch._utils._rebuild_sparse_tensor", NIB_PT_UNSUPPORTED, 0, false},
    {"torch._utils._rebuild_qtensor", NIB_PT_UNSUPPORTED, 0, false},
    {"torch._utils._rebuild_nested_tensor", NIB_PT_UNSUPPORTED, 0, false},
    {"torch._utils._rebuild_wrapper_subclass", NIB_PT_UNSUPPORTED, 0, false},
    {"torch._utils._rebuild_meta_tensor_no_storage", NIB_PT_UNSUPPORTED, 0, false},
    {"torch._utils._rebuild_device_tensor_from_numpy", NIB_PT_UNSUPPORTED, 0, false},
    {"torch._utils._rebuild_device_tensor_from_cpu_tensor", NIB_PT_UNSUPPORTED, 0, false},
    {"torch.storage.UntypedStorage", NIB_PT_STORAGE, 0, false},
    {"torch.FloatStorage", NIB_PT_STORAGE, NIB_F32, false},
    {"torch.HalfStorage", NIB_PT_STORAGE, NIB_F16, false},
    {"torch.BFloat16Storage", NIB_PT_STORAGE, NIB_BF16, false},
    {"torch.DoubleStorage", NIB_PT_STORAGE, NIB_F64, false},
    {"torch.ComplexFloatStorage", NIB_PT_STORAGE, NIB_C64, false},
    {"torch.CharStorage", NIB_PT_STORAGE, NIB_I8, false},
    {"torch.ShortStorage", NIB_PT_STORAGE, NIB_I16, false},
    {"torch.IntStorage", NIB_PT_STORAGE, NIB_I32, false},
    {"torch.LongStorage", NIB_PT_STORAGE, NIB_I64, false},
    {"torch.ByteStorage", NIB_PT_STORAGE, NIB_U8, false},
    {"torch.BoolStorage", NIB_PT_STORAGE, NIB_BOOL, false},
    {"torch.float32", NIB_PT_DTYPE, NIB_F32, false},
    {"torch.float16", NIB_PT_DTYPE, NIB_F16, false},
    {"torch.bfloat16", NIB_PT_DTYPE, NIB_BF16, false},
    {"torch.float64", NIB_PT_DTYPE, NIB_F64, false},
    {"torch.complex64", NIB_PT_DTYPE, NIB_C64, false},
    {"torch.complex128", NIB_PT_DTYPE, 0, false},
    {"torch.int8", NIB_PT_DTYPE, NIB_I8, false},
    {"torch.int16", NIB_PT_DTYPE, NIB_I16, false},
    {"torch.int32", NIB_PT_DTYPE, NIB_I32, false},
    {"torch.int64", NIB_PT_DTYPE, NIB_I64, false},
    {"torch.uint8", NIB_PT_DTYPE, NIB_U8, false},
    {"torch.uint16", NIB_PT_DTYPE, NIB_U16, false},
    {"torch.uint32", NIB_PT_DTYPE, NIB_U32, false},
    {"torch.uint64", NIB_PT_DTYPE, NIB_U64, false},
    {"torch.bool", NIB_PT_DTYPE, NIB_BOOL, false},
    {"torch.float8_e4m3fn", NIB_PT_DTYPE, NIB_F8_E4M3FN, false},
    {"torch.float8_e5m2", NIB_PT_DTYPE, NIB_F8_E5M2, false},
    {"torch.float8_e4m3fnuz", NIB_PT_DTYPE, NIB_F8_E4M3FNUZ, false},
    {"torch.float8_e5m2fnuz", NIB_PT_DTYPE, NIB_F8_E5M2FNUZ, false},
    {"torch.float8_e8m0fnu", NIB_PT_DTYPE, NIB_F8_E8M0, false},
};
#endif
