"""What `GatedCheckpoint` is made of: ``deciding`` decides, ``stamped`` and ``settled`` keep files with ``evidence``."""
