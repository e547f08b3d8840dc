# llama_pair.py: decoding and a prompt of Llama-3.1-8B's exact shapes in llama.cpp and in nibble, in turns.
#
#     llama_pair.py MODEL.gguf FOLDER [--rounds 12] [--prompts 3] [--threads 1,2] [--build build] [--activations int8]
#
# MODEL.gguf: write_gguf.py, Q4_0; FOLDER: make_checkpoint's quantized to int4 in groups of 64, head
# included. The llama.cpp is llama-cpp-python's, by its low-level calls. Both sides stay loaded and take
# turns of a few tokens, the one that waits stopped, since what memory gives here can change by half within
# seconds: a ratio is the median of those of neighbours. Beside them what can be read in that moment.
import argparse
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time

import race

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
PROMPT, NEW, ROOM = 512, 4, 1024


def llama(path):
    """Answers turns as drive_model.c does."""
    import llama_cpp
    model = llama_cpp.Llama(path, n_ctx=ROOM, n_batch=PROMPT, n_ubatch=PROMPT, verbose=False, logits_all=False)
    ids = [(i * 7919 + 13) % 128000 for i in range(PROMPT)]
    model.eval(ids[:8])  # touches every weight once
    print("ready", flush=True)
    for line in sys.stdin:
        what, n, threads = line.split()
        llama_cpp.llama_set_n_threads(model.ctx, int(threads), int(threads))
        if what == "prompt" or model.n_tokens + int(n) > ROOM:
            model.reset()
            if what != "prompt":
                model.eval(ids[:8])
        began = time.perf_counter()
        if what == "prompt":
            model.eval(ids[:int(n)])
        else:
            for i in range(int(n)):
                model.eval([ids[i]])
        passed = time.perf_counter() - began
        if what == "prompt":
            model.reset()
        print(passed, flush=True)


class Side:
    def __init__(self, *command):
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
        while (line := self.process.stdout.readline()) and line.strip() != "ready":
            pass
        if not line:
            sys.exit(f"{command[0]} ended")
        self.process.send_signal(signal.SIGSTOP)

    def ask(self, what, n, threads):
        self.process.send_signal(signal.SIGCONT)
        self.process.stdin.write(f"{what} {n} {threads}\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"a side ended at {what} {n} {threads}")
        self.process.send_signal(signal.SIGSTOP)
        return float(line)

    def end(self):
        self.process.send_signal(signal.SIGCONT)
        self.process.stdin.close()
        self.process.wait()


def words(values):
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("gguf"), parser.add_argument("folder", nargs="?")
    parser.add_argument("--llama", action="store_true", help="be that side")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--prompts", type=int, default=3)
    parser.add_argument("--threads", type=lambda s: [int(x) for x in s.split(",")], default=[1, 2])
    parser.add_argument("--build", default=os.path.join(ROOT, "build"))
    parser.add_argument("--activations")
    options = parser.parse_args()
    if options.llama:
        return llama(options.gguf)
    room = tempfile.TemporaryDirectory()
    driver = os.path.join(room.name, "drive_model")
    subprocess.run([os.environ.get("CC", "cc"), "-O2", "-D_GNU_SOURCE", f"-I{ROOT}/include", "-o", driver,
                    os.path.join(ROOT, "bench/peers/drive_model.c"), os.path.join(options.build, "libnibble.a"),
                    *race.nibble_needs()], check=True)
    ours = Side(driver, options.folder, *([options.activations] if options.activations else []))
    theirs = Side(sys.executable, os.path.abspath(__file__), options.gguf, "--llama")
    reads, turns = {}, {}
    for turn in range(-1, options.rounds):
        for threads in options.threads:
            for what, n in [("decode", NEW)] + ([("prompt", PROMPT)] if turn < options.prompts and turn >= 0 else []):
                read = ours.ask("read", 0, threads)
                sides = [ours, theirs] if turn % 2 else [theirs, ours]
                seconds = {side: side.ask(what, n, threads) for side in sides}
                if turn >= 0:
                    reads.setdefault((threads, what), []).append(read)
                    turns.setdefault((threads, what), []).append((n / seconds[ours], n / seconds[theirs]))
    name = "int4, groups of 64" + (f", {options.activations} inputs" if options.activations else "")
    print(f"| threads | what | nibble {name}, tokens/s | llama.cpp Q4_0, tokens/s | ratio | could be read, GB/s |")
    print("|--:|---|--:|--:|--:|--:|")
    for (threads, what), pairs in turns.items():
        print(f"| {threads} | {what} | {words([o for o, _ in pairs])} | {words([t for _, t in pairs])} | "
              f"{words([o / t for o, t in pairs])} | {words(reads[threads, what])} |")
    if len(options.threads) > 1 and options.prompts:
        a, b = (turns[t, "prompt"] for t in (options.threads[0], options.threads[-1]))
        scale = [y[0] / x[0] for x, y in zip(a, b)]
        print(f"\nPrompt, nibble, {options.threads[-1]} threads against {options.threads[0]}: {words(scale)}")
    ours.end()
    theirs.end()


main()
