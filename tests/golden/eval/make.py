"""Two tiny models with tokenizers, data for every task of nib_eval_file, and what transformers and
plain Python make of them.

    python tests/golden/eval/make.py           (versions as in ../versions.txt)

with_bos/ has a tokenizer that puts <s> first, without_bos/ the same vocabulary without that.
expected.json holds the measures by the definitions in nibble.h, sums in float64 over the f32 logits
of one forward pass for each window or continuation.
"""
import json
import math
import pathlib
import random
import shutil

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

HERE = pathlib.Path(__file__).parent
WORDS = ("the a river stone light bird old small carries under over finds lost and then morning "
         "door keeps song she he they walked slowly home caf\u00e9 na\u00efve \u2013 to of in").split()
rng = random.Random(5)


def sentence(n):
    return " ".join(rng.choice(WORDS) for _ in range(n))


def make_model(name, bos, noise, text):
    folder = HERE / name
    shutil.rmtree(folder, ignore_errors=True)
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tok.decoder = decoders.ByteLevel()
    tok.train_from_iterator([text], trainers.BpeTrainer(
        vocab_size=320, special_tokens=["<s>", "</s>"], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    if bos:
        tok.post_processor = processors.TemplateProcessing(
            single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 0)])
    PreTrainedTokenizerFast(tokenizer_object=tok, eos_token="</s>",
                            **({"bos_token": "<s>"} if bos else {})).save_pretrained(folder)
    torch.manual_seed(1)
    model = LlamaForCausalLM(LlamaConfig(
        vocab_size=320, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=256, tie_word_embeddings=True, bos_token_id=0,
        eos_token_id=1))
    with torch.no_grad():
        for n, p in model.named_parameters():
            if p.ndim == 2:
                p.normal_(0, 0.25 if "embed" in n else 1.5 / p.shape[1] ** 0.5)
        for p in model.parameters():
            p += noise * p.std() * torch.randn(p.shape) if p.ndim == 2 else 0
    model.to(torch.bfloat16).save_pretrained(folder)
    (folder / "generation_config.json").unlink()


def open_model(name):
    return (LlamaForCausalLM.from_pretrained(HERE / name, dtype=torch.float32, attn_implementation="eager").eval(),
            AutoTokenizer.from_pretrained(HERE / name))


@torch.no_grad()
def log_probs(model, ids):
    return model(torch.tensor([ids])).logits[0].double().log_softmax(-1)


