"""Tiny Whisper models with what transformers computes for them.

    python tests/golden/model/make_whisper.py [CASE]...   (torch and transformers as in ../versions.txt)

One folder for each case: config.json, generation_config.json and weights as a Hugging Face folder,
and reference.safetensors with
    mel     [bands, F]   what WhisperFeatureExtractor makes of the first 0.8 seconds of
                         whisper_sound.wav beside the folders
    encoded [F / 2, D]   the encoder's output for that
    ids     [m]          ids for the decoder, and
    logits  [m, V]       what follows each of them
    said.OPTIONS         generate's ids for these, or for the whole sound where OPTIONS say "long"
The window is one second, not thirty. Weights are seeded; a seed where a choice that generate makes
is a near tie is skipped: another order of sums would choose otherwise.
"""
import json
import shutil
import sys
import wave

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperForConditionalGeneration

from make import HERE

V, T, RATE, MARGIN = 160, 50, 16000, 5e-4
EOS, SOT, EN, DE, TRANSLATE, TRANSCRIBE, NOTIMES = 100, 101, 102, 103, 104, 105, 106
FIRST = NOTIMES + 1  # of the times


def config(**changes):
    return {"architectures": ["WhisperForConditionalGeneration"], "model_type": "whisper",
            "vocab_size": V, "d_model": 32, "num_mel_bins": 16, "max_source_positions": T,
            "max_target_positions": 28, "encoder_layers": 2, "encoder_attention_heads": 4,
            "encoder_ffn_dim": 48, "decoder_layers": 2, "decoder_attention_heads": 4,
            "decoder_ffn_dim": 40, "activation_function": "gelu", "scale_embedding": False,
            "bos_token_id": EOS, "eos_token_id": EOS, "pad_token_id": EOS,
            "decoder_start_token_id": SOT, "torch_dtype": "float32", **changes}


def generation(**changes):
    return {"bos_token_id": EOS, "eos_token_id": EOS, "pad_token_id": EOS,
            "decoder_start_token_id": SOT, "begin_suppress_tokens": [20, EOS],
            "suppress_tokens": [1, 2, 7, 30, 31, TRANSLATE, TRANSCRIBE, SOT],
            "lang_to_id": {"<|en|>": EN, "<|de|>": DE},
            "task_to_id": {"transcribe": TRANSCRIBE, "translate": TRANSLATE},
            "no_timestamps_token_id": NOTIMES, "max_initial_timestamp_index": 10,
            "is_multilingual": True, "return_timestamps": False, "max_length": 28, **changes}


ALL = ["", "times", "en", "times.de", "en.translate", "times.long"]
# config, generation_config, options
CASES = {
    "whisper_f32": (config(), generation(), ALL),
    "whisper_forced_f16": (config(torch_dtype="float16", num_mel_bins=80, encoder_attention_heads=2),
                           generation(forced_decoder_ids=[[1, None], [2, TRANSCRIBE]]),
                           ["", "times", "times.de", "times.long"]),
    "whisper_scaled_untied": (config(torch_dtype="bfloat16", scale_embedding=True,
                                     tie_word_embeddings=False, activation_function="relu",
                                     num_mel_bins=128, decoder_layers=1),
                              generation(max_initial_timestamp_index=None), ["", "times", "times.long"]),
    "whisper_english": (config(encoder_layers=1, decoder_attention_heads=2, torch_dtype="float16"),
                        {k: v for k, v in generation(is_multilingual=False).items()
                         if k not in ("lang_to_id", "task_to_id")}, ["", "times"]),
}


def weights(model, seed, dtype):
    """Large enough that attention, biases and norms all matter to the logits."""
    g = torch.Generator().manual_seed(seed)
    out = {}
    for name, p in model.state_dict().items():
        r = torch.randn(p.shape, generator=g)
        if name.startswith("model.encoder.embed_positions"):
            r = p.clone()  # the sinusoids
        elif p.ndim == 1:
            r = 1 + 0.3 * r if "norm" in name else 0.5 * r
        elif "embed" not in name:
            r = r * 1.6 / p[0].numel() ** 0.5
        if name.endswith("embed_tokens.weight"):
            r *= 0.5  # or the last id says itself for ever
            r[EOS] *= 1.6
        if "decoder.embed_positions" in name:
            r *= 1.5
        out[name] = r.to(dtype)
    return out


