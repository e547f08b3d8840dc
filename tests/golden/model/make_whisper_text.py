"""A small Whisper that says words: a model, its tokenizer, and what transformers makes of both.

    python tests/golden/model/make_whisper_text.py

writes the folder whisper_text as make_whisper.py writes its cases, with a byte-level BPE that was trained
on the words of tokenizer/words.txt and has Whisper's special tokens, as transformers' WhisperTokenizer
saves it, and
    reference.json   for each of OPTIONS WhisperTokenizer's text of generate's ids, and with times the
                     segments of generate: start, end, text
    said.txt, said_times.txt   what `nibble transcribe` is to print for the whole sound, the second with
                     --timestamps
Tokens that are no printable ASCII are suppressed, so that what is said is text.
"""
import json
import shutil

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (WhisperConfig, WhisperFeatureExtractor, WhisperForConditionalGeneration,
                          WhisperTokenizer)

import make_whisper as w
from make import HERE

MERGES, TIMES = 120, 51
FOLDER = HERE / "whisper_text"
OPTIONS = ["", "times", "en.times", "times.long"]


def train():
    t = Tokenizer(models.BPE())
    t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    t.decoder = decoders.ByteLevel()
    words = (HERE.parent / "tokenizer" / "words.txt").read_text(encoding="utf-8").split()
    ascii_words = [word for word in words if word.isascii() and word.isalpha()]
    t.train_from_iterator([" ".join(ascii_words)] * 4, trainers.BpeTrainer(
        vocab_size=256 + MERGES, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    made = json.loads(t.to_str())["model"]
    return made["vocab"], [" ".join(m) if isinstance(m, list) else m for m in made["merges"]]


def tokenizer_of(vocab, merges):
    special = ["<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|de|>", "<|translate|>",
               "<|transcribe|>", "<|startoflm|>", "<|startofprev|>", "<|nospeech|>", "<|notimestamps|>"]
    n = len(vocab)
    t = WhisperTokenizer(vocab=dict(vocab), merges=[tuple(m.split()) for m in merges], errors="replace",
                         unk_token=special[0], bos_token=special[0], eos_token=special[0])
    t.add_special_tokens({"extra_special_tokens": special[1:]})
    t.add_tokens([f"<|{i * 0.02:.2f}|>" for i in range(TIMES)])
    assert t.convert_tokens_to_ids(special) == list(range(n, n + len(special))), "ids"
    assert t.convert_tokens_to_ids(f"<|{0:.2f}|>") == n + len(special)
    return t, {name: n + i for i, name in enumerate(special)}


def segment_line(s):
    def stamp(x):
        hundredths = int(x * 100 + 0.5)
        return f"{hundredths // 6000:02d}:{hundredths // 100 % 60:02d}.{hundredths % 100:02d}"

    return f"[{stamp(s['start'])} --> {stamp(s['end'])}] {s['text']}\n"


@torch.no_grad()
def told(tokenizer, option):
    model = WhisperForConditionalGeneration.from_pretrained(
        FOLDER, dtype=torch.float32, attn_implementation="eager").eval()
    extract = WhisperFeatureExtractor(feature_size=model.config.num_mel_bins, chunk_length=1)
    words = option.split(".")
    short, long = w.sound()
    mel = extract(long if "long" in words else short, sampling_rate=w.RATE, return_tensors="pt",
                  **({"truncation": False, "padding": "longest"} if "long" in words else {})).input_features
    how = {"return_timestamps": True, "return_segments": True} if "times" in words else {}
    if "en" in words:
        how["language"] = "en"
    made = model.generate(mel, **how)
    if "times" not in words:
        return {"text": tokenizer.decode(made[0], skip_special_tokens=True)}
    pieces = [{"start": float(s["start"]), "end": float(s["end"]),
               "text": tokenizer.decode(s["tokens"], skip_special_tokens=True)} for s in made["segments"][0]]
    return {"text": tokenizer.decode(made["sequences"][0], skip_special_tokens=True), "pieces": pieces}


def main():
    torch.set_num_threads(1)
    shutil.rmtree(FOLDER, ignore_errors=True)
    vocab, merges = train()
    tokenizer, special = tokenizer_of(vocab, merges)
    w.V = len(tokenizer)
    w.EOS, w.SOT, w.EN, w.DE, w.TRANSLATE, w.TRANSCRIBE = list(special.values())[:6]
    w.NOTIMES, w.FIRST = special["<|notimestamps|>"], special["<|notimestamps|>"] + 1
    hidden = [i for token, i in vocab.items() if len(token) < 2 or not token.lstrip("Ġ").isalpha()
              or not token.lstrip("Ġ").isascii()]
    quiet = sorted(hidden)[:240] + list(special.values())[1:]
    config = w.config()
    generation = w.generation(suppress_tokens=quiet, begin_suppress_tokens=[w.EOS])
    model = WhisperForConditionalGeneration(WhisperConfig(**config))
    for seed in range(400):
        w.write(FOLDER, config, generation, w.weights(model, seed, torch.float32))
        reference = w.run(FOLDER, seed, ["", "times", "times.long"])
        if reference is None:
            continue
        tokenizer.save_pretrained(FOLDER)
        found = {option: told(tokenizer, option) for option in OPTIONS}
        if len(found["times.long"]["pieces"]) >= 3 and all(f["text"].isascii() for f in found.values()):
            break
    else:
        raise SystemExit("no seed")
    whole = found["times.long"]
    (FOLDER / "said.txt").write_text(whole["text"] + "\n")
    (FOLDER / "said_times.txt").write_text("".join(map(segment_line, whole["pieces"])))
    (FOLDER / "reference.json").write_text(json.dumps(found, indent=1) + "\n")
    for f in FOLDER.iterdir():
        f.chmod(0o644)
    print("seed", seed, sum(f.stat().st_size for f in FOLDER.rglob("*")), "bytes")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
