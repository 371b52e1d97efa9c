"""The interface of a technique, and how techniques are chained and applied."""

from compress.transform.apply import SiteProduct as SiteProduct
from compress.transform.apply import Tap as Tap
from compress.transform.apply import apply as apply
from compress.transform.apply import check_finite as check_finite
from compress.transform.apply import init as init
from compress.transform.apply import observe as observe
from compress.transform.apply import run_compressed as run_compressed
from compress.transform.calibrate import calibrate as calibrate
from compress.transform.calibrate import calibrator as calibrator
from compress.transform.calibrate import check_batch as check_batch
from compress.transform.chain import ContractError as ContractError
from compress.transform.chain import chain as chain
from compress.transform.chain import check as check
from compress.transform.chain import gradients as gradients
from compress.transform.chain import hold as hold
from compress.transform.chain import join as join
from compress.transform.chain import loss as loss
from compress.transform.chain import metrics as metrics
from compress.transform.chain import parameters as parameters
from compress.transform.chain import update as update
from compress.transform.interface import State as State
from compress.transform.interface import Transform as Transform
from compress.transform.interface import Update as Update
from compress.transform.ramps import Ends as Ends
from compress.transform.ramps import Ramp as Ramp
from compress.transform.ramps import ramp as ramp
