"""The networks of this project, and what the files of networks may say."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, get_args

from pipeline.errors import ConfigError

Architecture = Literal["deconvnet", "fcn8s", "litefcn", "litedeconvnet"]
"""Networks of this project, as the header of a checkpoint names them."""
ARCHITECTURES: tuple[Architecture, ...] = get_args(Architecture)
WHOLE_IMAGES: tuple[Architecture, ...] = ("fcn8s", "litefcn")
"""Those that see a whole image at once; the others see it proposal by proposal."""

EncoderVariant = Literal["lite0", "lite2"]
"""Which EfficientNet-Lite a light network is built on."""
ENCODER_VARIANTS: tuple[EncoderVariant, ...] = get_args(EncoderVariant)

Channels = Literal["RGB", "BGR"]
"""The order in which a network wants an image's channels."""

FcnKind = Literal[
    "auto", "fcn8s", "litefcn", "fcn_resnet50", "fcn_resnet101", "deeplabv3_resnet50", "deeplabv3_resnet101",
    "deeplabv3_mobilenet_v3_large",
]  # fmt: skip
"""What the second network of an ensemble may be; `auto`: what its file says."""

ReleasedKind = Literal["deconvnet", "fcn8s", "vgg16"]
"""Caffe models that the converter knows."""

KINDS = {"torchvision": "torchvision:ARCHITECTURE=FILE", "hf": "hf:FOLDER", "onnx": "onnx:FILE"}
"""Networks that other libraries build, by the beginning of what `--weights` says of them: a file each in
pipeline/models/kinds. They see whole images."""
OWN = "own"
"""The kind of a class of the user's, `module:Class`."""


@dataclass(frozen=True)
class NetworkName:
    """What `--weights` or `--fcn` names."""

    kind: str
    """One of `KINDS`, or `OWN`; empty: a checkpoint of this project."""
    what: str
    """torchvision's architecture, or the class of the user's as given."""
    uri: str | None
    """The address of its file or folder; None for a class."""

    def __str__(self) -> str:
        """As given on the command line."""
        if self.uri is None:
            return self.what
        return ":".join(filter(None, [self.kind, "=".join(filter(None, [self.what, self.uri]))]))

    def at(self, uri: str) -> NetworkName:
        """The same network under another address."""
        return replace(self, uri=uri)


def parse_network(text: str, fcn_kind: FcnKind = "auto") -> NetworkName:
    """What a value of `--weights` or `--fcn` names.

    Args:
        text: the value.
        fcn_kind: for the second network of an ensemble, what its file holds; another way to say which of torchvision's.

    Raises:
        ConfigError: it begins with a kind that there is not, or lacks what this kind needs.
    """
    head, colon, rest = text.partition(":")
    if not colon or "/" in head or rest.startswith("//"):
        torchvisions = fcn_kind not in {"auto", *WHOLE_IMAGES}
        return NetworkName("torchvision", fcn_kind, text) if torchvisions else NetworkName("", "", text)
    if fcn_kind != "auto":
        raise ConfigError(f"--fcn-kind {fcn_kind} says what a FILE holds, and --fcn is {text}; leave --fcn-kind out")
    if head in KINDS:
        with_what = "=" in KINDS[head]
        what, _, uri = rest.partition("=") if with_what else ("", "", rest)
        if not uri or bool(what) != with_what:
            raise ConfigError(f"the network {text} is incomplete; write {KINDS[head]}")
        return NetworkName(head, what, uri)
    if head.endswith(".py") and rest.isidentifier():
        raise ConfigError(f"the network {text} names a file; write {head.removesuffix('.py')}:{rest}")
    if rest.isidentifier() and all(part.isidentifier() for part in head.split(".")):
        return NetworkName(OWN, text, None)
    raise ConfigError(
        f"the network {text} is of no known kind; there is FILE, {', '.join(KINDS.values())} and module:Class"
    )
