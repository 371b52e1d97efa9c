"""When: a config and a model become one compiled train step per phase."""

from compress.schedule.chunk import Chunk as Chunk
from compress.schedule.chunk import build_chunk as build_chunk
from compress.schedule.chunk import open_data as open_data
from compress.schedule.many import Together as Together
from compress.schedule.many import build_many_chunk as build_many_chunk
from compress.schedule.many import together as together
from compress.schedule.many import why_apart as why_apart
from compress.schedule.numbers import Whose as Whose
from compress.schedule.optimizer import build_optimizer as build_optimizer
from compress.schedule.optimizer import learning_rate as learning_rate
from compress.schedule.phases import Phase as Phase
from compress.schedule.phases import split_phases as split_phases
from compress.schedule.phases import stage_starts as stage_starts
from compress.schedule.placement import Placement as Placement
from compress.schedule.placement import place as place
from compress.schedule.placement import plan_sharding as plan_sharding
from compress.schedule.step import TrainState as TrainState
from compress.schedule.step import build_step as build_step
from compress.schedule.step import init_state as init_state
from compress.schedule.techniques import Here as Here
from compress.schedule.techniques import build_links as build_links
from compress.schedule.techniques import build_transform as build_transform
from compress.schedule.techniques import post_training as post_training
