# drive_torch.py: linears of PyTorch, torchao and optimum-quanto, by the protocol of drive.h.
#
# TYPE is f32, bf16 or f16 (torch), dynamic_int8 (torch.ao's quantize_dynamic), ao_dynamic_int8,
# ao_int8, ao_dynamic_int8_compiled (torchao), quanto_qint8, quanto_qint4.
import sys
import time
import warnings

import torch

warnings.filterwarnings("ignore")
ROTATED = 8


def quantized(linear, kind):
    """`linear` in a Sequential -> what runs, and the bytes of its weight."""
    n = linear[0].weight.numel()
    if kind in ("f32", "bf16", "f16"):
        dtype = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}[kind]
        return linear.to(dtype), n * (4 if kind == "f32" else 2)
    if kind == "dynamic_int8":
        return torch.ao.quantization.quantize_dynamic(linear, {torch.nn.Linear}, dtype=torch.qint8), n
    if kind.startswith("ao_"):
        from torchao.quantization import (Int8DynamicActivationInt8WeightConfig,
                                          Int8WeightOnlyConfig, quantize_)
        config = Int8DynamicActivationInt8WeightConfig() if "dynamic" in kind else Int8WeightOnlyConfig()
        quantize_(linear, config)
        return (torch.compile(linear) if kind.endswith("compiled") else linear), n
    if kind.startswith("quanto_"):
        import optimum.quanto as quanto
        quanto.quantize(linear, weights=getattr(quanto, kind[len("quanto_"):]))
        quanto.freeze(linear)
        return linear, n if kind.endswith("8") else n // 2
    sys.exit(f"no such type: {kind}")


def main():
    N, K, most, kind = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    torch.manual_seed(1)
    torch.set_grad_enabled(False)
    modules, size, copies = [], 0, 1
    while len(modules) < copies:
        linear = torch.nn.Sequential(torch.nn.Linear(K, N, bias=False))
        linear[0].weight.data.mul_(0.1)
        module, size = quantized(linear.eval(), kind)
        modules.append(module)
        copies = 2 + 272000000 // size
    dtype = {"bf16": torch.bfloat16, "f16": torch.float16}.get(kind, torch.float32)
    x = {}
    note = f"torch {torch.__version__}"
    if kind == "dynamic_int8":
        note += f", engine {torch.backends.quantized.engine}"
    if kind.startswith("ao_"):
        import torchao
        note += f", torchao {torchao.__version__}"
    if kind.startswith("quanto_"):
        import optimum.quanto
        note += f", optimum-quanto {optimum.quanto.__version__}"
    print("ready", size, copies, note, flush=True)
    at = 0
    for line in sys.stdin:
        M, threads, seconds = line.split()
        M, seconds = int(M), float(seconds)
        torch.set_num_threads(int(threads))
        if M not in x:
            x[M] = torch.randn(M, K, dtype=dtype)
        inputs, products, passed = x[M], 0, 0.0
        began = time.perf_counter()
        while passed < seconds:
            modules[at % copies if M <= ROTATED else 0](inputs)
            at += 1
            products += 1
            passed = time.perf_counter() - began
        print(f"{1e3 * passed / products:.9f} {products}", flush=True)


main()
