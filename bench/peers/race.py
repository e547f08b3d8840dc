# race.py: nibble beside whatever of ggml, OpenBLAS, oneDNN, torch, torchao and quanto is installed.
#
#     race.py [--race NAME]... [--rounds 11] [--few 3] [--out FILE.md] [--json FILE]
#             [--ggml FOLDER_OF_LIBGGML] [--ik LIBGGML.so] [--torch PYTHON] [--lock FILE] [--realtime]
#
# Every racer is a process of its own (drive.h says how it is spoken to) that holds its weight in its own
# form; they take turns, one short sample each a round, with the same number of threads, so that what
# else the machine does meets all of them alike. A figure is the median of the rounds, with the least
# and the most; a ratio, and a share of a limit, is the median of those within a round, because what memory
# gives can change by half within seconds where machines share it. Few rows, which memory limits, are raced
# --few times in each round. Inputs are f32 and what a library does to them (quantizing, packing) is timed,
# but for oneDNN's "codes", which are handed to it. A racer that cannot be had is named with the reason.
# Limits of the machine are racers too.
#
# --lock waits for a file lock before measuring; --realtime asks for real-time priority then.
import argparse
import fcntl
import glob
import importlib.util
import json
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
SHAPES = [(4096, 4096), (14336, 4096), (4096, 14336), (1024, 1024)]

GGML4 = ["q4_0", "+q4_0", "q4_K", "+q4_K", "iq4_nl", "+iq4_nl"]
IK4 = ["q4_0_r8", "q4_k_r4", "iq4_xs_r8", "q4_0", "q4_K", "iq4_xs", "iq4_k", "iq4_ks"]
LIMITS = {"read 1 stream": 0, "read 2 streams": 1, "read 1 stream, 2 MiB pages": 2,
          "read 2 streams, 2 MiB pages": 3, "f32 multiply-adds": 4, "int8 products": 5,
          "int4 x int8 products": 6}

# name: (what, rows of inputs, racers as (library, type))
RACES = {
    "int4": ("int4, groups of 64", [1, 4, 512],
             [("nibble", "int8_dynamic_activation_int4_weight:group_size=64"),
              ("nibble", "int4_weight_only:group_size=64@int8"),
              ("nibble", "int4_weight_only:group_size=64")]
             + [("ggml", t) for t in GGML4] + [("ik", t) for t in IK4] + [("blas", "f32")]),
    "int8": ("int8", [1, 512],
             [("nibble", "int8_dynamic_activation_int8_weight"),
              ("nibble", "int8_dynamic_activation_int8_weight:reduce_range=true"),
              ("nibble", "int8_weight_only"), ("ggml", "q8_0"), ("ik", "q8_0_r8"), ("ik", "q8_0"),
              ("dnnl", "s8s8"), ("dnnl", "u8s8"), ("dnnl", "s8s8-codes"), ("dnnl", "u8s8-codes"), ("torch", "dynamic_int8"),
              ("torch", "ao_dynamic_int8"), ("torch", "ao_dynamic_int8_compiled"), ("blas", "f32")]),
    "int2": ("int2, groups of 64", [1, 512],
             [("nibble", "intx_weight_only:bits=2,granularity=group,group_size=64@int8"),
              ("nibble", "intx_weight_only:bits=2,granularity=group,group_size=64"),
              ("ggml", "q2_K"), ("ggml", "+q2_K"), ("ik", "q2_K"), ("ik", "q2_k_r4"), ("blas", "f32")]),
    "float": ("float inputs", [1, 512],
              [("nibble", "f32"), ("nibble", "f16"), ("nibble", "bf16"),
               ("nibble", "float8_weight_only"), ("nibble", "int8_weight_only"),
               ("nibble", "int4_weight_only:group_size=64"), ("blas", "f32"), ("dnnl", "f32"),
               ("ggml", "f16"), ("ggml", "bf16"), ("torch", "f32"), ("torch", "bf16"),
               ("torch", "ao_int8"), ("torch", "quanto_qint8"), ("torch", "quanto_qint4")]),
}


def run(*words):
    """What a command prints, or ''."""
    try:
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def nibble_needs():
    """What a program links beside libnibble.a."""
    return run("pkg-config", "--libs", "jansson", "libpcre2-8", "libutf8proc", "nettle", "zlib").split() + ["-lm", "-lpthread"]


