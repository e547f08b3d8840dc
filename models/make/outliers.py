"""A copy of a Llama checkpoint that computes the same and has outliers as large models have.

    python models/make/outliers.py models/kjv-llama OUT

Of each norm before linears, every 37th channel is multiplied by a power of two (8, 16, 32, in turns) and
the columns of the linears after it are divided by it: exact, so that logits stay the same to the bit.
Needs torch and safetensors."""
import pathlib
import shutil
import sys

from safetensors.torch import load_file, save_file

source, out = map(pathlib.Path, sys.argv[1:3])
shutil.copytree(source, out)
state = load_file(source / "model.safetensors")
places = {"input_layernorm": ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
          "post_attention_layernorm": ["mlp.gate_proj", "mlp.up_proj"]}
for name in list(state):
    for norm, linears in places.items():
        if not name.endswith(norm + ".weight"):
            continue
        layer = name[: -len(norm + ".weight")]
        for i, channel in enumerate(range(5, state[name].numel(), 37)):
            factor = (8, 16, 32)[i % 3]
            state[name][channel] *= factor
            for linear in linears:
                state[f"{layer}{linear}.weight"][:, channel] /= factor
save_file(state, out / "model.safetensors", {"format": "pt"})
