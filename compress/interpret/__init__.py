"""How a traced program is walked and changed; the only layer that knows jaxprs."""

from compress.interpret.boxes import Quantized as Quantized
from compress.interpret.boxes import unbox as unbox
from compress.interpret.contract import Product as Product
from compress.interpret.contract import contract as contract
from compress.interpret.contract import float_product as float_product
from compress.interpret.contract import multiply as multiply
from compress.interpret.contract import scale_of_output as scale_of_output
from compress.interpret.evaluate import Scope as Scope
from compress.interpret.evaluate import evaluate as evaluate
from compress.interpret.program import Equation as Equation
from compress.interpret.program import Location as Location
from compress.interpret.program import Program as Program
from compress.interpret.program import shape_of as shape_of
from compress.interpret.program import source_line as source_line
from compress.interpret.program import trace as trace
from compress.interpret.provenance import Contraction as Contraction
from compress.interpret.provenance import Origin as Origin
from compress.interpret.provenance import find_contractions as find_contractions
