"""Small checkpoints that transformers, torchao and optimum-quanto wrote, for tests/io/test_formats.c.

    python tests/golden/formats/make.py        versions: tests/golden/versions.txt

source-<dtype>[-sharded] are float models with seeded weights; every other folder is one of them
quantized and saved by the library that it is named after. The size of the shards of
torchao-rules-sharded-bf16 is one that puts parts of a weight into two files."""
import json
import os
import pathlib
import shutil
import warnings

os.environ["HF_HUB_OFFLINE"] = "1"
warnings.filterwarnings("ignore")
import torch  # noqa: E402
import transformers  # noqa: E402
from optimum.quanto import QuantizedModelForCausalLM  # noqa: E402
from torchao.quantization import (Float8WeightOnlyConfig, FqnToConfig, Int8DynamicActivationInt8WeightConfig,  # noqa: E402
                                  Int8DynamicActivationIntxWeightConfig, Int8WeightOnlyConfig, IntxWeightOnlyConfig,
                                  MappingType, PerAxis, PerGroup, PerRow, PerTensor)

HERE = pathlib.Path(__file__).resolve().parent
DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
KEEP = ("config.json", "quanto_qmap.json")


def save(model, name, **options):
    folder = HERE / name
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder, **options)
    for path in folder.iterdir():
        if path.name not in KEEP and "safetensors" not in path.name:
            path.unlink()


def source(dtype, tie=True, **options):
    name = f"source-{dtype}{'-sharded' if options else ''}"
    config = transformers.LlamaConfig(hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
                                      num_key_value_heads=1, vocab_size=24, max_position_embeddings=32,
                                      tie_word_embeddings=tie)
    torch.manual_seed(7)
    model = transformers.LlamaForCausalLM(config)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn_like(p) * (0.2 if p.ndim == 2 else 0.1) + (p.ndim == 1))
    save(model.to(DTYPES[dtype]), name, **options)
    return name


def load(name, **options):
    return transformers.AutoModelForCausalLM.from_pretrained(HERE / name, dtype="auto", **options)


def torchao(name, of, config, **options):
    model = load(of, quantization_config=transformers.TorchAoConfig(config))
    save(model, f"torchao-{name}", **options)


def quanto(weights, of):
    model = QuantizedModelForCausalLM.quantize(load(of), weights=weights, exclude="lm_head")
    save(model, f"quanto-{weights}-{of.split('-')[1]}")


def main():
    f32, f16, bf16 = (source(d) for d in DTYPES)
    sharded = source("bf16", tie=False, max_shard_size="6KB")
    int8, intx = Int8WeightOnlyConfig, IntxWeightOnlyConfig
    torchao("int8-row-bf16", bf16, int8())
    torchao("int8-group-f16", f16, int8(granularity=PerGroup(16)))
    torchao("int8-tensor-f32", f32, int8(granularity=PerTensor()))
    torchao("intx-4-group-asymmetric-bf16", bf16, intx(weight_dtype=torch.int4, granularity=PerGroup(16),
                                                      mapping_type=MappingType.ASYMMETRIC))
    torchao("intx-3-row-f16", f16, intx(weight_dtype=torch.int3, granularity=PerAxis(0)))
    torchao("float8-row-bf16", bf16, Float8WeightOnlyConfig())
    dynamic_int8, dynamic_intx = Int8DynamicActivationInt8WeightConfig, Int8DynamicActivationIntxWeightConfig
    torchao("int8-dynamic-bf16", bf16, dynamic_int8())
    torchao("int8-dynamic-reduced-f32", f32, dynamic_int8(granularity=[PerTensor(), PerRow()], reduce_range=True,
                                                          act_mapping_type=MappingType.ASYMMETRIC))
    torchao("int8-dynamic-tensor-f16", f16, dynamic_int8(granularity=PerTensor(), weight_only_decode=True))
    torchao("8da4w-group-bf16", bf16, dynamic_intx(weight_dtype=torch.int4, weight_granularity=PerGroup(16)))
    torchao("8da4w-row-f16", f16, dynamic_intx(weight_dtype=torch.int4, weight_granularity=PerAxis(0),
                                               weight_mapping_type=MappingType.ASYMMETRIC,
                                               weight_scale_dtype=torch.float32))
    layer = "model.layers.0"
    rules = {"lm_head": None, "model.embed_tokens": None, f"{layer}.self_attn.q_proj": None}
    rules.update({f"{layer}.mlp.{n}_proj": int8() for n in ("gate", "up", "down")})
    rules.update({f"{layer}.self_attn.{n}_proj": intx(weight_dtype=torch.int2) for n in "kvo"})
    torchao("rules-sharded-bf16", sharded, FqnToConfig(rules), max_shard_size=4250)
    quanto("qint8", f16)
    quanto("qint4", bf16)
    quanto("qint2", f32)
    quanto("qfloat8_e4m3fn", bf16)
    for folder in sorted(HERE.iterdir()):
        if folder.is_dir():
            print(folder.name, sum(p.stat().st_size for p in folder.iterdir()))


if __name__ == "__main__":
    main()
