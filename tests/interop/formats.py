"""Whether the real libraries open what nibble writes, and nibble what they write.

    python tests/interop/formats.py [--only TEXT] [--markdown FILE]     from the root, after building

Every case makes a checkpoint with both sides from one float model with seeded weights and compares
what lies in the files byte for byte; then each side loads the other's folder, and what their weights
mean must be equal to the last bit and the logits within 1e-3.

Logits are compared in f32 arithmetic on both sides. Ours: float weights are loaded as f32 and
quantized ones multiply as scale times code in f32. Theirs, for f32 checkpoints: the forward pass of
the loaded model as it is. For f16 and bf16 checkpoints their modules would also compute and round in
that dtype, so the loaded model must run as it is (finite logits), and the logits compared are those of
a float model that is given the same codes and scales as tensors of f32. Where inputs are quantized as
they come, an input between two codes falls on either side by its last bits, and all that follows moves
by a step; so there the logits must be within 1e-3, or no further from theirs than twice what theirs
move when their embeddings are changed by a millionth. (tests/golden/torchao/make_inputs.py compares
single layers that see the same inputs, exactly.) Tokens go in one by one on both sides where all
tokens of a call share a scale.

Needs torch, torchao, transformers, accelerate, optimum-quanto, safetensors and numpy; sections whose
libraries are not there are counted as skipped. Leaves with 1 when a case failed."""
import argparse
import collections
import contextlib
import importlib.metadata
import io
import itertools
import json
import os
import pathlib
import shutil
import struct
import subprocess
import sys
import tempfile
import traceback
import warnings

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("NIB_BUILD", ROOT / "build"))
IDS = [1, 45, 3, 17, 90, 12, 77, 102, 5, 64]
NEAR = 1e-3                            # of logits, absolute; those of the seeded models are of size 1 to 10
KJV = ROOT / "models/kjv-llama"
os.environ["HF_HUB_OFFLINE"] = "1"
warnings.filterwarnings("ignore")


# ---- cases and their count ----
class Skip(Exception):
    """A case that cannot be run here, and why."""


class Results:
    def __init__(self, only):
        self.only, self.rows, self.failures = only, [], []

    def case(self, section, name, run):
        """One case: run() raises AssertionError where it fails, Skip where it cannot be run."""
        if self.only and self.only not in f"{section} {name}":
            return
        state, note = "ok", ""
        try:
            with contextlib.redirect_stderr(io.StringIO()):
                run()
        except Skip as why:
            state, note = "skipped", str(why)
        except Exception as e:
            state, note = "failed", f"{type(e).__name__}: {e}".split("\n")[0][:300]
            if not isinstance(e, AssertionError):
                note += " | " + traceback.format_exc().strip().split("\n")[-2].strip()
            self.failures.append(f"{section}: {name}: {note}")
        self.rows.append((section, name, state, note))
        if state == "failed" or self.only:
            print(f"  {state:8} {section}: {name} {note}", flush=True)

    def table(self):
        sections = collections.OrderedDict()
        for section, _, state, _ in self.rows:
            sections.setdefault(section, collections.Counter())[state] += 1
        wide = max(len(s) for s in sections) if sections else 8
        lines = [f"| {'what':{wide}} | run | skipped | failed |", f"|{'-' * (wide + 2)}|----:|--------:|-------:|"]
        for section, c in sections.items():
            lines.append(f"| {section:{wide}} | {c['ok'] + c['failed']:3} | {c['skipped']:7} | {c['failed']:6} |")
        return "\n".join(lines)

    def skipped(self):
        return [f"{section}: {name}: {note}" for section, name, state, note in self.rows if state == "skipped"]

    def summary(self):
        c = collections.Counter(state for _, _, state, _ in self.rows)
        return f"cases run {c['ok'] + c['failed']}, skipped {c['skipped']}, failed {c['failed']}"


# ---- files, read without any of the libraries ----
def read_safetensors(path):
    data = pathlib.Path(path).read_bytes()
    size, = struct.unpack("<Q", data[:8])
    header = json.loads(data[8:8 + size])
    metadata = header.pop("__metadata__", {})
    at = 8 + size
    return {name: (t["dtype"], t["shape"], data[at + t["data_offsets"][0]:at + t["data_offsets"][1]])
            for name, t in header.items()}, metadata


def read_folder(folder):
    """All tensors of a folder, and the metadata of each of its files."""
    tensors, metadata = {}, []
    for path in sorted(pathlib.Path(folder).glob("*.safetensors")):
        some, about = read_safetensors(path)
        tensors.update(some)
        metadata.append(about)
    return tensors, metadata


def as_json(metadata):
    def value(text):
        try:
            return json.loads(text)
        except ValueError:
            return text
    return {key: value(text) for key, text in metadata.items()}


def config_of(folder):
    return json.loads((pathlib.Path(folder) / "config.json").read_text())


def same_keys(ours, theirs, what):
    missing, extra = sorted(set(theirs) - set(ours)), sorted(set(ours) - set(theirs))
    assert not missing and not extra, f"{what}: ours lacks {missing[:3]} ({len(missing)}), adds {extra[:3]} ({len(extra)})"


def same_tensors(ours, theirs):
    same_keys(ours, theirs, "tensors")
    for name, (dtype, shape, data) in theirs.items():
        assert ours[name][:2] == (dtype, shape), f"{name} is {ours[name][:2]}, theirs {dtype, shape}"
        if ours[name][2] != data:
            count = sum(a != b for a, b in zip(ours[name][2], data))
            raise AssertionError(f"{name}: {count} of {len(data)} bytes differ")