class Libraries:
    """Where each library is, and what it calls itself; `missing` has the reasons of the others."""

    def __init__(self, options, room):
        self.command, self.about, self.missing = {}, {}, {}
        cc, flags = os.environ.get("CC", "cc"), ["-O2", "-D_GNU_SOURCE", f"-I{HERE}"]

        def build(name, source, *link):
            out = os.path.join(room, f"drive_{name}")
            done = subprocess.run([cc, *flags, "-o", out, os.path.join(HERE, source), *link],
                                  capture_output=True, text=True)
            if done.returncode:
                self.missing[name] = "its driver does not compile: " + done.stderr.splitlines()[0]
                return None
            return out

        out = build("nibble", "drive_nibble.c", f"-I{ROOT}/include", os.path.join(options.build, "libnibble.a"),
                    *nibble_needs(), *options.cflags.split())
        if out:
            self.command["nibble"] = [[out], []]
            self.about["nibble"] = "commit " + (run("git", "-C", ROOT, "rev-parse", "--short", "HEAD") or "unknown")
        out = build("ggml", "drive_ggml.c", "-ldl")
        folder = options.ggml or self.llama_cpp()
        if out and folder:
            libraries = [os.path.join(folder, f"libggml-{part}.so") for part in ("base", "cpu")]
            self.command["ggml"] = [[out], libraries]
            self.about["ggml"] = self.ggml_version(folder)
        else:
            self.missing.setdefault("ggml", "llama-cpp-python is not installed")
        if out and options.ik:
            self.command["ik"] = [[out], [options.ik]]
            self.about["ik"] = options.ik_about
        else:
            self.missing.setdefault("ik", "no --ik LIBGGML.so: ik_llama.cpp has to be built by hand")
        out = build("blas", "drive_blas.c", "-ldl")
        if out:
            self.command["blas"] = [[out], [options.blas]]
            self.about["blas"] = "its note below"
        out = build("dnnl", "drive_dnnl.c", "-ldnnl")
        if out:
            self.command["dnnl"] = [[out], []]
            self.about["dnnl"] = "its note below"
        if run(options.torch, "-c", "import torch; print(1)") == "1":
            self.command["torch"] = [[options.torch, os.path.join(HERE, "drive_torch.py")], []]
            self.about["torch"] = "its note below"
        else:
            self.missing["torch"] = f"{options.torch} has no torch"

    @staticmethod
    def llama_cpp():
        found = importlib.util.find_spec("llama_cpp")
        return os.path.join(os.path.dirname(found.origin), "lib") if found else None

    @staticmethod
    def ggml_version(folder):
        names = [os.path.basename(p) for p in glob.glob(os.path.join(folder, "libggml.so.*.*.*"))]
        wheel = glob.glob(os.path.join(folder, "..", "..", "llama_cpp_python-*.dist-info"))
        return " of ".join(n for n in (names + [os.path.basename(w) for w in wheel]))


class Racer:
    """One process with one weight; answers how long a product takes now."""

    def __init__(self, libraries, library, kind, N, K, most, threads=0):
        self.library, self.kind, self.threads = library, kind, threads
        self.name = f"{library} {kind}"
        first, last = libraries.command[library]
        environment = dict(os.environ)
        if " avx512f" in open("/proc/cpuinfo").read():  # older ones do not know newer processors
            environment.setdefault("OPENBLAS_CORETYPE", "SkylakeX")
        if threads:
            environment["OMP_NUM_THREADS"] = str(threads)
        self.errors = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen([*first, str(N), str(K), str(most), kind, *last], text=True, bufsize=1,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors,
                                        env=environment)

    def ready(self):
        """None, or why it cannot race."""
        line = self.process.stdout.readline().split(maxsplit=3)
        if not line or line[0] != "ready":
            self.errors.seek(0)
            return (self.errors.read().strip().splitlines() or ["it ended"])[-1][:160]
        self.bytes, self.note = int(line[1]), line[3].strip() if len(line) > 3 else ""
        return None

    def ask(self, M, threads, seconds):
        """Milliseconds, or None when it ended. Between its turns a racer is stopped, because the idle
        threads of some pools spin for a while, on the core that the next one needs."""
        try:
            self.process.send_signal(signal.SIGCONT)
            self.process.stdin.write(f"{M} {threads} {seconds}\n")
            self.process.stdin.flush()
            ms = float(self.process.stdout.readline().split()[0])
            self.process.send_signal(signal.SIGSTOP)
            return ms
        except (OSError, IndexError, ValueError):
            return None

    def end(self):
        self.process.send_signal(signal.SIGCONT)
        self.process.stdin.close()
        self.process.wait()


