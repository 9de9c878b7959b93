"""The commands: what each is called, its settings, and which of them people use first. Imports nothing heavy.

`deconvnet segment photos --output runs/photos` and `python jobs/segment_dataset.py --input photos --output runs/photos`
are the same job, read from the same class of settings; the first takes its subject without an option's name.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, is_dataclass, replace
from inspect import getdoc
from typing import Any

from jobs import settings_file
from pipeline import config as settings
from pipeline.checkpoints.bundled import recipe_for
from pipeline.config.edges import TrainEdgesConfig
from pipeline.config.evaluating import ReportConfig, TuneCrfConfig
from pipeline.config.fcn import TrainFcnConfig
from pipeline.config.lite import TrainLiteConfig
from pipeline.config.recipes import Recipe, first_look

PANELS = "20"
"""Pictures in a command that a job suggests."""
FILE_OPTIONS = """\
--config FILE reads settings of this command from a YAML or JSON file, also from a run's run/config.json or a
training's train.json; the command line wins.
--print-config prints all settings as such a file and does nothing else."""
EXIT_CODES = "Exit codes: 0 done, 2 wrong arguments, 3 stopped (the same command goes on), 4 failed, 5 no cluster."


@dataclass(frozen=True)
class Command:
    """One job.

    Attributes:
        name: `deconvnet NAME`.
        module: jobs/MODULE.py, whose `run` takes the settings and returns the exit code.
        config: the class of its settings; its docstring explains the job.
        subject: the setting that the console takes without its name.
        summary: one line for the list of commands.
        example: arguments on the console.
        first: settings that `--help` shows, beside those that must be given.
        recipes: by the name of `--recipe`, what the settings start from.
    """

    name: str
    module: str
    config: type[Any]
    subject: str
    summary: str
    example: str
    first: tuple[str, ...]
    recipes: dict[str, Recipe] = field(default_factory=dict)

    @property
    def on_console(self) -> bool:
        """Whether this process was started as `deconvnet`, and not as a script."""
        return not sys.argv[0].endswith(".py")

    def line(self, subject: str, *options: str) -> str:
        """The command line that calls this job, in the form that this process was called in."""
        if self.on_console:
            return " ".join(["deconvnet", self.name, subject, *options])
        return " ".join(
            ["python", f"jobs/{self.module}.py", f"--{settings_file.option_of(self.subject)}", subject, *options]
        )


SEGMENT = Command(
    "segment", "segment_dataset", settings.SegmentConfig, "input",
    "photographs to masks, on this machine or a cluster",
    "photos --output runs/photos --weights my.safetensors",
    ("weights", "limit", "masks", "overwrite", "retry_failed", "dry_run", "proposals", "device", "crf"),
    settings.SEGMENT_RECIPES,
)  # fmt: skip
EVALUATE = Command(
    "evaluate", "evaluate", settings.EvaluateConfig, "results",
    "scores against ground truth, and pictures of results",
    "runs/photos --panels 20",
    tuple(one.name for one in fields(settings.EvaluateConfig)),
)  # fmt: skip
EXPORT = Command(
    "export", "export_results", settings.ExportConfig, "results",
    "results as COCO, YOLO, CVAT and other tools read them",
    "runs/photos --to coco --output exports/photos",
    tuple(one.name for one in fields(settings.ExportConfig)),
)  # fmt: skip
REPORT = Command(
    "report", "report", ReportConfig, "results",
    "what came out of a run or a training, on one page",
    "runs/photos",
    (),
)  # fmt: skip
BUILD = Command(
    "build-training-set", "build_training_set", settings.TrainingSetConfig, "data",
    "annotated images to training windows",
    "VOC2012 SBD/dataset --output data/voc_windows",
    ("classes", "train_split", "val_split", "val_share", "limit", "min_iou", "windows_per_image",
     "any_windows_per_image"),
)  # fmt: skip
TRAIN = Command(
    "train", "train", settings.TrainConfig, "training_set",
    "a network from training windows",
    "data/voc_windows --output runs/voc --vgg16 vgg16_bn.pth",
    ("vgg16", "init", "width", "epochs", "batch_size", "learning_rate", "precision", "workers", "recipe"),
    settings.TRAIN_RECIPES,
)  # fmt: skip
TRAIN_FCN = Command(
    "train-fcn", "train_fcn", TrainFcnConfig, "data",
    "a light FCN from whole photographs with masks",
    "VOC2012 SBD/dataset --output runs/fcn",
    ("classes", "val_share", "limit", "encoder", "steps", "val_every", "batch_size", "learning_rate", "precision",
     "workers"),
)  # fmt: skip
TRAIN_LITE = Command(
    "train-lite", "train_lite", TrainLiteConfig, "data",
    "a light DeconvNet from photographs with masks and a light FCN",
    "VOC2012 SBD/dataset --fcn runs/fcn/fcn.safetensors --output runs/lite",
    ("fcn", "classes", "val_share", "limit", "steps", "val_every", "batch_size", "learning_rate", "precision",
     "workers"),
)  # fmt: skip
CONVERT = Command(
    "convert", "convert_weights", settings.ConvertConfig, "source",
    "a released Caffe model to a checkpoint",
    "release.caffemodel --kind deconvnet --output release.safetensors",
    ("classes",),
)  # fmt: skip
INSPECT = Command(
    "inspect", "inspect_network", settings.InspectConfig, "image",
    "one image's way through all stages, as a picture",
    "photo.jpg --output runs/inspected",
    ("results", "weights", "box", "truth", "base", "also"),
)  # fmt: skip
ABLATE = Command(
    "ablate", "ablate", settings.AblateConfig, "data",
    "what each part of the method is worth, in a table",
    "data/demo --split val --output runs/ablation",
    ("weights", "split", "limit", "base", "also", "only", "trimap"),
)  # fmt: skip
TUNE_CRF = Command(
    "tune-crf", "tune_crf", TuneCrfConfig, "results",
    "the CRF's best parameters for saved probabilities",
    "runs/demo --ground-truth data/demo --split val",
    ("split", "limit", "trials", "threads", "json"),
)  # fmt: skip
TRAIN_EDGES = Command(
    "train-edges", "train_edges", TrainEdgesConfig, "data",
    "the edge detector that proposals start from",
    "BSDS500 --output edges.safetensors",
    tuple(one.name for one in fields(TrainEdgesConfig)),
)  # fmt: skip

COMMANDS = (
    SEGMENT, EVALUATE, REPORT, EXPORT, BUILD, TRAIN, TRAIN_FCN, TRAIN_LITE, CONVERT, INSPECT, ABLATE, TUNE_CRF,
    TRAIN_EDGES,
)  # fmt: skip


def parse(command: Command, arguments: Sequence[str] | None = None, console: bool = False) -> Any:
    """The settings: those of the recipe, over them those of `--config`, and over both what was given.

    Args:
        command: the job.
        arguments: of the command line; None for the process's own.
        console: whether the subject comes without its option's name.

    Raises:
        SystemExit: with 0 after the help or the settings, with 2 where something is wrong; what it is was printed.
        ConfigError: the file of settings cannot be used.
    """
    import tyro

    file, printed, given = _file_options(sys.argv[1:] if arguments is None else arguments)
    help_asked = next((word for word in given if word in ("-h", "--help", "--help-all")), None)
    values = {} if file is None else settings_file.read_settings(file)
    try:
        config = tyro.cli(
            command.config,
            args=given if help_asked is None else ["--help"],
            prog=f"deconvnet {command.name}" if console else f"jobs/{command.module}.py",
            description=_description(command, console, all_shown=help_asked == "--help-all"),
            default=_start(command, given, values, file),
            config=(tyro.conf.OmitArgPrefixes, tyro.conf.PositionalMetavarFromFieldName)
            + ((tyro.conf.FlagCreatePairsOff, tyro.conf.DisallowNone) if help_asked else ()),
            registry=_view(command, console, short=help_asked in ("-h", "--help")),
        )
    except SystemExit as end:
        if end.code:  # tyro has said what is wrong, but not where it stands
            for wrong in settings_file.out_of_range(command.config, values):
                print(f"--config {file}: {wrong}", file=sys.stderr)
        raise
    if printed:
        print(settings_file.as_yaml(config), end="")
        raise SystemExit(0)
    return config


def _file_options(given: Sequence[str]) -> tuple[str | None, bool, list[str]]:
    """The file of `--config`, whether there is `--print-config`, and what is left: the settings."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config")
    parser.add_argument("--print-config", action="store_true")
    found, rest = parser.parse_known_args(given)
    return found.config, found.print_config, rest


