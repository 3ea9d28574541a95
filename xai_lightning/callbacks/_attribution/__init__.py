"""The parts of `AttributionMonitor`: ``attributing`` is its life, ``explanation`` explains, ``panel`` compares."""