def same_metadata(ours, theirs):
    """Each of our files says what all of theirs together say: readers merge the files."""
    want = {}
    for one in theirs:
        want.update(as_json(one))
    for one in ours:
        got = as_json(one)
        same_keys(got, want, "metadata")
        for key in want:
            if key == "tensor_names":      # theirs go by the modules, ours by the file: the order means nothing
                got[key], want[key] = sorted(got[key]), sorted(want[key])
            assert got[key] == want[key], f"metadata {key}: {json.dumps(got[key])[:200]}, theirs {json.dumps(want[key])[:200]}"


def same_configs(ours, theirs):
    a, b = config_of(ours), config_of(theirs)
    assert a.get("quantization_config") == b.get("quantization_config"), \
        f"{json.dumps(a.get('quantization_config'))}, theirs {json.dumps(b.get('quantization_config'))}"
    for key in set(a) | set(b):
        assert a.get(key) == b.get(key), f"config.json {key}: {a.get(key)}, theirs {b.get(key)}"


# ---- nibble ----
def nibble(*args):
    run = subprocess.run([str(BUILD / "nibble"), *map(str, args)], capture_output=True, text=True)
    assert run.returncode == 0, f"nibble {args[0]}: exit {run.returncode}: {run.stderr.strip().splitlines()[-1:]}"
    return run.stdout


def quantize(source, out, *options):
    shutil.rmtree(out, ignore_errors=True)
    nibble("quantize", source, "-o", out, "-q", *options)
    return out


def read_here(folder, scratch, vocabulary=128):
    """(weights as nibble dequantizes them, logits) as {name: (dtype, shape, bytes)} and a tensor."""
    out = pathlib.Path(scratch) / "read.safetensors"
    out.unlink(missing_ok=True)
    ids = ",".join(str(i) for i in IDS)
    run = subprocess.run([str(BUILD / "tests/read_checkpoint"), str(folder), str(out), ids], capture_output=True, text=True)
    assert run.returncode == 0, f"read_checkpoint: {run.stderr.strip()}"
    tensors, _ = read_safetensors(out)
    dtype, shape, data = tensors.pop("logits")
    return tensors, torch.frombuffer(bytearray(data), dtype=torch.float32).reshape(shape)


def same_generate(folder, here):
    """The command's logits after the prompt are those that were compared with theirs."""
    said = json.loads(nibble("generate", folder, "--ids", ",".join(str(i) for i in IDS), "-n", 1, "--logits", 10, "--json"))
    want = here[1][-1].topk(10)
    assert [i for i, _ in said["logits"]] == want.indices.tolist(), f"generate's likeliest are {said['logits'][:3]}"
    for (_, value), other in zip(said["logits"], want.values.tolist()):
        assert abs(value - other) < 1e-5, f"generate gives {value}, read_checkpoint {other}"
    assert said["ids"] == want.indices[:1].tolist()


# ---- models ----
class Models:
    """Float checkpoints that transformers saved, made when first asked for."""

    def __init__(self, root):
        self.root = pathlib.Path(root)

    def get(self, dtype, tie=True, shards=False, bias=False, zeros=True):
        folder = self.root / f"source-{dtype}-{'tied' if tie else 'untied'}{'-sharded' if shards else ''}{'-bias' if bias else ''}{'' if zeros else '-nonzero'}"
        if folder.exists():
            return folder
        config = transformers.LlamaConfig(
            hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
            vocab_size=128, max_position_embeddings=64, tie_word_embeddings=tie, attention_bias=bias,
            mlp_bias=bias, bos_token_id=1, eos_token_id=2)
        torch.manual_seed(20)
        model = transformers.LlamaForCausalLM(config)
        with torch.no_grad():
            for name, p in model.named_parameters():
                p.copy_(torch.randn_like(p) * (0.25 if p.ndim == 2 else 0.1) + (p.ndim == 1))
            w = model.model.layers[0].mlp.up_proj.weight
            if zeros:                  # a row of zeros, and one of tiny numbers
                w[3] = 0
                w[7] *= 1e-6
            w[5] = 0.75                # a row of one value
        model.to(DTYPES[dtype]).save_pretrained(folder, **({"max_shard_size": "40KB"} if shards else {}))
        return folder


def bytes_of(t):
    t = t.detach().contiguous().cpu()
    return t.reshape(-1).view(torch.uint8).numpy().tobytes() if t.numel() else b""


NAMES = {"F32": "torch.float32", "F16": "torch.float16", "BF16": "torch.bfloat16"}


def same_weights(here, weights):
    """nibble's dequantized weights against theirs, to the bit. Those that are float in their model too
    are compared after the cast to f32 that nibble was asked for."""
    quantized = 0
    for name, (dtype, shape, data) in here.items():
        assert name in weights, f"{name} is not in their model"
        want, was_quantized, _ = weights[name]
        quantized += was_quantized
        if was_quantized:
            assert NAMES[dtype] == str(want.dtype), f"{name} is {dtype}, theirs {want.dtype}"
        else:
            want = want.float()
        assert list(want.shape) == shape, f"{name} is {shape}, theirs {list(want.shape)}"
        assert bytes_of(want) == data, f"{name} dequantizes to other bits"
    assert quantized, "nothing was quantized"
    return quantized


def same_logits(here, model, weights, dtype, source):
    acts = [exact for _, _, exact in weights.values() if dynamic(exact)]
    stepwise = any("PerTensor" in str(getattr(t, "act_quant_kwargs", "")) for t in acts)
    with torch.no_grad():
        theirs = forward(model, stepwise).float()
        assert torch.isfinite(theirs).all(), "their logits are not finite"
        if dtype != "f32":
            plain = transformers.AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
            plain.load_state_dict({name: t.float() for name, (t, quantized, _) in weights.items() if not quantized},
                                  strict=False)
            for name, (_, quantized, exact) in weights.items():
                if quantized:
                    plain.get_submodule(name.rsplit(".", 1)[0]).weight = torch.nn.Parameter(exact, requires_grad=False)
            theirs, model = forward(plain, stepwise), plain
    near, difference = NEAR, (here[1] - theirs).abs().max().item()
    for seed in range(32 if acts else 0):
        if difference <= near:
            break
        with torch.no_grad():
            moved = forward(model, stepwise, noise=1e-6, seed=seed)
        near = max(near, 2 * (moved - theirs).abs().max().item())
    assert difference <= near, f"logits differ by {difference:g} of {theirs.abs().max().item():g}"


