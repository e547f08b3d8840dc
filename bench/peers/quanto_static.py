"""Static int8 of nibble beside optimum-quanto 0.2.7 and torch: the same networks, in turns.

    python bench/peers/quanto_static.py [--threads 1,2] [--rounds 11] [--build build]

For each model and batch: torch's floats, quanto's modules (qint8 weights and activations, calibrated
and frozen; qint4 and qfloat8 weights) in one process, and nibble's bench_static in another; one of
them runs, the other waits. A round is one turn of each kind of each, a turn at least 50 ms; medians
of times and of ratios within the rounds. Without torch and optimum-quanto it says so and leaves with 77."""

import argparse
import os
import statistics
import subprocess
import sys
import time
import warnings

warnings.filterwarnings("ignore")
BENCH, SERVER = "bench_static", os.path.abspath(__file__)  # which other races name for themselves
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
SUBJECTS = ["mlp 1", "mlp 32", "mlp 256", "wide 1", "wide 32", "wide 256", "base-linears 1500",
            "base 1500", "large-linears 1500", "large 1500"]
KINDS = {"f32": None, "w8a8": ("qint8", "qint8"), "w4a8": ("qint4", "qint8"), "w8": ("qint8", None),
         "w4": ("qint4", None), "wf8": ("qfloat8_e4m3fn", None), "wf8af8": ("qfloat8_e4m3fn", "qfloat8_e4m3fn")}
STREAMLINE = True


def networks(nn):
    """-> make(name), shape(name, rows) of what it takes"""
    class Layer(nn.Module):
        def __init__(self, D, heads):
            super().__init__()
            self.heads = heads
            self.self_attn_layer_norm, self.final_layer_norm = nn.LayerNorm(D), nn.LayerNorm(D)
            for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
                setattr(self, name, nn.Linear(D, D))
            self.fc1, self.activation_fn, self.fc2 = nn.Linear(D, 4 * D), nn.GELU(), nn.Linear(4 * D, D)

        def split(self, x):
            return x.reshape(x.shape[0], self.heads, -1).transpose(0, 1)

        def forward(self, x):
            n = self.self_attn_layer_norm(x)
            q, k, a = self.q_proj(n), self.k_proj(n), self.v_proj(n)
            if self.heads:
                q, k, a = (t.dequantize() if hasattr(t, "dequantize") and hasattr(t, "qtype") else t for t in (q, k, a))
                a = nn.functional.scaled_dot_product_attention(self.split(q), self.split(k), self.split(a))
                a = a.transpose(0, 1).reshape(x.shape)
            x = x + self.out_proj(a)
            return x + self.fc2(self.activation_fn(self.fc1(self.final_layer_norm(x))))

    def mlp(*sizes):
        layers = []
        for a, b in zip(sizes, sizes[1:]):
            layers += [nn.Linear(a, b), nn.ReLU()]
        return nn.Sequential(*layers[:-1])

    make = {"mlp": lambda: mlp(784, 512, 512, 10), "wide": lambda: mlp(1024, 4096, 1024),
            "base-linears": lambda: Layer(512, 0), "base": lambda: Layer(512, 8),
            "large-linears": lambda: Layer(1280, 0), "large": lambda: Layer(1280, 20)}
    columns = {"mlp": 784, "wide": 1024, "base": 512, "large": 1280}
    return lambda name: make[name](), lambda name, rows: (rows, columns[name.split("-")[0]])


NETWORKS = networks


