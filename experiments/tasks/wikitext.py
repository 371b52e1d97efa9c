"""The next byte of WikiText-2, articles of Wikipedia (2.4 million bytes).

Only its `valid` and `test` parts are here: models are trained on nine tenths of `valid`
(the last tenth is for the curves) and judged on `test`, so their losses are not those
of models trained on the nine times larger `train`.
Source: Merity et al. 2017, https://arxiv.org/abs/1609.07843. CC BY-SA 3.0.
"""

import numpy as np

import compress
from experiments.data import data_file
from experiments.tasks.language import language_task

_BYTES = 256


def task_of(valid: bytes, test: bytes, tests: int = 2000) -> compress.Task:
    """The task of any two texts: to train on, and to be judged on."""
    known, unknown = _numbers(valid), _numbers(test)
    cut = len(known) * 9 // 10
    return language_task(_BYTES, known[:cut], known[cut:], unknown, tests)


def _numbers(text: bytes) -> np.ndarray:
    return np.frombuffer(text, np.uint8).astype(np.int32)


def task(tests: int = 2000) -> compress.Task:
    """The task for a config: `task: experiments.tasks.wikitext:task`.

    Args:
      tests: Examples of 64 bytes, of about 19,600 in `test`.

    Raises:
      FileNotFoundError: If the text is not there.
    """
    valid, test = (data_file(f"wikitext2/{part}.txt") for part in ("valid", "test"))
    return task_of(valid.read_bytes(), test.read_bytes(), tests)
