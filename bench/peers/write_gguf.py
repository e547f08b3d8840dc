# write_gguf.py: a GGUF of Llama-3.1-8B's exact shapes with random Q4_0 weights, for timing llama.cpp.
#
#     write_gguf.py OUT.gguf [LAYERS]        needs gguf and numpy; without a vocabulary
import sys

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter

WIDTH, HIDDEN, HEADS, KV_HEADS, VOCABULARY = 4096, 14336, 32, 8, 128256


def q4_0(rows, cols, random):
    """Random codes with a scale that makes weights of about 0.02."""
    blocks = np.empty((rows, cols // 32, 18), dtype=np.uint8)
    blocks[:, :, 2:] = random.integers(0, 256, (rows, cols // 32, 16), dtype=np.uint8)
    blocks[:, :, :2] = np.frombuffer(np.float16(0.0044).tobytes(), dtype=np.uint8)
    return blocks.reshape(rows, -1)


def main():
    layers = int(sys.argv[2]) if len(sys.argv) > 2 else 32
    out, random = GGUFWriter(sys.argv[1], "llama"), np.random.default_rng(1)
    out.add_block_count(layers)
    out.add_context_length(131072)
    out.add_embedding_length(WIDTH)
    out.add_feed_forward_length(HIDDEN)
    out.add_head_count(HEADS)
    out.add_head_count_kv(KV_HEADS)
    out.add_layer_norm_rms_eps(1e-5)
    out.add_rope_freq_base(500000.0)
    out.add_rope_dimension_count(WIDTH // HEADS)
    out.add_vocab_size(VOCABULARY)
    out.add_file_type(2)  # mostly Q4_0
    out.add_tokenizer_model("no_vocab")

    def weight(name, rows, cols):
        out.add_tensor(name, q4_0(rows, cols, random), raw_dtype=GGMLQuantizationType.Q4_0)

    def ones(name):
        out.add_tensor(name, np.ones(WIDTH, dtype=np.float32))

    weight("token_embd.weight", VOCABULARY, WIDTH)
    weight("output.weight", VOCABULARY, WIDTH)
    ones("output_norm.weight")
    for i in range(layers):
        ones(f"blk.{i}.attn_norm.weight")
        ones(f"blk.{i}.ffn_norm.weight")
        weight(f"blk.{i}.attn_q.weight", WIDTH, WIDTH)
        weight(f"blk.{i}.attn_k.weight", WIDTH * KV_HEADS // HEADS, WIDTH)
        weight(f"blk.{i}.attn_v.weight", WIDTH * KV_HEADS // HEADS, WIDTH)
        weight(f"blk.{i}.attn_output.weight", WIDTH, WIDTH)
        weight(f"blk.{i}.ffn_gate.weight", HIDDEN, WIDTH)
        weight(f"blk.{i}.ffn_up.weight", HIDDEN, WIDTH)
        weight(f"blk.{i}.ffn_down.weight", WIDTH, HIDDEN)
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()


main()