def forward(model, stepwise=False, noise=0, seed=0):
    """Logits of IDS; stepwise: token after token, with a cache."""
    torch.manual_seed(seed)
    x = model.model.embed_tokens(torch.tensor([IDS]))
    x = x * (1 + noise * torch.randn_like(x)) if noise else x
    if not stepwise:
        return model(inputs_embeds=x).logits[0]
    cache, rows = transformers.DynamicCache(), []
    for i in range(len(IDS)):
        rows.append(model(inputs_embeds=x[:, i:i + 1], past_key_values=cache, use_cache=True).logits[0, 0])
    return torch.stack(rows)


def dynamic(t):
    return getattr(t, "act_quant_kwargs", None) is not None or getattr(t, "activation_quantization", None) is not None


# ---- torchao ----
def torchao_config(scheme):
    name, o = upstream.options(scheme)
    if name == "int8_weight_only":
        return torchao.quantization.Int8WeightOnlyConfig(granularity=upstream.granularity(o))
    if name == "float8_weight_only":
        dtype = torch.float8_e5m2 if o.get("dtype") == "e5m2" else torch.float8_e4m3fn
        return torchao.quantization.Float8WeightOnlyConfig(weight_dtype=dtype, granularity=upstream.granularity(o))
    if name == "intx_weight_only":
        algo = upstream.IntxChooseQParamsAlgorithm
        return torchao.quantization.IntxWeightOnlyConfig(
            weight_dtype=getattr(torch, f"int{o.get('bits', 8)}"), granularity=upstream.granularity(o, axis=True),
            mapping_type=upstream.MAPPINGS[o.get("mapping", "symmetric")], scale_dtype=upstream.SCALES.get(o.get("scale_dtype")),
            intx_choose_qparams_algorithm=algo.HQQ_SCALE_ONLY if o.get("algo") == "hqq" else algo.AFFINE)
    if name == "int8_dynamic_activation_int8_weight":
        weight = upstream.granularity(o)
        act = upstream.granularity({"granularity": o.get("act_granularity", o.get("granularity", "row"))})
        return torchao.quantization.Int8DynamicActivationInt8WeightConfig(
            granularity=weight if str(act) == str(weight) else [act, weight],
            act_mapping_type=upstream.MAPPINGS[o.get("act_mapping_type", "symmetric")],
            reduce_range=o.get("reduce_range") == "true")
    if name == "int8_dynamic_activation_int4_weight":
        algo = upstream.IntxChooseQParamsAlgorithm
        return torchao.quantization.Int8DynamicActivationIntxWeightConfig(
            weight_dtype=torch.int4, weight_mapping_type=upstream.MAPPINGS[o.get("mapping", "symmetric")],
            weight_granularity=upstream.granularity({"granularity": "group", "group_size": 32, **o}, axis=True),
            weight_scale_dtype=upstream.SCALES.get(o.get("scale_dtype")),
            intx_choose_qparams_algorithm=algo.HQQ_SCALE_ONLY if o.get("algo") == "hqq" else algo.AFFINE)
    import torchao.quantization.quant_api as int4
    tinygemm = o.get("numerics") == "tinygemm"
    return torchao.quantization.Int4WeightOnlyConfig(
        group_size=int(o.get("group_size", 128)),
        int4_packing_format=int4.Int4PackingFormat.TILE_PACKED_TO_4D if tinygemm else int4.Int4PackingFormat.PLAIN,
        int4_choose_qparams_algorithm=getattr(int4.Int4ChooseQParamsAlgorithm, "HQQ" if o.get("algo") == "hqq" else "TINYGEMM"))


def load(folder, dtype, config=None):
    extra = {"quantization_config": transformers.TorchAoConfig(config)} if config else {}
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=DTYPES[dtype], **extra).eval()


def torchao_weights(model):
    """{name: (tensor, whether it was quantized, the same of f32)}, the quantized ones as their dequantize()
    gives them, and with f32 as what they stand for."""
    from torchao.utils import TorchAOBaseTensor
    out = {}
    for name, p in model.state_dict().items():
        quantized = isinstance(p, TorchAOBaseTensor)
        out[name] = (p.dequantize() if quantized else p, quantized, torchao_f32(p) if quantized else p)
    return out


def torchao_f32(p):
    if type(p).__name__ == "Int8Tensor":
        return type(p)(p.qdata, p.scale, p.block_size, torch.float32, zero_point=p.zero_point,
                       act_quant_kwargs=p.act_quant_kwargs, reduce_range=p.reduce_range)
    if type(p).__name__ == "IntxUnpackedToInt8Tensor":
        return type(p)(p.qdata, p.scale.float(), p.zero_point, p.target_dtype, p.block_size, torch.float32,
                       p.activation_quantization)
    return p.dequantize(torch.float32)


def torchao_classes(model):
    from torchao.utils import TorchAOBaseTensor
    return {name: type(p.data if isinstance(p, torch.nn.Parameter) and not isinstance(p, TorchAOBaseTensor) else p).__name__
            for name, p in model.named_parameters() if isinstance(p, TorchAOBaseTensor)}


CLASSES = {"int8_weight_only": "Int8Tensor", "intx_weight_only": "IntxUnpackedToInt8Tensor",
           "float8_weight_only": "Float8Tensor", "int8_dynamic_activation_int8_weight": "Int8Tensor",
           "int8_dynamic_activation_int4_weight": "IntxUnpackedToInt8Tensor"}


