"""The next character of Shakespeare's plays (1.1 million characters, 65 kinds).

Source of the text: Karpathy's tinyshakespeare,
https://github.com/karpathy/char-rnn/tree/master/data/tinyshakespeare.
"""

import numpy as np

import compress
from experiments.data import data_file
from experiments.tasks.language import language_task

_ALL = 10**9


def task_of(text: str, tests: int = _ALL) -> compress.Task:
    """The task of any text; its last tenth is the test, the hundredth before that
    is for the curves.
    """
    kinds = sorted(set(text))
    number = {kind: i for i, kind in enumerate(kinds)}
    ids = np.asarray([number[c] for c in text], np.int32)
    curves, cut = len(ids) * 89 // 100, len(ids) * 9 // 10
    parts = ids[:curves], ids[curves:cut], ids[cut:]
    return language_task(len(kinds), *parts, tests)


def task(tests: int = _ALL) -> compress.Task:
    """The task for a config: `task: experiments.tasks.shakespeare:task`.

    Args:
      tests: Examples of 64 characters of the last tenth; by default all 1,743.

    Raises:
      FileNotFoundError: If the text is not there.
    """
    return task_of(data_file("tinyshakespeare.txt").read_text(), tests)
