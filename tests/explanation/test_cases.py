"""Which images are compared with annotations."""

import numpy as np
import pytest

from cxr_ray.errors import UserError
from cxr_ray.explanation.cases import annotated_cases

MASK = np.eye(4, dtype=bool)
ROWS, LABELS = np.array([3, 8, 9]), ["Edema", "Mass"]
TRUE = np.array([[1, 0], [np.nan, 1], [1, 1]], np.float32)
PROBABILITY = np.arange(6, dtype=np.float32).reshape(3, 2) / 10


def test_a_case_is_marked_and_not_negative_and_a_positive_without_a_mask_is_left_out() -> None:
    masks = {(3, "Edema"): MASK, (3, "Mass"): MASK, (8, "Edema"): MASK, (9, "Mass"): ~MASK, (77, "Mass"): MASK}
    cases = annotated_cases(masks, ROWS, LABELS, TRUE, PROBABILITY, ["p", None, "p"])
    assert list(zip(cases.rows.tolist(), cases.labels.tolist(), strict=True)) == [
        (3, "Edema"),
        (8, "Edema"),
        (9, "Mass"),
    ]
    np.testing.assert_array_equal(cases.masks, [MASK, MASK, ~MASK])
    np.testing.assert_allclose(cases.probabilities, [0.0, 0.2, 0.5], atol=1e-6)
    assert cases.patients[0] == cases.patients[2] != cases.patients[1]
    assert cases.negative_labels.tolist() == ["Mass"] and cases.negative_patients.tolist() == [cases.patients[0]]
    np.testing.assert_allclose(cases.negative_probabilities, [0.1], atol=1e-6)


def test_images_without_a_patient_are_patients_of_their_own() -> None:
    masks = {(row, "Mass"): MASK for row in (8, 9)}
    cases = annotated_cases(masks, ROWS, LABELS, TRUE, PROBABILITY, [np.nan, np.nan, np.nan])
    assert len(set(cases.patients.tolist())) == 2


def test_a_part_without_annotations_is_refused() -> None:
    with pytest.raises(UserError, match="none of the 3 images has an annotation of Edema, Mass"):
        annotated_cases({(77, "Mass"): MASK}, ROWS, LABELS, TRUE, PROBABILITY, ["p", "q", "r"])
