"""Trains the byte-level BPE of kjv-llama on the training text.

usage: tokenizer.py OUT_DIR
"""
import json
import pathlib
import subprocess
import sys

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

VOCAB = 2048
BOS = "<|endoftext|>"

here = pathlib.Path(__file__).resolve().parent
out = pathlib.Path(sys.argv[1])
out.mkdir(parents=True, exist_ok=True)
text = subprocess.run([here / "heldout.sh", "train"], check=True, capture_output=True).stdout.decode()

tok = Tokenizer(models.BPE())
tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
tok.decoder = decoders.ByteLevel()
tok.train_from_iterator(
    text.splitlines(keepends=True),
    trainers.BpeTrainer(
        vocab_size=VOCAB,
        special_tokens=[BOS],
        # All 256 bytes, so that any input can be encoded and decoded.
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    ),
)
bos = tok.token_to_id(BOS)
tok.post_processor = processors.TemplateProcessing(
    single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, bos)]
)
assert tok.get_vocab_size() == VOCAB
tok.save(str(out / "tokenizer.json"))
(out / "tokenizer_config.json").write_text(json.dumps({
    "bos_token": BOS,
    "clean_up_tokenization_spaces": False,
    "eos_token": BOS,
    "model_max_length": 512,
    "tokenizer_class": "PreTrainedTokenizerFast",
}, indent=2) + "\n")

ids = tok.encode(text, add_special_tokens=False).ids
assert tok.decode(ids, skip_special_tokens=False) == text
print(f"{len(text)} bytes -> {len(ids)} tokens, {len(text) / len(ids):.3f} bytes per token")
