"""Trains kjv-llama and writes it as a Hugging Face folder.

usage: train.py OUT_DIR [--minutes N] [--threads N]

OUT_DIR must hold tokenizer.json (see tokenizer.py). The best model so far, by
held-out loss, is written there at every evaluation.
"""
import argparse
import math
import os
import pathlib
import subprocess
import time

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from transformers import AttentionInterface, GenerationConfig, LlamaConfig, LlamaForCausalLM

CONTEXT = 512
BATCH = 4
PEAK_LR = 1.5e-3
WARMUP = 0.03  # share of the run
DROPOUT = 0.1
WEIGHT_DECAY = 0.1
EVAL_EVERY = 500

arg = argparse.ArgumentParser()
arg.add_argument("out", type=pathlib.Path)
arg.add_argument("--minutes", type=float, default=65)
arg.add_argument("--threads", type=int, default=1)
arg = arg.parse_args()
torch.set_num_threads(arg.threads)
torch.manual_seed(1611)

here = pathlib.Path(__file__).resolve().parent
tok = Tokenizer.from_file(str(arg.out / "tokenizer.json"))
BOS = tok.token_to_id("<|endoftext|>")


def tokens(part):
    text = subprocess.run([here / "heldout.sh", part], check=True, capture_output=True).stdout.decode()
    return torch.tensor(tok.encode(text, add_special_tokens=False).ids)


def windows(ids, starts):
    """One row per start: the inputs (BOS and 511 tokens) and the 512 targets."""
    rows = ids[starts[:, None] + torch.arange(CONTEXT)]
    return torch.cat([torch.full((len(rows), 1), BOS), rows[:, :-1]], 1), rows


train, held = tokens("train"), tokens("heldout")
newline = tok.token_to_id("Ċ")
verse_starts = (train[:-CONTEXT] == newline).nonzero()[:, 0] + 1
held_in, held_out = windows(held, torch.arange(0, len(held) - CONTEXT, CONTEXT))


def blocks(module, q, k, v, mask, scaling, **_):
    """Causal attention by blocks of queries: on a CPU, in bf16, twice as fast
    as scaled_dot_product_attention, forward and backward."""
    size = 128
    groups = q.shape[1] // k.shape[1]
    k = k.repeat_interleave(groups, 1).flatten(0, 1)
    v = v.repeat_interleave(groups, 1).flatten(0, 1)
    out = []
    for i in range(0, q.shape[2], size):
        end = i + size
        causal = torch.ones(size, end).tril(i).log().to(q.dtype)
        scores = torch.baddbmm(causal, q[:, :, i:end].flatten(0, 1), k[:, :end].transpose(1, 2), alpha=scaling)
        out.append(scores.softmax(-1) @ v[:, :end])
    return torch.cat(out, 1).view_as(q).transpose(1, 2), None


AttentionInterface.register("blocks", blocks)
model = LlamaForCausalLM(LlamaConfig(
    vocab_size=tok.get_vocab_size(),
    hidden_size=256,
    intermediate_size=768,
    num_hidden_layers=5,
    num_attention_heads=8,
    num_key_value_heads=4,
    head_dim=32,
    max_position_embeddings=CONTEXT,
    rms_norm_eps=1e-5,
    tie_word_embeddings=True,
    bos_token_id=BOS,
    eos_token_id=BOS,
    use_cache=True,
    attn_implementation="blocks",
))
# The output projections of the residual branches start smaller, so that the
# residual stream does not grow with depth.
for name, p in model.named_parameters():
    if name.endswith(("o_proj.weight", "down_proj.weight")):
        p.data /= math.sqrt(2 * model.config.num_hidden_layers)


# transformers' Llama has no dropout on its residual branches; hooks add it.
def drop(module, args, out):
    if isinstance(out, tuple):
        return (F.dropout(out[0], DROPOUT, module.training), *out[1:])
    return F.dropout(out, DROPOUT, module.training)


for layer in model.model.layers:
    layer.self_attn.register_forward_hook(drop)
    layer.mlp.register_forward_hook(drop)
model.model.embed_tokens.register_forward_hook(drop)

matrices = [p for p in model.parameters() if p.ndim == 2]
vectors = [p for p in model.parameters() if p.ndim < 2]
opt = torch.optim.AdamW(
    [{"params": matrices, "weight_decay": WEIGHT_DECAY}, {"params": vectors, "weight_decay": 0.0}],
    lr=PEAK_LR, betas=(0.9, 0.98), fused=True,
)


def loss_of(inputs, targets):
    # Matrix products in bf16, everything else and the weights in f32.
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(input_ids=inputs, use_cache=False).logits
    return F.cross_entropy(logits.float().flatten(0, 1), targets.flatten())


@torch.no_grad()
def evaluate():
    model.eval()
    parts = [loss_of(i, t) for i, t in zip(held_in.split(BATCH), held_out.split(BATCH))]
    model.train()
    return torch.stack(parts).mean().item()


def save():
    copy = LlamaForCausalLM(model.config).to(torch.bfloat16)
    copy.load_state_dict({k: v.to(torch.bfloat16) for k, v in model.state_dict().items()})
    copy.generation_config = GenerationConfig(bos_token_id=BOS, eos_token_id=BOS, do_sample=False)
    tmp = arg.out / ".new"
    copy.save_pretrained(tmp)
    for f in tmp.iterdir():
        os.replace(f, arg.out / f.name)
    tmp.rmdir()


print(f"{len(train)} train tokens, {len(held)} held out, "
      f"{sum(p.numel() for p in model.parameters())} parameters", flush=True)
model.train()
begin = time.monotonic()
step, best, mean = 0, math.inf, None
while True:
    # The schedule follows the clock, since the time is what is given.
    done = (time.monotonic() - begin) / (60 * arg.minutes)
    if step % EVAL_EVERY == 0 and step or done >= 1:
        held_loss = evaluate()
        print(f"step {step} time {done * arg.minutes:.1f} min epoch {step * BATCH * CONTEXT / len(train):.2f} "
              f"lr {opt.param_groups[0]['lr']:.2e} train {mean:.4f} held-out {held_loss:.4f}", flush=True)
        if held_loss < best:
            best = held_loss
            save()
    if done >= 1:
        break
    lr = PEAK_LR * min(done / WARMUP + 1e-3, 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done)))
    for group in opt.param_groups:
        group["lr"] = lr
    # Half of the windows start with a verse, as prompts do, half anywhere.
    anywhere = torch.randint(len(train) - CONTEXT, (BATCH // 2,))
    verses = verse_starts[torch.randint(len(verse_starts), (BATCH // 2,))]
    loss = loss_of(*windows(train, torch.cat([anywhere, verses])))
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    opt.step()
    opt.zero_grad()
    step += 1
    mean = loss.item() if mean is None else 0.98 * mean + 0.02 * loss.item()
    if step in (5, 20, 50):
        print(f"step {step} loss {loss.item():.3f} {step * BATCH * CONTEXT / (time.monotonic() - begin):.0f} tokens/s", flush=True)
