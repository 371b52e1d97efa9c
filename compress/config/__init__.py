"""Declares a run: one YAML file, parsed strictly into frozen models."""

from compress.config.errors import ConfigError as ConfigError
from compress.config.identity import config_hash as config_hash
from compress.config.loader import load_config as load_config
from compress.config.loader import parse_config as parse_config
from compress.config.models import Compare as Compare
from compress.config.models import Config as Config
from compress.config.models import Distill as Distill
from compress.config.models import Export as Export
from compress.config.models import LearningRate as LearningRate
from compress.config.models import Optimizer as Optimizer
from compress.config.models import PostTraining as PostTraining
from compress.config.models import Quantize as Quantize
from compress.config.models import Row as Row
from compress.config.models import Stage as Stage
from compress.config.models import Teacher as Teacher
from compress.config.names import nearest as nearest
from compress.config.pruning import Block as Block
from compress.config.pruning import Budget as Budget
from compress.config.pruning import Prune as Prune
from compress.config.pruning import Shrink as Shrink
from compress.config.rows import row_config as row_config
from compress.config.schema import json_schema as json_schema
