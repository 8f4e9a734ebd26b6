"""Frames of sounds whose pitch is known: tones, vowels, glides and bright sounds, with noise."""

import numpy as np
import torch
from torch import Tensor

RATE, LENGTH = 16_000, 1024  # what CREPE hears: 64 ms
KINDS = "tone", "vowel", "glide", "bright"
_LOWEST, _HIGHEST = 65.0, 1000.0  # Hz; vowels end at 400
_HIGHEST_PARTIAL = 7000.0
_TIME = (np.arange(LENGTH) - LENGTH / 2) / RATE


def make_frames(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return frames of mean 0 and variance 1, (count, 1024), and the pitch in their middle (Hz)."""
    random = np.random.default_rng(seed)
    made = [_make_frame(random, KINDS[random.integers(len(KINDS))]) for _ in range(count)]
    frames, pitches = zip(*made, strict=True)
    return torch.tensor(np.stack(frames), dtype=torch.float32), torch.tensor(pitches)


def _make_frame(random: np.random.Generator, kind: str) -> tuple[np.ndarray, float]:
    highest = 400.0 if kind == "vowel" else _HIGHEST
    pitch = float(np.exp(random.uniform(np.log(_LOWEST), np.log(highest))))
    octaves_a_second = random.normal(0, 2.0 if kind == "glide" else 0.1)
    phase = 2 * np.pi * pitch * (_TIME + octaves_a_second * np.log(2) * _TIME**2 / 2)
    partials = np.arange(1, max(2, int(min(40, _HIGHEST_PARTIAL / pitch))) + 1)
    starts = random.uniform(0, 2 * np.pi, len(partials))
    waves = np.sin(partials[:, None] * phase + starts[:, None])
    sound = _normalise(_draw_amplitudes(random, kind, pitch * partials, partials) @ waves)
    noise = random.normal(size=LENGTH)
    if random.random() < 0.3:
        noise = np.cumsum(noise)  # a deep rumble
    decibels = random.uniform(0, 30)  # of the sound, relative to the noise
    return _normalise(sound + 10 ** (-decibels / 20) * _normalise(noise)), pitch


def _draw_amplitudes(
    random: np.random.Generator, kind: str, hertz: np.ndarray, partials: np.ndarray
) -> np.ndarray:
    if kind == "tone":
        return np.exp(-random.uniform(0.3, 3) * (partials - 1))
    if kind == "glide":
        return 1 / partials ** random.uniform(0.5, 2)
    if kind == "bright":
        found: np.ndarray = random.uniform(0, 1, len(partials)) / partials
        found[0] = max(found[0], 0.2)
        return found
    formants = random.uniform([250, 800, 2200], [900, 2500, 3300])
    heights = np.exp(-(((hertz[:, None] - formants) / [100, 150, 200]) ** 2)) @ [1, 0.6, 0.3]
    shaped: np.ndarray = (heights + 0.02) / np.sqrt(partials)
    return shaped


def _normalise(sound: np.ndarray) -> np.ndarray:
    normal: np.ndarray = (sound - sound.mean()) / (sound.std() + 1e-9)
    return normal
