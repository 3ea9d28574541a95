"""The parts of `ActivationMonitor`: ``running`` accumulates, ``record`` concludes, ``expensive`` is optional."""
