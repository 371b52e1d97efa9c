"""Examples: arrays in memory, or files that are read when they are needed."""

from compress.data.images import image_folder as image_folder
from compress.data.sounds import wav_folder as wav_folder
from compress.data.source import Batch as Batch
from compress.data.source import Data as Data
from compress.data.source import DataError as DataError
from compress.data.source import Source as Source
from compress.data.source import batches_of as batches_of
from compress.data.source import num_examples as num_examples
from compress.data.source import rows as rows
from compress.data.source import shapes_of as shapes_of
from compress.data.stream import Stream as Stream
from compress.data.text import text_windows as text_windows
