"""Tiny models of each architecture of the Llama family, with what transformers computes for them.

    python tests/golden/model/make.py          (torch and transformers as in ../versions.txt)

One folder for each switch of config.json: config.json and weights as a Hugging Face folder, and
reference.safetensors with
    input_ids [n]        the prompt
    logits    [n, V]     of every position, one forward pass
    greedy    [16]       the ids that follow, one at a time with a cache
transformers opens the very folder that the test opens, widens the weights to f32 and runs its
eager attention on a CPU. Weights are seeded; a seed whose greedy choice is a near tie is skipped.
"""
import json
import pathlib
import shutil

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache

HERE = pathlib.Path(__file__).parent
PROMPT, GREEDY, MARGIN = 24, 16, 2e-3


def base(kind, **changes):
    config = {
        "architectures": [{"llama": "LlamaForCausalLM", "mistral": "MistralForCausalLM",
                           "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}[kind]],
        "model_type": kind, "vocab_size": 64, "hidden_size": 32, "intermediate_size": 40,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "max_position_embeddings": 128, "rms_norm_eps": 1e-5, "hidden_act": "silu",
        "tie_word_embeddings": False, "bos_token_id": 1, "eos_token_id": 2,
    }
    config.update(changes)
    return {k: v for k, v in config.items() if v is not None}


def old(dtype, **rest):                        # spelling of transformers 4
    return {"torch_dtype": dtype, **rest}


def new(dtype, rope=None, **rest):             # spelling of transformers 5
    return {"dtype": dtype,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, **(rope or {})}, **rest}


F32, F16, BF16 = "float32", "float16", "bfloat16"
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 32}
LAYERS = ["full_attention", "sliding_attention"]
CASES = {
    "llama_mha_f32": base("llama", num_key_value_heads=None, **old(F32, rope_theta=10000.0)),
    "llama_gqa_bf16": base("llama", **new(BF16, {"rope_theta": 500000.0})),
    "llama_mqa_f16": base("llama", num_key_value_heads=1, **old(F16, rope_theta=1000000.0)),
    "llama_tied_as_embed": base("llama", tie_word_embeddings=True, **old(BF16)),
    "llama_tied_as_head": base("llama", tie_word_embeddings=True, **new(BF16)),
    "llama_tied_as_both": base("llama", tie_word_embeddings=True, **new(F16)),
    "llama_attention_bias": base("llama", attention_bias=True, **old(BF16)),
    "llama_mlp_bias": base("llama", mlp_bias=True, **new(F16)),
    "llama_head_dim": base("llama", head_dim=12, **old(BF16)),
    "llama_head_size_odd_half": base("llama", head_dim=6, **new(BF16)),
    "llama_rope_linear": base("llama", **old(BF16, rope_theta=10000.0,
                                             rope_scaling={"type": "linear", "factor": 2.5})),
    "llama_rope_linear_new": base("llama", **new(BF16, {"rope_type": "linear", "factor": 4.0})),
    "llama_rope_dynamic": base("llama", max_position_embeddings=16,
                               **old(BF16, rope_theta=10000.0,
                                     rope_scaling={"rope_type": "dynamic", "factor": 2.0})),
    "llama_rope_dynamic_grows": base("llama", max_position_embeddings=30,
                                     **new(F16, {"rope_type": "dynamic", "factor": 4.0})),
    "llama_rope_llama3": base("llama", **old(BF16, rope_theta=500000.0, rope_scaling=LLAMA3)),
    "llama_rope_llama3_new": base("llama", **new(F16, {**LLAMA3, "rope_theta": 50.0})),
    "llama_sharded": base("llama", **old(BF16)),
    "mistral_window": base("mistral", sliding_window=5, **old(BF16, rope_theta=10000.0)),
    "mistral_no_window": base("mistral", head_dim=16, **new(F16, sliding_window=None)),
    "qwen2_bias": base("qwen2", **old(BF16, rope_theta=1000000.0, use_sliding_window=False,
                                      sliding_window=4, max_window_layers=0)),
    "qwen2_window_from_layer": base("qwen2", **old(F16, use_sliding_window=True, sliding_window=6,
                                                   max_window_layers=1)),
    "qwen2_layer_types": base("qwen2", tie_word_embeddings=True,
                              **new(BF16, layer_types=LAYERS, use_sliding_window=True,
                                    sliding_window=3)),
    "qwen3_qk_norm": base("qwen3", head_dim=16, **old(BF16, rope_theta=1000000.0)),
    "qwen3_bias_tied": base("qwen3", head_dim=10, attention_bias=True, tie_word_embeddings=True,
                            **new(F32, {"rope_theta": 1000000.0})),
    "qwen3_window": base("qwen3", head_dim=8, **new(BF16, use_sliding_window=True,
                                                    sliding_window=7, max_window_layers=0)),
}


