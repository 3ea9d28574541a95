"""The parts of `GatedCheckpoint`: ``deciding`` decides, ``stamped`` and ``settled`` keep files with ``evidence``."""
