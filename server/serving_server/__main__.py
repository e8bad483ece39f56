"""`python -m serving_server`."""

import sys

from serving_server.cli import main

sys.exit(main())