def perplexity(model, tok, text, context, full, reference=None):
    ids = tok(text, add_special_tokens=False)["input_ids"]
    lead = [tok.bos_token_id] if tok.bos_token_id is not None else []
    step, nll, kl, same = context - len(lead), [], [], []
    for at in range(0, len(ids), step):
        window = lead + ids[at:at + step]
        if len(window) < (2 if full else context):
            break
        q = log_probs(model, window)
        p = log_probs(reference, window) if reference else None
        for i in range(1 if full else context // 2, len(window)):
            nll.append(-q[i - 1, window[i]].item())
            if reference:
                kl.append((p[i - 1].exp() * (p[i - 1] - q[i - 1])).sum().item())
                same.append(float(p[i - 1].argmax() == q[i - 1].argmax()))
    n = len(nll)
    mean = sum(nll) / n
    deviation = math.sqrt(sum((x - mean) ** 2 for x in nll) / n / (n - 1))
    out = {"tokens": n, "perplexity": math.exp(mean), "perplexity_error": math.exp(mean) * deviation,
           "bits_per_byte": mean / math.log(2) * len(ids) / len(text.encode())}
    if reference:
        kl.sort()
        out |= {"kl_mean": sum(kl) / n, "kl_p99": kl[int(0.99 * (n - 1) + 0.5)], "same_top": sum(same) / n}
    return out


def continuation(model, tok, begin, more):
    first, ids = len(tok(begin)["input_ids"]), tok(begin + " " + more)["input_ids"]
    lp = log_probs(model, ids)
    rows = [lp[i - 1] for i in range(first, len(ids))]
    return (sum(r[ids[first + i]].item() for i, r in enumerate(rows)),
            all(int(r.argmax()) == ids[first + i] for i, r in enumerate(rows)))


def share_error(x, n):
    return math.sqrt(x * (1 - x) / (n - 1))


def hellaswag(model, tok, items):
    right = right_norm = 0
    for item in items:
        begin = item["activity_label"] + ": " + item["ctx"]
        s = [continuation(model, tok, begin, e)[0] for e in item["endings"]]
        norm = [x / len(e) for x, e in zip(s, item["endings"])]
        right += s.index(max(s)) == item["label"]
        right_norm += norm.index(max(norm)) == item["label"]
    n = len(items)
    return {"items": n, "acc": right / n, "acc_norm": right_norm / n, "acc_error": share_error(right / n, n),
            "acc_norm_error": share_error(right_norm / n, n)}


def lambada(model, tok, items):
    s = [continuation(model, tok, c, w) for c, w in items]
    n, mean = len(s), sum(x for x, _ in s) / len(s)
    acc = sum(g for _, g in s) / n
    deviation = math.sqrt(sum((x - mean) ** 2 for x, _ in s) / n / (n - 1))
    return {"items": n, "acc": acc, "acc_error": share_error(acc, n), "perplexity": math.exp(-mean),
            "perplexity_error": math.exp(-mean) * deviation}


def perplexity_quanto(model, tok, text, context):
    """Protocol "quanto": its harness's mean of running perplexities, and the perplexity beside it."""
    text = "".join(line if line.strip() else " \n" for line in text.splitlines(keepends=True))
    ids = tok(text)["input_ids"]
    nll, running = [], []
    for at in range(0, len(ids) - context + 1, context):
        window = ids[at:at + context]
        if tok.bos_token_id is not None:
            window[0] = tok.bos_token_id
        q = log_probs(model, window)
        nll += [-q[j, window[j + 1]].item() for j in range(min(512, context // 2), context - 1)]
        running.append(math.exp(sum(nll) / len(nll)))
    return {"tokens": len(nll), "running_perplexity": sum(running) / len(running),
            "perplexity": math.exp(sum(nll) / len(nll))}


def last_token(model, tok, lines):
    hits = 0
    for item in map(json.loads, lines):
        text = item["text"] if "text" in item else item["context"] + " " + item["continuation"]
        ids = tok(text)["input_ids"]
        hits += int(log_probs(model, ids[:-1])[-1].argmax()) == ids[-1]
    return {"items": len(lines), "acc": hits / len(lines)}


def main():
    text = ". ".join(sentence(12) for _ in range(40)) + ".\n"
    (HERE / "text.txt").write_text(text)
    blank = text.replace(". the ", ".\n\n \t\n the ")   # lines that hold no word
    (HERE / "blank.txt").write_text(blank)
    make_model("with_bos", True, 0, text)
    make_model("without_bos", False, 0.1, text)
    a, tok_a = open_model("with_bos")
    b, tok_b = open_model("without_bos")

    items = [{"activity_label": sentence(2), "ctx": sentence(9) + ". " + sentence(1),
              "label": rng.randrange(4), "endings": [sentence(rng.randrange(2, 12)) for _ in range(4)]}
             for _ in range(24)]
    lines = []
    for i, item in enumerate(items):           # every other line in the dataset's other spelling
        if i % 2:
            first, second = item["ctx"].rsplit(" ", 1)
            item = {"activity_label": item["activity_label"], "ctx_a": first, "ctx_b": second,
                    "label": str(item["label"]), "ending_options": item["endings"]}
        lines.append(json.dumps(item, ensure_ascii=i % 3 == 0))
    (HERE / "hellaswag.jsonl").write_text("\n".join(lines) + "\n")

    pairs = []
    while len(pairs) < 24:                     # a quarter ends in what model a says, so acc is not 0
        begin = sentence(15)
        word = rng.choice(WORDS)
        if len(pairs) % 4 == 0:
            top = log_probs(a, tok_a(begin)["input_ids"])[-1].topk(40).indices.tolist()
            said = [tok_a.decode([i]) for i in top]
            said = [w[1:] for w in said if w[:1] == " " and w[1:].isalpha()]
            if not said or not continuation(a, tok_a, begin, said[0])[1]:
                continue
            word = said[0]
        pairs.append((begin, word))
    lines = [json.dumps({"text": c + " " + w} if i % 2 else {"context": c, "continuation": w})
             for i, (c, w) in enumerate(pairs)]
    (HERE / "lambada.jsonl").write_text("\n".join(lines) + "\n")

    expected = {
        "with_bos/half/64": perplexity(a, tok_a, text, 64, False, b),
        "with_bos/full/64": perplexity(a, tok_a, text, 64, True, b),
        "with_bos/half/200": perplexity(a, tok_a, text, 200, False, b),
        "without_bos/half/64": perplexity(b, tok_b, text, 64, False, a),
        "without_bos/full/50": perplexity(b, tok_b, text, 50, True, a),
        "with_bos/hellaswag": hellaswag(a, tok_a, items),
        "without_bos/hellaswag": hellaswag(b, tok_b, items),
        "with_bos/lambada": lambada(a, tok_a, pairs),
        "without_bos/lambada": lambada(b, tok_b, pairs),
        "with_bos/quanto/64": perplexity_quanto(a, tok_a, text, 64),
        "with_bos/quanto/100": perplexity_quanto(a, tok_a, blank, 100),
        "without_bos/quanto/64": perplexity_quanto(b, tok_b, blank, 64),
        "with_bos/last_token": last_token(a, tok_a, lines),
        "without_bos/last_token": last_token(b, tok_b, lines),
    }
    (HERE / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")
    print(json.dumps(expected, indent=1))


main()