def _description(command: Command, console: bool, *, all_shown: bool) -> str:
    """What the help says above the settings."""
    subject, _, options = command.example.partition(" --")
    call = f"deconvnet {command.name} {subject}" if console else (
        f"python jobs/{command.module}.py --{settings_file.option_of(command.subject)} {subject}"
    )  # fmt: skip
    call += f" --{options}" if options else ""
    shown = set(command.first) | {one.name for one in fields(command.config) if _needed(one)}
    more = len(set(settings_file.names_of(command.config)) - shown)
    rest = f"\n\n{more} more settings: --help-all" if more and not all_shown else ""
    return f"{getdoc(command.config)}\n\n    {call}\n\n{FILE_OPTIONS}\n\n{EXIT_CODES}{rest}"


def _needed(one: Any) -> bool:
    return one.default is MISSING and one.default_factory is MISSING


def _recipe_name(command: Command, given: Sequence[str], values: Mapping[str, Any]) -> str | None:
    """The recipe that was given, known or not; else the one that the network brings."""
    if not command.recipes:
        return None
    weights = str(values.get("weights", getattr(command.config, "weights", "")))
    brought = recipe_for(first_look(given, "weights", weights))
    return first_look(given, "recipe", str(values.get("recipe", brought or command.config.recipe)))