def serve(threads):
    """Read "make MODEL ROWS KIND" or "run KIND TIMES" by line, answer with seconds."""
    try:
        import torch
        from optimum.quanto import Calibration, freeze, qtypes, quantize
    except ImportError as missing:
        print(f"skipped: {missing}", flush=True)
        return
    torch.set_num_threads(threads)
    torch.manual_seed(7)
    make, shape = NETWORKS(torch.nn)
    models, x = {}, None
    with torch.inference_mode():
        for line in sys.stdin:
            word = line.split()
            try:
                if word[0] == "make":
                    name, rows, kind = word[1], int(word[2]), KINDS[word[3]]
                    x = torch.randn(shape(name, rows)) if x is None else x
                    model = make(name)
                    if kind:
                        quantize(model, weights=qtypes[kind[0]], activations=kind[1] and qtypes[kind[1]])
                        if kind[1]:
                            with Calibration(streamline=STREAMLINE):
                                model(x)
                        freeze(model)
                    model(x)
                    models[word[3]] = model
                    print(0, flush=True)
                    continue
                model, times = models[word[1]], int(word[2])
                began = time.perf_counter()
                for _ in range(times):
                    model(x)
                print((time.perf_counter() - began) / times, flush=True)
            except Exception as error:
                print(f"failed: {str(error).splitlines()[0][:100]}", flush=True)


class Racer:
    def __init__(self, command):
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline().strip()
        try:
            return float(answer)
        except ValueError:
            return answer or "ended"

    def end(self):
        self.process.stdin.close()
        self.process.wait()


def race(options, subject, threads):
    sides = {"torch": Racer([sys.executable, SERVER, "--serve", str(threads)]),
             "nibble": Racer([os.path.join(options.build, "bench", BENCH), "--serve", str(threads)])}
    times, samples, reasons = {}, {}, {}
    for kind in options.kinds:
        for who, side in sides.items():
            answer = side.ask(f"make {subject} {kind}")
            if isinstance(answer, str):
                reasons[who, kind] = answer
                continue
            samples[who, kind] = []
            times[who, kind] = 1 + int(options.turn / max(side.ask(f"run {kind} 3"), 1e-6))
    for _ in range(options.rounds):
        for (who, kind), of in samples.items():
            of.append(sides[who].ask(f"run {kind} {times[who, kind]}"))
    for side in sides.values():
        side.end()
    return samples, reasons


def main(kinds=("f32", "w8a8", "w4a8", "w8", "w4", "wf8", "wf8af8")):
    parser = argparse.ArgumentParser()
    parser.add_argument("--serve", type=int)
    parser.add_argument("--threads", type=lambda s: [int(x) for x in s.split(",")], default=[1, 2])
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--turn", type=float, default=0.05, help="seconds")
    parser.add_argument("--build", default=os.path.join(ROOT, "build"))
    parser.add_argument("--subjects", type=lambda s: s.split(","), default=SUBJECTS)
    parser.add_argument("--kinds", type=lambda s: s.split(","), default=list(kinds))
    options = parser.parse_args()
    if options.serve:
        return serve(options.serve)
    print("Medians over the rounds, microseconds; then how many times longer than nibble's takes, round by round: "
          "torch's floats, quanto's same kind, nibble's floats.\n")
    print("| model, rows | threads | kind | nibble | torch f32 | quanto | to torch f32 | to quanto | to nibble f32 |")
    print("|---|--:|---|--:|--:|--:|--:|--:|--:|")
    for subject in options.subjects:
        for threads in options.threads:
            samples, reasons = race(options, subject, threads)
            for kind in options.kinds:
                ours, quanto = samples.get(("nibble", kind)), samples.get(("torch", kind))
                torch, floats = samples.get(("torch", "f32")), samples.get(("nibble", "f32"))
                if not ours:
                    print(f"nibble {kind}: {reasons.get(('nibble', kind))}")
                    continue
                us = lambda s: f"{1e6 * statistics.median(s):.0f}" if s else "-"
                ratio = lambda s: f"{statistics.median(b / a for a, b in zip(ours, s)):.2f}" if s else "-"
                print(f"| {subject} | {threads} | {kind} | {us(ours)} | {us(torch)} | {us(quanto if kind != 'f32' else None)} | {ratio(torch)} | "
                      f"{ratio(quanto if kind != 'f32' else None)} | {ratio(floats)} |", flush=True)
            for (who, kind), reason in reasons.items():
                print(f"{who} {kind}: {reason}", file=sys.stderr)


if __name__ == "__main__":
    main()
