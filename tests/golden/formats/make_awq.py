"""A checkpoint as AutoAWQ saves it (version "gemm"), for tests/io/test_format_awq.c.

    python tests/golden/formats/make_awq.py        versions: tests/golden/versions.txt

awq-gemm-f16/ is source-f16 with its linears quantized: scale (max - min) / 15 and zero point clamp(-round(min /
scale)) of each group of 16 columns, as AutoAWQ's pseudo_quantize_tensor does; words are packed by optimum-quanto's
AWQPackedTensor code, which has AutoAWQ's order. awq-gemm-f16.opened.safetensors: (q - z) * s in f16, what AutoAWQ's
kernels multiply by. AutoAWQ itself was not run: it needs a GPU."""
import json
import pathlib
import shutil
import warnings

warnings.filterwarnings("ignore")
import torch  # noqa: E402
from optimum.quanto.tensor.weights.awq.packed import pack  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

HERE = pathlib.Path(__file__).resolve().parent
GROUP = 16
source, out, opened = load_file(HERE / "source-f16" / "model.safetensors"), {}, {}
for name, w in source.items():
    if not name.endswith("_proj.weight"):
        out[name] = w
        continue
    module, (N, K) = name.removesuffix(".weight"), w.shape
    groups = w.reshape(N, K // GROUP, GROUP)
    low, high = groups.amin(-1), groups.amax(-1)
    scale = (high - low).clamp(min=1e-5) / 15
    zero = (-torch.round(low / scale)).clamp(0, 15)
    q = torch.clamp(torch.round(groups / scale[..., None]) + zero[..., None], 0, 15)
    opened[name] = ((q - zero[..., None]) * scale[..., None]).reshape(N, K)
    out[f"{module}.qweight"] = pack(q.reshape(N, K).to(torch.uint8).t().contiguous(), reorder=True)
    out[f"{module}.qzeros"] = pack(zero.to(torch.uint8).t().contiguous(), reorder=True)
    out[f"{module}.scales"] = scale.t()

folder = HERE / "awq-gemm-f16"
shutil.rmtree(folder, ignore_errors=True)
folder.mkdir()
config = json.loads((HERE / "source-f16" / "config.json").read_text())
config["quantization_config"] = {"bits": 4, "group_size": GROUP, "modules_to_not_convert": None, "quant_method": "awq",
                                 "version": "gemm", "zero_point": True}
(folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
save_file({k: v.contiguous() for k, v in out.items()}, folder / "model.safetensors", metadata={"format": "pt"})
save_file({k: v.contiguous() for k, v in opened.items()}, HERE / "awq-gemm-f16.opened.safetensors")
