"""Generated voices: spectrograms of phrases, by a source of harmonics and a filter of formants.

A speaker has a pitch and its melody, a length of the vocal tract, which scales all formants, habits of their own in
each vowel, a slope of the spectrum, breath, and a tempo. A phrase is a sequence of vowels; no two are the same.
Microphone, level and noise differ from recording to recording.

Fant, "Acoustic Theory of Speech Production", 1960; Rabiner & Schafer, "Digital Processing of Speech Signals", 1978,
chapter 3.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from siamese_verify.datasets.generated import GeneratedSet

RATE = 8000  # samples a second
FRAME, HOP = 256, 80  # samples: 32 ms every 10 ms
# The first three formants of eight vowels in Hz, as Peterson & Barney measured them of men (JASA 1952, table II).
VOWELS = np.array(
    [
        *[[270, 2290, 3010], [390, 1990, 2550], [530, 1840, 2480], [660, 1720, 2410]],
        *[[730, 1090, 2440], [570, 840, 2410], [300, 870, 2240], [640, 1190, 2390]],
    ],
    dtype=np.float64,
)
WIDTHS = np.array([60.0, 90.0, 150.0])  # of the formants' resonances, in Hz


@dataclass(frozen=True)
class Voice:
    """What a speaker's recordings have in common."""

    pitch: float  # in Hz
    melody: float  # deviation of the pitch, in octaves
    formants: np.ndarray  # (8,3) of each vowel, in Hz
    slope: float  # of the source, in dB an octave
    breath: float  # noise of the source over its harmonics
    tempo: float  # vowels a second


@lru_cache(maxsize=4096)
def draw_voice(seed: int, speaker: int) -> Voice:
    """Voice of a speaker."""
    rng = np.random.default_rng([seed, speaker])
    octave, tract, melody, slope, breath, tempo = rng.uniform([0, -1, 0.03, -9, 0.02, 4], [1, 1, 0.15, -2, 0.2, 8])
    scale = 1.1 + 0.08 * tract + 0.1 * (octave - 0.5)  # high voices have short tracts, mostly
    own = VOWELS * scale * rng.normal(1, 0.04, VOWELS.shape) * rng.normal(1, 0.03, 3)
    return Voice(90 * 2 ** (1.4 * octave), melody, own, slope, breath, tempo)


def synthesize(voice: Voice, rng: np.random.Generator, seconds: float) -> np.ndarray:
    """(RATE * seconds,) samples of a random phrase."""
    ends = np.arange(round(RATE * seconds)) / RATE
    time = ends[:: HOP // 2]  # (T,): what articulates is slow
    spoken = rng.integers(0, len(VOWELS), int(voice.tempo * seconds) + 3)
    place = time * voice.tempo + rng.random()
    before, way = place.astype(int), np.clip(3 * (place % 1) - 2, 0, 1)[:, None]  # a third of a vowel leads to the next
    formants = voice.formants[spoken[before]] * (1 - way) + voice.formants[spoken[before + 1]] * way  # (T,3)
    knots = rng.normal(0, voice.melody, len(spoken))
    pitch = voice.pitch * 2 ** np.interp(place, np.arange(len(knots)), knots)  # (T,)
    at = np.arange(1, int(RATE / 2 / pitch.min()) + 1)[:, None] * pitch  # (H,T) harmonics
    gains = 10 ** (voice.slope * np.log2(at / 100) / 20) * (at < RATE / 2)
    for center, width in zip(formants.T, WIDTHS, strict=True):  # two poles each
        gains *= center**2 / np.hypot(center**2 - at**2, width * at)
    tone = np.exp(2j * np.pi * np.cumsum(np.interp(ends, time, pitch)) / RATE)
    harmonic, signal = np.ones_like(tone), np.zeros_like(ends)
    for gain in gains:
        harmonic *= tone
        signal += np.interp(ends, time, gain) * harmonic.imag
    signal += rng.normal(0, np.abs(signal).mean(), len(ends)) * voice.breath
    signal *= np.interp(ends, time, 0.5 + 0.5 * np.sqrt(np.sin(np.pi * (place % 1))))
    signal /= np.sqrt(np.square(signal).mean())
    return signal


def log_mel(signal: np.ndarray, bands: int) -> np.ndarray:
    """(bands, frames) float32 log energies in bands of equal width in mel, of frames of 32 ms every 10 ms.

    Args:
        signal: samples at 8 kHz.
        bands: from 60 Hz to 4 kHz.

    Davis & Mermelstein, "Comparison of parametric representations for monosyllabic word recognition", 1980.
    """
    frames = np.lib.stride_tricks.sliding_window_view(signal, FRAME)[::HOP] * np.hanning(FRAME)
    power = np.square(np.abs(np.fft.rfft(frames, axis=1)))  # (frames, FRAME / 2 + 1)
    energies: np.ndarray = np.log(power @ mel_bands(bands).T + 1e-3)
    return energies.T.astype(np.float32)


@lru_cache
def mel_bands(bands: int) -> np.ndarray:
    """(bands, FRAME / 2 + 1) triangles over the frequencies of a frame."""
    low, high = (2595 * np.log10(1 + hertz / 700) for hertz in (60, RATE / 2))
    edges = 700 * (10 ** (np.linspace(low, high, bands + 2) / 2595) - 1)
    hertz = np.fft.rfftfreq(FRAME, 1 / RATE)
    left, center, right = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    return np.maximum(np.minimum((hertz - left) / (center - left), (right - hertz) / (right - center)), 0)


class Voices(GeneratedSet):
    """Log-mel spectrograms of generated voices: (1, bands, frames) float32.

    Args:
        identities: speakers.
        samples: recordings of each, every one of another phrase.
        seconds: of a recording; a frame comes every 10 ms, and the last starts 32 ms before the end.
        bands: of the spectrogram.
        seed: of all draws.
        first: number of the first speaker.

    Raises:
        InputError: a number is too small, or fewer than 0.1 seconds.
    """

    kind = "voices"
    nouns = ("speaker", "recording")

    def __init__(
        self,
        identities: int = 100,
        samples: int = 10,
        seconds: float = 1.0,
        bands: int = 40,
        seed: int = 0,
        first: int = 0,
    ) -> None:
        self.check(bands=(bands, 1), seconds=(seconds, 0.1))
        super().__init__(identities, samples, seed, first)
        self.seconds, self.bands = seconds, bands

    def draw(self, identity: int, number: int) -> np.ndarray:
        """Spectrogram of a recording: (1, bands, frames) float32."""
        rng = np.random.default_rng([self.seed, identity, number + 1])
        signal = synthesize(draw_voice(self.seed, identity), rng, self.seconds)
        spectrum = np.fft.rfft(signal)
        bends = np.interp(np.linspace(0, 5, len(spectrum)), np.arange(6), rng.normal(0, 3, 6))  # a microphone's, in dB
        signal = np.fft.irfft(spectrum * 10 ** (bends / 20), len(signal))
        signal = (signal + rng.normal(0, 10 ** rng.uniform(-2.5, -1.3), len(signal))) * 10 ** rng.uniform(-0.5, 0.5)
        return log_mel(signal, self.bands)[None]
