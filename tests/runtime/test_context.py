"""The context without Ray: reported metrics, log lines, and the device for `train.gpu`."""

import pytest
import torch

from cxr_ray.errors import UserError
from cxr_ray.runtime.context import LocalContext, pick_device


def test_a_local_context_records_metrics_and_never_stops() -> None:
    context = LocalContext()
    context.report({"val/auroc/mean": 0.84}, None)
    assert context.history == [{"val/auroc/mean": 0.84}]
    assert (context.rank, context.world, context.device) == (0, 1, torch.device("cpu"))
    assert not (context.should_stop() or context.should_save()) and context.restore() is None


@pytest.mark.parametrize(("quiet", "output"), [(False, "a line\n"), (True, "")])
def test_log_lines_are_printed_unless_quiet(quiet: bool, output: str, capsys: pytest.CaptureFixture[str]) -> None:
    LocalContext(quiet=quiet).log("a line")
    assert capsys.readouterr().out == output


def test_auto_uses_a_gpu_if_there_is_one_and_true_requires_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert pick_device("auto") == pick_device(True) == torch.device("cuda", 1)
    assert pick_device(False) == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device("auto") == torch.device("cpu")
    with pytest.raises(
        UserError, match=r"train\.gpu: true, but torch finds no GPU here; .*train\.gpu: auto uses the CPU"
    ):
        pick_device(True)
