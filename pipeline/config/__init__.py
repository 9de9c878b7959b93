"""Every setting of the project and its default: frozen, typed, checked when made. The only place a default lives.

The jobs turn these classes into command lines, so a field's docstring is its help text. The fields of nested
classes become top-level options (`--proposals`, `--crf`), hence their names are unique over a whole config.
"""

from pipeline.config.analysis import AblateConfig as AblateConfig
from pipeline.config.analysis import InspectConfig as InspectConfig
from pipeline.config.converting import ConvertConfig as ConvertConfig
from pipeline.config.evaluating import EvaluateConfig as EvaluateConfig
from pipeline.config.exporting import ExportConfig as ExportConfig
from pipeline.config.fcn import TrainFcnConfig as TrainFcnConfig
from pipeline.config.recipes import SEGMENT_RECIPES as SEGMENT_RECIPES
from pipeline.config.recipes import TRAIN_RECIPES as TRAIN_RECIPES
from pipeline.config.segmenting import SegmentConfig as SegmentConfig
from pipeline.config.stages import DecodeConfig as DecodeConfig
from pipeline.config.stages import EnsembleConfig as EnsembleConfig
from pipeline.config.stages import FilterConfig as FilterConfig
from pipeline.config.stages import PredictConfig as PredictConfig
from pipeline.config.stages import ProposeConfig as ProposeConfig
from pipeline.config.stages import RefineConfig as RefineConfig
from pipeline.config.training import AT_WORK as AT_WORK
from pipeline.config.training import TrainConfig as TrainConfig
from pipeline.config.training import TrainingSetConfig as TrainingSetConfig
from pipeline.errors import ConfigError as ConfigError
