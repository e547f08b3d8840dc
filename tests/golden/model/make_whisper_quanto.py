"""What optimum-quanto's workflow makes of a small Whisper: quantize, generate under Calibration, freeze.

    python tests/golden/model/make_whisper_quanto.py   (needs the folder that make_whisper.py wrote)

writes whisper_quanto.safetensors, for each case of CASES
    CASE.<module>.input_scale, .output_scale    after freeze()
    CASE.mel [bands, F], CASE.ids [m], CASE.logits [m, V]
                                                of the frozen model, each id seeing those before it
    CASE.said                                   generate's ids of the frozen model
"""
import torch
from optimum.quanto import Calibration, freeze, qtypes, quantize
from safetensors.torch import load_file, save_file
from transformers import WhisperForConditionalGeneration

from make import HERE

# folder, weights, activations, streamline, options of generate
CASES = {
    "w8a8": ("whisper_f32", "qint8", "qint8", False, {}),
    "w8a8.times": ("whisper_f32", "qint8", "qint8", False, {"return_timestamps": True}),
    "upstream": ("whisper_f32", "qint8", "qint8", True, {}),
    "w4a8": ("whisper_f32", "qint4", "qint8", False, {}),
    "w4f8": ("whisper_f32", "qint4", "qfloat8_e4m3fn", False, {}),
    "w8": ("whisper_f32", "qint8", None, False, {}),
}


@torch.no_grad()
def run(folder, weights, activations, streamline, how):
    model = WhisperForConditionalGeneration.from_pretrained(
        HERE / folder, dtype=torch.float32, attn_implementation="eager").eval()
    reference = load_file(HERE / folder / "reference.safetensors")
    mel, ids = reference["mel"], reference["ids"]
    quantize(model, weights=qtypes[weights], activations=activations and qtypes[activations],
             exclude="proj_out")
    if activations:
        with Calibration(streamline=streamline):
            model.generate(mel[None], **how)
    freeze(model)
    out = {"mel": mel, "ids": ids}
    out["logits"] = model(mel[None], decoder_input_ids=ids[None], use_cache=False).logits[0].contiguous()
    said = model.generate(mel[None], **how)[0]
    eos = model.generation_config.eos_token_id
    out["said"] = (said[said != eos] if said[-1] == eos else said).clone()
    for name, value in model.state_dict().items():
        if activations and name.endswith(("input_scale", "output_scale")):
            out[name] = value.float().clone()
    return out


def main():
    torch.set_num_threads(1)
    out = {}
    for case, about in CASES.items():
        for name, value in run(*about).items():
            out[f"{case}:{name}"] = value
        print(case, out[f"{case}:said"].tolist())
    save_file(out, HERE / "whisper_quanto.safetensors")


if __name__ == "__main__":
    main()
