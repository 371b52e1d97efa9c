"""Quantization: integers for weights and activations, in training and after it."""

from compress.quantize.affine import absmax_scale as absmax_scale
from compress.quantize.affine import largest_integer as largest_integer
from compress.quantize.affine import quantize as quantize
from compress.quantize.affine import round_through as round_through
from compress.quantize.fake_quant import WEIGHTS as WEIGHTS
from compress.quantize.fake_quant import FakeQuantState as FakeQuantState
from compress.quantize.fake_quant import fake_quant as fake_quant
from compress.quantize.observers import Range as Range
