"""Sharp or right? Measures that tell restored detail from invented detail and from noise.

PSNR rewards blur where detail cannot be predicted. These look at edges, at the frequencies that were cut,
and at whether a classifier can tell SR from HR. Volumes are float32 ``(x, y, z)`` on HR's intensity scale.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from scipy import fft, ndimage
from torch import nn

from sprl_utils.evaluation import METHOD, Reconstruction
from sprl_utils.kspace import Keep, kept_samples, kept_slice
from sprl_utils.patches import Prepared
from sprl_utils.tiles import box_for

#: Width in voxels of HFEN's Laplacian of Gaussian, and its reach (Ravishankar & Bresler 2011: 1.5, 15x15).
LOG_SIGMA, LOG_RADIUS = 1.5, 7
#: Constant of gradient-magnitude similarity for intensities in 0..1 (Xue et al. 2014: 170 for 0..255).
GRADIENT_CONSTANT = 170 / 255**2


def score(
    subject: Prepared,
    made: Sequence[Reconstruction],
    source_run: str = "",
    patches: int = 0,
    seed: int = 0,
) -> pd.DataFrame:
    """One row per method: the measures of this module, inside the brain where that is possible.

    Args:
        source_run: profile of the run whose weights these are.
        patches: places that the two-sample test looks at on each side of the head; 0 leaves the test out.

    Returns:
        ``hfen``, ``gradient_similarity``, ``classifier_accuracy`` (share of patches that the classifier
        recognises, 0.5 is chance) in the brain; ``band_power``, ``band_correlation`` of the whole volume
        where it is known what was cut.
    """
    hr, brain, keep = np.asarray(subject.hr), np.asarray(subject.brain), subject.meta["keep"]
    near = box_for(brain, LOG_RADIUS)  # of all voxels that the filters read
    rows = []
    for one in made:
        method = dict(zip(METHOD, (one.network, one.data_consistency, source_run), strict=True))
        in_brain = one.image[near], hr[near], brain[near]
        row = {"subject": subject.meta["id"], **method, "hfen": hfen(*in_brain)}
        row["gradient_similarity"] = gradient_similarity(*in_brain)
        if keep is not None:
            row |= band(one.image, hr, keep)
        if patches:
            row["classifier_accuracy"] = two_sample_test(one.image, hr, brain, patches=patches, seed=seed)
        rows.append(row)
    return pd.DataFrame(rows)


def hfen(image: np.ndarray, reference: np.ndarray, mask: np.ndarray | None = None) -> float:
    """High-frequency error norm (Ravishankar & Bresler 2011): relative error of the Laplacian of Gaussian.

    0 is perfect; an image without any edge scores 1.
    """
    inside = ... if mask is None else mask
    width = {"sigma": LOG_SIGMA, "truncate": LOG_RADIUS / LOG_SIGMA}
    a, b = (ndimage.gaussian_laplace(volume, **width)[inside].astype(float) for volume in (image, reference))
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def gradient_similarity(image: np.ndarray, reference: np.ndarray, mask: np.ndarray | None = None) -> float:
    """Mean similarity of the gradients' magnitudes (Xue et al. 2014, GMSM, in 3D); 1 is perfect."""
    a, b = (_gradient_magnitude(volume) for volume in (image, reference))
    similarity = (2 * a * b + GRADIENT_CONSTANT) / (a * a + b * b + GRADIENT_CONSTANT)
    return float(similarity[... if mask is None else mask].mean(dtype=np.float64))


def _gradient_magnitude(volume: np.ndarray) -> np.ndarray:
    """Prewitt's gradient: central differences averaged over the nine neighbours across."""
    return np.sqrt(sum(np.square(ndimage.prewitt(volume, axis) / 9) for axis in range(volume.ndim)))


def band(image: np.ndarray, reference: np.ndarray, keep: Keep) -> dict[str, float]:
    """What an image holds of the frequencies that LR lost.

    Args:
        keep: as for `sprl_utils.kspace.truncate_kspace`.

    Returns:
        ``band_power``: spectral power of the image in the cut band over the reference's (0: nothing there; 1:
        as much as in HR, right or wrong). ``band_correlation``: correlation of both spectra there (1: right;
        0: invented). NaN where nothing was cut.
    """
    a, b = (fft.fftn(np.asarray(volume, np.float32), workers=-1) for volume in (image, reference))
    cut = ~_kept_box(reference.shape, keep)
    a, b = a[cut], b[cut]
    power = np.vdot(b, b).real
    if power == 0:
        return {"band_power": np.nan, "band_correlation": np.nan}
    own = np.vdot(a, a).real
    correlation = np.vdot(b, a).real / np.sqrt(own * power) if own > 0 else 0.0
    return {"band_power": float(own / power), "band_correlation": float(correlation)}


