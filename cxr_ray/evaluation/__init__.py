"""Results from predictions: metrics with intervals, baselines, subgroups, comparisons. Pages and figures are in cxr_ray.report."""
