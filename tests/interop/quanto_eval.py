"""`nibble eval --protocol quanto` beside the same definition in Python over transformers.

    python tests/interop/quanto_eval.py MODEL TEXT LAMBADA.jsonl [WINDOWS [ITEMS]]   from the root

MODEL is a folder of a float model, TEXT a file such as WikiText-2's test set, of which the first WINDOWS
(40) windows are scored, LAMBADA.jsonl has "text" or "context" and "continuation" a line, the first ITEMS
(200) count. Perplexities agree within 1e-4 of their size (softmax is in f32 there), and hits but
for texts whose two likeliest ids are as good as equal. Leaves with 1 on failure."""
import json
import os
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

ROOT = pathlib.Path(__file__).resolve().parents[2]
NIBBLE = pathlib.Path(os.environ.get("NIB_BUILD", ROOT / "build")) / "nibble"
folder, text_file, lambada_file = sys.argv[1:4]
windows = int(sys.argv[4]) if len(sys.argv) > 4 else 40
items = int(sys.argv[5]) if len(sys.argv) > 5 else 200


def nibble(*words):
    done = subprocess.run([str(NIBBLE), "eval", folder, *map(str, words), "--protocol", "quanto", "--json", "-q"],
                          capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr.strip())
    return json.loads(done.stdout)


@torch.no_grad()
def logits_of(model, ids):
    return model(torch.tensor([ids])).logits[0].float().numpy()


def perplexities(model, tok, text, context):
    rows = [line if line.strip() else " \n" for line in text.splitlines(keepends=True)]
    ids = tok("".join(rows))["input_ids"]
    nll, count, running = 0.0, 0, []
    for start in range(0, len(ids) - context + 1, context):
        window = list(ids[start:start + context])
        if tok.bos_token_id is not None:
            window[0] = tok.bos_token_id
        logits = logits_of(model, window)
        for j in range(min(512, context // 2), context - 1):
            e = np.exp(logits[j] - logits[j].max())
            nll -= np.log(e[window[j + 1]] / e.sum())
            count += 1
        running.append(np.exp(nll / count))
    return float(np.mean(running)), float(running[-1]), count


def last_tokens(model, tok, lines):
    hits, close = 0, 0
    for item in map(json.loads, lines):
        text = item.get("text") or item["context"] + " " + item["continuation"]
        ids = tok(text)["input_ids"]
        last = logits_of(model, ids[:-1])[-1]
        hits += int(last.argmax()) == ids[-1]
        two = np.sort(last)[-2:]
        close += bool(two[1] - two[0] < 1e-3)
    return hits, close


model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
# tokenizer.json as it stands: for some old folders AutoTokenizer of transformers 5 makes another one
said = json.loads((pathlib.Path(folder) / "tokenizer_config.json").read_text()).get("bos_token")
tok = PreTrainedTokenizerFast(tokenizer_file=str(pathlib.Path(folder) / "tokenizer.json"),
                              **({"bos_token": said["content"] if isinstance(said, dict) else said} if said else {}))
context = min(512, model.config.max_position_embeddings)
with tempfile.TemporaryDirectory() as room:
    text = pathlib.Path(text_file).read_text()
    ids = tok(text)["input_ids"]
    if len(ids) > windows * context:              # as much text as fills the windows, roughly
        text = text[:len(text) * windows * context // len(ids)]
    part = pathlib.Path(room) / "text"
    part.write_text(text)
    lines = [line for line in pathlib.Path(lambada_file).read_text().splitlines() if line.strip()][:items]
    lines = [line for line in lines if len(tok(json.loads(line).get("text") or json.loads(line)["context"] +
                                               " " + json.loads(line)["continuation"])["input_ids"]) <= context]
    questions = pathlib.Path(room) / "lambada.jsonl"
    questions.write_text("\n".join(lines) + "\n")
    mean, last, count = perplexities(model, tok, text, context)
    got = nibble("--perplexity", part)
    hits, close = last_tokens(model, tok, lines)
    told = nibble("--lambada", questions)
print(f"mean of running perplexities  here {got['mean_of_running_perplexities']:.6f}  transformers {mean:.6f}")
print(f"perplexity                    here {got['perplexity']:.6f}  transformers {last:.6f}  ({count} ids)")
print(f"last token told right         here {told['last_token_acc'] * len(lines):.0f}  transformers {hits}  of {len(lines)}")
ok = (abs(got["mean_of_running_perplexities"] - mean) <= 1e-4 * mean and abs(got["perplexity"] - last) <= 1e-4 * last
      and got["tokens"] == count and told["items"] == len(lines)
      and abs(told["last_token_acc"] * len(lines) - hits) <= close + 0.5)
print("equal" if ok else "DIFFERENT")
sys.exit(not ok)
