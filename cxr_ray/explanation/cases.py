"""Which images of a part are compared with annotations: cases from masks, labels and probabilities. Scores are in map_scores.py."""
# N cases, M negative images, R rows of a part, L labels

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from cxr_ray.errors import UserError
from cxr_ray.explanation.map_scores import Cases

Masks = Mapping[tuple[int, str], npt.NDArray[np.bool_]]


def annotated_cases(
    masks: Masks,
    rows_R: npt.NDArray[np.int64],
    labels: Sequence[str],
    true_RL: npt.NDArray[np.floating],
    probability_RL: npt.NDArray[np.floating],
    patients_R: Sequence[object],
) -> Cases:
    """The `Cases` of a part. `masks`: (row, label) to [H, W], as `datasets.annotations.marked_masks` gives them.

    A case is a row and a label with a mask, unless the label is negative there; a positive label without a mask is left out, since
    where it is was not marked. `true_RL`: 1 positive, 0 negative, NaN unknown. `patients_R`: the patient of each row; a missing one
    (NaN, None) is a patient of its own. Raises `UserError` if no row of the part has a mask of these labels."""
    names = [
        f"row {row}" if patient is None or patient != patient else f"patient {patient}"
        for row, patient in zip(rows_R.tolist(), patients_R, strict=True)
    ]
    patient_R = np.unique(names, return_inverse=True)[1] if names else np.zeros(0, np.int64)
    marked_RL = np.array(
        [[(row, label) in masks for label in labels] for row in rows_R.tolist()], dtype=np.bool_
    ).reshape(true_RL.shape)
    case_N, label_N = (at.tolist() for at in np.nonzero(marked_RL & (true_RL != 0)))
    if not len(case_N):
        raise UserError(
            f"none of the {len(rows_R)} images has an annotation of {', '.join(labels)}; give annotations of this part's images"
        )
    negative_M, absent_M = np.nonzero(true_RL == 0)
    label_L = np.asarray(labels)
    return Cases(
        rows=rows_R[case_N],
        labels=label_L[label_N],
        masks=np.stack([masks[int(rows_R[at]), labels[label]] for at, label in zip(case_N, label_N, strict=True)]),
        patients=patient_R[case_N],
        probabilities=probability_RL[case_N, label_N].astype(np.float64),
        negative_labels=label_L[absent_M],
        negative_patients=patient_R[negative_M],
        negative_probabilities=probability_RL[negative_M, absent_M].astype(np.float64),
    )
