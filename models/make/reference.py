"""Writes tests/golden/kjv-llama.json: what transformers says of models/kjv-llama.

usage: reference.py [MODEL_DIR [OUT.json]]

Everything is computed in f32 from the bf16 weights, on a CPU.
"""
import hashlib
import json
import math
import pathlib
import platform
import subprocess
import sys

import tokenizers
import torch
import torch.nn.functional as F
import transformers
from transformers import AutoTokenizer, LlamaForCausalLM

here = pathlib.Path(__file__).resolve().parent
root = here.parent.parent
folder = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else root / "models/kjv-llama"
out = pathlib.Path(sys.argv[2]) if len(sys.argv) > 2 else root / "tests/golden/kjv-llama.json"

PROMPT = "And the king said unto the prophet,"
NEW = 48
CONTEXT = 512
EVAL_TOKENS = 8192

torch.set_num_threads(1)
torch.set_grad_enabled(False)
tok = AutoTokenizer.from_pretrained(folder)
model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
bos = model.config.bos_token_id


def logits_of(ids):
    return model(torch.tensor([ids]), use_cache=False).logits[0]


prompt_ids = tok(PROMPT)["input_ids"]
assert prompt_ids[0] == bos and bos not in prompt_ids[1:]
top = logits_of(prompt_ids)[-1].topk(8)

# Greedy without a cache. The margin says how far any choice was from going
# the other way: a program that agrees within less must pick the same ids.
ids, margin = list(prompt_ids), math.inf
for _ in range(NEW):
    logits = logits_of(ids)[-1]
    first, second = logits.topk(2).values.tolist()
    margin = min(margin, first - second)
    ids.append(int(logits.argmax()))
new_ids = ids[len(prompt_ids):]

heldout = subprocess.run([here / "heldout.sh"], check=True, capture_output=True).stdout
held_ids = tok(heldout.decode(), add_special_tokens=False)["input_ids"]


def score(text_ids):
    """(sum of negative log-likelihoods, number of scored tokens)"""
    total, count, step = 0.0, 0, CONTEXT - 1
    for start in range(0, len(text_ids) - step + 1, step):
        window = [bos] + text_ids[start:start + step]
        half = CONTEXT // 2
        nll = F.cross_entropy(logits_of(window)[half - 1:-1].double(), torch.tensor(window[half:]), reduction="sum")
        total, count = total + nll.item(), count + half
    return total, count


def perplexity(text_ids):
    nll, count = score(text_ids)
    return {
        "text_tokens": len(text_ids),
        "windows": count // (CONTEXT // 2),
        "scored_tokens": count,
        "nll_sum": round(nll, 4),
        "nll_mean": round(nll / count, 6),
        "perplexity": round(math.exp(nll / count), 5),
    }


out.write_text(json.dumps({
    "made_by": "models/make/reference.py",
    "versions": {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "tokenizers": tokenizers.__version__,
    },
    "model_sha256": hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest(),
    "tokenizer_sha256": hashlib.sha256((folder / "tokenizer.json").read_bytes()).hexdigest(),
    "parameters": sum(p.numel() for p in model.parameters()),
    "prompt": PROMPT,
    "prompt_ids": prompt_ids,
    "last_logits_top8": [[i, round(v, 6)] for v, i in zip(top.values.tolist(), top.indices.tolist())],
    "greedy_new_ids": new_ids,
    "greedy_new_text": tok.decode(new_ids),
    "greedy_smallest_margin": round(margin, 6),
    "perplexity_protocol": (
        "The output of models/make/heldout.sh is tokenized once, without special tokens. "
        "Disjoint windows of 512 ids: BOS, then the next 511 text tokens; what does not fill a window is dropped. "
        "Scored are the 256 ids at positions 256..511 of each window, predicted at positions 255..510. "
        "perplexity = exp(mean negative log-likelihood in nats)."
    ),
    "heldout_sha256": hashlib.sha256(heldout).hexdigest(),
    "heldout_bytes": len(heldout),
    "heldout_first_ids": held_ids[:32],
    "heldout_8192": perplexity(held_ids[:EVAL_TOKENS]),
    "heldout_all": perplexity(held_ids),
}, indent=1) + "\n")
print(out)
