"""What `FairnessMonitor` is made of: ``counted`` is its life, ``judging`` and ``tally`` count, ``record`` concludes."""
