"""Does a checkpoint give here what it gives in transformers? Logits, greedy ids, and the tokenizer's ids.

    python tests/interop/models.py MODEL...        folders as published: config.json, weights, tokenizer

For each folder and prompt: the 100 largest logits after the prompt (within 1e-4 of the largest one,
weights widened to f32 on both sides), 32 greedy tokens, and where the folder has a tokenizer the ids
of the prompts. A greedy token that differs where transformers itself is torn (the two best within
1e-4) is told and ends that prompt's comparison. Exit code 1 where anything else differs.
"""
import json
import os
import pathlib
import subprocess
import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

NIBBLE = os.environ.get("NIB_CLI", "build/nibble")
TEXTS = ["The quick brown fox jumps over the lazy dog.", "In the beginning",
         "def main():\n    return", "Ein Satz mit Umlauten: äöü, und 12345 Zahlen."]
TOLERANCE, NEW, TOP = 1e-4, 32, 100


def nibble(folder, *arguments):
    run = subprocess.run([NIBBLE, "generate", folder, "-n", str(NEW), "--ignore-eos", "--json",
                          "-q", *arguments], capture_output=True, text=True)
    if run.returncode:
        raise SystemExit(f"{folder}: {run.stderr}")
    return json.loads(run.stdout)


@torch.no_grad()
def check(folder):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32,
                                                 attn_implementation="eager").eval()
    files = {"tokenizer.json", "vocab.json"}
    tokenizer = None
    if any((pathlib.Path(folder) / f).exists() for f in files):
        tokenizer = AutoTokenizer.from_pretrained(folder)
    g, same = torch.Generator().manual_seed(1), True
    prompts = TEXTS if tokenizer else [torch.randint(3, model.config.vocab_size, (n,), generator=g)
                                       .tolist() for n in (3, 17, 40)]
    for prompt in prompts:
        ids = tokenizer(prompt)["input_ids"] if tokenizer else prompt
        said = []
        if tokenizer:
            ours = nibble(folder, "-p", prompt)["prompt_ids"]
            if ours != ids:
                said.append(f"prompt ids {ours}, want {ids}")
        ours = nibble(folder, "--ids", ",".join(map(str, ids)), "--logits", str(TOP))
        logits, far = model(torch.tensor([ids])).logits[0, -1], 0.0
        for token, logit in ours["logits"]:
            far = max(far, abs(logit - logits[token].item()))
        far /= logits.abs().max().item()
        if not far <= TOLERANCE:
            said.append(f"logits are off by {far:.2e} of the largest")
        whole, note = list(ids), ""
        for i, token in enumerate(ours["ids"]):
            best = logits.topk(2)
            if token != best.indices[0]:
                margin = (best.values[0] - best.values[1]).item() / logits.abs().max().item()
                note = f"token {i} is {token}, want {best.indices[0]}, margin {margin:.1e}"
                if margin > TOLERANCE:
                    said.append(note)
                break
            whole.append(token)
            logits = model(torch.tensor([whole])).logits[0, -1]
        same &= not said
        what = repr(prompt) if tokenizer else f"{len(ids)} ids"
        print(f"{folder}  {what}: logits within {far:.1e}, {len(whole) - len(ids)} greedy ids equal"
              f"{'; ' + note if note and not said else ''}{'; DIFFERS: ' + '; '.join(said) if said else ''}")
    return same


if __name__ == "__main__":
    if len(sys.argv) < 2:
        raise SystemExit(__doc__)
    sys.exit(0 if all([check(folder) for folder in sys.argv[1:]]) else 1)
