"""Shape annotations: jaxtyping's where it is installed, plain arrays where not.

A device that only loads artifacts installs jax, flatbuffers and safetensors.
"""

from typing import TYPE_CHECKING, Any

import jax

Array = jax.Array
PyTree = Any

try:
    from jaxtyping import Bool as Bool
    from jaxtyping import Float as Float
    from jaxtyping import Int as Int
    from jaxtyping import Num as Num
    from jaxtyping import Shaped as Shaped
except ImportError:
    if not TYPE_CHECKING:

        class _Unchecked:
            def __class_getitem__(cls, item: Any) -> Any:
                return Any

        Bool = Float = Int = Num = Shaped = _Unchecked
