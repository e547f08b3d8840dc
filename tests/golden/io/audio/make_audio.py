# make_audio.py FOLDER [SPEECH.wav]: a short sound, and what transformers' WhisperFeatureExtractor hears of
# it in 80 and 128 bands (every 16th frame of the first 2 seconds, and one of the silence that pads it). With
# the wav of a speech the same of that, every 100th frame, as speech_80.npy and speech_128.npy.
import sys
import wave

import numpy as np
from transformers import WhisperFeatureExtractor


def save(folder, name, sound, frames):
    for bands in (80, 128):
        heard = WhisperFeatureExtractor(feature_size=bands)(sound, sampling_rate=16000, return_tensors="np")
        np.save(f"{folder}/{name}_{bands}.npy", np.ascontiguousarray(heard["input_features"][0][:, frames].astype(np.float32)))


folder = sys.argv[1]
n = np.arange(19200)
random = np.random.default_rng(7)
sweep = 0.4 * np.sin(2 * np.pi * (200 * n / 16000 + 2500 * (n / 16000) ** 2)) * (n > 1600)
sound = np.round((sweep + 0.01 * random.standard_normal(n.size) * (n < 12800)) * 32767).astype("<i2")
with wave.open(f"{folder}/sweep.wav", "wb") as f:
    f.setparams((1, 2, 16000, n.size, "NONE", "none"))
    f.writeframes(sound.tobytes())
save(folder, "sweep", sound.astype(np.float32) / 32768, list(range(0, 200, 16)) + [2999])
if len(sys.argv) > 2:
    with wave.open(sys.argv[2]) as f:
        assert f.getframerate() == 16000 and f.getnchannels() == 1 and f.getsampwidth() == 2
        speech = np.frombuffer(f.readframes(f.getnframes()), "<i2")
    save(folder, "speech", speech.astype(np.float32) / 32768, list(range(0, 3000, 100)))
