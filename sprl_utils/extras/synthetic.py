"""Synthetic heads: the anatomy of training heads, with sharp edges and as much noise as wanted.

After SynthSeg and SynthSR (Billot et al. 2023, arXiv 2107.09559 and 2012.13340): labels are deformed at
random, each gets a random intensity, then come texture, a bias field and noise. Labels here are classes of a
training head's own intensity, because the label maps of public packages cover the brain alone and a network
has to see scalp and skull as well.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from joblib import Parallel, delayed
from scipy import ndimage
from scipy.cluster.vq import kmeans
from scipy.spatial.transform import Rotation
from skimage.restoration import denoise_tv_chambolle

from sprl_utils.files import write_atomically
from sprl_utils.manifest import Subject
from sprl_utils.patches import Prepared
from sprl_utils.prepare import CLIP, Recipe, is_current, volume_arrays, write_prepared
from sprl_utils.volumes import Volume


@dataclass(frozen=True)
class Look:
    """How far synthetic heads differ from their source; lengths in voxels, angles in degrees.

    Args:
        classes: fewest and most intensity classes.
        rotation, scale: affine part, about the centre: each angle up to ``rotation``, each axis scaled by up
            to ``1 ± scale``.
        bend, knots: displacements of up to about ``bend`` (their SD is half), given every ``knots`` voxels.
        edge: width of the step between two classes, as a share of the distance between their intensities.
        blur: largest SD of the Gaussian that stands for partial volume.
        texture, bias, noise: largest SD of texture within tissue, of the bias field's logarithm, and of
            Rician noise; of the head's intensity scale.
    """

    classes: tuple[int, int] = (5, 9)
    rotation: float = 10.0
    scale: float = 0.1
    bend: float = 4.0
    knots: int = 24
    edge: float = 0.1
    blur: float = 0.5
    texture: float = 0.01
    bias: float = 0.1
    noise: float = 0.02


def synthetic_head(image: np.ndarray, seed: int, look: Look = Look()) -> np.ndarray:
    """A head that nobody has, from the head ``image``.

    Args:
        image: ``(x, y, z)`` on its intensity scale; noise in it is smoothed away first (total variation).
        seed: the same seed and image make the same head, bit for bit.

    Returns:
        float32 of the same shape, at or above 0.
    """
    rng = np.random.default_rng(seed)
    image = deform(_without_noise(np.asarray(image, dtype=np.float32)), rng, look)
    head = classes_to_intensity(image, rng, look)
    head = ndimage.gaussian_filter(head, rng.uniform(0.2, 1) * look.blur)
    inside = head / max(float(head.max()), 1e-6)  # air has no texture
    texture = ndimage.gaussian_filter(_normal(rng, head.shape), rng.uniform(0.5, 1.5))
    head += rng.uniform(0, look.texture) * inside * texture / texture.std()
    head *= np.exp(rng.uniform(0, look.bias) * _smooth_field(rng, head.shape, 2 * look.knots))
    sigma = np.float32(rng.uniform(0, look.noise))
    return np.hypot(head + sigma * _normal(rng, head.shape), sigma * _normal(rng, head.shape))


def classes_to_intensity(image: np.ndarray, rng: np.random.Generator, look: Look = Look()) -> np.ndarray:
    """A staircase of intensities: k-means classes, each with a random mean, in the order they had.

    A smooth slope becomes a step in the middle between two classes, and the plateaus are flat.
    """
    count = int(rng.integers(look.classes[0], look.classes[1] + 1))
    sample = np.clip(rng.choice(image.ravel(), 20_000), 0, CLIP).astype(float)
    levels = np.sort(kmeans(sample, np.linspace(0, sample.max(), count))[0])
    gaps = np.diff(levels)
    means = levels[:-1] + gaps * rng.uniform(-0.3, 0.3, len(gaps))
    means = np.append(means, levels[-1] * rng.uniform(0.9, 1.1))
    means[0] = 0  # air
    stairs = np.zeros_like(image)
    for middle, gap, step in zip(levels[:-1] + gaps / 2, gaps, np.diff(means), strict=True):
        rise = (image - np.float32(middle)) / np.float32(look.edge * gap / 2)
        stairs += np.float32(step / 2) * (1 + np.tanh(rise))
    return np.maximum(stairs, 0)


def deform(image: np.ndarray, rng: np.random.Generator, look: Look = Look()) -> np.ndarray:
    """Rotate, scale and bend at random; what comes from beyond the volume is 0."""
    angles = rng.uniform(-look.rotation, look.rotation, 3) * (1, -1, 1)
    scales = np.diag(1 + rng.uniform(-look.scale, look.scale, 3))
    matrix = scales @ Rotation.from_euler("XYZ", angles, degrees=True).as_matrix()
    centre = (np.array(image.shape) - 1) / 2
    grid = np.indices(image.shape, dtype=np.float32) - centre[:, None, None, None].astype(np.float32)
    where = np.tensordot(matrix.astype(np.float32), grid, axes=1)
    for axis in range(3):
        where[axis] += centre[axis] + 0.5 * look.bend * _smooth_field(rng, image.shape, look.knots)
    return ndimage.map_coordinates(image, where, order=1, mode="constant")


def add_synthetic(
    sources: Sequence[Prepared], count: int, out: Path, recipe: Recipe, seed: int = 0, jobs: int = 1
) -> list[Prepared]:
    """Make ``count`` synthetic training heads from ``sources``, by turns, in ``out``, beside the prepared.

    A head that is there already, of the same source, seed, look and recipe, is left as it is. They are added
    to ``out/index.json`` and stand in their source's leakage group.

    Raises:
        ValueError: a source that is no training head, or one that came with its own LR.
    """
    for source in sources:
        if source.meta["split"] != "train":
            raise ValueError(
                f"synthetic heads: {source.meta['id']}: expected a head of split 'train', "
                f"found {source.meta['split']!r}"
            )
        if source.meta["keep"] is None and recipe.lr_recipe == "paper":
            raise ValueError(
                f"synthetic heads: {source.meta['id']}: expected LR cut from HR, found LR of its own, which "
                "no recipe can make for a synthetic head (synthetic_heads: 0 makes none)"
            )
    made = Parallel(n_jobs=jobs)(
        delayed(_make)(sources[i % len(sources)], i, Path(out), recipe, seed) for i in range(count)
    )
    index = json.loads((Path(out) / "index.json").read_text(encoding="utf-8"))
    listed = index + [p.folder.name for p in made if p.folder.name not in index]
    write_atomically(Path(out) / "index.json", json.dumps(listed))
    return made


def _make(source: Prepared, number: int, out: Path, recipe: Recipe, seed: int) -> Prepared:
    folder = out / f"synthetic{number:03d}"
    look = json.loads(json.dumps(asdict(Look())))
    made_from = {"recipe": recipe.as_json(), "look": look, "seed": [seed, number]}
    made_from |= {"source": source.meta["made_from"]}
    axes, group = tuple(source.meta["made_from"]["axes"]), source.meta["group"]
    labels = {"group": group, "split": "train", "kind": "synthetic", "draw": source.meta["draw"]}
    subject = Subject(folder.name, "local", "", axes=axes, **labels)
    if not is_current(folder, made_from, subject):
        head = synthetic_head(source.hr, np.random.SeedSequence((seed, number)).generate_state(1)[0])
        # HR is on its scale already: a fixed one must not divide it again.
        scaled = replace(recipe, fixed_scale=recipe.fixed_scale and 1.0)
        arrays, facts = volume_arrays(subject, Volume(head, np.array(source.meta["affine"]), None), scaled)
        write_prepared(folder, subject, arrays, facts, made_from)
    return Prepared(folder)


def _without_noise(image: np.ndarray) -> np.ndarray:
    sigma = noise_level(image)
    return denoise_tv_chambolle(image, sigma).astype(np.float32) if sigma > 0.005 else image


def noise_level(image: np.ndarray) -> float:
    """SD of white noise where the image is bright, from the median of Haar's finest details (Donoho)."""
    detail = image
    for axis in range(3):
        detail = np.diff(detail, axis=axis) / np.float32(np.sqrt(2))
    bright = image[1:, 1:, 1:] > image.mean()
    return float(np.median(np.abs(detail[bright])) / 0.6745)


def _smooth_field(rng: np.random.Generator, shape: Sequence[int], knots: int) -> np.ndarray:
    """Normal numbers every ``knots`` voxels, cubic splines between them."""
    coarse = rng.standard_normal([n // knots + 2 for n in shape])
    return ndimage.zoom(
        coarse, [n / m for n, m in zip(shape, coarse.shape, strict=True)], order=3, output=np.float32
    )


def _normal(rng: np.random.Generator, shape: Sequence[int]) -> np.ndarray:
    return rng.standard_normal(shape, dtype=np.float32)
