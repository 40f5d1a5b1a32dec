"""The original project's split of its subjects, and the choice of a rule by its name."""

from collections.abc import Sequence

import numpy as np

from sprl_utils.manifest import SPLITS, Rule, Subject, seeded_splits

ORIGINAL_SEED = 999


def original_splits(subjects: Sequence[Subject], seed: int, shares: Sequence[float]) -> dict[str, str]:
    """The list of ids, in its own order, shuffled with numpy's legacy generator at seed 999, then cut.

    70/10/10/10 with the remainder in train: 780/111/111/111 of 1,113. Seed and shares are that project's;
    that the shuffle runs on the list as it is, and that the parts follow each other as in `SPLITS`, is
    inferred. It knows no leakage groups, and `sprl_utils.manifest.assign_splits` refuses to tear one.

    Args:
        subjects: in the list's order; those that have a split are not in the list.
        seed, shares: not used.

    Returns:
        The split of each id.
    """
    ids = [s.id for s in subjects if not s.split]
    np.random.RandomState(ORIGINAL_SEED).shuffle(ids)
    tenth = int(0.1 * len(ids))
    sizes = (len(ids) - 3 * tenth, tenth, tenth, tenth)
    return dict(zip(ids, np.repeat(SPLITS, sizes).tolist(), strict=True))


RULES: dict[str, Rule] = {"seeded": seeded_splits, "original": original_splits}


def rule_named(name: str) -> Rule:
    """The rule for `sprl_utils.manifest.assign_splits`.

    Raises:
        ValueError: no rule has that name.
    """
    if name not in RULES:
        raise ValueError(f"split rule: expected {' or '.join(map(repr, RULES))}, found {name!r}")
    return RULES[name]