def realtime(racers):
    """Real-time priority for all threads there are; workers that start later inherit it."""
    for pid in [os.getpid()] + [r.process.pid for r in racers]:
        for task in os.listdir(f"/proc/{pid}/task"):
            try:
                os.sched_setscheduler(int(task), os.SCHED_FIFO, os.sched_param(10))
            except OSError:
                return False
    return True


def race(options, libraries, name, N, K):
    what, rows, wanted = RACES[name]
    rows = [M for M in rows if not options.rows or M in options.rows]
    wanted = [(l, t) for l, t in wanted if not options.only or l in options.only]
    out, racers = [], []
    for library, kind in [("nibble", "limits")] + wanted:
        if library not in libraries.command:
            out.append((f"{library} {kind}", libraries.missing.get(library, "not there")))
        elif library == "dnnl":  # the number of threads is the process's
            racers += [Racer(libraries, library, kind, N, K, max(rows), t) for t in options.threads]
        else:
            racers.append(Racer(libraries, library, kind, N, K, max(rows)))
    going = []
    for racer in racers:
        reason = racer.ready()
        if reason:
            out.append((racer.name, reason))
            racer.end()
        else:
            going.append(racer)
    lock = open(options.lock, "w") if options.lock else None
    if lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
    if options.realtime and not realtime(going):
        print("no real-time priority here", file=sys.stderr)
    samples = {}  # (racer, M, threads) -> [ms]
    limits = {}   # (limit, threads) -> [ms]
    failed = set()
    few, many = [M for M in rows if M <= 8], [M for M in rows if M > 8]
    for turn in range(-1, options.rounds):
        for part in [few] * (options.few if turn >= 0 else 1) + [many]:
            for threads in options.threads:
                for limit, index in LIMITS.items():
                    if limit.startswith("read") != (part is few):
                        continue
                    ms = going[0].ask(index, threads, 0)
                    if turn >= 0 and ms:
                        limits.setdefault((limit, threads), []).append(ms)
                for M in part:
                    for racer in going[1:]:
                        if racer.threads not in (0, threads) or racer in failed:
                            continue
                        if M > 1 and (M <= 8 or racer.library == "blas" and name.startswith("int")) \
                                and racer.library != "nibble":
                            continue  # only our own M = 4 has a goal, and BLAS there is a reader of memory
                        ms = racer.ask(M, threads, 0.02 if M <= 8 else 0.04)
                        if ms is None:
                            failed.add(racer)
                            out.append((racer.name, f"ended at M = {M}, {threads} threads"))
                        elif turn >= 0:
                            samples.setdefault((racer.name, M, threads), []).append(ms)
    if lock:
        lock.close()
    notes = {racer.name: racer.note for racer in going[1:]}
    sizes = {racer.name: racer.bytes for racer in going[1:]}
    for racer in going:
        if racer not in failed:
            racer.end()
    return {"race": name, "what": what, "N": N, "K": K, "rows": rows, "samples": samples, "limits": limits,
            "out": out, "notes": notes, "bytes": sizes}


def limit_of(result, names, threads):
    """The rates round by round of the limit among these names that is the best by its median."""
    best = min((result["limits"][n, threads] for n in names), key=statistics.median)
    return [1e3 / ms for ms in best]


def bandwidth(result, threads):
    """The same for reading memory, OpenBLAS's product of one row among the readers."""
    best = limit_of(result, [n for n in LIMITS if n.startswith("read")], threads)
    gemv = [4 * result["N"] * result["K"] / ms * 1e3 for ms in result["samples"].get(("blas f32", 1, threads), [])]
    return gemv if gemv and statistics.median(gemv) > statistics.median(best) else best


def share(amount, ms, limit):
    """Median over the rounds of what part of a limit a racer reaches; amount: what one product takes of it."""
    return statistics.median(amount / m * 1e3 / l for m, l in zip(ms, limit))


def ratio(ours, theirs):
    """Median of how many times longer theirs takes, round by round."""
    return statistics.median(t / o for o, t in zip(ours, theirs))


def span(rates):
    """Median, least and most, in thousand millions."""
    return f"{statistics.median(rates) / 1e9:.1f} ({min(rates) / 1e9:.0f} to {max(rates) / 1e9:.0f})"


