"""What every axis of a traced program is made of, and the program at other sizes."""

from compress.interpret.axes.nodes import Kept as Kept
from compress.interpret.axes.nodes import Node as Node
from compress.interpret.axes.nodes import atoms as atoms
from compress.interpret.axes.nodes import find as find
from compress.interpret.axes.nodes import freeze as freeze
from compress.interpret.axes.nodes import is_one as is_one
from compress.interpret.axes.nodes import kept_mask as kept_mask
from compress.interpret.axes.nodes import leaves as leaves
from compress.interpret.axes.nodes import size_with as size_with
from compress.interpret.axes.nodes import unify as unify
from compress.interpret.axes.nodes import unit_of as unit_of
from compress.interpret.axes.resize import resize as resize
from compress.interpret.axes.sums import WINDOW as WINDOW
from compress.interpret.axes.values import Value as Value
from compress.interpret.axes.walk import Axes as Axes
from compress.interpret.axes.walk import find_axes as find_axes
