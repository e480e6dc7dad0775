"""Pages and figures of runs, sweeps and stores."""