def table(result, threads_list):
    N, K, samples = result["N"], result["K"], result["samples"]
    lines = [f"### {result['what']}: N = {N}, K = {K}", ""]
    for threads in threads_list:
        lines.append(f"{threads} thread{'s' if threads > 1 else ''}: reading "
                     f"{span(bandwidth(result, threads))} GB/s, f32 "
                     f"{statistics.median(limit_of(result, ['f32 multiply-adds'], threads)) / 1e9:.0f} GFLOP/s, int8 "
                     f"{statistics.median(limit_of(result, ['int8 products'], threads)) / 1e9:.0f} GOP/s.  ")
    lines.append("")
    ours = [n for n in result["notes"] if n.startswith("nibble ")]
    short = {n: chr(ord("A") + i) for i, n in enumerate(ours)}
    lines += ["Columns A, B ... : how many times longer than that row of ours.", ""]
    lines += ["| M | threads | who | bits a weight | ms | least | most | GB/s | of reading | GOP/s | "
              + " | ".join(short[n] for n in ours) + " |",
              "|--:|--:|---|--:|--:|--:|--:|--:|--:|--:|" + "--:|" * len(ours)]
    for M in result["rows"]:
        for threads in threads_list:
            here = [n for n in result["notes"] if (n, M, threads) in samples]
            for n in here:
                s = samples[n, M, threads]
                ms, size = statistics.median(s), result["bytes"][n]
                moved = size + 4 * M * (N + K)
                letter = f" ({short[n]})" if n in short else ""
                cells = [f"{ratio(samples[o, M, threads], s):.2f}" if (o, M, threads) in samples else ""
                         for o in ours]
                lines.append(f"| {M} | {threads} | {n}{letter} | {8 * size / N / K:.2f} | {ms:.4f} | {min(s):.4f} | "
                             f"{max(s):.4f} | {moved / ms / 1e6:.1f} | {100 * share(moved, s, bandwidth(result, threads)):.0f} % | "
                             f"{2 * M * N * K / ms / 1e6:.0f} | " + " | ".join(cells) + " |")
    lines.append("")
    for name, reason in result["out"]:
        lines.append(f"- {name}: not raced: {reason}")
    lines.append("")
    return "\n".join(lines)


def head(options, libraries, notes):
    cpu = next((l.split(":")[1].strip() for l in open("/proc/cpuinfo") if l.startswith("model name")), "")
    lines = [f"Machine: {cpu}, {os.cpu_count()} cores, {platform.system()} {platform.release()}; "
             f"{run('cc', '--version').splitlines()[0]}. {options.rounds} interleaved rounds, few rows {options.few} times in each, medians.", ""]
    for library, about in libraries.about.items():
        lines.append(f"- {library}: {about}")
    for name, note in notes.items():
        if not name.startswith(("nibble", "ggml", "ik")) and note:
            lines.append(f"- {name}: {note}")
    return "\n".join(lines + [""])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--race", action="append", choices=list(RACES))
    parser.add_argument("--shape", action="append", help="NxK")
    parser.add_argument("--rows", type=lambda s: [int(x) for x in s.split(",")])
    parser.add_argument("--only", type=lambda s: s.split(","), help="libraries")
    parser.add_argument("--threads", type=lambda s: [int(x) for x in s.split(",")], default=[1, 2])
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--few", type=int, default=3)
    parser.add_argument("--build", default=os.path.join(ROOT, "build"))
    parser.add_argument("--cflags", default="", help="more for the driver of nibble")
    parser.add_argument("--ggml"), parser.add_argument("--ik")
    parser.add_argument("--ik-about", default="built by hand")
    parser.add_argument("--blas", default="libopenblas.so.0")
    parser.add_argument("--torch", default=shutil.which("python3"), metavar="PYTHON")
    parser.add_argument("--lock"), parser.add_argument("--realtime", action="store_true")
    parser.add_argument("--out"), parser.add_argument("--json")
    options = parser.parse_args()
    shapes = [tuple(int(x) for x in s.split("x")) for s in options.shape] if options.shape else SHAPES
    with tempfile.TemporaryDirectory() as room:
        libraries = Libraries(options, room)
        if "nibble" not in libraries.command:
            sys.exit(libraries.missing["nibble"])
        results, notes = [], {}
        for name in options.race or RACES:
            for N, K in shapes:
                results.append(race(options, libraries, name, N, K))
                notes.update(results[-1]["notes"])
                print(f"{name} {N}x{K}: done", file=sys.stderr, flush=True)
    text = head(options, libraries, notes) + "\n" + "\n".join(table(r, options.threads) for r in results)
    print(text) if not options.out else open(options.out, "w").write(text)
    if options.json:
        for r in results:
            r["samples"] = [[*k, v] for k, v in r["samples"].items()]
            r["limits"] = [[*k, v] for k, v in r["limits"].items()]
        json.dump(results, open(options.json, "w"))


if __name__ == "__main__":
    main()
