"""One trial of a sweep: which hyperparameters it had when."""

from cxr_ray.tuning.trial import Trial


def test_the_initial_hyperparameters_stay_known_after_pbt_changed_them() -> None:
    plain = Trial("0001", 1, {"optim.lr": 0.1})
    changed = Trial("0001", 1, {"optim.lr": 0.2}, changed_from={"optim.lr": 0.1})
    assert plain.initial == changed.initial == {"optim.lr": 0.1} and changed.hyperparameters == {"optim.lr": 0.2}
