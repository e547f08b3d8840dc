#!/usr/bin/env python3
"""Ids of transformers' GPT2Tokenizer from vocab.json and merges.txt alone: python3 make_vocab_merges.py

Vocabulary and merges are those of opt.json and gpt2.json beside this, which the test takes apart in
the same way. vocab_merges.json: for each family tokenizer_config.json, and pairs of text and ids.
"""
import json
import pathlib
import tempfile

from transformers import AutoTokenizer

HERE = pathlib.Path(__file__).parent


def token(content):
    return {"__type": "AddedToken", "content": content, "single_word": False, "lstrip": False,
            "rstrip": False, "normalized": True}


CONFIGS = {  # as published with facebook/opt-125m, then with a padding token; openai-community/gpt2
    "opt": {"errors": "replace", "unk_token": token("</s>"), "bos_token": token("</s>"),
            "eos_token": token("</s>"), "add_prefix_space": False, "add_bos_token": True,
            "tokenizer_class": "GPT2Tokenizer"},
    "opt_pad": {"unk_token": "</s>", "bos_token": "</s>", "eos_token": "</s>", "pad_token": "<pad>",
                "add_prefix_space": True, "add_bos_token": False, "tokenizer_class": "GPT2Tokenizer"},
    "gpt2": {"model_max_length": 1024},
}
TEXTS = ["", "Hello world", " Hello  world\n\n it's</s> me", "<pad>x<|endoftext|>y", "</s>",
         "żółć 日本 \u200b🙂", "<|endoftext|> <|endoftext|>", "a\tb\r\nc   d"]
out = {}
for name, config in CONFIGS.items():
    family = name.split("_")[0]
    model = json.loads((HERE / f"{family}.json").read_text())["model"]
    merges = [m if isinstance(m, str) else " ".join(m) for m in model["merges"]]
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder)
        (path / "vocab.json").write_text(json.dumps(model["vocab"], ensure_ascii=False))
        (path / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
        (path / "tokenizer_config.json").write_text(json.dumps(config))
        (path / "config.json").write_text(json.dumps({"model_type": family}))
        tokenizer = AutoTokenizer.from_pretrained(path)
        out[name] = {"config": config, "cases": [[t, tokenizer(t)["input_ids"]] for t in TEXTS]}
(HERE / "vocab_merges.json").write_text(json.dumps(out, ensure_ascii=False, indent=1) + "\n")