def torchao_pair(results, models, scratch, name, scheme, dtype, config=None, options=(), classes=None, save=None, loaded=None, **kind):
    """Both directions of one case. `classes`: {weight: class} expected where not all linears share one."""
    config = config or torchao_config(scheme)
    source = KJV if kind.get("kjv") else models.get(dtype, **kind)
    ours, theirs = pathlib.Path(scratch) / "ours", pathlib.Path(scratch) / "theirs"
    made = {}

    def make():
        if "theirs" not in made:
            shutil.rmtree(theirs, ignore_errors=True)
            made["model"] = (loaded or load)(source, dtype, config)
            made["model"].save_pretrained(theirs, **(save or {}))
            quantize(source, ours, "--format", "torchao", *(["--scheme", scheme] if scheme else []), *options)
            made["theirs"] = True

    def same_files():
        make()
        (a, ma), (b, mb) = read_folder(ours), read_folder(theirs)
        same_tensors(a, b)
        same_metadata(ma, mb)
        same_configs(ours, theirs)

    def ours_there():
        make()
        model = load(ours, dtype)
        got = torchao_classes(model)
        want = classes or {n: CLASSES[scheme.split(":")[0]] for n in torchao_classes(made["model"])}
        assert got == want, f"classes {sorted(got.items())[:3]}, want {sorted(want.items())[:3]}"
        weights, here = torchao_weights(model), read_here(ours, scratch)
        same_weights(here[0], weights)
        same_logits(here, model, weights, dtype, source)
        if kind.get("kjv"):
            same_generate(ours, here)

    def theirs_here():
        make()
        nibble("verify", theirs, "--source", source, "-q")
        weights, here = torchao_weights(made["model"]), read_here(theirs, scratch)
        same_weights(here[0], weights)
        same_logits(here, made["model"], weights, dtype, source)
        if kind.get("kjv"):
            same_generate(theirs, here)

    results.case("torchao, same files", f"{name} {dtype}", same_files)
    results.case("torchao, ours there", f"{name} {dtype}", ours_there)
    results.case("torchao, theirs here", f"{name} {dtype}", theirs_here)


def torchao_schemes():
    group = "granularity=group,group_size=32"
    for g in ("granularity=row", group, "granularity=tensor"):
        yield f"int8_weight_only:{g}"
    for g in ("granularity=row", "granularity=tensor", group):
        yield f"float8_weight_only:{g}"
    yield "float8_weight_only:dtype=e5m2,granularity=row"
    for bits, g in itertools.product(range(1, 9), ("granularity=row", group)):
        for mapping in ("symmetric", "asymmetric", "symmetric_no_clipping_err"):
            if bits > 1 or mapping != "symmetric_no_clipping_err":
                yield f"intx_weight_only:bits={bits},{g},mapping={mapping}"
    for act in ("", "act_mapping_type=asymmetric", "reduce_range=true", "granularity=tensor",
                "act_granularity=tensor,act_mapping_type=asymmetric,reduce_range=true"):
        yield f"int8_dynamic_activation_int8_weight{':' if act else ''}{act}"
    for o in ("", "granularity=row", "mapping=asymmetric", "mapping=symmetric_no_clipping_err", "scale_dtype=f32",
              "group_size=16,mapping=asymmetric,scale_dtype=bf16"):
        yield f"int8_dynamic_activation_int4_weight{':' if o else ''}{o}"
    yield f"intx_weight_only:bits=4,{group},scale_dtype=f32"
    yield f"intx_weight_only:bits=4,{group},mapping=asymmetric,scale_dtype=bf16"


def torchao_files(source, dtype, scheme, scratch):
    ours, theirs = pathlib.Path(scratch) / "ours", pathlib.Path(scratch) / "theirs"
    shutil.rmtree(theirs, ignore_errors=True)
    model = load(source, dtype, torchao_config(scheme))
    model.save_pretrained(theirs)
    quantize(source, ours, "--format", "torchao", "--scheme", scheme)
    (a, ma), (b, mb) = read_folder(ours), read_folder(theirs)
    same_metadata(ma, mb)
    same_configs(ours, theirs)
    same_keys(a, b, "tensors")
    return ours, theirs, a, b


