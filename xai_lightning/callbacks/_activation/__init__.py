"""What `ActivationMonitor` is made of: ``running`` adds up, ``record`` concludes, ``expensive`` is beside these."""