def shell_correlation(image: np.ndarray, reference: np.ndarray, shells: int = 40) -> pd.DataFrame:
    """Fourier shell correlation (Harauz & van Heel 1986): agreement of both spectra by spatial frequency.

    Returns:
        One row per shell: ``frequency`` (its middle, cycles per voxel, up to 0.5) and ``correlation``.
    """
    a, b = (fft.fftn(np.asarray(volume, np.float32), workers=-1) for volume in (image, reference))
    radius = np.sqrt(
        sum(np.square(f) for f in np.meshgrid(*map(fft.fftfreq, a.shape), indexing="ij", sparse=True))
    )
    shell = np.minimum((radius * 2 * shells).astype(int), shells).ravel()

    def sums(values: np.ndarray) -> np.ndarray:
        return np.bincount(shell, values.ravel(), minlength=shells + 1)[:shells]

    cross = sums((a * b.conj()).real)
    power = np.sqrt(sums(np.square(np.abs(a))) * sums(np.square(np.abs(b))))
    correlation = np.divide(cross, power, out=np.zeros_like(cross), where=power > 0)
    return pd.DataFrame({"frequency": (np.arange(shells) + 0.5) / (2 * shells), "correlation": correlation})


def first_cut_frequency(shape: Sequence[int], keep: Keep) -> float:
    """Frequency in cycles per voxel up to which LR kept all: where a shell first meets the cut band."""
    shares = [k / n for k, n in zip(kept_samples(shape, keep), shape, strict=True) if k < n]
    return min(shares) / 2 if shares else 0.5


def _kept_box(shape: Sequence[int], keep: Keep) -> np.ndarray:
    """True where k-space was kept, in the FFT's order."""
    box = np.zeros(shape, bool)
    box[tuple(kept_slice(n, k) for n, k in zip(shape, kept_samples(shape, keep), strict=True))] = True
    return fft.ifftshift(box)


def two_sample_test(
    image: np.ndarray,
    reference: np.ndarray,
    mask: np.ndarray,
    edge: int = 16,
    patches: int = 256,
    epochs: int = 16,
    seed: int = 0,
) -> float:
    """How often a fresh small classifier tells patches of SR from patches of HR that it has not seen.

    A classifier two-sample test (Lopez-Paz & Oquab 2017). It learns on one half of the head (cut across its
    longest axis, so that no voxel is in both) and is asked on the other, then the other way round. The same
    places are shown of both images. 0.5: cannot tell; 1: always.

    Args:
        mask: bool ``(x, y, z)``; patches are centred in it.
        edge: of the cubic patches, in voxels.
        patches: places in each half.

    Raises:
        ValueError: the mask holds no patch in one of the halves.
    """
    rng = np.random.default_rng(seed)
    centres = np.argwhere(mask)
    low = centres - edge // 2
    low = low[(low >= 0).all(1) & (low + edge <= mask.shape).all(1)]
    along = low[:, int(np.argmax(mask.shape))]
    middle = np.median(along) if len(low) else 0
    halves = [low[along + edge <= middle], low[along > middle]]
    if not all(len(half) for half in halves):
        raise ValueError(f"two-sample test: expected patches of {edge} voxels on both sides, found none")
    views = [_views(volume) for volume in (image, reference)]
    sides = []
    for half in halves:
        chosen = half[rng.integers(len(half), size=patches)]
        boxes = [(slice(None), *(slice(a, a + edge) for a in corner)) for corner in chosen.tolist()]
        x = np.stack([view[box] for view in views for box in boxes])
        y = np.repeat(np.float32([0, 1]), patches)
        sides.append((torch.from_numpy(x), torch.from_numpy(y)))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # two wait for each other longer than they work
    try:
        scores = [_classify(train, test, epochs, seed) for train, test in (sides, sides[::-1])]
    finally:
        torch.set_num_threads(threads)
    return float(np.mean(scores))


def _views(volume: np.ndarray) -> np.ndarray:
    """What the classifier reads: the image, and its fine detail, which it would take long to learn to see."""
    volume = np.asarray(volume, np.float32)
    return np.stack([volume, 10 * (volume - ndimage.gaussian_filter(volume, 1))])  # (2, x, y, z)


def _classify(train: tuple, test: tuple, epochs: int, seed: int) -> float:
    """Train the classifier on ``(x, y)`` and return its accuracy on another."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers: list[nn.Module] = []
        for inputs, outputs in ((2, 16), (16, 32), (32, 64)):
            layers += [nn.Conv3d(inputs, outputs, 3, stride=2, padding=1), nn.LeakyReLU(0.2)]
        network = nn.Sequential(*layers, nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(64, 1))
        optimizer = torch.optim.AdamW(network.parameters(), 3e-3)
        x, y = train
        for _ in range(epochs):
            for chosen in torch.randperm(len(x)).split(32):
                flips = [axis for axis in (2, 3, 4) if torch.rand(()) < 0.5]
                score = network(x[chosen].flip(flips))[:, 0]
                loss = nn.functional.binary_cross_entropy_with_logits(score, y[chosen])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        x, y = test
        with torch.no_grad():
            right = (network(x)[:, 0] > 0) == (y > 0.5)
    return float(right.float().mean())
