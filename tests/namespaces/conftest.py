"""These tests belong to environments of their own: see ``make test-namespaces``."""

import os

HOME_VARIABLE = "XAI_LIGHTNING_TEST_HOME"
"""Names the Lightning of a run: ``pytorch_lightning`` or ``lightning.pytorch``."""

collect_ignore_glob = [] if HOME_VARIABLE in os.environ else ["*.py"]
