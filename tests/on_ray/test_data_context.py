"""The settings of Ray Data hold within the block only."""

import pytest
from ray.data import DataContext

from cxr_ray.on_ray import data_context


def test_settings_are_restored_also_after_an_error() -> None:
    context = DataContext.get_current()

    def state() -> tuple[object, ...]:
        order = context.execution_options.preserve_order
        return context.enable_progress_bars, context.print_on_execution_start, context.max_errored_blocks, order

    before = state()
    with pytest.raises(ValueError), data_context.quiet(preserve_order=True, max_errored_blocks=-1):
        assert state() == (False, False, -1, True)
        raise ValueError
    assert state() == before
