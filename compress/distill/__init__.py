"""Distillation: a small model learns from a large one."""

from compress.distill.soft_targets import SoftTargetsState as SoftTargetsState
from compress.distill.soft_targets import soft_cross_entropy as soft_cross_entropy
from compress.distill.soft_targets import soft_targets as soft_targets
