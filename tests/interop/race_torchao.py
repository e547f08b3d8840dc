"""Race nibble's torchao schemes against the wheel on random cases: every byte must agree.

    python tests/interop/race_torchao.py [CASES [SEED]]        from the root, after building

Cases are written as the golden files are, a hundred at a time, and given to build/tests/test_torchao
in NIB_GOLDEN. Needs torch, torchao and safetensors; CPU is enough. plain int4 needs MSLK and is raced
against its restated formula, counted apart."""
import collections
import os
import pathlib
import random
import subprocess
import sys
import tempfile
import warnings

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/golden/torchao"))
warnings.filterwarnings("ignore")
import make  # noqa: E402
import weights  # noqa: E402


def divisors(k):
    return [g for g in range(2, k + 1) if k % g == 0]


def scheme(rng):
    """A scheme with options, and columns that it can take."""
    kind = rng.choice(["int8", "float8", "intx", "tinygemm", "plain"])
    k = rng.randint(2, 300)
    if kind in ("tinygemm", "plain"):
        g = rng.choice([32, 64, 128, 256])
        extra = rng.choice(["", ",eps=v0.17"]) if kind == "tinygemm" else ""
        numerics = ",numerics=tinygemm" if kind == "tinygemm" else ""
        return f"int4_weight_only:group_size={g}{numerics}{extra}", g * rng.randint(1, 3)
    g = rng.choice(divisors(k))
    group = f"granularity=group,group_size={g}"
    if kind == "int8":
        return "int8_weight_only:" + rng.choice(["granularity=row", group, "granularity=tensor"]), k
    if kind == "float8":
        dtype = rng.choice(["dtype=e4m3fn", "dtype=e5m2"])
        return f"float8_weight_only:{dtype}," + rng.choice(["granularity=row", group, "granularity=tensor"]), k
    bits = rng.randint(1, 8)
    mapping = rng.choice(["symmetric", "asymmetric"] + (["symmetric_no_clipping_err"] if bits > 1 else []))
    extra = rng.choice(["", "", ",eps=v0.17", ",scale_dtype=f32", ",scale_dtype=f16", ",scale_dtype=bf16"])
    return f"intx_weight_only:bits={bits},{rng.choice(['granularity=row', group])},mapping={mapping}{extra}", k


def main():
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else 7
    rng = random.Random(seed)
    program = os.environ.get("NIB_TEST_TORCHAO", str(ROOT / "build/tests/test_torchao"))
    done, kinds = 0, collections.Counter()
    while done < count:
        cases = []
        for _ in range(min(100, count - done)):
            text, k = scheme(rng)
            cases.append((text, rng.choice(weights.KINDS), rng.randint(1, 17), k, rng.choice(list(weights.DTYPES))))
            kinds["emulated" if text.startswith("int4") and "tinygemm" not in text else "real"] += 1
        with tempfile.TemporaryDirectory() as folder:
            make.HERE = pathlib.Path(folder)
            make.write(f"race{done}", cases, seed=seed + done)
            run = subprocess.run([program], cwd=ROOT, env={**os.environ, "NIB_GOLDEN": f"{folder}/race{done}.safetensors"},
                                 capture_output=True, text=True)
            if run.returncode:
                print(run.stdout, run.stderr)
                sys.exit(f"a case between {done} and {done + len(cases)} differs (seed {seed})")
        done += len(cases)
    print(f"{done} random cases, {kinds['real']} against the wheel and {kinds['emulated']} against a restated formula: "
          "0 differ")


if __name__ == "__main__":
    main()
