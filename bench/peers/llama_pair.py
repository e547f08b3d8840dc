# llama_pair.py: decoding and a prompt of Llama-3.1-8B's exact shapes in llama.cpp and in nibble, in turns.
#
#     llama_pair.py MODEL.gguf FOLDER [--rounds 5] [--threads 1,2] [--nibble build/nibble] [--activations int8]
#
# MODEL.gguf: write_gguf.py, Q4_0; FOLDER: make_checkpoint's quantized to int4 in groups of 64, head
# included. The llama.cpp is llama-cpp-python's, by its low-level calls; nibble is `nibble bench`. Each
# side runs a prompt of 512 tokens and then decodes 32, in a process of its own, once a round.
import argparse
import json
import statistics
import subprocess
import sys
import time

PROMPT, NEW = 512, 32


def llama(path, threads):
    """One process's figures: tokens a second of the prompt and of decoding."""
    import llama_cpp
    model = llama_cpp.Llama(path, n_ctx=1024, n_batch=PROMPT, n_ubatch=PROMPT, n_threads=threads,
                            n_threads_batch=threads, verbose=False, logits_all=False)
    ids = [(i * 7919 + 13) % 128000 for i in range(PROMPT)]
    model.eval(ids[:8])  # touches every weight once
    model.reset()
    began = time.perf_counter()
    model.eval(ids)
    filled = time.perf_counter()
    for i in range(NEW):
        model.eval([ids[i]])
    ended = time.perf_counter()
    print(json.dumps({"prompt": PROMPT / (filled - began), "decode": NEW / (ended - filled)}))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("gguf"), parser.add_argument("folder")
    parser.add_argument("--one", type=int)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=lambda s: [int(x) for x in s.split(",")], default=[1, 2])
    parser.add_argument("--nibble", default="build/nibble")
    parser.add_argument("--activations")
    parser.add_argument("--python", default=sys.executable)
    options = parser.parse_args()
    if options.one:
        return llama(options.gguf, options.one)
    samples = {}
    for _ in range(options.rounds):
        for threads in options.threads:
            line = subprocess.run([options.python, __file__, options.gguf, options.folder, "--one", str(threads)],
                                  capture_output=True, text=True, check=True).stdout.splitlines()[-1]
            theirs = json.loads(line)
            extra = ["--activations", options.activations] if options.activations else []
            ours = json.loads(subprocess.run(
                [options.nibble, "bench", options.folder, "-p", str(PROMPT), "-n", str(NEW + 1), "-r", "1", "-q", "-j",
                 "-t", str(threads), *extra], capture_output=True, text=True, check=True).stdout)
            ours = {"prompt": ours["prompt_tokens_per_second"], "decode": ours["tokens_per_second"]}
            for key in theirs:
                samples.setdefault((threads, key), []).append((ours[key], theirs[key]))
    name = "int4, groups of 64" + (f", {options.activations} inputs" if options.activations else "")
    print(f"| threads | what | nibble {name}, tokens/s | llama.cpp Q4_0, tokens/s | ratio | least | most |")
    print("|--:|---|--:|--:|--:|--:|--:|")
    for (threads, key), pairs in samples.items():
        ratios = [o / t for o, t in pairs]
        print(f"| {threads} | {key} | {statistics.median(o for o, _ in pairs):.2f} | "
              f"{statistics.median(t for _, t in pairs):.2f} | {statistics.median(ratios):.2f} | "
              f"{min(ratios):.2f} | {max(ratios):.2f} |")
    if len(options.threads) > 1:
        a, b = options.threads[0], options.threads[-1]
        scale = [y[0] / x[0] for x, y in zip(samples[a, "prompt"], samples[b, "prompt"])]
        print(f"\nPrompt, nibble, {b} threads against {a}: {statistics.median(scale):.2f}")


main()
