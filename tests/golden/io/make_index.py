"""Writes index.json as transformers.PreTrainedModel.save_pretrained does (5.23: json.dumps with
indent=2, sort_keys=True and a line end).

    python tests/golden/io/make_index.py"""
import json
import pathlib

first, second = (f"model-0000{i}-of-00002.safetensors" for i in (1, 2))
index = {"metadata": {"total_size": 12345678901234},
         "weight_map": {'b"': second, "a.weight": first, "\u00e9": first, "\U0001f600": second}}
text = json.dumps(index, indent=2, sort_keys=True) + "\n"
(pathlib.Path(__file__).parent / "index.json").write_text(text, encoding="utf-8")
