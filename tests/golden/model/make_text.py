"""Tiny OPT, GPT-2 and BLOOM models with what transformers computes for them; as make.py beside it.

    python tests/golden/model/make_text.py [CASE]...     (torch and transformers as in ../versions.txt)

One folder for each switch of config.json, and for each way in which published folders spell names:
with the prefix of the whole model or of its trunk, with buffers that old versions saved.
"""
import json
import shutil
import sys

import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM

from make import HERE, run

KINDS = {"opt": "OPTForCausalLM", "gpt2": "GPT2LMHeadModel", "bloom": "BloomForCausalLM"}
F32, F16, BF16 = "float32", "float16", "bfloat16"


def opt(dtype, **changes):
    return {"model_type": "opt", "vocab_size": 64, "hidden_size": 32, "ffn_dim": 40,
            "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 128,
            "word_embed_proj_dim": 32, "do_layer_norm_before": True, "activation_function": "relu",
            "bos_token_id": 2, "eos_token_id": 2, "pad_token_id": 1, "torch_dtype": dtype, **changes}


def gpt2(dtype, **changes):
    return {"model_type": "gpt2", "vocab_size": 64, "n_embd": 32, "n_layer": 2, "n_head": 4,
            "n_positions": 128, "layer_norm_epsilon": 1e-5, "activation_function": "gelu_new",
            "bos_token_id": 63, "eos_token_id": 63, "torch_dtype": dtype, **changes}


def bloom(dtype, **changes):
    return {"model_type": "bloom", "vocab_size": 64, "hidden_size": 32, "n_layer": 2, "n_head": 4,
            "layer_norm_epsilon": 1e-5, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 3,
            "torch_dtype": dtype, **changes}


# config, then the prefix that the names in the file lack
CASES = {
    "opt_norm_before": (opt(F32), ""),
    "opt_norm_after_projected": (opt(F16, do_layer_norm_before=False, word_embed_proj_dim=20,
                                     max_position_embeddings=320), ""),
    "opt_no_last_norm_untied": (opt(BF16, _remove_final_layer_norm=True, tie_word_embeddings=False,
                                    activation_function="gelu"), ""),
    "opt_no_bias_bare_norms": (opt(F16, enable_bias=False, layer_norm_elementwise_affine=False), ""),
    "opt_trunk_names": (opt(BF16, num_attention_heads=2, activation_function="gelu_new"), "model."),
    "gpt2_trunk_names": (gpt2(F32, n_positions=64, n_inner=None), "transformer."),
    "gpt2_inner": (gpt2(BF16, n_inner=48, activation_function="gelu", n_positions=320), ""),
    "gpt2_by_layer_upcast": (gpt2(F16, scale_attn_by_inverse_layer_idx=True, n_head=2,
                                  reorder_and_upcast_attn=True, activation_function="relu"), ""),
    "gpt2_unscaled_untied": (gpt2(BF16, scale_attn_weights=False, tie_word_embeddings=False,
                                  activation_function="silu"), ""),
    "bloom_trunk_names": (bloom(F16), "transformer."),
    "bloom_six_heads": (bloom(F32, hidden_size=36, n_head=6), ""),
    "bloom_residual_after_norm": (bloom(BF16, n_head=2,
                                        apply_residual_connection_post_layernorm=True), ""),
    "bloom_old_spelling_untied": ({**{k: v for k, v in bloom(F16, tie_word_embeddings=False,
                                                            n_embed=32, num_attention_heads=8).items()
                                      if k not in ("hidden_size", "n_head")}}, ""),
}


def weights(model, seed, dtype):
    """Large enough that attention, biases and norms all matter to the logits."""
    g = torch.Generator().manual_seed(seed)
    out = {}
    for name, p in model.state_dict().items():
        r = torch.randn(p.shape, generator=g)
        if p.ndim == 1:
            r = 1 + 0.3 * r if "norm" in name or "ln_" in name else 0.5 * r
        elif "embed" not in name and "wte" not in name and "wpe" not in name:
            r = r * 1.6 / p.shape[0 if ".c_" in name else 1] ** 0.5
        out[name] = r.to(dtype)
    return out


def write(folder, name, config, tensors, prefix):
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    config = {"architectures": [KINDS[config["model_type"]]], **config}
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    if config.get("tie_word_embeddings", True):
        tensors.pop("lm_head.weight", None)
    tensors = {n.removeprefix(prefix): t for n, t in tensors.items()}
    if name == "gpt2_trunk_names":  # masks, which the first versions of transformers saved
        n = config["n_positions"]
        for i in range(config["n_layer"]):
            tensors[f"h.{i}.attn.bias"] = torch.ones(n, n).tril().view(1, 1, n, n).bool()
            tensors[f"h.{i}.attn.masked_bias"] = torch.tensor(-1e4)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def main():
    for name in sys.argv[1:] or CASES:
        config, prefix = CASES[name]
        folder = HERE / name
        for seed in range(100):
            write(folder, name, config, {}, prefix)
            model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))
            tensors = weights(model, seed, getattr(torch, config["torch_dtype"]))
            write(folder, name, config, tensors, prefix)
            reference = run(folder, seed)
            if reference is not None:
                break
        else:
            raise SystemExit(f"{name}: every seed ends in a near tie")
        save_file(reference, folder / "reference.safetensors")
        for f in folder.iterdir():
            f.chmod(0o644)
        size = sum(f.stat().st_size for f in folder.iterdir())
        print(f"{name:28} seed {seed} {size:6} bytes")


if __name__ == "__main__":
    main()
