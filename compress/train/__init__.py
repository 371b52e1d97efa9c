"""Run: the training loop, its directory, checkpoints, and resuming."""

from compress.train.batches import calibration_batches as calibration_batches
from compress.train.boundaries import boundaries_json as boundaries_json
from compress.train.boundaries import boundaries_of as boundaries_of
from compress.train.boundaries import surviving_units as surviving_units
from compress.train.checkpoints import CheckpointError as CheckpointError
from compress.train.checkpoints import hash_of as hash_of
from compress.train.checks import check_schedule as check_schedule
from compress.train.checks import state_shapes as state_shapes
from compress.train.checks import untrained_teacher as untrained_teacher
from compress.train.directory import InUseError as InUseError
from compress.train.directory import RunError as RunError
from compress.train.evaluate import Evaluation as Evaluation
from compress.train.evaluate import evaluate as evaluate
from compress.train.loop import Trained as Trained
from compress.train.loop import finished as finished
from compress.train.loop import train as train
from compress.train.phases import Entered as Entered
from compress.train.phases import Job as Job
from compress.train.phases import foresee as foresee
from compress.train.phases import foreseen_phases as foreseen_phases
from compress.train.phases import rebuilt_phase as rebuilt_phase
from compress.train.provenance import data_hash as data_hash
from compress.train.provenance import git_commit as git_commit
from compress.train.provenance import versions as versions
from compress.train.teacher import teacher_of as teacher_of
