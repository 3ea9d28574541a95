"""The parts of `FairnessMonitor`: ``counted`` is its life, ``judging`` and ``tally`` count, ``record`` concludes."""