def sound(seconds=2.2, short=0.8):
    g = np.random.default_rng(4)
    t = np.arange(int(seconds * RATE)) / RATE
    x = sum(np.sin(2 * np.pi * f * t * (1 + 0.2 * t / seconds)) for f in g.uniform(100, 3000, 4))
    x = np.round(0.1 * x * (0.3 + np.sin(3 * t) ** 2) * 32768).clip(-32768, 32767).astype("<i2")
    with wave.open(str(HERE / "whisper_sound.wav"), "wb") as f:
        f.setnchannels(1), f.setsampwidth(2), f.setframerate(RATE)
        f.writeframes(x.tobytes())
    x = x.astype(np.float32) / 32768
    return x[:int(short * RATE)], x


def write(folder, about, generation_config, tensors):
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(about, indent=1) + "\n")
    (folder / "generation_config.json").write_text(json.dumps(generation_config, indent=1) + "\n")
    tensors = dict(tensors)
    if about.get("tie_word_embeddings", True):
        tensors.pop("proj_out.weight", None)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


class Loops(Exception):
    pass


class Turns:
    """generate hears a window for ever where times do not go on."""
    def __init__(self):
        self.left = 12

    def __call__(self, progress):
        self.left -= 1
        if self.left < 0:
            raise Loops


class Margin(torch.nn.Module):
    """Watches how near the second choice is, before and after the rules."""
    def __init__(self):
        super().__init__()
        self.least = float("inf")

    def __call__(self, ids, scores):
        top = scores[0].topk(2).values
        self.least = min(self.least, float(top[0] - top[1]))
        return scores


@torch.no_grad()
def run(folder, seed, options):
    model = WhisperForConditionalGeneration.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager").eval()
    c = model.config
    extract = WhisperFeatureExtractor(feature_size=c.num_mel_bins, chunk_length=1)
    short, long = sound()
    mel = extract(short, sampling_rate=RATE, return_tensors="pt").input_features
    whole = extract(long, sampling_rate=RATE, return_tensors="pt", truncation=False,
                    padding="longest").input_features
    out = {"mel": mel[0].contiguous()}
    out["encoded"] = model.model.encoder(mel).last_hidden_state[0].contiguous()
    g = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, V, (1, 12), generator=g)
    logits = model(mel, decoder_input_ids=ids).logits[0]
    out["ids"], out["logits"] = ids[0], logits.contiguous()
    for option in options:
        words = option.split(".")
        margin = Margin()
        language = next((w for w in words if w in ("en", "de")), None)
        how = {"return_timestamps": "times" in words, "monitor_progress": Turns()}
        if language:
            how["language"] = language
        if "translate" in words:
            how["task"] = "translate"
        try:
            said = model.generate(whole if "long" in words else mel, logits_processor=[margin],
                                  **how)[0]
        except Loops:
            print("    loops", option, file=sys.stderr)
            return None
        if margin.least < MARGIN * float(logits.abs().max()):
            print("    near tie", option, file=sys.stderr)
            return None
        said = said[said != EOS] if len(said) and said[-1] == EOS else said
        out["said." + option] = said.clone()
    said = {k: v.tolist() for k, v in out.items() if k.startswith("said")}
    pairs = any(a >= FIRST <= b for v in said.values() for a, b in zip(v, v[1:]))
    ends = any(len(v) < 20 for v in said.values())
    if not ((pairs or ends) and min(len(set(v)) for v in said.values()) > 1):
        print("    too little happens", said, file=sys.stderr)
        return None
    return out


def main():
    torch.set_num_threads(1)
    for name in sys.argv[1:] or CASES:
        about, generation_config, options = CASES[name]
        folder = HERE / name
        dtype = getattr(torch, about["torch_dtype"])
        model = WhisperForConditionalGeneration(WhisperConfig(**about))
        for seed in range(400):
            write(folder, about, generation_config, weights(model, seed, dtype))
            reference = run(folder, seed, options)
            if reference is not None:
                break
        else:
            raise SystemExit(f"{name}: every seed ends in a near tie")
        save_file(reference, folder / "reference.safetensors")
        for f in folder.iterdir():
            f.chmod(0o644)
        print(f"{name:24} seed {seed}", sum(f.stat().st_size for f in folder.iterdir()), "bytes",
              {k: v.tolist() for k, v in reference.items() if k.startswith("said")})


if __name__ == "__main__":
    main()
