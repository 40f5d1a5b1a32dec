"""What one person's second scan says about the first: how near HR any method could come.

Two scans of one head differ by the noise of both and by what changed between them. No method can know the
noise in HR. Where noise is all that differs, the error between two scans has twice its power, and a perfect
image without noise would lie 3 dB above their agreement in PSNR: that is the ceiling.
"""

from collections.abc import Sequence
from itertools import combinations

import nibabel as nib
import numpy as np
import pandas as pd
import SimpleITK as sitk

from sprl_utils import metrics
from sprl_utils.patches import Prepared

#: Resolutions of the registration, coarse to fine: shrink factor, and smoothing in voxels.
SHRINK, SMOOTH = (4, 2, 1), (2, 1, 0)


def align(moving: Prepared, fixed: Prepared) -> np.ndarray:
    """The HR volume of ``moving``, rigidly registered to ``fixed`` and resampled on its grid.

    SimpleITK's correlation metric over all voxels, Euler transform, cubic B-splines. Interpolating takes some
    of the noise away.

    Returns:
        float32 ``(x, y, z)``; 0 where ``moving`` does not reach.

    Raises:
        ValueError: axes that point another way: the start would be too far off.
    """
    ways = [nib.aff2axcodes(np.array(subject.meta["affine"])) for subject in (moving, fixed)]
    if ways[0] != ways[1]:
        raise ValueError(
            f"{moving.meta['id']}: rescan: expected axes {''.join(ways[1])} as in {fixed.meta['id']}, "
            f"found {''.join(ways[0])}"
        )
    images = [_image(subject) for subject in (fixed, moving)]
    start = sitk.CenteredTransformInitializer(
        *images, sitk.Euler3DTransform(), sitk.CenteredTransformInitializerFilter.GEOMETRY
    )
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsCorrelation()
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(1.0, 1e-4, 100)
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetShrinkFactorsPerLevel(SHRINK)
    method.SetSmoothingSigmasPerLevel(SMOOTH)
    method.SetInitialTransform(start)
    found = method.Execute(*images)
    return sitk.GetArrayFromImage(sitk.Resample(images[1], images[0], found, sitk.sitkBSpline, 0.0))


def _image(subject: Prepared) -> sitk.Image:
    """HR with its voxel size; its own axes are the image's, whichever way they point in the scanner."""
    image = sitk.GetImageFromArray(np.ascontiguousarray(subject.hr))
    image.SetSpacing(nib.affines.voxel_sizes(np.array(subject.meta["affine"]))[::-1].tolist())
    return image


def score_rescans(heads: Sequence[Prepared]) -> pd.DataFrame:
    """Scan against rescan in the brain, one row for each pair of scans of one leakage group.

    The second scan is registered and brought to the first one's intensities by one factor (least squares in
    the brain), which favours it: a method that is to restore HR gets no such help.

    Returns:
        ``subject``, ``rescan``, ``region`` and the metrics; empty where no person was scanned twice.
    """
    persons = [head for head in heads if head.meta["kind"] == "person"]
    rows = []
    for fixed, moving in combinations(persons, 2):
        if fixed.meta["group"] == moving.meta["group"]:
            hr, brain, other = np.asarray(fixed.hr), np.asarray(fixed.brain), align(moving, fixed)
            gain = np.float32(np.vdot(other[brain], hr[brain]) / np.vdot(other[brain], other[brain]))
            (row,) = metrics.evaluate(gain * other, hr, {"brain": brain})
            rows.append({"subject": fixed.meta["id"], "rescan": moving.meta["id"], **row})
    return pd.DataFrame(rows, columns=["subject", "rescan", "region", *metrics.METRICS])