def rows_of_zeros(results, models, scratch, dtype):
    """docs/differences.md: their fp8 codes of a row of zeros are NaN, ours 0; nothing else may differ."""
    def run():
        source = models.get(dtype)
        ours, theirs, a, b = torchao_files(source, dtype, "float8_weight_only", scratch)
        name = "model.layers.0.mlp.up_proj._weight_qdata"
        for key in b:
            if key != name:
                assert a[key] == b[key], f"{key} differs"
        x, y = bytearray(a[name][2]), bytearray(b[name][2])
        rows = {i // 64 for i in range(len(x)) if x[i] != y[i]}
        assert rows and 3 in rows and rows <= {3, 7}, f"rows {sorted(rows)} differ"
        assert not any(x[3 * 64:4 * 64]) and all(v & 127 == 127 for v in y[3 * 64:4 * 64])
        model = load(ours, dtype)
        same_weights(read_here(ours, scratch)[0], torchao_weights(model))
    results.case("torchao, fp8 rows of zeros differ as documented", dtype, run)


def torchao_hqq(results, models, scratch, scheme, dtype):
    """docs/differences.md: at most one code of difference on 0.1 % of the weights; scales follow."""
    source = models.get(dtype)

    def run():
        ours, theirs, a, b = torchao_files(source, dtype, scheme, scratch)
        off = count = 0
        for key in b:
            if key.endswith("_qdata"):
                x, y = (torch.frombuffer(bytearray(t[key][2]), dtype=torch.int8).int() for t in (a, b))
                assert (x - y).abs().max() <= 1, f"{key}: codes differ by more than one"
                off, count = off + int((x != y).sum()), count + x.numel()
            elif key.endswith("_scale"):
                x, y = (torch.frombuffer(bytearray(t[key][2]), dtype=DTYPES[dtype]).float() for t in (a, b))
                assert torch.allclose(x, y, rtol=1e-5 if dtype == "f32" else 1e-2), f"{key} is far from theirs"
            else:
                assert a[key] == b[key], f"{key} differs"
        assert off <= count / 1000, f"{off} of {count} codes differ"
        for folder in (ours, theirs):
            model = load(folder, dtype)
            weights, here = torchao_weights(model), read_here(folder, scratch)
            same_weights(here[0], weights)
            same_logits(here, model, weights, dtype, source)
        nibble("verify", ours, "--source", source, "-q")
    results.case("torchao, HQQ within its bound, both ways", f"{scheme} {dtype}", run)


def torchao_older(results, models, scratch, dtype):
    """A config that torchao 0.18 has no word for: the note that verify reads must not disturb the loader."""
    scheme = "intx_weight_only:bits=4,granularity=group,group_size=32,eps=v0.17"

    def run():
        source = models.get(dtype)
        ours = quantize(source, pathlib.Path(scratch) / "ours", "--format", "torchao", "--scheme", scheme)
        assert "nibble" in read_folder(ours)[1][0], "no note was written"
        nibble("verify", ours, "--source", source, "-q")
        model = load(ours, dtype)
        weights, here = torchao_weights(model), read_here(ours, scratch)
        assert len(torchao_classes(model)) == 14
        same_weights(here[0], weights)
        same_logits(here, model, weights, dtype, source)
    results.case("torchao, ours there", f"{scheme} {dtype}", run)


def torchao_int4(results, models, scratch, numerics):
    """No CPU wheel makes these; whether one loads them is tried."""
    for dtype in ("bf16", "f16", "f32") if numerics == "plain" else ("bf16",):   # tiles hold bf16 only
        def loads():
            scheme = f"int4_weight_only:group_size=32,numerics={numerics}"
            ours = quantize(models.get(dtype), pathlib.Path(scratch) / "ours", "--format", "torchao", "--scheme", scheme)
            nibble("verify", ours, "--source", models.get(dtype), "-q")
            read_here(ours, scratch)
            model = load(ours, dtype)
            want = "Int4Tensor" if numerics == "plain" else "Int4TilePackedTo4dTensor"
            got = torchao_classes(model)
            assert set(got.values()) == {want}, f"classes {set(got.values())}"
            tensors, _ = read_folder(ours)
            for name, p in model.named_parameters():
                if name in got:
                    stem = name.rsplit(".", 1)[0] + "._weight_"
                    for part in p.tensor_data_names:
                        assert bytes_of(getattr(p, part)) == tensors[stem + part][2], f"{name} {part} loads as other bytes"
            from torchao.prototype.safetensors.safetensors_support import flatten_tensor_state_dict
            flat, metadata = flatten_tensor_state_dict(model.state_dict())
            flat.pop("lm_head.weight")
            assert {k: bytes_of(t) for k, t in flat.items()} == {k: t[2] for k, t in tensors.items()}
            same_metadata(read_folder(ours)[1], [{"format": "pt", **metadata}])
            want = torchao.core.config.config_to_dict(torchao_config(scheme))
            got = config_of(ours)["quantization_config"]["quant_type"]["default"]
            assert got == want, f"config {json.dumps(got)}, theirs {json.dumps(want)}"
        results.case("torchao int4, ours loads there and flattens to the same", f"{numerics} {dtype}", loads)

        def runs():
            raise Skip("no wheel for the CPU has the kernels that make such tensors, dequantize them or multiply with them")
        results.case("torchao int4, made there and runs there", f"{numerics} {dtype}", runs)


def torchao_mixed(results, models, scratch):
    q = torchao.quantization
    int8, int4 = q.Int8WeightOnlyConfig(), q.IntxWeightOnlyConfig(weight_dtype=torch.int4, granularity=q.PerGroup(32))
    layers = [f"model.layers.{i}" for i in range(2)]
    mlp = [f"{l}.mlp.{n}_proj" for l in layers for n in ("gate", "up", "down")]
    attention = [f"{l}.self_attn.{n}_proj" for l in layers for n in "qkvo"]
    rules = ("--rule", "*mlp*=int8_weight_only", "--rule", "*q_proj=leave", "--scheme",
             "intx_weight_only:bits=4,granularity=group,group_size=32")
    chosen = {"model.embed_tokens": None, **{m: int8 for m in mlp}, **{a: (None if a.endswith("q_proj") else int4) for a in attention}}
    classes = {**{f"{m}.weight": "Int8Tensor" for m in mlp},
               **{f"{a}.weight": "IntxUnpackedToInt8Tensor" for a in attention if not a.endswith("q_proj")}}
    with_head, without_head = {**chosen, "lm_head": int8}, {**chosen, "lm_head": None}

    def save_head(source, dtype, config):
        return transformers.AutoModelForCausalLM.from_pretrained(
            source, dtype=DTYPES[dtype], quantization_config=transformers.TorchAoConfig(config, modules_to_not_convert=[])).eval()

    for dtype in ("f32", "bf16"):
        for tie in (True, False):
            torchao_pair(results, models, scratch, f"rules, {'tied' if tie else 'untied'}", None, dtype, options=rules,
                         config=q.FqnToConfig(chosen if tie else without_head), classes=classes, tie=tie)
        torchao_pair(results, models, scratch, "rules and an untied head", None, dtype,
                     options=(*rules, "--rule", "lm_head=int8_weight_only", "--head"), config=q.FqnToConfig(with_head),
                     classes={**classes, "lm_head.weight": "Int8Tensor"}, tie=False, loaded=save_head)
        torchao_pair(results, models, scratch, "shards", "int8_weight_only", dtype, shards=True, save={"max_shard_size": "20KB"})
        torchao_pair(results, models, scratch, "rules, shards", None, dtype, options=rules, config=q.FqnToConfig(without_head),
                     classes=classes, shards=True, tie=False, save={"max_shard_size": "9KB"})
        torchao_pair(results, models, scratch, "biases", "int8_weight_only", dtype, bias=True)


def torchao_tied_head(results, models, scratch, dtype):
    """--head gives a tied head a weight of its own; transformers takes it as such."""
    def run():
        source = models.get(dtype)
        ours = quantize(source, pathlib.Path(scratch) / "ours", "--format", "torchao", "--scheme", "int8_weight_only", "--head")
        model = load(ours, dtype)
        assert torchao_classes(model)["lm_head.weight"] == "Int8Tensor" and len(torchao_classes(model)) == 15
        assert type(model.model.embed_tokens.weight.data) is torch.Tensor
        weights, here = torchao_weights(model), read_here(ours, scratch)
        same_weights(here[0], weights)
        same_logits(here, model, weights, dtype, source)
    results.case("torchao, ours there", f"a head that was tied {dtype}", run)


def torchao_section(results, models, scratch):
    for scheme, dtype in itertools.product(torchao_schemes(), DTYPES):
        torchao_pair(results, models, scratch, scheme, scheme, dtype, zeros=not scheme.startswith("float8"))
    for dtype in DTYPES:
        rows_of_zeros(results, models, scratch, dtype)
        torchao_tied_head(results, models, scratch, dtype)
        torchao_older(results, models, scratch, dtype)
        for bits in (2, 4, 8):
            torchao_hqq(results, models, scratch, f"intx_weight_only:bits={bits},granularity=group,group_size=32,algo=hqq", dtype)
    for scheme in ("int8_weight_only", "float8_weight_only", "intx_weight_only:bits=4,granularity=group,group_size=32",
                   "int8_dynamic_activation_int8_weight", "int8_dynamic_activation_int4_weight"):
        torchao_pair(results, models, scratch, f"kjv-llama {scheme}", scheme, "bf16", kjv=True)
    torchao_mixed(results, models, scratch)
    for numerics in ("plain", "tinygemm"):
        torchao_int4(results, models, scratch, numerics)


# ---- quanto ----
QUANTO = ("qint8", "qint4", "qint2", "qfloat8_e4m3fn", "qfloat8_e5m2", "qfloat8_e4m3fnuz")


def quanto_state(model):
    return {name: t for name, t in model.state_dict().items()}


def same_state(state, tensors, tied):
    """A state_dict() against the tensors of a folder; a tied head is not written twice."""
    names = set(state) - ({"lm_head.weight"} if tied else set())
    same_keys(set(tensors), names, "tensors")
    for name in names:
        assert list(state[name].shape) == tensors[name][1], f"{name} is {tensors[name][1]}, theirs {list(state[name].shape)}"
        assert bytes_of(state[name]) == tensors[name][2], f"{name} differs"


def quanto_weights(model):
    from optimum.quanto import QTensor
    out = {name: (p, False, p) for name, p in model.state_dict().items() if p is not None}
    for name, p in model.named_parameters():
        if isinstance(p, QTensor):
            out[name] = (p.dequantize(), True, quanto_f32(p))
    return out


def quanto_f32(p):
    """scale * code (- shift) as their dequantize() has it, but in f32."""
    from optimum.quanto.tensor.grouped import ungroup
    if not hasattr(p, "_scale"):  # packed for TinyGemm
        p = p.weight_qbits_tensor()
    data = p._data.unpack() if hasattr(p._data, "unpack") else p._data
    out = p._scale.float() * data.float()
    if not hasattr(p, "_shift"):
        return out
    return ungroup(out - p._shift.float(), axis=p.axis, orig_shape=p.shape)


def quanto_section(results, models, scratch):
    scratch = pathlib.Path(scratch)
    cases = [(t, d, {"zeros": False} if "float8" in t else {}) for t in QUANTO for d in DTYPES]
    cases += [(t, d, k) for t in ("qint8", "qint4") for d in ("f32", "bf16")
              for k in ({"shards": True}, {"tie": False}, {"bias": True})]
    cases += [(t, "bf16", {"kjv": True}) for t in ("qint8", "qint4", "qfloat8")]
    for weights, dtype, kind in cases:
        quanto_case(results, models, scratch, weights, dtype, kind)
    quanto_mixed(results, models, scratch)


def same_map_text(ours, theirs):
    """Their text, but for the order of the modules: theirs go by the module tree, ours by the file."""
    order = list(json.loads(ours))
    want = json.loads(theirs)
    assert json.dumps(want, indent=4) == theirs, "their text is not what was thought"
    assert ours == json.dumps({k: want[k] for k in order}, indent=4), "quanto_qmap.json is spelled otherwise"


def own_memory(model):
    """Tensors loaded from safetensors lie in a mapped file at 4 or 8 bytes, where torch 2.15's bf16 x int8
    product on a CPU dies; it does so with files that quanto itself wrote."""
    for _, p in model.named_parameters():
        if hasattr(p, "_data") and not hasattr(p._data, "_data"):
            p._data = p._data.clone()
    return model


def quanto_case(results, models, scratch, weights, dtype, kind):
    name = " ".join([weights, dtype, *(k for k, v in kind.items() if v)])
    source = KJV if kind.get("kjv") else models.get(dtype, **kind)
    tied = config_of(source)["tie_word_embeddings"]
    ours, theirs, plain = scratch / "ours", scratch / "theirs", scratch / "plain"
    made = {}

    def make():
        if made:
            return
        model = load(source, dtype)
        quanto.quantize(model, weights=weights, exclude="lm_head")
        quanto.freeze(model)
        quantize(source, ours, "--format", "quanto", "--scheme", weights)
        made.update(model=model, map=quanto.quantization_map(model))

    def same_files():
        make()
        tensors, metadata = read_folder(ours)
        same_state(quanto_state(made["model"]), tensors, tied)
        assert all(m == {"format": "pt"} for m in metadata), f"metadata {metadata}"
        text = (ours / "quanto_qmap.json").read_text()
        assert json.loads(text) == made["map"], "quanto_qmap.json says something else"
        same_map_text(text, json.dumps(made["map"], indent=4))

    def there(model):
        own_memory(model)
        weights_there, here = quanto_weights(model), read_here(ours, scratch)
        same_weights(here[0], weights_there)
        same_logits(here, model, weights_there, dtype, source)
        same_state(quanto_state(model), read_folder(ours)[0], tied)

    def requantized():
        make()
        model = load(source, dtype)
        with torch.no_grad():
            for p in model.parameters():
                p.zero_()
        state = {}
        for path in sorted(ours.glob("*.safetensors")):
            state.update(load_file(path))
        quanto.requantize(model, state, json.loads((ours / "quanto_qmap.json").read_text()), device=torch.device("cpu"))
        if tied:
            model.tie_weights()
        there(model.eval())

    def from_pretrained():
        make()
        there(quanto.QuantizedModelForCausalLM.from_pretrained(ours)._wrapped)

    def here_from(folder):
        nibble("verify", folder, "--source", source, "-q")
        weights_there, here = quanto_weights(made["model"]), read_here(folder, scratch)
        same_weights(here[0], weights_there)
        same_logits(here, made["model"], weights_there, dtype, source)
        if kind.get("kjv"):
            same_generate(folder, here)

    def saved():
        make()
        shutil.rmtree(theirs, ignore_errors=True)
        model = quanto.QuantizedModelForCausalLM.quantize(load(source, dtype), weights=weights, exclude="lm_head")
        model.save_pretrained(theirs)
        here_from(theirs)
        same_tensors(read_folder(ours)[0], read_folder(theirs)[0])
        same_map_text((ours / "quanto_qmap.json").read_text(), (theirs / "quanto_qmap.json").read_text())
        same_configs(ours, theirs)
        if kind.get("shards"):             # which splits parts of one weight, too
            model._wrapped.save_pretrained(theirs, max_shard_size="9KB")
            (theirs / "model.safetensors").unlink()
            assert len(list(theirs.glob("*.safetensors"))) > 3
            here_from(theirs)

    def saved_plainly():
        make()
        shutil.rmtree(plain, ignore_errors=True)
        plain.mkdir()
        state = quanto_state(made["model"])
        if tied:
            state.pop("lm_head.weight")
        save_file({k: v.contiguous() for k, v in state.items()}, plain / "model.safetensors")
        (plain / "quanto_qmap.json").write_text(json.dumps(made["map"]))
        shutil.copy(source / "config.json", plain)
        here_from(plain)

    results.case("quanto, same files", name, same_files)
    results.case("quanto, ours there by requantize", name, requantized)
    results.case("quanto, ours there by from_pretrained", name, from_pretrained)
    results.case("quanto, theirs here from save_pretrained", name, saved)
    results.case("quanto, theirs here from safetensors and a map", name, saved_plainly)


def quanto_mixed(results, models, scratch):
    """A map that names several types, and none for some modules."""
    def run():
        source = models.get("f32", tie=False)
        ours = quantize(source, scratch / "ours", "--format", "quanto", "--rule", "*mlp*=qint4", "--rule", "*q_proj=leave",
                        "--rule", "lm_head=qfloat8_e4m3fn", "--scheme", "qint8", "--head")
        model = load(source, "f32")
        quanto.quantize(model, weights="qint4", include="*mlp*")
        quanto.quantize(model, weights="qfloat8_e4m3fn", include="lm_head")
        quanto.quantize(model, weights="qint8", include=["*k_proj", "*v_proj", "*o_proj"])
        quanto.freeze(model)
        same_state(quanto_state(model), read_folder(ours)[0], False)
        assert json.loads((ours / "quanto_qmap.json").read_text()) == quanto.quantization_map(model)
        nibble("verify", ours, "--source", source, "-q")
        again = quanto.QuantizedModelForCausalLM.from_pretrained(ours)._wrapped
        same_state(quanto_state(again), read_folder(ours)[0], False)
        weights, here = quanto_weights(again), read_here(ours, scratch)
        same_weights(here[0], weights)
        same_logits(here, again, weights, "f32", source)
    results.case("quanto, rules", "qint4, qint8, qfloat8, float, head", run)


# ---- native, and folders of diffusers ----
def native_section(results, models, scratch):
    scratch = pathlib.Path(scratch)
    for scheme in ("int8_weight_only", "int4_weight_only:group_size=32", "intx_weight_only:bits=3,granularity=group,group_size=32",
                   "float8_weight_only", "qint4", "qint2"):
        def run():
            source = models.get("bf16", shards=True)
            ours = quantize(source, scratch / "ours", "--format", "native", "--scheme", scheme)
            nibble("verify", ours, "--source", source, "-q")
            native = read_here(ours, scratch)
            own = quantize(source, scratch / "own", "--scheme", scheme)
            other = read_here(own, scratch)
            assert native[0] == other[0], "native and the scheme's own format dequantize to other bits"
            assert torch.equal(native[1], other[1])
        results.case("native, the same weights as in the scheme's own format", scheme, run)

    def converts():
        listed = subprocess.run([str(BUILD / "nibble"), "--help"], capture_output=True, text=True).stdout
        if "convert" not in listed:
            raise Skip("there is no verb convert")
    results.case("native, converted", "both ways", converts)


def diffusers_section(results, scratch):
    """Folders laid out as diffusers does. Their library is not asked: only the layout is theirs."""
    scratch = pathlib.Path(scratch)
    config = {"_class_name": "PixArtTransformer2DModel", "_diffusers_version": "0.31.0", "attention_head_dim": 16,
              "num_attention_heads": 4, "sample_size": 8}

    def make(folder, shards):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        generator = torch.Generator().manual_seed(3)
        names = [f"transformer_blocks.{i}.attn1.{n}" for i in range(2) for n in ("to_q", "to_k", "to_v", "to_out.0")]
        tensors = {f"{n}.{kind}": torch.randn((64, 64) if kind == "weight" else (64,), generator=generator)
                   for n in names for kind in ("weight", "bias")}
        tensors["pos_embed.proj.weight"] = torch.randn((64, 4, 2, 2), generator=generator)
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        stem = "diffusion_pytorch_model"
        if not shards:
            save_file(tensors, folder / f"{stem}.safetensors", metadata={"format": "pt"})
            return folder
        index, keys = {}, sorted(tensors)
        for i in range(2):
            file = f"{stem}-0000{i + 1}-of-00002.safetensors"
            save_file({k: tensors[k] for k in keys[i::2]}, folder / file, metadata={"format": "pt"})
            index.update({k: file for k in keys[i::2]})
        total = sum(t.numel() * 4 for t in tensors.values())
        (folder / f"{stem}.safetensors.index.json").write_text(json.dumps({"metadata": {"total_size": total}, "weight_map": index}))
        return folder

    for shards, (scheme, format) in itertools.product((False, True), (("int8_weight_only", "torchao"), ("qint8", "quanto"),
                                                                      ("qint4", "quanto"), ("qint4", "native"))):
        def run():
            source = make(scratch / "source", shards)
            ours = quantize(source, scratch / "ours", "--format", format, "--scheme", scheme)
            nibble("verify", ours, "--source", source, "-q")
            want = sorted(p.name for p in source.glob("diffusion_pytorch_model*"))
            assert sorted(p.name for p in ours.glob("diffusion_pytorch_model*")) == want
            tensors, _ = read_folder(ours)
            assert config_of(ours)["_class_name"] == config["_class_name"]
            plain = torch.nn.Linear(64, 64)
            state, _ = read_folder(source)
            stem = "transformer_blocks.1.attn1.to_out.0"
            plain.weight.data = torch.frombuffer(bytearray(state[f"{stem}.weight"][2]), dtype=torch.float32).reshape(64, 64).clone()
            if format == "quanto":
                whole = torch.nn.Sequential(plain)
                quanto.quantize(whole, weights=scheme)
                quanto.freeze(whole)
                for key, t in whole.state_dict().items():
                    if ".weight" in key:
                        assert bytes_of(t) == tensors[stem + key[1:]][2], f"{key} differs"
            elif format == "torchao":
                torchao.quantization.quantize_(plain, torchao_config(scheme))
                assert bytes_of(plain.weight.qdata) == tensors[f"{stem}._weight_qdata"][2]
                assert bytes_of(plain.weight.scale) == tensors[f"{stem}._weight_scale"][2]
        results.case("folders of diffusers, codes as the library gives for the layer", f"{scheme} {format} {'sharded' if shards else 'one file'}", run)

    def loads():
        raise Skip("diffusers is not installed")
    results.case("folders of diffusers, loaded there", "from_pretrained", loads)


# ---- all of it ----
def versions(names):
    out = []
    for name in names:
        try:
            out.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            out.append(f"{name} not installed")
    return out


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", default="", help="cases whose name has this text")
    parser.add_argument("--markdown", help="write the summary there too")
    args = parser.parse_args()
    for program in ("nibble", "tests/read_checkpoint"):
        if not (BUILD / program).exists():
            sys.exit(f"{BUILD / program} is not there: build first, or set NIB_BUILD")
    results = Results(args.only)
    global torch, transformers, torchao, quanto, upstream, load_file, save_file, DTYPES
    try:
        import torch
        import transformers
        from safetensors.torch import load_file, save_file
        transformers.logging.set_verbosity_error()
        transformers.utils.logging.disable_progress_bar()
        torch.set_num_threads(1)
        DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
    except ImportError as e:
        print(f"skipped: everything, {e}\ncases run 0, skipped 1, failed 0")
        return 0
    have = {}
    try:
        import torchao
        import torchao.quantization
        sys.path.insert(0, str(ROOT / "tests/golden/torchao"))
        import upstream
        have["torchao"] = True
    except ImportError as e:
        have["torchao"] = f"{e}"
    try:
        import optimum.quanto as quanto
        have["quanto"] = True
    except ImportError as e:
        have["quanto"] = f"{e}"
    def missing(why):
        raise Skip(why)

    with tempfile.TemporaryDirectory() as root:
        models, scratch = Models(root), pathlib.Path(root) / "scratch"
        scratch.mkdir()
        if have["torchao"] is True:
            torchao_section(results, models, scratch)
        else:
            results.case("torchao", "everything", lambda: missing(have["torchao"]))
        if have["quanto"] is True:
            quanto_section(results, models, scratch)
        else:
            results.case("quanto", "everything", lambda: missing(have["quanto"]))
        native_section(results, models, scratch)
        if all(v is True for v in have.values()):
            diffusers_section(results, scratch)
        else:
            results.case("folders of diffusers", "everything", lambda: missing("needs torchao and optimum-quanto"))
    lines = [results.table(), ""]
    if results.skipped():
        lines += ["Skipped:", "", *("- " + s for s in results.skipped()), ""]
    if results.failures:
        lines += ["Failed:", "", *("- " + f for f in results.failures), ""]
    lines.append(results.summary())
    print("\n".join(lines))
    if args.markdown:
        about = versions(["torch", "torchao", "transformers", "optimum-quanto", "safetensors", "accelerate", "numpy"])
        pathlib.Path(args.markdown).write_text(
            "# Files that others open\n\nWhat `python tests/interop/formats.py --markdown bench/results/interop.md` printed, with "
            + ", ".join(about) + ", all on a CPU. What a case compares stands at the top of that script.\n\n" + "\n".join(lines) + "\n")
    return 1 if results.failures else 0


if __name__ == "__main__":
    sys.exit(main())
