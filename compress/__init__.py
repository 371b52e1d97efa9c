"""jax-compress: quantization, pruning and distillation as transforms of functions."""

from compress import distill as distill
from compress import prune as prune
from compress import quantize as quantize
from compress.sites import Site as Site
from compress.sites import Sites as Sites
from compress.sites import find_sites as find_sites
from compress.transform import ContractError as ContractError
from compress.transform import State as State
from compress.transform import Transform as Transform
from compress.transform import apply as apply
from compress.transform import calibrate as calibrate
from compress.transform import chain as chain
from compress.transform import check as check
from compress.transform import init as init
from compress.transform import loss as loss
from compress.transform import metrics as metrics
from compress.transform import observe as observe
from compress.transform import parameters as parameters
from compress.transform import ramp as ramp
from compress.transform import update as update
