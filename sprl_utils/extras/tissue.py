"""Does super-resolution help what people do with scans? Brain tissue in SR against brain tissue in HR.

Grey matter, white matter and cerebrospinal fluid are segmented by dipy's classifier, a hidden Markov random
field (Zhang, Brady & Smith 2001). It is the same for all images, and HR's result is the reference, not the
truth. Volumes are float32 ``(x, y, z)``.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import ndimage

from sprl_utils.evaluation import METHOD, Reconstruction
from sprl_utils.patches import Prepared

#: Tissues from dark to bright, as in T1w images.
TISSUES = ("cerebrospinal fluid", "grey matter", "white matter")
#: Smoothness of the field, and the share of the energy that a last iteration may still change.
BETA, TOLERANCE = 0.1, 1e-3


def segment(image: np.ndarray, brain: np.ndarray) -> np.ndarray:
    """Tissue of each voxel of a T1w brain.

    Args:
        image: ``(x, y, z)``.
        brain: bool mask of the same shape.

    Returns:
        int array of the same shape: 0 outside the brain, and 1 + the index in `TISSUES` within.
    """
    from dipy.segment.tissue import TissueClassifierHMRF  # a second of imports that only this needs

    (box,) = ndimage.find_objects(brain.astype(np.uint8))
    # The classifier's classes start evenly spread from 0 to 1, and one without spread has no likelihood.
    top, rng = np.percentile(image[brain], 99.9), np.random.default_rng(0)
    air = rng.uniform(0, 2e-3, brain[box].shape)
    inside = np.where(brain[box], np.clip(image[box] / top, 0, 1), air)
    found = TissueClassifierHMRF(verbose=False).classify(inside, len(TISSUES), BETA, tolerance=TOLERANCE)[1]
    labels = np.zeros(image.shape, np.int8)
    labels[box] = np.where(brain[box], np.maximum(found, 1), 0)
    return labels


def dice(a: np.ndarray, b: np.ndarray) -> float:
    """Dice coefficient of two masks: 1 where they agree everywhere, 0 where nowhere."""
    return float(2 * (a & b).sum() / max(a.sum() + b.sum(), 1))


def score(subject: Prepared, made: Sequence[Reconstruction], source_run: str = "") -> pd.DataFrame:
    """One row per method and tissue: ``dice`` of the segmented image against segmented HR."""
    brain = np.array(subject.brain)
    reference = segment(np.asarray(subject.hr), brain)
    rows = []
    for one in made:
        labels = segment(one.image, brain)
        method = dict(zip(METHOD, (one.network, one.data_consistency, source_run), strict=True))
        for number, tissue in enumerate(TISSUES, start=1):
            overlap = dice(labels == number, reference == number)
            rows.append({"subject": subject.meta["id"], **method, "tissue": tissue, "dice": overlap})
    return pd.DataFrame(rows)
