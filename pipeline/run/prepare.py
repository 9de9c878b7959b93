"""Prepares a run's settings: addresses become absolute, and networks and files are checked."""

from __future__ import annotations

from dataclasses import replace
from difflib import get_close_matches

from pipeline import storage
from pipeline.checkpoints.bundled import BUNDLED, weights_uri
from pipeline.config import ConfigError, SegmentConfig
from pipeline.config.networks import WHOLE_IMAGES, parse_network
from pipeline.config.recipes import ENSEMBLES
from pipeline.crf.refine import check_backend
from pipeline.inputs.named import check_named
from pipeline.models.checkpoint_header import (
    NetworkInfo,
    check_network,
    check_whole_images,
    fingerprint,
    joint_fingerprint,
    read_info,
    shape_for,
)
from pipeline.models.foreign import check_named_network
from pipeline.proposals.detectors import check_edges
from pipeline.proposals.given import check_given


def with_absolute_paths(config: SegmentConfig) -> SegmentConfig:
    """The settings with absolute paths, which mean the same in every worker."""
    edge_model, given, fcn = config.propose.edge_model, config.propose.proposals_from, config.ensemble.fcn
    return replace(
        config,
        input=storage.absolute(config.input),
        output=storage.absolute(config.output),
        weights=_absolute_network(config.weights),
        classes=config.classes and storage.absolute(config.classes),
        ensemble=replace(config.ensemble, fcn=fcn and _absolute_network(fcn)),
        propose=replace(
            config.propose,
            edge_model=edge_model and storage.absolute(edge_model),
            proposals_from=given and storage.absolute(given),
        ),
    )


def _absolute_network(text: str) -> str:
    name = parse_network(weights_uri(text))
    return text if name.uri is None else str(name.at(storage.absolute(name.uri)))


def check_networks(config: SegmentConfig) -> tuple[NetworkInfo, str]:
    """Make sure that this process has all that the settings name, before workers fail image by image.

    Returns:
        What is known of the first network, and the fingerprint of all networks together.

    Raises:
        UserError: a file or a module is missing, or does not fit.
        OSError: a file cannot be read.
    """
    if config.recipe in ENSEMBLES and config.ensemble.fcn is None:
        raise ConfigError(f"--recipe {config.recipe} combines two networks: give the other one by --fcn FILE")
    first, other = parse_network(config.weights), config.ensemble.fcn
    near = [] if first.kind else get_close_matches(config.weights.rpartition("/")[2], BUNDLED, 1)
    if near and not storage.exists(config.weights):
        raise ConfigError(f"--weights is {config.weights}, which does not exist; did you mean {near[0]}?")
    check_named_network("weights", first)
    if other is not None:
        check_named_network("fcn", parse_network(other, config.ensemble.fcn_kind))
    check_named("classes", config.classes)
    check_named("edge-model", config.propose.edge_model)
    check_backend(config.refine)
    check_edges(config.propose)
    if config.propose.proposals_from is not None:
        check_given(config.propose.proposals_from)
    info, own = _first_network(config)
    return info, joint_fingerprint(own, _fingerprint_of_other(config, info))


def _first_network(config: SegmentConfig) -> tuple[NetworkInfo, str]:
    """What is known of the network of `weights`, and its own fingerprint."""
    kind = parse_network(config.weights).kind
    if kind:
        check_whole_images(config.weights, whole_images=config.whole_images)
        from pipeline.models.kinds import load_network, names_for, try_out

        network = load_network(config.weights)
        try_out(network, config.weights)
        return NetworkInfo(names_for(network, config.weights, config.classes), kind), network.fingerprint
    data = storage.read_bytes(config.weights)
    info = read_info(data, config.weights)
    if config.classes is not None:
        raise ConfigError(f"--classes {config.classes} is not needed: {config.weights} names its own classes")
    check_network(info, config.weights, whole_images=config.whole_images)
    return NetworkInfo(info.class_names, info.architecture, info.window_shape), fingerprint(data)


def with_shape_of(config: SegmentConfig, info: NetworkInfo) -> SegmentConfig:
    """The settings with the shape of windows that the network was trained on.

    Raises:
        CheckpointError: the settings ask for another one.
    """
    shape = shape_for(info, config.propose.window_shape, config.weights)
    return replace(config, propose=replace(config.propose, window_shape=shape))


def remarks(config: SegmentConfig) -> list[str]:
    """What is to be said of settings that change nothing: a line for each."""
    tile, side, certain = config.predict.tile, config.decode.max_side, config.predict.skip_certain
    said = []
    if tile and not config.whole_images and config.ensemble.fcn is None:
        said.append(f"--tile {tile} changes nothing: this network sees proposals, not whole images")
    elif tile and 0 < side <= tile:
        said.append(f"--tile {tile} cuts nothing, since no image is longer than --max-side {side}; raise --max-side")
    if certain < 1 and config.whole_images:
        said.append(f"--skip-certain {certain:g} changes nothing: this network sees whole images, not proposals")
    return said


def _fingerprint_of_other(config: SegmentConfig, info: NetworkInfo) -> str | None:
    """Load the ensemble's other network once here, so that one that cannot be used is found before the run starts.

    A bundled one can be used: importing torch to see it takes seconds.

    Returns:
        Its fingerprint; None if there is no other network.

    Raises:
        CheckpointError: it cannot be used, or not with the first one.
    """
    uri = config.ensemble.fcn
    if uri is None:
        return None
    if uri in map(weights_uri, BUNDLED) and config.ensemble.fcn_kind == "auto":
        data = storage.read_bytes(uri)
        if (known := read_info(data, uri)).architecture in WHOLE_IMAGES and known.class_names == info.class_names:
            return fingerprint(data)
    from pipeline.models.kinds import try_out
    from pipeline.stages.predict import load_other

    other = load_other(config, info.class_names)
    if other is None:
        return None
    try_out(other, uri)
    return other.fingerprint
