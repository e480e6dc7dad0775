"""`python -m cxr_ray`: the command line."""

import sys

from cxr_ray.cli import main

if __name__ == "__main__":
    sys.exit(main())
