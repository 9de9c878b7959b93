"""The CRF against pydensecrf called directly and against an exact mean field written as loops over all pixel pairs."""

import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pipeline.config import ConfigError, RefineConfig
from pipeline.crf.backends.native import module_for
from pipeline.crf.refine import SMALLEST_PROBABILITY, check_backend, refine, refine_batch, refine_logs
from pipeline.inference.labels import keep_labels

CONFIG = RefineConfig()
pytest.importorskip("pydensecrf", reason="pydensecrf2 does not build on this Python: the reference is not there")

PYDENSECRF, TORCH = replace(CONFIG, crf="pydensecrf"), replace(CONFIG, crf="torch")
NO_CRF = replace(CONFIG, crf="none")
BACKENDS = ("native", "pydensecrf", "torch")


def noise_image(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def random_probabilities(classes, height, width, seed=0):
    scores = np.random.default_rng(seed).normal(0, 2, (classes, height, width))
    return softmax(scores)


def softmax(scores_KHW):
    exponentials = np.exp(scores_KHW - scores_KHW.max(axis=0))
    return (exponentials / exponentials.sum(axis=0)).astype(np.float32)


def smooth_scene(classes=21, height=90, width=120, present=4):
    """A few coloured blobs on background, blurred score maps with low-amplitude responses of all other classes."""
    import cv2

    rng = np.random.default_rng(3)
    image = np.full((height, width, 3), 90, np.uint8)
    scores = np.stack([cv2.GaussianBlur(rng.normal(0, 1, (height, width)), (0, 0), 8) for _ in range(classes)])
    scores[0] += 6
    for class_id in range(1, present + 1):
        centre, radius = (int(rng.integers(20, 100)), int(rng.integers(20, 70))), int(rng.integers(10, 22))
        cv2.circle(image, centre, radius, rng.integers(0, 256, 3).tolist(), -1)
        blob = cv2.circle(np.zeros((height, width)), centre, radius, 1.0, -1)
        scores[class_id] += 14 * cv2.GaussianBlur(blob, (0, 0), 4)
    noisy = np.clip(image + rng.normal(0, 6, image.shape), 0, 255).astype(np.uint8)
    return noisy, softmax(scores)


def lattice_gain(dimensions):
    """What the lattice's kernel sums to, of a Gaussian's (2 pi)^(d/2), worked out from its geometry.

    Blurring doubles a value in each of d + 1 directions, slicing divides by 1 + 2^-d, and a point of the lattice stands
    for a volume of 1.5^(d/2) / sqrt(d + 1) standard deviations. Normalisation divides this out.
    """
    d = dimensions
    return 2 ** (d + 1) / (1 + 2**-d) * 1.5 ** (d / 2) / np.sqrt(d + 1) / (2 * np.pi) ** (d / 2)


def exact_mean_field(image_HW3, probabilities_KHW, config):
    """Kraehenbuehl and Koltun's algorithm 1 with dense kernel matrices, normalised symmetrically or as they are."""
    classes, height, width = probabilities_KHW.shape
    rows, columns = np.divmod(np.arange(height * width), width)
    position = np.stack([rows, columns], axis=1).astype(float)
    colour = image_HW3.reshape(-1, 3).astype(float)
    features = (
        (config.gaussian_weight, position / config.gaussian_sxy),
        (config.bilateral_weight, np.hstack([position / config.bilateral_sxy, colour / config.bilateral_srgb])),
    )
    kernels = []
    for weight, f in features:
        kernel = np.exp(-0.5 * np.square(f[:, None] - f[None]).sum(axis=2))
        if config.crf_normalization == "symmetric":
            root = np.sqrt(kernel.sum(axis=1))
            kernels.append(weight * kernel / root[:, None] / root[None])
        else:
            kernels.append(weight * lattice_gain(f.shape[1]) * kernel)
    log_p = np.log(probabilities_KHW.reshape(classes, -1).astype(float))
    q = probabilities_KHW.reshape(classes, -1).astype(float)
    for _ in range(config.crf_iterations):
        q = softmax(log_p + sum(q @ kernel for kernel in kernels)).astype(float)
    return q.reshape(probabilities_KHW.shape)


@pytest.mark.parametrize("normalization", ["symmetric", "none"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_with_all_labels_it_is_pydensecrf_called_directly(backend, normalization):
    from pydensecrf.densecrf import NO_NORMALIZATION, NORMALIZE_SYMMETRIC, DenseCRF2D

    image, probabilities = noise_image(30, 41), random_probabilities(5, 30, 41)
    config = RefineConfig(
        crf=backend,
        crf_normalization=normalization,
        crf_iterations=4,
        gaussian_sxy=2.0,
        gaussian_weight=1.5,
        bilateral_sxy=11.0,
        bilateral_srgb=23.0,
        bilateral_weight=2.5,
    )
    crf = DenseCRF2D(41, 30, 5)
    crf.setUnaryEnergy(-np.log(probabilities).reshape(5, -1))
    kind = {"symmetric": NORMALIZE_SYMMETRIC, "none": NO_NORMALIZATION}[normalization]
    crf.addPairwiseGaussian(sxy=2.0, compat=1.5, normalization=kind)
    crf.addPairwiseBilateral(sxy=11.0, srgb=23.0, rgbim=image, compat=2.5, normalization=kind)
    expected = np.array(crf.inference(4)).reshape(5, 30, 41)
    np.testing.assert_allclose(refine(image, probabilities, config), expected, atol=1e-5)


@given(
    st.integers(1, 35),
    st.integers(1, 35),
    st.sampled_from([2, 3, 5, 6, 9, 26, 255]),
    st.sampled_from([3.0, 40.0]),
    st.sampled_from([("symmetric", 3.0, 5.0), ("none", 0.1, 0.1)]),
    st.integers(0, 2**20),
)
def test_both_lattices_of_ours_are_pydensecrfs_at_any_size(height, width, classes, srgb, kernels, seed):
    """Three iterations: from noise, ten make a visible difference of the last digit."""
    normalization, gaussian_weight, bilateral_weight = kernels
    rng = np.random.default_rng(seed)
    image = np.clip(rng.integers(0, 200) + rng.normal(0, 20, (height, width, 3)), 0, 255).astype(np.uint8)
    probabilities = random_probabilities(classes, height, width, seed)
    config = replace(
        PYDENSECRF, crf_iterations=3, bilateral_srgb=srgb, crf_normalization=normalization,
        gaussian_weight=gaussian_weight, bilateral_weight=bilateral_weight,
    )  # fmt: skip
    expected = refine(image, probabilities, config)
    for backend in ("native", "torch"):
        np.testing.assert_allclose(refine(image, probabilities, replace(config, crf=backend)), expected, atol=1e-4)


@pytest.mark.parametrize("size", [(37, 53), (200, 260)])
@pytest.mark.parametrize("classes", [3, 7, 21, 30])
def test_registers_of_four_and_of_eight_labels_give_the_same_to_the_last_bit(classes, size):
    """Whichever module the processor gets; the larger image's points outgrow the table of lattice points."""
    narrow = pytest.importorskip("densecrf_lattice")
    if not getattr(narrow, "AVX2", False):
        pytest.skip("this processor has no AVX2")
    wide = pytest.importorskip("densecrf_lattice_avx2")
    image = np.random.default_rng(1).normal(120, 12, (*size, 3)).astype(np.uint8)
    logs = np.log(random_probabilities(classes, *size))
    kernels = {"gaussian_sxy": 3, "gaussian_weight": 3, "bilateral_sxy": 20, "bilateral_srgb": 3, "bilateral_weight": 5}
    np.testing.assert_array_equal(
        narrow.marginals(image, logs, **kernels, iterations=3), wide.marginals(image, logs, **kernels, iterations=3)
    )


@pytest.mark.parametrize(("classes", "has_avx2", "expected"), [
    (7, True, "densecrf_lattice_avx2"), (5, True, "densecrf_lattice_avx2"), (4, True, "densecrf_lattice"),
    (7, False, "densecrf_lattice"), (7, None, "densecrf_lattice"),
])  # fmt: skip
def test_the_module_for_avx2_is_taken_where_the_processor_has_it(monkeypatch, classes, has_avx2, expected):
    """None: compiled where there is no such module, or before there was one."""
    modules = {name: SimpleNamespace(__name__=name) for name in ("densecrf_lattice", "densecrf_lattice_avx2")}
    if has_avx2 is not None:
        modules["densecrf_lattice"].AVX2 = has_avx2
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    assert module_for(classes).__name__ == expected


@pytest.mark.parametrize("config", [CONFIG, TORCH])
@pytest.mark.parametrize("classes", [2, 21])
def test_a_scene_gets_pydensecrfs_labels(config, classes):
    image, probabilities = smooth_scene(classes, present=min(4, classes - 1))
    ours, expected = refine(image, probabilities, config), refine(image, probabilities, PYDENSECRF)
    np.testing.assert_allclose(ours, expected, atol=1e-4)
    assert (ours.argmax(0) == expected.argmax(0)).mean() >= 0.9999


@pytest.mark.parametrize("config", [CONFIG, TORCH])
@pytest.mark.parametrize("classes", [2, 5, 7, 21])
def test_where_nothing_tells_classes_apart_they_stay_equal_to_the_last_bit(config, classes):
    """A pixel that no proposal covers is background: of equal classes the first. Differences would grow."""
    image = np.repeat(noise_image(5, 6), 8, axis=0).repeat(8, axis=1)
    probabilities = np.full((classes, 40, 48), 1 / 21, np.float16)
    refined = refine(image, probabilities, config)
    np.testing.assert_array_equal(refined, np.broadcast_to(refined[:1], refined.shape))
    probabilities[1, 10:14, 10:14] = 0.9
    refined = refine(image, probabilities, config)
    np.testing.assert_array_equal(refined[2:], np.broadcast_to(refined[:1], refined[2:].shape))


def test_several_images_in_one_lattice_do_not_see_each_other():
    sizes = [(4, 30, 41), (9, 17, 5), (1, 6, 6), (2, 30, 41), (3, 1, 1)]
    images = [noise_image(height, width, seed) for seed, (_, height, width) in enumerate(sizes)]
    probabilities = [random_probabilities(*size, seed) for seed, size in enumerate(sizes)]
    together = refine_batch(images, probabilities, TORCH)
    for image, probability, found in zip(images, probabilities, together, strict=True):
        assert found.shape == probability.shape
        np.testing.assert_allclose(found, refine(image, probability, TORCH), atol=1e-5)


@pytest.mark.parametrize("config", [CONFIG, TORCH])
@pytest.mark.parametrize("narrow", [{"bilateral_srgb": 1e-3}, {"gaussian_sxy": 1e-30}, {"bilateral_sxy": 1e-3}])
def test_kernels_that_the_lattice_cannot_hold_are_refused(config, narrow):
    with pytest.raises(ValueError, match="too narrow"):
        refine(noise_image(60, 60), random_probabilities(3, 60, 60), replace(config, **narrow))


@pytest.mark.parametrize("config", [CONFIG, TORCH])
def test_kernels_of_any_other_width_are_taken(config):
    image, probabilities = noise_image(7, 9), random_probabilities(3, 7, 9)
    for width in (0.3, 1e4, 1e30):
        wide = replace(config, gaussian_sxy=width, bilateral_sxy=width, bilateral_srgb=max(width, 1.0))
        np.testing.assert_allclose(refine(image, probabilities, wide).sum(axis=0), 1, atol=1e-5)


@pytest.mark.parametrize(
    ("image", "logs", "error"),
    [
        (noise_image(4, 5), np.zeros((2, 5, 4), np.float32), ValueError),
        (noise_image(4, 5), np.zeros((1, 4, 5), np.float32), ValueError),
        (noise_image(4, 5), np.zeros((4, 5), np.float32), ValueError),
        (noise_image(4, 5)[..., 0].copy(), np.zeros((2, 4, 5), np.float32), ValueError),
        (noise_image(0, 5), np.zeros((2, 0, 5), np.float32), ValueError),
        (noise_image(4, 5), np.zeros((2, 4, 5)), TypeError),
        (noise_image(4, 5)[:, ::-1], np.zeros((2, 4, 5), np.float32), TypeError),
    ],
)
def test_the_compiled_module_reads_nothing_beyond_its_arrays(image, logs, error):
    from densecrf_lattice import marginals

    kernels = {"gaussian_sxy": 3, "gaussian_weight": 3, "bilateral_sxy": 20, "bilateral_srgb": 3, "bilateral_weight": 5}
    with pytest.raises(error):
        marginals(image, logs, **kernels, iterations=2)


def test_a_backend_that_is_not_installed_is_told_with_a_way_out(monkeypatch):
    check_backend(CONFIG)
    import densecrf_lattice

    check_backend(replace(CONFIG, crf_normalization="none"))
    monkeypatch.delattr(densecrf_lattice, "NORMALIZATIONS")  # as in a module that was compiled before there were any
    check_backend(CONFIG)
    with pytest.raises(ConfigError, match=r"too old for --crf-normalization none: .*make setup"):
        check_backend(replace(CONFIG, crf_normalization="none"))
    monkeypatch.setitem(sys.modules, "densecrf_lattice", None)
    with pytest.raises(ConfigError, match=r"make setup.*--crf pydensecrf"):
        check_backend(CONFIG)
    check_backend(PYDENSECRF)
    check_backend(NO_CRF)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("normalization", "weights"), [("symmetric", (1.0, 2.0)), ("none", (0.02, 0.03))])
@pytest.mark.parametrize("seed", range(3))
def test_an_exact_mean_field_agrees(seed, normalization, weights, backend):
    """The CRF filters through a permutohedral lattice, an approximation: labels agree, marginals nearly.

    Weights are moderate: with larger ones unnormalised kernels decide all pixels together, and near the point where
    they do so an approximation may decide otherwise.
    """
    image = np.full((12, 10, 3), (60, 90, 200), np.uint8)
    image[3:9, 2:7] = (180, 80, 40)
    rng = np.random.default_rng(seed)
    image = np.clip(image + rng.normal(0, 3, image.shape), 0, 255).astype(np.uint8)
    scores = rng.normal(0, 1, (3, 12, 10))
    scores[1, 3:9, 2:7] += 1.5
    probabilities = softmax(scores)
    config = replace(
        CONFIG, crf=backend, crf_normalization=normalization, bilateral_sxy=8.0, bilateral_srgb=13.0,
        gaussian_weight=weights[0], bilateral_weight=weights[1],
    )  # fmt: skip
    ours, exact = refine(image, probabilities, config), exact_mean_field(image, probabilities, config)
    off = np.abs(ours - exact).mean()
    assert (ours.argmax(0) == exact.argmax(0)).mean() >= 0.98
    assert off < 0.007
    assert (probabilities.argmax(0) != exact.argmax(0)).mean() >= 0.04, "the CRF had nothing to do"
    other = replace(config, crf_normalization={"symmetric": "none", "none": "symmetric"}[normalization])
    assert np.abs(ours - exact_mean_field(image, probabilities, other)).mean() > 2.5 * off


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("width", [3.0, 6.0])
def test_a_kernel_that_is_not_normalised_sums_over_all_pixels(backend, width):
    """With one label nearly everywhere, an undecided pixel's message is the kernel's sum: 2 pi s^2 pixels inside."""
    logs = np.zeros((2, 80, 80), np.float32)
    logs[0] = 30.0
    logs[:, 40, 40] = 0.0
    config = replace(
        CONFIG, crf=backend, crf_normalization="none", crf_iterations=1, gaussian_sxy=width, gaussian_weight=0.02,
        bilateral_weight=0.0,
    )  # fmt: skip
    (refined,) = refine_logs([noise_image(80, 80)], [logs - np.logaddexp(*logs)], config)
    message = np.log(refined[0, 40, 40] / refined[1, 40, 40]) / 0.02
    assert message == pytest.approx(2 * np.pi * width**2 * lattice_gain(2), rel=0.02)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_label_far_below_the_smallest_probability_comes_back_if_its_surroundings_want_it(backend):
    """Log-probabilities are taken as they are: the same pixel with 1e-8 for its label would be decided otherwise."""
    image = np.full((21, 21, 3), 90, np.uint8)
    logs = np.tile(np.float32([0, -200])[:, None, None], (1, 21, 21))
    logs[:, 8:13, 8:13] = np.float32([-60, 0])[:, None, None]
    config = replace(CONFIG, crf=backend, crf_normalization="none", gaussian_weight=1.0, bilateral_weight=0.0)
    patch = (slice(8, 13), slice(8, 13))
    exact = refine_logs([image], [logs], config)[0].argmax(0)
    clamped = refine(image, softmax(logs), config).argmax(0)
    assert (exact[patch] == 1).all()
    assert (clamped[patch] == 0).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_impossible_label_stays_impossible(backend):
    logs = np.log(random_probabilities(3, 9, 11))
    logs[2, 4, 5] = -np.inf
    refined = refine_logs([noise_image(9, 11)], [logs], replace(CONFIG, crf=backend))[0]
    assert refined[2, 4, 5] == 0
    np.testing.assert_allclose(refined.sum(axis=0), 1, atol=1e-5)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_log_probabilities_without_a_number_are_refused(bad):
    logs = np.zeros((2, 4, 5), np.float32)
    logs[:, 1, 2] = bad
    with pytest.raises(ValueError, match="no possible label"):
        refine_logs([noise_image(4, 5)], [logs], CONFIG)


@pytest.mark.parametrize("config", [CONFIG, NO_CRF])
def test_logarithms_give_what_their_probabilities_give(config):
    image, probabilities = noise_image(12, 15), random_probabilities(4, 12, 15)
    from_logs = refine_logs([image], [np.log(probabilities)], config)[0]
    np.testing.assert_allclose(from_logs, refine(image, probabilities, config), atol=1e-5)


@pytest.mark.parametrize("threshold", [0.01, CONFIG.label_threshold])
def test_dropping_labels_changes_almost_no_pixel(threshold):
    image, probabilities = smooth_scene()
    kept = keep_labels(torch.from_numpy(probabilities), torch.ones(90, 120, dtype=torch.bool), threshold).numpy()
    assert 4 < len(kept) < 21
    labels_all = refine(image, probabilities, CONFIG).argmax(0)
    labels_kept = kept[refine(image, probabilities[kept], CONFIG).argmax(0)]
    assert (labels_all == labels_kept).mean() >= 0.999
    assert len(np.unique(labels_all)) >= 4


def test_an_isolated_wrong_pixel_is_repaired():
    image = np.full((24, 32, 3), 200, np.uint8)
    image[:, 16:] = 20
    probabilities = np.full((2, 24, 32), 0.1, np.float32)
    probabilities[0, :, :16] = probabilities[1, :, 16:] = 0.9
    truth = probabilities.argmax(0)
    probabilities[:, 12, 5] = (0.2, 0.8)
    probabilities[:, 7, 25] = (0.8, 0.2)
    assert (probabilities.argmax(0) != truth).sum() == 2
    np.testing.assert_array_equal(refine(image, probabilities, CONFIG).argmax(0), truth)


@given(hnp.arrays(np.float32, (3, 4, 5), elements=st.floats(2**-10, 1, width=32)))
def test_without_weights_or_without_crf_the_input_comes_back_normalised(probabilities):
    image = noise_image(4, 5)
    expected = probabilities / probabilities.sum(axis=0)
    no_weights = replace(CONFIG, gaussian_weight=0.0, bilateral_weight=0.0)
    np.testing.assert_allclose(refine(image, probabilities, no_weights), expected, atol=1e-5)
    np.testing.assert_allclose(refine(image, probabilities, NO_CRF), expected, atol=1e-6)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("config", [CONFIG, NO_CRF])
def test_the_result_is_float32_and_sums_to_one_at_any_scale_of_the_input(dtype, config):
    image, probabilities = noise_image(9, 13), random_probabilities(4, 9, 13)
    refined = refine(image, probabilities.astype(dtype), config)
    assert refined.dtype == np.float32
    assert refined.shape == (4, 9, 13)
    np.testing.assert_allclose(refined.sum(axis=0), 1, atol=1e-5)
    scaled = (probabilities * np.linspace(0.25, 1, 13)).astype(dtype)
    np.testing.assert_allclose(refine(image, scaled, config), refined, atol=2e-2 if dtype == np.float16 else 1e-4)


def test_it_is_deterministic_and_leaves_its_inputs_alone():
    image, probabilities = noise_image(20, 30), random_probabilities(6, 20, 30)
    copies = image.copy(), probabilities.copy()
    first, second = refine(image, probabilities, CONFIG), refine(image, probabilities, CONFIG)
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(image, copies[0])
    np.testing.assert_array_equal(probabilities, copies[1])


def test_read_only_and_strided_arrays_are_taken():
    image, probabilities = noise_image(20, 30), random_probabilities(3, 20, 30)
    expected = refine(image, probabilities, CONFIG)
    frozen_image, frozen_probabilities = image.copy(), probabilities.copy()
    frozen_image.flags.writeable = frozen_probabilities.flags.writeable = False
    np.testing.assert_array_equal(refine(frozen_image, frozen_probabilities, CONFIG), expected)
    strided_image = np.repeat(image, 2, axis=1)[:, ::2]
    strided_probabilities = np.ascontiguousarray(probabilities.transpose(1, 2, 0)).transpose(2, 0, 1)
    np.testing.assert_array_equal(refine(strided_image, strided_probabilities, CONFIG), expected)


@pytest.mark.parametrize("config", [CONFIG, NO_CRF])
def test_one_class_is_certain_everywhere(config):
    np.testing.assert_array_equal(refine(noise_image(3, 4), np.full((1, 3, 4), 0.2, np.float16), config), 1)


@pytest.mark.parametrize("config", [CONFIG, NO_CRF])
def test_a_pixel_without_any_probability_is_undecided(config):
    refined = refine(noise_image(1, 1), np.zeros((4, 1, 1), np.float32), config)
    np.testing.assert_allclose(refined, 0.25, atol=1e-6)


def test_a_zero_probability_counts_as_the_documented_smallest_one():
    image, probabilities = noise_image(6, 7), random_probabilities(3, 6, 7)
    probabilities[2] = 0
    probabilities /= probabilities.sum(axis=0)
    raised = probabilities.copy()
    raised[2] = SMALLEST_PROBABILITY
    np.testing.assert_allclose(refine(image, probabilities, CONFIG), refine(image, raised, CONFIG), atol=1e-6)


@pytest.mark.parametrize("size", [(1, 1), (1, 2), (2, 2), (1, 500), (500, 1)])
def test_thin_images_are_refined(size):
    refined = refine(noise_image(*size), random_probabilities(3, *size), CONFIG)
    np.testing.assert_allclose(refined.sum(axis=0), 1, atol=1e-5)


@pytest.mark.parametrize(
    ("image", "probabilities", "message"),
    [
        (noise_image(4, 5), np.full((2, 4, 5), np.nan), "NaN"),
        (noise_image(4, 5), np.full((2, 4, 5), np.inf), "infinity"),
        (noise_image(4, 5), np.full((2, 4, 5), -0.1), "below 0"),
        (noise_image(4, 5), np.ones((2, 5, 4)), "same H and W"),
        (noise_image(4, 5), np.ones((4, 5)), "same H and W"),
        (noise_image(4, 5), np.ones((0, 4, 5)), "empty"),
        (noise_image(0, 5), np.ones((2, 0, 5)), "empty"),
        (noise_image(4, 5).astype(np.float32), np.ones((2, 4, 5)), "uint8"),
        (noise_image(4, 5)[..., 0], np.ones((2, 4, 5)), "RGB"),
    ],
)
@pytest.mark.parametrize("config", [CONFIG, NO_CRF])
def test_bad_input_is_refused_with_a_reason(image, probabilities, message, config):
    with pytest.raises(ValueError, match=message):
        refine(image, probabilities, config)


@given(
    hnp.arrays(np.float32, (5, 3, 4), elements=st.floats(0, 1, width=32)),
    hnp.arrays(bool, (3, 4)),
    st.floats(0, 0.5, width=32),
)
def test_labels_are_kept_by_their_peak_where_there_is_evidence(probabilities, evidence, threshold):
    expected = [
        class_id
        for class_id in range(5)
        if class_id == 0 or threshold == 0 or any(p >= threshold for p in probabilities[class_id][evidence])
    ]
    kept = keep_labels(torch.from_numpy(probabilities), torch.from_numpy(evidence), threshold)
    assert kept.tolist() == expected
    assert kept.dtype == torch.int64


def test_uniform_pixels_without_evidence_keep_no_class_alive():
    probabilities = torch.full((21, 6, 8), 1 / 21)
    probabilities[:, 2:4, 2:4] = 0.001
    probabilities[[0, 15], 2:4, 2:4] = torch.tensor([0.081, 0.9])[:, None, None]
    evidence = torch.zeros(6, 8, dtype=torch.bool)
    evidence[2:4, 2:4] = True
    assert keep_labels(probabilities, evidence, 0.01).tolist() == [0, 15]
    assert len(keep_labels(probabilities, torch.ones_like(evidence), 0.01)) == 21
    assert keep_labels(probabilities, torch.zeros_like(evidence), 0.01).tolist() == [0]