def weights(model, seed, dtype):
    """Large enough that attention, biases and norms all matter to the logits."""
    g = torch.Generator().manual_seed(seed)
    out = {}
    for name, p in model.state_dict().items():
        r = torch.randn(p.shape, generator=g)
        if "norm" in name:
            r = 1 + 0.3 * r
        elif p.ndim == 1:
            r = 0.5 * r
        elif "embed" not in name:
            r = r * 1.6 / p.shape[1] ** 0.5
        out[name] = r.to(dtype)
    return out


def write(folder, name, config, tensors):
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    if config["tie_word_embeddings"]:
        tensors.pop("lm_head.weight", None)
    meta = {"format": "pt"}
    if name == "llama_sharded":
        names = sorted(tensors)
        index = {"metadata": {"total_size": sum(t.nbytes for t in tensors.values())}, "weight_map": {}}
        for i in range(3):
            part = f"model-0000{i + 1}-of-00003.safetensors"
            mine = names[i::3]
            save_file({n: tensors[n] for n in mine}, folder / part, metadata=meta)
            index["weight_map"].update({n: part for n in mine})
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1) + "\n")
    else:
        save_file(tensors, folder / "model.safetensors", metadata=meta)


@torch.no_grad()
def run(folder, seed):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32,
                                                 attn_implementation="eager").eval()
    g = torch.Generator().manual_seed(seed + 1000)
    ids = torch.randint(3, model.config.vocab_size, (1, PROMPT), generator=g)
    cache = DynamicCache(config=model.config)
    logits = model(ids, past_key_values=cache).logits[0]
    scale, step, last, greedy = logits.abs().max(), logits[-1], None, []
    for _ in range(GREEDY):
        top = step.topk(2).values
        if top[0] - top[1] < MARGIN * scale:
            return None
        last = int(step.argmax())
        greedy.append(last)
        step = model(torch.tensor([[last]]), past_key_values=cache).logits[0, -1]
    return {"input_ids": ids[0], "logits": logits.float().contiguous(), "greedy": torch.tensor(greedy)}


def main():
    for name, config in CASES.items():
        folder = HERE / name
        dtype = getattr(torch, config.get("torch_dtype") or config["dtype"])
        for seed in range(100):
            write(folder, name, config, {})
            model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))
            tensors = weights(model, seed, dtype)
            write(folder, name, config, tensors)
            reference = run(folder, seed)
            if reference is not None:
                break
        else:
            raise SystemExit(f"{name}: every seed ends in a near tie")
        if name in ("llama_tied_as_head", "llama_tied_as_both"):
            tensors = load_file(folder / "model.safetensors")
            tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
            if name == "llama_tied_as_head":
                del tensors["model.embed_tokens.weight"]
            save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        save_file(reference, folder / "reference.safetensors")
        size = sum(f.stat().st_size for f in folder.iterdir())
        print(f"{name:28} seed {seed} {size:6} bytes")


if __name__ == "__main__":
    main()
