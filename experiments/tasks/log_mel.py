"""The log-mel spectrum of a waveform, as part of a model: it takes raw samples.

Window and filters are computed in the program, from their definitions, so they take no
room in an exported file.
"""

import jax
import jax.numpy as jnp
import numpy as np

# 40 ms windows every 20 ms, as Zhang et al. 2017, https://arxiv.org/abs/1711.07128
WINDOW = 320
HOP = WINDOW // 2
MELS = 20
LOWEST_HZ = 20.0
# Power below 50 dB under the loudest window counts as none. Without a floor, a rounding
# error of a quiet bin would be an error of its logarithm.
FLOOR = 1e-5
# Of digital silence, which has no loudest window: far below one bit of 16.
_SILENCE = 1e-9


def log_mel(samples: jax.Array, rate: int) -> jax.Array:
    """The logarithm of the power in each mel band, relative to the loudest window.

    Args:
      samples: `[batch, n]` int16, n a multiple of `HOP`.
      rate: Samples per second.

    Returns:
      `[batch, n / HOP - 1, MELS]` float32, between `log(FLOOR)` and a little above 0,
      however loud the recording is.
    """
    signal = samples.astype(jnp.float32) / 32768.0
    blocks = signal.reshape(signal.shape[0], -1, HOP)
    frames = jnp.concatenate([blocks[:, :-1], blocks[:, 1:]], axis=-1)
    spectrum = jnp.fft.rfft(frames * hann(WINDOW)[None, None])
    power = spectrum.real**2 + spectrum.imag**2
    bands = power @ mel_filters(rate)
    loudest = jnp.max(bands.sum(-1, keepdims=True), axis=1, keepdims=True)
    return jnp.log(bands / (loudest + _SILENCE) + FLOOR)


def hann(size: int) -> jax.Array:
    """The periodic Hann window, `[size]`."""
    angle = 2 * np.pi / size * jnp.arange(size, dtype=jnp.float32)
    return 0.5 - 0.5 * jnp.cos(angle)


def mel_filters(rate: int) -> jax.Array:
    """Triangles on the mel scale, each from its neighbour's peak to the next one's.

    Source: the HTK book, section 5.4, mel(f) = 2595 log10(1 + f / 700).

    Returns:
      `[WINDOW // 2 + 1, MELS]`, 1 at the peaks.
    """
    edges = np.linspace(_mel(LOWEST_HZ), _mel(rate / 2), MELS + 2)
    low, peak, high = edges[None, :-2], edges[None, 1:-1], edges[None, 2:]
    hertz = rate / WINDOW * jnp.arange(WINDOW // 2 + 1, dtype=jnp.float32)
    mel = 2595.0 / np.log(10.0) * jnp.log1p(hertz / 700.0)[:, None]
    rising, falling = (mel - low) / (peak - low), (high - mel) / (high - peak)
    return jnp.maximum(0.0, jnp.minimum(rising, falling))


def _mel(hertz: float) -> float:
    return 2595.0 * float(np.log10(1.0 + hertz / 700.0))
