"""Writes config.json with transformers, and the same with one key more as Python's json spells it.

    python tests/golden/io/make_config.py"""
import json
import pathlib

import transformers

HERE = pathlib.Path(__file__).parent
config = transformers.LlamaConfig(hidden_size=64, num_hidden_layers=2, num_attention_heads=4,
                                  rms_norm_eps=1e-5, eos_token_id=[1, 2])
text = config.to_json_string()
(HERE / "config.json").write_text(text, encoding="utf-8")
more = json.loads(text)
more["zz_quantization"] = {"quant_method": "x", "eps": 1e-05, "scale": 0.1, "skip": ["lm_head"],
                           "deep": {"a": None, "list": []}}
(HERE / "config_quantized.json").write_text(json.dumps(more, indent=2) + "\n", encoding="utf-8")
print("transformers", transformers.__version__)
