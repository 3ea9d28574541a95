"""What `AttributionMonitor` is made of: ``attributing`` is its life, ``explanation`` explains, ``panel`` compares."""