def _start(command: Command, given: Sequence[str], values: Mapping[str, Any], file: str | None) -> Any:
    """What the settings start from: the recipe's and over them the file's, with what must be given missing."""
    import tyro

    start = settings_file.unchecked(command.config, {}, otherwise=tyro.MISSING)
    recipe = command.recipes.get(_recipe_name(command, given, values) or "")  # tyro says which names there are
    start = start if recipe is None else recipe(start)
    return start if file is None else settings_file.with_settings(start, values, file)


def _view(command: Command, console: bool, *, short: bool) -> Any:
    """How the class of settings becomes a command line: the subject without a name; in the short help, few settings.

    Returns:
        A registry for `tyro.cli`.
    """
    import tyro
    from tyro.constructors import ConstructorRegistry, StructConstructorSpec, StructFieldSpec, StructTypeInfo

    registry = ConstructorRegistry()
    asking_tyro = False

    def as_tyro_does(info: StructTypeInfo) -> StructConstructorSpec:
        nonlocal asking_tyro
        asking_tyro = True
        spec = ConstructorRegistry.get_struct_spec(info)
        asking_tyro = False
        assert isinstance(spec, StructConstructorSpec)
        return spec

    def flat(info: StructTypeInfo) -> list[StructFieldSpec]:
        found = []
        for one in as_tyro_does(info).fields:
            nested = is_dataclass(one.type)
            found += flat(StructTypeInfo.make(one.type, one.default, in_union_context=False)) if nested else [one]
        return found

    @registry.struct_rule
    def rule(info: StructTypeInfo) -> StructConstructorSpec | None:
        if asking_tyro or not is_dataclass(info.type):
            return None
        spec = as_tyro_does(info)
        chosen = list(spec.fields)
        if short:  # nothing is made of these settings: the help ends the process
            needed = {one.name for one in fields(info.type) if _needed(one)}
            by_name = {one.name: one for one in flat(info)}
            chosen = [by_name[name] for name in by_name if name in needed]
            chosen += [by_name[name] for name in command.first if name not in needed]
        if console:
            chosen = [_positional(one) if one.name == command.subject else one for one in chosen]
        return replace(spec, fields=tuple(chosen))

    def _positional(one: StructFieldSpec) -> StructFieldSpec:
        return replace(one, type=tyro.conf.Positional[one.type])  # type: ignore[misc, name-defined]

    return registry
